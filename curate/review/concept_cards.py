"""The concepts of a run as the page shows them: named, with sizes and kept shares, on a map, with typical rows."""

import math
from typing import Any

from curate.analysis.summary.concepts import concept_table, layout
from curate.review.table import RowTable
from curate.runs.folder import RunFolder

__all__ = ["MOST", "concept_rows"]

#: Concepts that the page lists: the largest.
MOST = 1_000
#: Typical rows of each.
TYPICAL = 4
KEYS = ("concept", "name", "n_assigned", "n_eligible", "kept", "share", "complexity", "unevenness", "x", "y")


def concept_rows(run: RunFolder, table: RowTable) -> list[dict[str, Any]]:
    """Return the largest concepts, the largest first: `KEYS`, and `rows`, the numbers of their most typical rows."""
    frame = concept_table(run)
    if frame is None or frame.is_empty():
        return []
    frame = frame.sort("n_assigned", "concept", descending=[True, False], nulls_last=True).head(MOST)
    places = layout(run, tuple(frame["concept"].to_list()))
    frame = frame.join(places, on="concept", how="left", maintain_order="left")
    typical = table.ask(
        f"select concept, arg_min(n, distance, {TYPICAL}) as rows from rows where distance is not null and occurrence = 0 group by concept"
    )
    rows = {one["concept"]: one["rows"] for one in typical}
    return [
        {**{key: _plain(one.get(key)) for key in KEYS}, "rows": rows.get(one["concept"], [])}
        for one in frame.iter_rows(named=True)
    ]


def _plain(value: object) -> object:
    """Return a number as JSON has it; none that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
