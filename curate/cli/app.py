"""The Typer application, to which each module of commands adds its own."""

from importlib import metadata
from typing import Annotated

import typer

from curate.cli.output import write

__all__ = ["app"]

app = typer.Typer(
    name="curate",
    help="Curate and prune image-text datasets by concept complexity, hardness and noise.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        write(f"curate {metadata.version('curate')}\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        write(f"{context.get_help()}\n")
