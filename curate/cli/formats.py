"""What can be read: every source format."""

from typing import Annotated, Any

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.options import Option
from curate.cli.output import emit, write

__all__ = ["formats", "markdown"]


@app.command()
def formats(
    json_: flag.Json = False,
    table: Annotated[bool, Option("--markdown", help="Print the table of docs/sources.md.")] = False,
) -> None:
    """Say which formats are read, by which names they are found, and what becomes a row."""
    if table:
        write(markdown())
    elif json_:
        emit(_described())
    else:
        for one in _described():
            ends = f" ({', '.join(one['ends'])})" if one["ends"] else ""
            write(f"{one['format']}{ends}\n  {one['what'].replace('`', '')}; a row: {one['rows']}\n")


def markdown() -> str:
    """Return the table of formats."""
    lines = [f"| `{one['format']}` | {one['what']} | {one['rows']} |" for one in _described()]
    return "\n".join(["| format | what | rows |", "|---|---|---|", *lines]) + "\n"


def _described() -> list[dict[str, Any]]:
    """Return the formats as plain values. ends : of the names of files by which `source.format: auto` knows it."""
    from curate.sources.registry import FORMATS, format_of

    every = [format_of(name) for name in FORMATS]
    return [
        {"format": one.name, "ends": list(one.extensions), "what": one.what, "rows": one.rows}
        for one in every
    ]
