"""The command `diff`: what changed from one run to another."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from curate.cli.app import app
from curate.cli.output import emit, note, print_table, write

#: How many rows of a table people are shown; --json has all.
SHOWN = 20


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="The run before.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The run after.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.parquet", help="Write the rows that differ, with both sides."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Compare two runs: rows that came and went, decisions, concepts, weights, scores, settings."""
    from curate.analysis.diff import diff_runs

    found = diff_runs(a, b, out=out)
    if json_:
        emit(found)
    else:
        _show(found)
    if out is not None:
        note(f"wrote {out}")


def _show(found: Mapping[str, Any]) -> None:
    print_table(
        ["", "run", "rows", "kept"],
        [[name.upper(), found[name], found["rows"][name], found["kept"][name]] for name in "ab"],
    )
    rows = [
        [name.replace("_to_", " -> ").replace("_", " "), count] for name, count in found["changes"].items()
    ]
    _table("", ["what became of them", "rows"], [row for row in rows if row[1]])
    if found["rows"]["a"] and found["rows"]["b"] and not found["rows"]["both"]:
        write("\nno row is in both: are they of the same source, with the same uids?\n")
    _table("reasons that changed", ["before", "after", "rows"], _values(found["reasons"]))
    _show_concepts(found["concepts"])
    changed = [
        {"": "weight", **found["weights"]},
        *({"": s.pop("score"), **s} for s in map(dict, found["scores"])),
    ]
    changed = [row for row in changed if row["changed"] or row["gained"] or row["lost"]]
    _table("numbers that changed", list(changed[0]) if changed else [], _values(changed))
    for name, columns in found["scores_of_one"].items():
        if columns:
            write(f"\nscores that {name.upper()} alone has: {', '.join(columns)}\n")
    settings = [[row["setting"], _text(row["a"]), _text(row["b"])] for row in found["settings"]]
    _table("settings that differ", ["setting", "A", "B"], settings)


def _show_concepts(concepts: Mapping[str, Any]) -> None:
    if not concepts["comparable"]:
        write(f"\nconcepts cannot be compared: {concepts['why_not']}\n")
        return
    write(f"\n{concepts['changed']:,} rows changed their concept\n")
    sizes = concepts["sizes"]
    _table("concepts whose size changed most", list(sizes[0]) if sizes else [], _values(sizes))


def _values(rows: list[dict[str, Any]]) -> list[list[Any]]:
    return [list(row.values()) for row in rows]


def _text(value: object) -> str | None:
    return value if isinstance(value, str | None) else json.dumps(value, ensure_ascii=False)


def _table(title: str, header: list[str], rows: list[list[Any]]) -> None:
    """Print a table below its title, unless it is empty."""
    if not rows:
        return
    write(f"\n{title}\n" if title else "\n")
    print_table([name.replace("_", " ") for name in header], rows[:SHOWN])
    if len(rows) > SHOWN:
        write(f"... and {len(rows) - SHOWN:,} more: --json has all\n")
