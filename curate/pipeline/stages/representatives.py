"""Which row a copy names: the one that stands for it, or the one that this is a near-duplicate of.

A copy and its representative may be in different parts, so both are regrouped by the uid of the
representative; memory holds one bucket at a time, and only copies and near-duplicates are moved.
"""

from pathlib import Path

import polars as pl
import pyarrow as pa

from curate import schema
from curate.execution.context import Context
from curate.execution.exchange import Exchange, Grouped, bucket_of
from curate.io import storage
from curate.runs.folder import RunFolder
from curate.selection.rows.overridden import judged

__all__ = ["find", "of_part"]

ROW_BYTES = 300

#: A copy (its place, and the uid of its representative), or a near-duplicate (with what it is one of).
ROWS = pa.schema(
    [("uid", pa.string()), ("part", pa.int32()), ("position", pa.int32()), ("duplicate_of", pa.string())]
)
FOUND = pa.schema([("part", pa.int32()), ("position", pa.int32()), ("stand_in", pa.string())])


def find(
    context: Context, copies: int, near: int, scratch: Path, fingerprint: str, overrides: Path | None
) -> tuple[Path, ...]:
    """Find the copies whose representative is a near-duplicate; return files with one batch per part.

    copies, near : how many rows there are of either kind; without one of them there is nothing to find.
    overrides : where the decisions of people are, who may say that a row is no near-duplicate.
    """
    if not copies or not near:
        return ()
    fingerprint = storage.fingerprint("stand_ins", fingerprint)
    exchange = Exchange.by_memory(
        context, "select", scratch, fingerprint, rows=copies + near, row_bytes=ROW_BYTES
    )
    items = {part.name: (context.run, part.name, part.index, overrides) for part in context.parts}
    return exchange.bucket(_join, exchange.spread(_rows_of_part, items, "copies"), "stand-ins")


def of_part(files: tuple[Path, ...], index: int) -> pl.DataFrame:
    """Return position and `stand_in` of the copies of a part that do not name their representative."""
    if not files:
        return pl.DataFrame(FOUND.empty_table()).drop("part")
    return Exchange.back(files, index).drop("part")


def _rows_of_part(item: tuple[RunFolder, str, int, Path | None], n_buckets: int) -> Grouped:
    run, part, index, overrides = item
    samples = pl.DataFrame(storage.read_table(run.part(run.samples, part), ["outcome", "copy_of"]))
    ok = samples["outcome"] == "ok"
    alone = (ok & samples["copy_of"].is_null()).arg_true()
    judged_rows = schema.complete(storage.read_table(run.part(run.scores("filter"), part)), schema.FILTER)
    named = samples["copy_of"].scatter(alone, pl.Series(judged_rows["same_content_as"]))
    copies = (
        pl.DataFrame({"uid": named, "ok": ok})
        .with_row_index("position")
        .filter(pl.col("ok") & pl.col("uid").is_not_null())
        .select("uid", position=pl.col("position").cast(pl.Int32), duplicate_of=pl.lit(None, pl.String))
    )
    near = (
        judged(run, part, pl.DataFrame(judged_rows).select("uid", "filter_reason", "pinned"), overrides)
        .filter(pl.col("duplicate_of").is_not_null())
        .select("uid", pl.lit(-1, pl.Int32).alias("position"), "duplicate_of")
    )
    rows = pl.concat([copies, near]).with_columns(pl.lit(index, pl.Int32).alias("part"))
    table = rows.select(ROWS.names).to_arrow().cast(ROWS)
    return Grouped.of(bucket_of(rows["uid"].to_list(), n_buckets), table)


def _join(table: pa.Table) -> pa.Table:
    rows = pl.DataFrame(table)
    is_copy = pl.col("duplicate_of").is_null()
    near = rows.filter(~is_copy).select("uid", stand_in="duplicate_of")
    found = rows.filter(is_copy).join(near, on="uid", validate="m:1").sort("part", "position")
    return found.select(FOUND.names).to_arrow().cast(FOUND)
