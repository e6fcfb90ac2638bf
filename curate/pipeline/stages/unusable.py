"""Why rows cannot be used, as a message says it: the outcomes with most rows, each with its usual reason."""

import polars as pl

from curate.execution.context import Context
from curate.io import storage

__all__ = ["why_unusable_rows"]

#: Outcomes that a message names.
MAX_NAMED = 3
#: Characters of a reason, which may quote what stands in a row.
MAX_REASON = 300


def why_unusable_rows(context: Context) -> str:
    """Return the outcomes of unusable rows as "12 refused_path (the path is absolute; ...), 3 missing_image (...)"."""
    counts: list[pl.DataFrame] = []
    for part in context.parts:
        table = storage.read_table(context.run.part(context.run.samples, part.name), ["outcome", "reason"])
        rows = pl.DataFrame(table).filter(pl.col("outcome") != "ok")
        counts.append(rows.group_by("outcome", "reason").len())
        if sum(map(len, counts)) > 100_000:
            counts = [_added(counts)]
    by_reason = _added(counts).sort("len", "reason", descending=[True, False])
    outcomes = by_reason.group_by("outcome", maintain_order=True).agg(pl.sum("len"), pl.first("reason"))
    said = []
    for outcome, n, reason in (
        outcomes.sort("len", "outcome", descending=[True, False]).head(MAX_NAMED).rows()
    ):
        said.append(f"{n:,} {outcome} ({(reason or '')[:MAX_REASON]})" if reason else f"{n:,} {outcome}")
    more = len(outcomes) - MAX_NAMED
    return ", ".join(said) + (f", and {more} more kinds" if more > 0 else "")


def _added(counts: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(counts).group_by("outcome", "reason").agg(pl.sum("len"))
