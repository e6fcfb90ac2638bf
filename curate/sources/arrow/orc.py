"""ORC files, a stripe at a time."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import cached_property

import pyarrow as pa
from pyarrow import orc

from curate.io.filesystem import StorageOptions
from curate.sources.arrow.blocks import BlockReader, check_names, opened
from curate.sources.base import Shard
from curate.sources.format import Format, find_files

__all__ = ["FORMAT"]

EXTENSIONS = (".orc",)


def find(
    path: str | Sequence[str],
    *,
    storage_options: StorageOptions = None,
    source: str = "source",
    prefix: str = "",
) -> list[Shard]:
    """Return the shards that `path` matches, in the order of their names, which begin with `prefix`."""
    return find_files(path, EXTENSIONS, "orc", storage_options=storage_options, source=source, prefix=prefix)


class _Orc:
    """An open ORC file."""

    def __init__(self, source: pa.NativeFile) -> None:
        self._file = orc.ORCFile(source)

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns."""
        return self._file.schema

    @cached_property
    def sizes(self) -> Sequence[int]:
        """The rows of each stripe, learnt from the first column alone."""
        first = self.schema.names[:1]
        return [len(self._file.read_stripe(place, columns=first)) for place in range(self._file.nstripes)]

    def read(self, block: int, names: Sequence[str]) -> pa.Table:
        """Return these columns of a stripe."""
        batch = self._file.read_stripe(block, columns=list(names))
        batch.validate(full=True)
        return pa.Table.from_batches([batch]).select(list(names))


@contextlib.contextmanager
def _opened(shard: Shard) -> Iterator[_Orc]:
    with opened(shard, "ORC") as source:
        found = _Orc(source)
        check_names(shard, found.schema)
        yield found


FORMAT = Format(
    "orc",
    EXTENSIONS,
    find,
    lambda columns, allow_url: BlockReader(_opened, columns, allow_url),
    what="ORC files",
    rows="rows",
)
