"""Scores that stand in files of their own, joined to the samples by uid.

Rows of the files and of the samples are regrouped by a hash of the uid, joined bucket by bucket, and travel back
to the parts, so that no more than a bucket is in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from curate.embedding.store import EmbeddingPart
from curate.execution import exchange
from curate.execution.context import Context
from curate.hashing import hash_uids
from curate.io import storage
from curate.scores.base import embedding_parts
from curate.scores.external import files as file_tables
from curate.scores.tables.output import Output
from curate.sources.arrow_types import plain_type
from curate.sources.columns import uids_of

__all__ = ["EXAMPLES", "Joined", "bring_back", "join"]

#: Rows of a file that are regrouped at a time.
BATCH_ROWS = 131_072
#: Bytes of a row while it is joined (uid, place, what the join needs), and of each of its values.
_ROW_BYTES, _CELL_BYTES = 500, 24
#: How many uids a message names.
EXAMPLES = 3


@dataclass(frozen=True)
class SpreadFileTask:
    """One file whose rows go to buckets, in files that begin with `out`."""

    file: Path
    uid: str
    columns: tuple[str, ...]
    n_buckets: int
    out: Path
    fingerprint: str


@dataclass(frozen=True)
class SpreadPartTask:
    """One part whose uids go to buckets."""

    index: int
    embeddings: Path
    n_buckets: int
    out: Path
    fingerprint: str


@dataclass(frozen=True)
class JoinTask:
    """One bucket in which samples look for their scores."""

    bucket: int
    n_parts: int
    n_columns: int
    given: tuple[Path, ...]
    wanted: tuple[Path, ...]
    out: Path
    fingerprint: str


@dataclass(frozen=True)
class Joined:
    """What a bucket held: samples, those with all scores, uids twice in the file or not there, rows of no sample.

    repeats, absences : the smallest such uids. nonfinite : values that are NaN or infinite, by column.
    """

    samples: int
    scored: int
    repeated: int
    absent: int
    extra: int
    repeats: tuple[str, ...]
    absences: tuple[str, ...]
    nonfinite: tuple[int, ...]


@dataclass(frozen=True)
class BackTask:
    """One part that takes its scores."""

    index: int
    files: tuple[Path, ...]
    kind: pa.Schema
    out: Path
    fingerprint: str


def join(
    context: Context,
    files: Sequence[Path],
    uid: str,
    columns: tuple[str, ...],
    fingerprint: str,
    scratch: Path,
) -> tuple[tuple[Path, ...], list[Joined]]:
    """Look for the row of every usable sample by its uid.

    files : Parquet or CSV files; uid : their column of uids; columns : those of numbers. Returns files in `scratch`, with
    a batch of scores per part (see `bring_back`), and what each bucket held. Where a uid has several rows, any of
    them is taken: the caller must refuse that.
    """
    rows = sum(map(file_tables.count, files)) + sum(map(len, embedding_parts(context)))
    room = max(1, context.task_memory // 2 // (_ROW_BYTES + _CELL_BYTES * len(columns)))
    n_buckets = max(1, -(-rows // room))
    given = context.map("score", "files", _spread_file, [
        SpreadFileTask(file, uid, columns, n_buckets, scratch / f"given-{place}", fingerprint)
        for place, file in enumerate(files)
    ])  # fmt: skip
    wanted = tuple(scratch / f"wanted-{part.name}.arrow" for part in context.parts)
    context.map("score", "parts", _spread_part, [
        SpreadPartTask(part.index, context.run.part(context.run.embeddings, part.name), n_buckets, out, fingerprint)
        for part, out in zip(context.parts, wanted, strict=True)
    ])  # fmt: skip
    out = tuple(scratch / f"found-{bucket}.arrow" for bucket in range(n_buckets))
    every = tuple(path for several in given for path in several)
    return out, context.map("score", "buckets", _join_bucket, [
        JoinTask(bucket, len(context.parts), len(columns), every, wanted, path, fingerprint)
        for bucket, path in enumerate(out)
    ])  # fmt: skip


def bring_back(context: Context, files: tuple[Path, ...], output: Output) -> None:
    """Write the table of every part that has none yet, from what `join` found."""
    tasks = [
        BackTask(p.index, files, output.schema, output.path(p), output.fingerprint) for p in output.todo()
    ]
    context.map("score", "parts", _bring_back, tasks)


def _spread_file(task: SpreadFileTask) -> tuple[Path, ...]:
    written: list[Path] = []
    done = 0
    for place, rows in enumerate(file_tables.batches(task.file, task.uid, task.columns, BATCH_ROWS)):
        uids = uids_of(rows, task.uid, done, str(task.file)) or []
        done += len(rows)
        values = [_float32(rows[name]) for name in task.columns]
        _scatter(task.out.with_name(f"{task.out.name}-{place}.arrow"), uids, values, _names(values), task)
        written.append(task.out.with_name(f"{task.out.name}-{place}.arrow"))
    return tuple(written)


def _float32(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return numbers as float32; what is too large becomes infinite."""
    return column.cast(plain_type(column.type)).cast(pa.float64(), safe=False).cast(pa.float32(), safe=False)


