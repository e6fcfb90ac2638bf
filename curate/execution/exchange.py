"""Regrouping rows: from one file per part to one group per bucket, and back.

Each writer sorts its rows by group and writes one file with one record batch per group, so that the
file's own footer is the index; a reader takes its batch out of every file through a memory map. There
are never parts x buckets files, and nothing but one group is in memory.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.io import storage

__all__ = ["gather", "plan_buckets", "scatter"]


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
