"""Stage `read`, second half: which rows are copies of one another, over all shards.

Rows with the same content (image, caption, label as they stand) are one sample. Rows are regrouped by
content hash, so that memory holds one bucket at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from curate.errors import SourceError
from curate.execution.context import Context, Part
from curate.execution.exchange import Exchange, Grouped, bucket_of
from curate.hashing import digest, tie
from curate.io import storage
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
        return Exchange.back(self.files, part.index).sort("position")

    def fingerprint_of(self, part: Part) -> str:
        """Return what changes when other rows of a part are copies than before.

        Rows that stand for copies elsewhere are not in it: that a copy was added leaves their part as it is.
        """
        copied = (pl.col("occurrence") > 0) | pl.col("copy_of").is_not_null()
        return digest(self.of(part).filter(copied).drop("part").write_ndjson())


def find(context: Context) -> Copies:
    """Find copies among all rows. Raises SourceError if a named uid column holds a uid twice."""
    parts = context.parts
    if not parts:
        return Copies((), storage.fingerprint("copies", VERSION, []))
    named = any(part.columns.uid for part in parts)
    exact, seed = bool(context.recipe.dedup.exact), context.recipe.seed
    fingerprint = storage.fingerprint("copies", VERSION, [p.fingerprint for p in parts], named, exact, seed)
    exchange = Exchange.by_memory(
        context, "read", context.run.work / "copies", fingerprint,
        rows=sum(part.rows for part in parts), row_bytes=ROW_BYTES,
    )  # fmt: skip
    files = exchange.found()
    if files is not None:
        return Copies(files, fingerprint)
    items = {part.name: (part, keys_path(context, part)) for part in parts}
    if named:
        spread = exchange.spread(partial(_rows_of_part, "uid"), items, "uid")
        exchange.each(partial(_refuse_repeats, parts), spread)
    spread = exchange.spread(partial(_rows_of_part, "content"), items, "content")
    files = exchange.bucket(partial(_find_copies, seed if named else None), spread)
    exchange.keep_only(files)
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


def _rows_of_part(column: str, item: tuple[Part, Path], n_buckets: int) -> Grouped:
    """Return the identities and places of the rows of a part, in buckets by `column`."""
    part, keys = item
    table = storage.read_table(keys, ["uid", "content"] if part.columns.uid else ["content"])
    rows = table.num_rows
    table = table.append_column("part", pa.array(np.full(rows, part.index, np.int32)))
    table = table.append_column("position", pa.array(np.arange(rows, dtype=np.int32)))
    return Grouped.of(bucket_of(table[column].to_pylist(), n_buckets), table)


def _refuse_repeats(parts: Sequence[Part], table: pa.Table) -> None:
    frame = pl.DataFrame(table)
    repeated = frame.filter(pl.col("uid").is_duplicated()).sort("uid", "part", "position")
    if len(repeated):
        first = repeated.filter(pl.col("uid") == repeated["uid"][0])
        places = ", ".join(
            f"{parts[row['part']].shard.url} row {parts[row['part']].start + row['position']}"
            for row in first.head(3).iter_rows(named=True)
        )
        column = parts[0].columns.uid
        more = repeated["uid"].n_unique() - 1
        also = f", and {more} more uids" if more else ""
        raise SourceError(
            f"source.uid: column {column!r} must be unique; {first['uid'][0]!r} is in {places}{also}"
        )


def _find_copies(seed: int | None, table: pa.Table) -> pa.Table:
    """Return the rows of a bucket that are copies or have copies; seed : None where uids are made of the content."""
    frame = pl.DataFrame(table)
    frame = frame.filter(pl.col("content").is_duplicated())
    frame = _ranked_by_place(frame) if seed is None else _ranked_by_uid(frame, seed)
    return frame.select(FOUND.names).to_arrow().cast(FOUND)


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
