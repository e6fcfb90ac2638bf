"""Regrouping rows: from one file per part to one group per bucket, and back.

Each writer sorts its rows by group and writes one file with one record batch per group, so that the
file's own footer is the index; a reader takes its batch out of every file through a memory map. There
are never parts x buckets files, and nothing but one group is in memory.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from curate.execution.context import Context, reuse_or_remove
from curate.hashing import hash_uids
from curate.io import checksums, storage

__all__ = ["Exchange", "Grouped", "bucket_of", "gather", "plan_buckets", "scatter"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Grouped:
    """Rows, and the group that each goes to.

    group : (rows,), in [0, number of groups). take : returns the rows at the given positions, of one group at a time,
    so that rows with vectors need not be in memory together. kind : their columns.
    """

    group: npt.NDArray[np.integer]
    take: Callable[[npt.NDArray[np.int64]], pa.Table]
    kind: pa.Schema

    @classmethod
    def of(cls, group: npt.NDArray[np.integer], table: pa.Table) -> Self:
        """Return the rows of a table."""
        return cls(group, table.take, table.schema)


@dataclass(frozen=True)
class _SpreadTask(Generic[Item]):
    """One part whose rows go to buckets."""

    part: str
    item: Item
    function: Callable[[Item, int], Grouped]
    n_buckets: int
    out: Path
    fingerprint: str


@dataclass(frozen=True)
class _BucketTask:
    """One bucket to work on; `out` is None where the result is not a table that goes back to parts."""

    bucket: int
    files: tuple[Path, ...]
    function: Callable[[pa.Table], Any]
    n_parts: int
    out: Path | None
    fingerprint: str


@dataclass(frozen=True)
class Exchange:
    """What has to look at rows of many parts together: rows go to buckets, are worked on there, and go back.

    `spread` is called with a function per part, `bucket` with one per bucket, and `back` gives a part what was found
    about its rows. Functions must be picklable (of a module, or `functools.partial` of one); each runs in any process
    of the engine. Files that are whole and carry the fingerprint are not made again, so that an interrupted stage
    goes on where it was.

        exchange = Exchange.by_memory(context, "read", folder, fingerprint, rows=total, row_bytes=400)
        rows = exchange.spread(rows_of_part, {part.name: part for part in context.parts})
        found = exchange.bucket(copies_in, rows)
        for part in context.parts:
            table = Exchange.back(found, part.index)

    stage : whose progress it is. folder : of scratch files, which the caller removes when all is done.
    n_buckets : fixed by the caller where rows belong together otherwise than by hash (`plan_buckets`).
    fingerprint : what rows and results are made from, without the number of buckets, which is in the names of files.
    """

    context: Context
    stage: str
    folder: Path
    fingerprint: str
    n_buckets: int

    @classmethod
    def by_memory(
        cls, context: Context, stage: str, folder: Path, fingerprint: str, *, rows: int, row_bytes: int
    ) -> Self:
        """Return an exchange with so many buckets that one fits into the memory of a task."""
        return cls(context, stage, folder, fingerprint, max(1, -(-rows * row_bytes // context.task_memory)))

    def spread(
        self, function: Callable[[Item, int], Grouped], items: Mapping[str, Item], name: str = "rows"
    ) -> tuple[Path, ...]:
        """Send rows to their buckets; return the files, one per part.

        function : takes an item and the number of buckets. items : by the name of the part.
        """
        fingerprint = storage.fingerprint(self.fingerprint, self.n_buckets)
        tasks = [
            _SpreadTask(
                part, item, function, self.n_buckets, self.folder / f"{name}-{part}.arrow", fingerprint
            )
            for part, item in items.items()
        ]
        todo = [task for task in tasks if not reuse_or_remove(task.out, fingerprint)]
        self.context.map(self.stage, "parts", _spread, todo)
        return tuple(task.out for task in tasks)

    def each(self, function: Callable[[pa.Table], Result], files: tuple[Path, ...]) -> list[Result]:
        """Return what `function` returns for the rows of each bucket."""
        tasks = [
            _BucketTask(bucket, files, function, 0, None, self.fingerprint)
            for bucket in range(self.n_buckets)
        ]
        return self.context.map(self.stage, "buckets", _work, tasks)

    def bucket(
        self,
        function: Callable[[pa.Table], pa.Table],
        files: tuple[Path, ...],
        name: str = "found",
        fingerprint: str | None = None,
    ) -> tuple[Path, ...]:
        """Work on the rows of each bucket; return the files of results, one per bucket, from which `back` reads.

        function : returns rows with a column `part`, the position of the part that each goes back to.
        fingerprint : of the results, where more goes into them than into the rows.
        """
        fingerprint, n_parts = fingerprint or self.fingerprint, len(self.context.parts)
        tasks = [
            _BucketTask(bucket, files, function, n_parts, out, fingerprint)
            for bucket, out in enumerate(self._results(name))
            if not reuse_or_remove(out, fingerprint)
        ]
        self.context.map(self.stage, "buckets", _work, tasks)
        return self._results(name)

    def found(self, name: str = "found") -> tuple[Path, ...] | None:
        """Return the files of results if all are there, else None: then rows need not be spread again."""
        files = self._results(name)
        made = [reuse_or_remove(file, self.fingerprint) for file in files]
        return files if all(made) else None

    def _results(self, name: str) -> tuple[Path, ...]:
        return tuple(
            self.folder / f"{name}-{bucket}-of-{self.n_buckets}.arrow" for bucket in range(self.n_buckets)
        )

    def keep_only(self, files: Iterable[Path]) -> None:
        """Remove all other scratch files."""
        for path in set(self.folder.glob("*.arrow")) - set(files):
            storage.remove(path)
            checksums.drop_sidecars(path)

    @staticmethod
    def back(files: Sequence[Path], part: int) -> pl.DataFrame:
        """Return what was found about the rows of the part at this position, bucket after bucket."""
        return pl.DataFrame(gather(files, part))


def _spread(task: _SpreadTask[Any]) -> None:
    rows = task.function(task.item, task.n_buckets)
    scatter(task.out, rows.group, task.n_buckets, rows.take, rows.kind, task.fingerprint)


def _work(task: _BucketTask) -> Any:  # noqa: ANN401  (whatever the function of a bucket returns)
    result = task.function(gather(task.files, task.bucket))
    if task.out is None:
        return result
    part = result["part"].to_numpy()
    scatter(task.out, part, task.n_parts, result.take, result.schema, task.fingerprint)
    return None


def bucket_of(ids: Sequence[str], n_buckets: int) -> npt.NDArray[np.int32]:
    """Return the bucket of each id, by its hash; (n,)."""
    return (hash_uids(ids, "bucket") % np.uint64(n_buckets)).astype(np.int32)


def scatter(
    path: Path,
    group: npt.NDArray[np.integer],
    n_groups: int,
    take: Callable[[npt.NDArray[np.int64]], pa.Table],
    kind: pa.Schema,
    fingerprint: str,
) -> None:
    """Write rows with one record batch per group; rows of a group keep their order.

    group : (rows,) the group of each row, in [0, n_groups). take : returns the rows at the given
    positions; it is called once per group, so that only one group is in memory.
    """
    order = np.argsort(group, kind="stable").astype(np.int64)
    ends = np.cumsum(np.bincount(group, minlength=n_groups))
    starts = ends - np.diff(ends, prepend=0)
    batches = (_one_batch(take(order[a:b]), kind) for a, b in zip(starts, ends, strict=True))
    storage.write_ipc(path, batches, kind, fingerprint, scratch=True)


def _one_batch(table: pa.Table, kind: pa.Schema) -> pa.RecordBatch:
    batches = table.cast(kind).combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=kind)


def gather(paths: Sequence[Path], group: int) -> pa.Table:
    """Return the rows of one group from all files, in the order of the files."""
    batches = [storage.map_ipc(path).get_batch(group) for path in paths]
    return pa.Table.from_batches(batches).replace_schema_metadata(None)


def plan_buckets(sizes: npt.NDArray[np.int64], max_rows: int) -> npt.NDArray[np.int32]:
    """Return the bucket of each group: neighbours together, at most `max_rows` rows in a bucket.

    A group larger than that has a bucket of its own.

    >>> plan_buckets(np.array([3, 3, 9, 1]), 6)
    array([0, 0, 1, 2], dtype=int32)
    """
    buckets = np.zeros(len(sizes), dtype=np.int32)
    bucket, filled = 0, 0
    for index, size in enumerate(sizes.tolist()):
        if filled and filled + size > max_rows:
            bucket, filled = bucket + 1, 0
        buckets[index] = bucket
        filled += size
    return buckets
