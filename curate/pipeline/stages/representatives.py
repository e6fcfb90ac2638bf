"""Which row a copy names: the one that stands for it, or the one that this is a near-duplicate of.

A copy and its representative may be in different parts, so both are regrouped by the uid of the
representative; memory holds one bucket at a time, and only copies and near-duplicates are moved.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from curate.execution import exchange
from curate.execution.context import Context, reuse_or_remove
from curate.hashing import hash_uids
from curate.io import storage
from curate.runs.folder import RunFolder

__all__ = ["find", "of_part"]

ROW_BYTES = 300

#: A copy (its place, and the uid of its representative), or a near-duplicate (with what it is one of).
ROWS = pa.schema(
    [("uid", pa.string()), ("part", pa.int32()), ("position", pa.int32()), ("duplicate_of", pa.string())]
)
FOUND = pa.schema([("position", pa.int32()), ("stand_in", pa.string())])


@dataclass(frozen=True)
class SpreadTask:
    """One part whose copies and near-duplicates go to buckets."""

    run: RunFolder
    part: str
    index: int
    buckets: int
    out: Path
    fingerprint: str


@dataclass(frozen=True)
class JoinTask:
    """One bucket in which copies meet their representatives."""

    bucket: int
    files: tuple[Path, ...]
    n_parts: int
    out: Path
    fingerprint: str


def find(context: Context, copies: int, near: int, scratch: Path, fingerprint: str) -> tuple[Path, ...]:
    """Find the copies whose representative is a near-duplicate; return files with one batch per part.

    copies, near : how many rows there are of either kind; without one of them there is nothing to find.
    """
    if not copies or not near:
        return ()
    buckets = max(1, -(-(copies + near) * ROW_BYTES // context.task_memory))
    fingerprint = storage.fingerprint("stand_ins", fingerprint, buckets)
    spread = [
        SpreadTask(
            context.run, part.name, part.index, buckets, scratch / f"copies-{part.name}.arrow", fingerprint
        )
        for part in context.parts
    ]
    context.map(
        "select", "parts", _spread, [task for task in spread if not reuse_or_remove(task.out, fingerprint)]
    )
    files = tuple(task.out for task in spread)
    joins = [
        JoinTask(
            bucket, files, len(context.parts), scratch / f"stand-ins-{bucket}-of-{buckets}.arrow", fingerprint
        )
        for bucket in range(buckets)
    ]
    context.map(
        "select", "buckets", _join, [task for task in joins if not reuse_or_remove(task.out, fingerprint)]
    )
    return tuple(task.out for task in joins)


def of_part(files: tuple[Path, ...], index: int) -> pl.DataFrame:
    """Return position and `stand_in` of the copies of a part that do not name their representative."""
    if not files:
        return pl.DataFrame(FOUND.empty_table())
    return pl.DataFrame(exchange.gather(files, index))


def _spread(task: SpreadTask) -> None:
    samples = storage.read_table(task.run.part(task.run.samples, task.part), ["outcome", "copy_of"])
    copies = (
        pl.DataFrame(samples)
        .with_row_index("position")
        .filter((pl.col("outcome") == "ok") & pl.col("copy_of").is_not_null())
        .select(
            uid="copy_of", position=pl.col("position").cast(pl.Int32), duplicate_of=pl.lit(None, pl.String)
        )
    )
    found = storage.read_table(task.run.part(task.run.duplicates, task.part), ["uid", "duplicate_of"])
    near = (
        pl.DataFrame(found)
        .filter(pl.col("duplicate_of").is_not_null())
        .select("uid", pl.lit(-1, pl.Int32).alias("position"), "duplicate_of")
    )
    rows = pl.concat([copies, near]).with_columns(pl.lit(task.index, pl.Int32).alias("part"))
    bucket = hash_uids(rows["uid"].to_list(), "bucket") % np.uint64(task.buckets)
    table = rows.select(ROWS.names).to_arrow().cast(ROWS)
    exchange.scatter(task.out, bucket.astype(np.int32), task.buckets, table.take, ROWS, task.fingerprint)


def _join(task: JoinTask) -> None:
    rows = pl.DataFrame(exchange.gather(task.files, task.bucket))
    is_copy = pl.col("duplicate_of").is_null()
    near = rows.filter(~is_copy).select("uid", stand_in="duplicate_of")
    found = rows.filter(is_copy).join(near, on="uid", validate="m:1").sort("part", "position")
    table = found.select(FOUND.names).to_arrow().cast(FOUND)
    exchange.scatter(task.out, found["part"].to_numpy(), task.n_parts, table.take, FOUND, task.fingerprint)
