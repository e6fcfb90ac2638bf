"""How `inspect` shows what looks wrong: quadrants, vectors, scores that contradict each other, scores against a column."""

from collections.abc import Mapping, Sequence
from typing import Any

from curate.analysis.summary.said import said_of_heads
from curate.cli.output import MAX_TEXT, emit, percent, print_table, section, write

__all__ = ["show_against", "show_diagnosis"]

Facts = Mapping[str, Any]


def show_diagnosis(facts: Facts) -> None:
    """Print how vectors lie, whether heads are too sure, and which scores contradict each other or treat classes unevenly."""
    _quadrants(facts.get("quadrants", ()))
    found: Facts = facts.get("diagnosis", {})
    space, heads = found.get("space"), found.get("calibration")
    if space:
        rows = [
            [name.replace("_", " "), value] for name, value in space.items() if name not in ("rows", "pairs")
        ]
        section(f"vectors of {space['rows']:,} sampled rows, {space['pairs']:,} pairs", ["value"], rows)
    if heads:
        write(f"\n{said_of_heads(heads)}\n")
    pairs = found.get("disagree", ())
    shown = [
        [f"{pair['one']}, {pair['other']}", f"{pair['correlation']:+.2f}", row["uid"][:MAX_TEXT], row["label"] or "-",
         row[pair["one"]], row[pair["other"]]]
        for pair in pairs for row in pair["rows"]
    ]  # fmt: skip
    section(
        "scores that rank unlike", ["Spearman", "on whom", "label", "harder than (first)", "(second)"], shown
    )
    uneven = [
        [one["score"], one["spread"], one["group"], percent(one["share"])] for one in found.get("uneven", ())
    ]
    section("one threshold, classes", ["spread", "farthest off", "above the median"], uneven)


def _quadrants(rows: Sequence[Facts]) -> None:
    """Print how many rows each quadrant of error and uncertainty has, and what is kept of it."""
    shown = [[row["quadrant"], row["rows"], row["kept"], percent(row["kept"] / row["rows"])] for row in rows]
    section("error and uncertainty", ["rows", "kept", "share"], shown)


def show_against(run: str, column: str, *, json_: bool) -> None:
    """Print how well every score tells the rows where a column is true."""
    from curate.analysis.diagnosis.against import against

    found = against(run, column)
    if json_:
        emit(found)
        return
    share = "none" if found["positive"] is None else f"{100 * found['positive']:.1f} %"
    write(
        f"{column} is true of {share} of {found['rows']:,} rows; an AUC of 0.5 says nothing, below it the score points away\n\n"
    )
    rows = [
        [row["score"], row["higher_is"], row["n"], "-" if row["auc"] is None else row["auc"]]
        for row in found["scores"]
    ]
    print_table(["score", "higher is", "rows", "AUC"], rows)
