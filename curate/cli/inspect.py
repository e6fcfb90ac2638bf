"""Commands that read a run: inspect, verify."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from curate.cli import app
from curate.cli.show import emit, note, plain, print_table, write

Folder = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@app.command()
def inspect(
    run: Folder,
    concepts: Annotated[int, typer.Option("--concepts", min=0, help="How many concepts to list.")] = 10,
    json_: Json = False,
) -> None:
    """Show what a run decided: counts by reason, the largest concepts, quantiles of the scores."""
    from curate.runs import open_run
    from curate.verify import changed_since, decided

    opened = open_run(run)
    changed = changed_since(opened)
    facts: dict[str, Any] = {
        "counts": decided(opened),
        "changed": changed,
        "concepts": opened.concepts()
        .sort("n_eligible", "concept", descending=[True, False])
        .head(concepts)
        .to_dicts(),
        "scores": quantiles(opened.scores()),
    }
    if json_:
        emit(facts)
        return
    counts = facts["counts"]
    rows = [["rows in", counts["rows"]], ["kept", counts["kept"]]]
    for group in ("dropped", "unusable"):
        rows += [[f"{group}: {reason}", count] for reason, count in counts[group].items()]
    print_table(["", "rows"], rows)
    for name in ("concepts", "scores"):
        if facts[name]:
            write("\n")
            print_table(list(facts[name][0]), [list(row.values()) for row in facts[name]])
    _note_changed(run, changed)


def _note_changed(run: Path, changed: Sequence[str]) -> None:
    """Say that the shards are not those of the decisions, where it is so."""
    if changed:
        note(
            f"warning: {', '.join(changed)} changed after the shards and the report were written; "
            f"to write them anew: curate run {run}/recipe.yaml"
        )


def quantiles(scores: "Any") -> list[dict[str, Any]]:  # noqa: ANN401  (a Polars frame, imported late)
    """Return one row per numeric score column: how many have it, and its quantiles."""
    rows = []
    for name, kind in scores.schema.items():
        if kind.is_float():
            column = scores[name].drop_nulls()
            shown = {f"p{round(100 * q):02d}": column.quantile(q, "nearest") for q in QUANTILES}
            rows.append({"score": name, "n": len(column), "missing": len(scores) - len(column), **shown})
    return rows


@app.command()
def verify(
    run: Folder,
    digest: Annotated[
        bool, typer.Option("--digest", help="Print the SHA-256 of the decisions, sorted by uid.")
    ] = False,
    json_: Json = False,
) -> None:
    """Check every file of a run against its recorded hash, and that the counts add up."""
    from curate.verify import decisions_digest, verify_run

    found = decisions_digest(run) if digest else None
    if digest and not json_:
        write(f"{found}\n")
        return
    checked = verify_run(run)
    if json_:
        emit({**checked, "digest": found})
    else:
        where = plain(str(run))
        write(f"{where}: {checked['files']:,} files and {checked['rows']:,} rows are as recorded\n")
        _note_changed(run, checked["changed"])
