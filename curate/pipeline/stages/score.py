"""Stage `score`: one number per sample and score, each family a folder of its own.

Families are independent stages: one that is there is not computed again because another was added.
"""

from curate.execution.context import Context, log
from curate.execution.stage import Stage
from curate.filtering.column_tables import check_numbers, number_readers
from curate.io import storage
from curate.pipeline import references
from curate.pipeline.stages import further_models, read, read_task
from curate.pipeline.stages.embed_model import open_regions
from curate.pipeline.stages.row_images import RowImages
from curate.recipe import Recipe
from curate.scores.base import Models, RowColumns, Score, Sources
from curate.scores.registry import families_of, score_columns
from curate.scores.tables.output import Output

__all__ = ["SOURCES", "VERSION", "Scoring", "run"]

VERSION = 1


def _check_numbers(recipe: Recipe, name: str, setting: str) -> None:
    """Raise UsageError for a column that the source has not, or that holds no numbers."""
    check_numbers(name, setting, (one for source in recipe.source for one in read.find_shards(source)))


#: How scores read reference sets, and images once more.
SOURCES = Sources(
    references.check, references.fingerprint, references.vectors, read.find_shards, read_task.read_batches, RowImages, open_regions,
    Models(further_models.check, further_models.space_of, further_models.embedded),
    RowColumns(_check_numbers, number_readers),
)  # fmt: skip


class Scoring(Stage):
    """Computes every family of the recipe, each with a mark of its own."""

    name = "score"

    def run(self) -> bool:
        """Compute the families that are not there; return whether anything was to do."""
        return run(self.context)


def run(context: Context) -> bool:
    """Compute every family of the recipe; return whether anything was to do."""
    worked = False
    for score in families_of(context.recipe):
        worked |= _run_family(context, score)
    return worked


def _captioned(context: Context) -> bool:
    return any(part.columns.caption is not None for part in context.parts)


def _run_family(context: Context, score: Score) -> bool:
    folder = context.run.scores(score.folder)
    known = score_columns(context.recipe)
    columns = {name: known[name] for name in score.needs}
    inputs = score.inputs(context, columns, SOURCES)
    fingerprint = storage.fingerprint(
        "score", VERSION, score.version, score.family, score.fingerprinted(), context.recipe.seed,
        context.run.fingerprint(context.run.embeddings), inputs,
    )  # fmt: skip
    if context.run.is_done(folder, fingerprint):
        return False
    context.run.unmark(folder)
    output = Output(context, folder, score.table(), fingerprint, columns, SOURCES, inputs)
    stats = score.compute(context, output)
    context.run.keep_only(folder, [part.name for part in context.parts])
    context.run.mark(folder, fingerprint, {**stats, "parts": len(context.parts)})
    if not stats["scored"] and "caption" in score.requires and not _captioned(context):
        log.info("score: %s needs captions, and there are none", score.folder)
    else:
        log.info("score: %s, %s samples scored", score.folder, f"{stats['scored']:,}")
    for warning in stats.get("warnings", ()):
        log.warning("score: %s: %s", score.folder, warning)
    return True
