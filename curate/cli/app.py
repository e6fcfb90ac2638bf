"""The Typer application, to which each module of commands adds its own."""

from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from curate.cli.output import write, write_as_it_is

__all__ = ["GROUPS", "app"]

#: The commands as the help lists them, by what one wants to do.
GROUPS = {
    "Start": ("demo", "init", "filter", "run"),
    "Look": ("inspect", "report", "review", "explain", "search", "evaluate", "plan", "diff", "verify"),
    "Decide": ("score", "select", "overrides", "name", "retrieve"),
    "Take out": ("export", "forget"),
    "For good": ("schedule", "gc", "retry", "train-filter"),
    "What there is": ("methods", "models", "formats"),
}


class _Grouped(TyperGroup):
    """The commands, listed in groups."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401  (of the copy of click in Typer)
        known = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        grouped = {name for names in GROUPS.values() for name in names}
        rest = tuple(name for name in known if name not in grouped)
        width = formatter.width - 6 - max(map(len, known))
        for title, names in [*GROUPS.items(), ("Others", rest)]:
            there = [(name, known.get(name)) for name in names]
            rows = [(name, one.get_short_help_str(width)) for name, one in there if one is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


app = typer.Typer(
    name="curate",
    cls=_Grouped,
    help="Curate and prune image-text datasets by concept complexity, hardness and noise.",
    epilog="Shell completion: curate --install-completion. What each says of itself: curate COMMAND --help",
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
        write_as_it_is(f"{context.get_help()}\n")
