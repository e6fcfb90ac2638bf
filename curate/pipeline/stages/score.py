"""Stage `score`: one number per sample and score, each family a folder of its own.

Families are independent stages: one that is there is not computed again because another was added.
"""

from typing import Any

from curate.execution.context import Context, log
from curate.execution.stage import Stage
from curate.io import storage
from curate.scores.base import Output, Settings
from curate.scores.registry import families_of, stage_of

__all__ = ["VERSION", "Score", "run"]

VERSION = 1


class Score(Stage):
    """Computes every family of the recipe, each with a mark of its own."""

    name = "score"

    def run(self) -> bool:
        """Compute the families that are not there; return whether anything was to do."""
        return run(self.context)


def run(context: Context) -> bool:
    """Compute every family of the recipe; return whether anything was to do."""
    worked = False
    for settings in families_of(context.recipe):
        worked |= _run_family(context, settings)
    return worked


def _run_family(context: Context, settings: Settings) -> bool:
    stage, folder = stage_of(settings.family), context.run.scores(settings.folder)
    fingerprint = storage.fingerprint(
        "score", VERSION, stage.version, settings.family, _settings(settings), context.recipe.seed,
        context.run.fingerprint(context.run.embeddings), stage.inputs(context, settings),
    )  # fmt: skip
    if context.run.is_done(folder, fingerprint):
        return False
    context.run.unmark(folder)
    output = Output(context, folder, stage.table(settings), fingerprint)
    facts = stage.compute(context, settings, output)
    context.run.keep_only(folder, [part.name for part in context.parts])
    context.run.mark(folder, fingerprint, {**facts, "parts": len(context.parts)})
    log.info("score: %s, %s samples scored", settings.folder, f"{facts['scored']:,}")
    for warning in facts.get("warnings", ()):
        log.warning("score: %s: %s", settings.folder, warning)
    return True


def _settings(settings: Any) -> object:  # noqa: ANN401  (any family's model)
    """Return the settings that decide the numbers."""
    return settings.model_dump(mode="json", exclude={"device", "epsilon"})
