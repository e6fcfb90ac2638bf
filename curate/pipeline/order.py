"""What each stage does, in the order in which they run."""

from curate.execution.stage import Stage
from curate.pipeline.stages.cluster import Cluster
from curate.pipeline.stages.dedup import Deduplicate
from curate.pipeline.stages.embed import Embed
from curate.pipeline.stages.filter import Filter
from curate.pipeline.stages.read import Read
from curate.pipeline.stages.report import Report
from curate.pipeline.stages.score import Scoring
from curate.pipeline.stages.select import Selection
from curate.pipeline.stages.write import WriteShards
from curate.runs.layout import STAGES as NAMES

__all__ = ["STAGES"]

_CLASSES: tuple[type[Stage], ...] = (
    Read, Embed, Cluster, Scoring, Filter, Deduplicate, Selection, WriteShards, Report
)  # fmt: skip

#: The class of each stage, by its name.
STAGES = dict(zip(NAMES, _CLASSES, strict=True))
