"""The command `report`: the page of a run, or of one of its concepts."""

import shlex
from typing import Annotated

import typer

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.options import Option
from curate.cli.output import emit, logged, note, progress, write


@app.command()
def report(
    run: flag.RunPlace,
    concept: Annotated[
        int | None, typer.Option("--concept", metavar="N", min=0, help="Write a page of this concept.")
    ] = None,
    open_: Annotated[bool, Option("--open", help="Open the page in the browser.")] = False,
    json_: flag.Json = False,
    quiet: flag.Quiet = False,
) -> None:
    """Write the report of a finished run anew, or with --concept a page of one concept; print its path."""
    from curate.pipeline.page import write_page

    with progress(quiet=quiet) as show, logged(quiet=True):
        path = write_page(run, concept, progress=show)
    if json_:
        emit({"report": str(path)})
    elif not quiet:
        write(f"{path}\n")
    if open_:
        from curate.review.server import open_browser

        if not open_browser(path.resolve().as_uri(), wait=True):
            note(
                f"there is no screen here; to see the rows in a browser elsewhere: curate review {shlex.quote(run)}"
            )
