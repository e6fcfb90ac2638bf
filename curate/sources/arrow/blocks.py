"""Rows of files that are a sequence of blocks of rows, read one block at a time and cut to a bounded size."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import SourceError
from curate.io import filesystem
from curate.sources.addresses import UrlAccess
from curate.sources.arrow_types import is_list
from curate.sources.base import Columns, Rows, Shard
from curate.sources.columns import check_columns
from curate.sources.parquet import take
from curate.sources.rows import rows_of, with_images

__all__ = ["BlockReader", "Blocks", "check_names", "opened"]

MAX_ROWS = 1024
SCAN_BYTES = 1 << 22


class Blocks(Protocol):
    """An open file of blocks; the reader makes one line of what goes wrong inside."""

    @property
    def schema(self) -> pa.Schema:
        """The columns, with their metadata."""

    @property
    def sizes(self) -> Sequence[int]:
        """The number of rows of each block."""

    def read(self, block: int, names: Sequence[str]) -> pa.Table:
        """Return these columns of a block."""


#: Opens a shard.
Open = Callable[[Shard], contextlib.AbstractContextManager[Blocks]]


@contextlib.contextmanager
def opened(shard: Shard, kind: str) -> Iterator[pa.NativeFile]:
    """Open a shard for Arrow, mapped where it is a local file; whatever goes wrong inside becomes a SourceError that names it."""
    with filesystem.explained(shard.url, shard.storage_options), contextlib.ExitStack() as stack:
        if filesystem.is_remote(shard.url):
            handle = stack.enter_context(filesystem.open_binary(shard.url, shard.storage_options))
            source = stack.enter_context(pa.PythonFile(handle, mode="r"))
        else:
            source = None
            if shard.size:
                source = stack.enter_context(pa.memory_map(filesystem.local_path(shard.url)))
        if source is None or source.size() == 0:
            raise SourceError(f"{shard.url}: the file is empty (0 bytes)")
        try:
            yield source
        except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, ValueError, OverflowError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise SourceError(
                f"{shard.url}: the {kind} file is damaged or of another kind: {said}"
            ) from error


def check_names(shard: Shard, schema: pa.Schema) -> None:
    """Raise SourceError unless there are columns, each has a name of its own, and all names are text."""
    twice = [name for name, n in Counter(map(_name, schema)).items() if n > 1]
    if twice or not schema.names:
        said = f"several columns are called {twice[0]!r}" if twice else "it has no column"
        raise SourceError(f"{shard.url}: {said}")


def _name(field: pa.Field) -> str:
    """Return the name of a column; those inside its type are looked at too, as a UnicodeDecodeError would come late."""
    for place in range(field.type.num_fields):
        _name(field.type.field(place))
    return str(field.name)


@dataclass(frozen=True)
class BlockReader:
    """Reads files of blocks; see `base.Reader`."""

    open: Open
    columns: Columns
    allow_url: UrlAccess | bool = False

    def count(self, shard: Shard) -> int:
        """Return the number of rows."""
        with self.open(shard) as blocks:
            return sum(blocks.sizes)

    def schema(self, shard: Shard) -> pa.Schema:
        """Return the columns, with their metadata."""
        with self.open(shard) as blocks:
            return blocks.schema

    def vector_length(self, shard: Shard) -> int | None:
        """Return the length of the first given vector that is not null or empty; None if there is none."""
        name = self.columns.vector
        if name is None:
            return None
        with self.open(shard) as blocks:
            check_columns(blocks.schema, self.columns, shard.url)
            for _, table in _tables(blocks, [name], 0, sum(blocks.sizes), SCAN_BYTES):
                if not is_list(table.column(name).type):
                    return None
                lengths = filter(None, pc.list_value_length(table.column(name)).to_pylist())
                if (first := next(lengths, None)) is not None:
                    return int(first)
        return None

    def batches(
        self, shard: Shard, *, images: bool, batch_bytes: int, start: int = 0, stop: int | None = None
    ) -> Iterator[Rows]:
        """Yield rows [start, stop) in order, in batches of at most about `batch_bytes`, never fewer than a row."""
        roles = self.columns
        dim = roles.vector_dim or self.vector_length(shard)

        with self.open(shard) as blocks:
            check_columns(blocks.schema, roles, shard.url)
            names = roles.named or blocks.schema.names[:1]
            stop = sum(blocks.sizes) if stop is None else stop
            for first, table in _tables(blocks, names, start, stop, batch_bytes):
                rows = rows_of(table, roles, shard, first, dim=dim, allow_url=self.allow_url)
                yield from with_images(
                    rows, shard, roles, images=images, batch_bytes=batch_bytes, allow_url=self.allow_url
                )

    def read_rows(
        self,
        shard: Shard,
        rows: npt.NDArray[np.int64],
        *,
        batch_bytes: int,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.Table]:
        """Yield the named rows (ascending positions) as they stand, with all columns or those named."""
        if len(rows) == 0:
            return
        with self.open(shard) as blocks:
            names = blocks.schema.names if columns is None else list(columns)
            if rows[0] < 0 or rows[-1] >= sum(blocks.sizes):
                raise SourceError(
                    f"{shard.url}: has {sum(blocks.sizes):,} rows, but row {int(rows[-1])} is asked for"
                )
            done = 0
            for first, table in _tables(blocks, names, int(rows[0]), int(rows[-1]) + 1, batch_bytes):
                upto = done + int(np.searchsorted(rows[done:], first + table.num_rows))
                if upto > done:
                    yield take(table, rows[done:upto] - first)
                done = upto


def _tables(
    blocks: Blocks, names: Sequence[str], start: int, stop: int, batch_bytes: int
) -> Iterator[tuple[int, pa.Table]]:
    """Yield (position of the first row, these columns) of rows [start, stop), at most about `batch_bytes` at a time."""
    first = 0
    for block, size in enumerate(blocks.sizes):
        low, high = max(start - first, 0), min(stop - first, size)
        if high > low:
            table = blocks.read(block, names).slice(low, high - low)
            step = min(MAX_ROWS, max(1, batch_bytes * table.num_rows // max(table.nbytes, 1)))
            for place in range(0, table.num_rows, step):
                yield first + low + place, table.slice(place, step)
        first += size
