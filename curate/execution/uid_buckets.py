"""Rows of many tables brought together by their uid, one bucket of uids in memory at a time.

What has to look at all rows of a run at once (is a uid there twice, which rows do two runs share) is done bucket by
bucket; the buckets are ranges of the hash of the uid, in scratch files.
"""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from curate.execution import exchange
from curate.hashing import hash_uids

__all__ = ["UidBuckets"]


class UidBuckets:
    """Scratch files in `folder`, one per table added, each with one batch of rows per bucket.

    rows, row_bytes : how many rows there will be and what one takes, which decides how many buckets are needed for
    a quarter of `memory`. kind : the columns, `uid` among them.
    """

    def __init__(self, folder: Path, kind: pa.Schema, *, rows: int, row_bytes: int, memory: int) -> None:
        self._folder, self._kind = folder, kind
        self._files: list[Path] = []
        self.count = max(1, -(-rows * row_bytes // max(1, memory // 4)))

    def add(self, table: pa.Table) -> None:
        """Divide the rows of a table among the buckets."""
        hashes = hash_uids(table["uid"].to_pylist(), "bucket")
        bucket = ((hashes >> np.uint64(32)) * np.uint64(self.count) >> np.uint64(32)).astype(np.int32)
        path = self._folder / f"rows-{len(self._files)}.arrow"
        exchange.scatter(path, bucket, self.count, table.cast(self._kind).take, self._kind, "scratch")
        self._files.append(path)

    def frame(self, bucket: int) -> pl.DataFrame:
        """Return the rows of one bucket, in the order in which they were added."""
        if not self._files:
            return pl.DataFrame(self._kind.empty_table())
        return pl.DataFrame(exchange.gather(self._files, bucket))
