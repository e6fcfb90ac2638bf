"""The command `report`: the page of a run, or of one of its concepts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.output import emit, logged, progress, write

if TYPE_CHECKING:
    from curate.execution.context import Progress


@app.command()
def report(
    run: flag.RunPlace,
    concept: Annotated[
        int | None, typer.Option("--concept", metavar="N", min=0, help="Write a page of this concept.")
    ] = None,
    json_: flag.Json = False,
    quiet: flag.Quiet = False,
) -> None:
    """Write the report of a finished run anew, or with --concept a page of one concept; print its path."""
    with progress(quiet=quiet) as show, logged(quiet=True):
        path = _whole(run, show) if concept is None else _of_concept(run, concept, show)
    if json_:
        emit({"report": str(path)})
    else:
        write(f"{path}\n")


def _whole(run: str, show: "Progress") -> Path:
    """Write the page of the run as it is now; nothing but the report is made."""
    from curate.pipeline import rescore, runner

    with runner.opened(rescore.chosen_recipe(run), progress=show) as context:
        context = runner.require_done(context, "report")
        context.run.unmark(context.run.report)
        runner.run_stage(context, "report")
        return context.run.report / "report.html"


def _of_concept(run: str, concept: int, show: "Progress") -> Path:
    from curate.analysis.concept_page import write_concept_page
    from curate.execution.engines.choice import worker_count
    from curate.recipe.loading import load_recipe
    from curate.runs.folder import open_run

    recipe = load_recipe(open_run(run).folder.recipe)
    return write_concept_page(run, concept, workers=worker_count(recipe), progress=show)
