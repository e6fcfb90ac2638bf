"""Trying again only the rows of a run that failed: after a fix, or an error that passed.

The stages after them follow; concepts are not fitted again (`failed_rows` says which rows can be others).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curate.execution import context as base
from curate.execution.context import Context, Progress
from curate.io import storage
from curate.pipeline import runner
from curate.pipeline.failed_rows import embed_again
from curate.recipe import Recipe
from curate.schema import PASSING

__all__ = ["RETRIED", "Retried", "retry_run"]

#: Outcomes that can be others at another time, though the shard is the same.
RETRIED = (
    "missing_image",
    "broken_image",
    "unsupported_format",
    "too_large",
    "refused_path",
    "decoder_failed",
    "bad_vector",
    *PASSING,
)


@dataclass(frozen=True)
class Retried:
    """What a retry came to.

    tried : rows by (outcome before, outcome now). worked : stages that had work. manifest : None of a run that
    was not finished before.
    """

    tried: Mapping[tuple[str, str], int]
    worked: tuple[str, ...]
    manifest: Mapping[str, Any] | None

    @property
    def rows(self) -> int:
        """The number of rows that were tried."""
        return sum(self.tried.values())

    @property
    def repaired(self) -> int:
        """The number of rows that can be used now."""
        return sum(count for (_, now), count in self.tried.items() if now == "ok")


def retry_run(recipe: Recipe, *, progress: Progress = base.silent) -> Retried:
    """Try the rows of a run again that failed, then run the stages that the run had before.

    uids stay, and the vectors of all other rows keep their bytes. Raises UsageError where the source is not
    what was read: then `curate run` has to read it first.
    """
    with runner.opened(recipe, progress=progress) as context:
        context = runner.require_done(context, "embed")
        last = _last_stage(context)
        context, did = runner.run_stage(context, "embed")  # what an interrupted retry left
        tried = embed_again(context, RETRIED)
        worked = ["embed"] if did else []
        stages = list(runner.STAGES)
        for stage in stages[stages.index("embed") : stages.index(last) + 1]:
            context, did = runner.run_stage(context, stage)
            worked += [stage] if did and stage not in worked else []
        manifest = storage.read_json(context.run.manifest) if last == "report" else None
    return Retried(tried, tuple(worked), manifest)


def _last_stage(context: Context) -> str:
    """Return the last stage the run had: a manifest says that it was finished."""
    if context.run.manifest.exists():
        return "report"
    done = [name for name in runner.STAGES if context.run.marker(context.run.stage(name)) is not None]
    return ["embed", *(name for name in done if name != "read")][-1]
