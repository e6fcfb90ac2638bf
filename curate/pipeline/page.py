"""The report of a finished run, written anew, or the page of one of its concepts."""

from pathlib import Path

from curate.analysis.concept_page import write_concept_page
from curate.execution.context import Progress, silent
from curate.execution.engines.choice import worker_count
from curate.pipeline import rescore, runner
from curate.recipe.loading import load_recipe
from curate.runs.run import open_run

__all__ = ["write_page"]


def write_page(run: str | Path, concept: int | None = None, *, progress: Progress = silent) -> Path:
    """Write the report of a run as it is now, or the page of one concept; return its path.

    Nothing but the page is made: raises UsageError where a stage before the report has anything to do.
    """
    if concept is not None:
        workers = worker_count(load_recipe(open_run(run).folder.recipe))
        return write_concept_page(run, concept, workers=workers, progress=progress)
    with runner.opened(rescore.chosen_recipe(run), progress=progress) as context:
        context = runner.require_done(context, "report")
        context.run.unmark(context.run.report)
        runner.run_stage(context, "report")
        return context.run.report / "report.html"
