"""How much is kept of every class, source and split, and which of them shrink much more than the rest."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from curate.report.formatting import cut as cut_text
from curate.report.groups import compared
from curate.report.model import Groups

__all__ = ["group_rows", "group_warnings", "shown_groups"]


def group_rows(counts: pl.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Return, by label, source and split, a row per value: group, rows (usable), kept, share, rest, shrunk.

    counts : by, group, rows, kept. rest : the share kept of all other groups; shrunk : whether the group's is much
    less, as the report has it; these come first, then the least kept. What has one value is left out.
    """
    kinds = counts["by"].unique(maintain_order=True).to_list()
    frames = {by: counts.filter(pl.col("by") == by).select("group", "rows", "kept") for by in kinds}
    return {by: compared(frame).to_dicts() for by, frame in frames.items() if len(frame) > 1}


def group_warnings(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return a line for each grouping of which a group shrinks much more than the rest.

    Concepts are no such grouping: they shrink unevenly by design. Nor are groups with shares of their own, and columns that rows
    are counted by, of which some values may be what conditions take out.

    >>> group_warnings({"label": [{"group": "cat", "share": 0.1, "rest": 0.4, "shrunk": True}]})
    ["label 'cat' keeps 10.0% where the rest keeps 40.0%"]
    """
    found = []
    for by, rows in groups.items():
        worst = [row for row in rows if row["shrunk"]]
        more = f" (and {len(worst) - 1:,} more)" if len(worst) > 1 else ""
        for row in worst[:1]:
            name = cut_text(row["group"], 60)
            found.append(
                f"{by} {name!r} keeps {row['share']:.1%} where the rest keeps {row['rest']:.1%}{more}"
            )
    return found


def shown_groups(counts: pl.DataFrame, concepts: pl.DataFrame, *, cut: frozenset[str]) -> list[Groups]:
    """Return the groups that a page tells apart: classes, concepts, and sources, splits or values of columns where there are several.

    counts : by, group, rows, kept. cut : the kinds of which only the largest groups are there.
    """
    found = []
    own = {"label": "class", "source": "source", "split": "split"}
    kinds = counts["by"].unique(maintain_order=True).to_list()
    for by, name in (*own.items(), *((kind, kind) for kind in kinds if kind not in own)):
        frame = counts.filter(pl.col("by") == by).select("group", "rows", "kept")
        if frame.height > 1 or (by == "label" and frame.height):
            found.append(Groups(by=name, frame=frame, cut=by in cut))
    if concepts.height:
        sizes = concepts.select(
            pl.col("concept").cast(pl.String).alias("group"), rows="n_assigned", kept="kept"
        )
        found.insert(min(1, len(found)), Groups(by="concept", frame=sizes.fill_null(0)))
    return found
