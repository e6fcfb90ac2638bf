"""Which row of a finished run a user means: by uid, by place, by number, by the beginning of a uid."""

from typing import Any

import polars as pl

from curate.errors import UsageError
from curate.execution.context import Context
from curate.io.remote.cache import ensure_local

__all__ = ["LISTED", "find", "rows_with"]

#: Rows of one part that are looked at, where many are meant.
LISTED = 10


def find(context: Context, which: str) -> dict[str, Any]:
    """Return the decision of the row that `which` names, with the index of its part."""
    for look in (_by_uid, _by_place, _by_number, _by_prefix):
        found = look(context, which)
        if found is not None:
            return found
    raise UsageError(
        f"{context.run.where}: no sample {which!r}; name one by its uid (or how it begins), by shard:row, or by "
        "the number of its row"
    )


def rows_with(context: Context, chosen: pl.Expr) -> list[dict[str, Any]]:
    """Return the decisions that hold `chosen`, in the order of the source, few of them."""
    found = []
    for part in context.parts:
        path = context.run.part(context.run.decisions, part.name)
        rows = pl.scan_parquet(ensure_local(path)).filter(chosen).head(LISTED + 1).collect()
        found += [{**row, "part": part.index} for row in rows.to_dicts()]
    return found


def _by_uid(context: Context, which: str) -> dict[str, Any] | None:
    found = rows_with(context, pl.col("uid") == which)
    return min(found, key=lambda row: (row["occurrence"], row["part"])) if found else None


def _by_place(context: Context, which: str) -> dict[str, Any] | None:
    shard, colon, number = which.rpartition(":")
    if not colon or not number.isdecimal():
        return None
    found = rows_with(context, (pl.col("shard") == shard) & (pl.col("row") == int(number)))
    if found:
        return found[0]
    names = sorted({part.shard.name for part in context.parts})
    if shard not in names:
        some = ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
        raise UsageError(f"{context.run.where}: no shard {shard!r}; there are {some}")
    rows = sum(part.rows for part in context.parts if part.shard.name == shard)
    raise UsageError(
        f"{context.run.where}: shard {shard} has {rows:,} rows, numbered from 0; got row {number}"
    )


def _by_number(context: Context, which: str) -> dict[str, Any] | None:
    if not which.isdecimal():
        return None
    number = int(which)
    for part in context.parts:
        if number < part.rows:
            path = context.run.part(context.run.decisions, part.name)
            return {
                **pl.scan_parquet(ensure_local(path)).slice(number, 1).collect().row(0, named=True),
                "part": part.index,
            }
        number -= part.rows
    return None


def _by_prefix(context: Context, which: str) -> dict[str, Any] | None:
    found = rows_with(context, pl.col("uid").str.starts_with(which)) if which else []
    uids = sorted({row["uid"] for row in found})
    if len(uids) > 1:
        shown = ", ".join(uids[:3]) + (" and more" if len(uids) > 3 else "")
        raise UsageError(f"{context.run.where}: several uids begin with {which!r}: {shown}; give more of it")
    return min(found, key=lambda row: (row["occurrence"], row["part"])) if found else None
