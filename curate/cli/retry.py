"""The command that tries again what failed."""

from typing import TYPE_CHECKING

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.output import emit, logged, note, print_counts, print_table, progress

if TYPE_CHECKING:
    from curate.pipeline.retry import Retried


@app.command()
def retry(
    run: flag.RunPlace,
    set_: flag.Set = None,
    workers: flag.Workers = None,
    json_: flag.Json = False,
    quiet: flag.Quiet = False,
) -> None:
    """Try only the rows that failed, after a fix or an error that passed; all others stay.

    Missing, broken, refused and too large images are looked for again. Exits with 0 even if some still
    fail, with 3 if more rows are unusable than limits.unusable allows.
    """
    from curate.pipeline.rescore import scored_recipe
    from curate.pipeline.retry import retry_run
    from curate.pipeline.runner import check_limits
    from curate.recipe.build import given

    recipe = scored_recipe(run, (), set_ or [], given({"workers": workers}), command="retry")
    with progress(quiet=quiet) as report, logged(quiet=quiet):
        found = retry_run(recipe, progress=report)
    _show(recipe.run, found, json_, quiet)
    if found.manifest is not None:
        check_limits(recipe, found.manifest)


def _show(run: str, found: "Retried", json_: bool, quiet: bool) -> None:
    """Print what was tried and what came of it."""
    lines = [[before, now, count] for (before, now), count in sorted(found.tried.items())]
    if json_:
        tried = [dict(zip(("before", "now", "rows"), line, strict=True)) for line in lines]
        counts = None if found.manifest is None else found.manifest["counts"]
        emit({"run": run, "worked": found.worked, "tried": tried, "counts": counts})
        return
    if quiet:
        return
    if lines:
        print_table(["before", "now", "rows"], lines)
    if found.worked and found.manifest is not None:
        print_counts(found.manifest["counts"])
    if not lines:
        note(f"{run}: no row failed that could be tried again")
    elif not found.worked:
        note(f"{run}: all rows tried fail as before; nothing changed")
    if found.manifest is None:
        note(f"the run is not finished; to go on: curate run {run}/recipe.yaml")
