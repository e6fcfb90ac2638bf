"""Stage `read`, second half: which rows are copies of one another, over all shards.

Rows with the same content (image, caption, label as they stand) are one sample. Rows are regrouped by
content hash, so that memory holds one bucket at a time.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from curate.errors import SourceError
from curate.execution import exchange
from curate.execution.context import Context, Part, reuse_or_remove
from curate.hashing import digest, hash_uids, tie
from curate.io import checksums, storage
from curate.pipeline.stages.read import keys_path

__all__ = ["Copies", "find", "of_part"]

VERSION = 1
#: Bytes of one row while copies are searched: hashes, positions, and what sorting needs.
ROW_BYTES = 400

FOUND = pa.schema(
    [
        ("part", pa.int32()),
        ("position", pa.int32()),
        ("occurrence", pa.int32()),
        ("copy_of", pa.string()),
    ]
)


@dataclass(frozen=True)
class Copies:
    """What was found: files with one batch per part, and the fingerprint of the whole."""

    files: tuple[Path, ...]
    fingerprint: str

    def of(self, part: Part) -> pl.DataFrame:
        """Return the rows of a part that are copies or have copies, in order."""
        return pl.DataFrame(exchange.gather(self.files, part.index)).sort("position")

    def fingerprint_of(self, part: Part) -> str:
        """Return what changes when other rows of a part are copies than before.

        Rows that stand for copies elsewhere are not in it: that a copy was added leaves their part as it is.
        """
        copied = (pl.col("occurrence") > 0) | pl.col("copy_of").is_not_null()
        return digest(self.of(part).filter(copied).drop("part").write_ndjson())


@dataclass(frozen=True)
class SpreadTask:
    """One part whose rows go to buckets by `column`."""

    part: Part
    keys: Path
    column: str
    out: Path
    fingerprint: str
    buckets: int


@dataclass(frozen=True)
class FindTask:
    """One bucket in which copies (or uids given twice) are looked for."""

    bucket: int
    files: tuple[Path, ...]
    parts: tuple[Part, ...]
    named: bool
    seed: int
    out: Path
    fingerprint: str


def find(context: Context) -> Copies:
    """Find copies among all rows. Raises SourceError if a named uid column holds a uid twice."""
    parts = context.parts
    if not parts:
        return Copies((), storage.fingerprint("copies", VERSION, []))
    total = sum(part.rows for part in parts)
    buckets = max(1, -(-total * ROW_BYTES // context.task_memory))
    named = any(part.columns.uid for part in parts)
    exact = context.recipe.dedup.exact
    seed = context.recipe.seed
    fingerprint = storage.fingerprint("copies", VERSION, [p.fingerprint for p in parts], named, exact, seed)
    folder = context.run.work / "copies"
    files = tuple(folder / f"found-{bucket}-of-{buckets}.arrow" for bucket in range(buckets))
    if all(reuse_or_remove(file, fingerprint) for file in files):
        return Copies(files, fingerprint)
    spread_fingerprint = storage.fingerprint(fingerprint, buckets)
    if named:
        spread = _spread_by(context, "uid", buckets, spread_fingerprint)
        context.map(
            "read", "buckets", _refuse_repeats,
            [FindTask(b, spread, parts, named, seed, file, fingerprint) for b, file in enumerate(files)],
        )  # fmt: skip
    spread = _spread_by(context, "content", buckets, spread_fingerprint)
    tasks = [FindTask(b, spread, parts, named, seed, file, fingerprint) for b, file in enumerate(files)]
    context.map("read", "buckets", _find_copies, tasks)
    for path in set(folder.glob("*.arrow")) - set(files):
        storage.remove(path)
        checksums.drop_sidecars(path)
    return Copies(files, fingerprint)


def of_part(copies: Copies, part: Part, keys: pl.DataFrame, *, exact: bool) -> pl.DataFrame:
    """Return `keys` of a part with `occurrence` and `copy_of` (null for the row that stands for all).

    Without `exact`, copies are samples of their own: a derived uid gets the suffix ``#<occurrence>``.
    """
    found = copies.of(part)
    occurrence = np.zeros(len(keys), dtype=np.int32)
    occurrence[found["position"].to_numpy()] = found["occurrence"].to_numpy()
    copy_of = pl.DataFrame({"position": np.arange(len(keys), dtype=np.int32)}).join(
        found.select("position", "copy_of"), on="position", how="left", maintain_order="left"
    )["copy_of"]
    frame = keys.with_columns(pl.Series("occurrence", occurrence), copy_of)
    if exact:
        return frame
    repeated = pl.col("occurrence") > 0
    suffixed = pl.format("{}#{}", pl.col("uid"), pl.col("occurrence"))
    return frame.with_columns(
        uid=pl.when(repeated).then(suffixed).otherwise(pl.col("uid")),
        occurrence=pl.lit(0, pl.Int32),
        copy_of=pl.lit(None, pl.String),
    )


def _spread_by(context: Context, column: str, buckets: int, fingerprint: str) -> tuple[Path, ...]:
    folder = context.run.work / "copies"
    tasks = [
        SpreadTask(
            part,
            keys_path(context, part),
            column,
            folder / f"{column}-{part.name}.arrow",
            fingerprint,
            buckets,
        )
        for part in context.parts
    ]
    context.map(
        "read", "parts", _spread, [task for task in tasks if not reuse_or_remove(task.out, fingerprint)]
    )
    return tuple(task.out for task in tasks)


def _spread(task: SpreadTask) -> None:
    columns = ["uid", "content"] if task.part.columns.uid else ["content"]
    table = storage.read_table(task.keys, columns)
    rows = table.num_rows
    table = table.append_column("part", pa.array(np.full(rows, task.part.index, np.int32)))
    table = table.append_column("position", pa.array(np.arange(rows, dtype=np.int32)))
    bucket = hash_uids(table[task.column].to_pylist(), "bucket") % np.uint64(task.buckets)
    exchange.scatter(
        task.out, bucket.astype(np.int32), task.buckets, table.take, table.schema, task.fingerprint
    )


def _refuse_repeats(task: FindTask) -> None:
    frame = pl.DataFrame(exchange.gather(task.files, task.bucket))
    repeated = frame.filter(pl.col("uid").is_duplicated()).sort("uid", "part", "position")
    if len(repeated):
        first = repeated.filter(pl.col("uid") == repeated["uid"][0])
        places = ", ".join(
            f"{task.parts[row['part']].shard.url} row {task.parts[row['part']].start + row['position']}"
            for row in first.head(3).iter_rows(named=True)
        )
        column = task.parts[0].columns.uid
        more = repeated["uid"].n_unique() - 1
        also = f", and {more} more uids" if more else ""
        raise SourceError(
            f"source.uid: column {column!r} must be unique; {first['uid'][0]!r} is in {places}{also}"
        )


def _find_copies(task: FindTask) -> None:
    frame = pl.DataFrame(exchange.gather(task.files, task.bucket))
    frame = frame.filter(pl.col("content").is_duplicated())
    frame = _ranked_by_uid(frame, task.seed) if task.named else _ranked_by_place(frame)
    table = frame.select("part", "position", "occurrence", "copy_of").to_arrow().cast(FOUND)
    exchange.scatter(task.out, frame["part"].to_numpy(), len(task.parts), table.take, FOUND, task.fingerprint)


def _ranked_by_place(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows without a uid of their own: occurrences of one uid, in order of file name and row."""
    occurrence = pl.int_range(pl.len(), dtype=pl.Int32).over("content")
    frame = frame.sort("part", "position").with_columns(occurrence=occurrence)
    return frame.with_columns(
        copy_of=pl.when(pl.col("occurrence") > 0).then(pl.col("content")).cast(pl.String)
    )


def _ranked_by_uid(frame: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Rows with a uid of their own: the one that stands for all is the first by tie order."""
    order = pl.Series("tie", tie(frame["uid"].to_list(), seed), pl.UInt64)
    frame = frame.with_columns(order).sort("tie", "uid")
    frame = frame.with_columns(first=pl.col("uid").first().over("content"))
    return frame.sort("part", "position").with_columns(
        occurrence=pl.lit(0, pl.Int32),
        copy_of=pl.when(pl.col("uid") != pl.col("first")).then(pl.col("first")),
    )