def _names(values: Sequence[object]) -> list[str]:
    """Return names that no column of a user has in the way of ours."""
    return [str(place) for place in range(len(values))]


def _spread_part(task: SpreadPartTask) -> None:
    uids = EmbeddingPart(task.embeddings).uids()
    place = [
        pa.array(np.full(len(uids), task.index, np.int32)),
        pa.array(np.arange(len(uids), dtype=np.int32)),
    ]
    _scatter(task.out, uids, place, ["part", "position"], task)


def _scatter(
    path: Path,
    uids: list[str],
    values: Sequence[Any],
    names: list[str],
    task: SpreadFileTask | SpreadPartTask,
) -> None:
    rows = pa.table([pa.array(uids, pa.string()), *values], ["uid", *names])
    bucket = (hash_uids(uids, "external") % np.uint64(task.n_buckets)).astype(np.int64)
    exchange.scatter(path, bucket, task.n_buckets, rows.take, rows.schema, task.fingerprint)


def _join_bucket(task: JoinTask) -> Joined:
    names = _names(range(task.n_columns))
    kind = pa.schema([("uid", pa.string()), *((name, pa.float32()) for name in names)])
    rows = pl.DataFrame(exchange.gather(task.given, task.bucket) if task.given else kind.empty_table())
    wanted = pl.DataFrame(exchange.gather(task.wanted, task.bucket))
    given = rows.unique("uid", keep="any")
    repeats = rows.filter(pl.col("uid").is_duplicated())["uid"].unique()
    both = wanted.join(given.with_columns(there=True), on="uid", how="left").with_columns(
        there=pl.col("there").fill_null(False)
    )
    wild = [both[name].is_not_null() & ~both[name].is_finite().fill_null(False) for name in names]
    missing = ~pl.col("there") | pl.any_horizontal(pl.col(names).is_null())
    status = (
        pl.when(missing).then(pl.lit("missing"))
        .when(pl.any_horizontal(~pl.col(names).is_finite())).then(pl.lit("nonfinite"))
        .otherwise(pl.lit("ok"))
    )  # fmt: skip
    finite = [pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name) for name in names]
    found = both.with_columns(*finite, status=status).sort("part", "position")
    absent = both.filter(~pl.col("there"))["uid"]
    columns = found.select("part", "position", "uid", *names, "status").to_arrow()
    order = pa.schema([("part", pa.int32()), ("position", pa.int32()), *kind, ("status", pa.string())])
    exchange.scatter(
        task.out, found["part"].to_numpy(), task.n_parts, columns.cast(order).take, order, task.fingerprint
    )
    return Joined(
        len(wanted), int((found["status"] == "ok").sum()), len(repeats), len(absent),
        len(given) - len(wanted) + len(absent), _smallest(repeats), _smallest(absent),
        tuple(int(column.sum()) for column in wild),
    )  # fmt: skip


def _smallest(uids: pl.Series) -> tuple[str, ...]:
    return tuple(uids.bottom_k(EXAMPLES).sort().to_list())


def _bring_back(task: BackTask) -> None:
    rows = pl.DataFrame(exchange.gather(task.files, task.index)).sort("position").drop("part", "position")
    found = rows.to_arrow().rename_columns(task.kind.names).cast(task.kind)
    storage.write_parquet(task.out, found, task.kind, task.fingerprint)
