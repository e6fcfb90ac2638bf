"""Arrow IPC: files and streams (``.arrow``, ``.ipc``), Feather, and the folders that `datasets` saves to disk.

``save_to_disk`` writes streams, and lists them in ``state.json``; other Arrow files in its folder are caches, and no rows
of the data set.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa

from curate.errors import SourceError, UsageError
from curate.io import filesystem
from curate.io.filesystem import StorageOptions
from curate.sources.arrow.blocks import BlockReader, check_names, opened
from curate.sources.arrow_types import storable, storable_type
from curate.sources.base import Shard
from curate.sources.format import Format, find_files

__all__ = ["FORMAT"]

EXTENSIONS = (".arrow", ".feather", ".ipc")
STATE, INFO = "state.json", "dataset_info.json"
MAX_STATE_BYTES = 64 << 20


def find(
    path: str | Sequence[str],
    *,
    storage_options: StorageOptions = None,
    source: str = "source",
    prefix: str = "",
) -> list[Shard]:
    """Return the shards that `path` matches, in the order of their names; caches of `datasets` are left out."""
    found = find_files(
        path, EXTENSIONS, "arrow", storage_options=storage_options, source=source, prefix=prefix
    )
    folders = {filesystem.parent(shard.url) for shard in found}
    saved = {folder: _saved(folder, storage_options) for folder in folders}
    shards = []
    for shard in found:
        folder, _, name = shard.url.rpartition("/")
        listed = saved[folder]
        if listed is None or name in listed:
            shards.append(shard)
    for folder, listed in saved.items():
        if listed:
            fs, place = filesystem.filesystem(folder, storage_options)
            missing = listed - filesystem.listing(fs, place).keys()
            if missing:
                raise SourceError(
                    f"{folder}/{STATE}: lists {min(missing)}, which is not there; was it copied whole?"
                )
    if not shards:
        raise UsageError(f"{path}: only caches of datasets are there, and no data; save it with save_to_disk")
    return shards


def _saved(folder: str, options: StorageOptions) -> set[str] | None:
    """Return the files that a folder of `datasets` is made of; None for any other folder."""
    with filesystem.explained(folder, options):
        fs, path = filesystem.filesystem(folder, options)
        there = filesystem.lookup(fs, [f"{path}/{STATE}", f"{path}/{INFO}"])
        if f"{path}/{STATE}" not in there:
            names = filesystem.listing(fs, path) if f"{path}/{INFO}" in there else {}
            return {
                name for name in names if name.endswith(EXTENSIONS) and not name.startswith("cache-")
            } or None
    with filesystem.open_binary(f"{folder}/{STATE}", options) as file:
        data = file.read(MAX_STATE_BYTES)
    try:
        return {str(one["filename"]) for one in json.loads(data)["_data_files"]}
    except (ValueError, KeyError, TypeError):
        return None  # a file of that name that datasets did not write


class _Ipc:
    """An open IPC file or stream; streams are read from their beginning each time."""

    def __init__(self, source: pa.NativeFile, shard: Shard) -> None:
        self._source, self._shard = source, shard
        head = source.read(6)
        if head[:4] == b"FEA1":
            raise SourceError(
                f"{shard.url}: Feather version 1; write it again: pyarrow.feather.write_feather(table, path)"
            )
        self._is_file = head == b"ARROW1"
        self._next = 0
        self._stream: Any = None  # a reader of the columns `names`: batches by number, or one after another
        self._names: tuple[str, ...] = ()

    def _open(self, names: Sequence[str] | None) -> pa.RecordBatchReader:
        self._source.seek(0)
        fields = None if names is None else [self.schema.get_field_index(name) for name in names]
        options = pa.ipc.IpcReadOptions(included_fields=fields)
        return (pa.ipc.open_file if self._is_file else pa.ipc.open_stream)(self._source, options=options)

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns; dictionaries hold plain values."""
        found = self._open(None).schema
        return pa.schema([one.with_type(storable_type(one.type)) for one in found], found.metadata)

    @cached_property
    def sizes(self) -> Sequence[int]:
        """The rows of each batch, learnt from the first column alone."""
        reader = self._open(self.schema.names[:1])
        if self._is_file:
            return [reader.get_batch(place).num_rows for place in range(reader.num_record_batches)]
        return [batch.num_rows for batch in reader]

    def read(self, block: int, names: Sequence[str]) -> pa.Table:
        """Return these columns of a batch, checked: offsets that lead outside of it must not be followed."""
        if self._stream is None or self._names != tuple(names) or (not self._is_file and block < self._next):
            self._stream, self._names, self._next = self._open(names), tuple(names), 0
        if self._is_file:
            batch = self._stream.get_batch(block)
        else:
            while self._next <= block:
                batch = self._stream.read_next_batch()
                self._next += 1
        batch.validate(full=True)
        table = pa.table([storable(column) for column in batch.columns], names=batch.schema.names)
        schema = self.schema
        return table.select(list(names)).cast(
            pa.schema([schema.field(name) for name in names], schema.metadata)
        )


@contextlib.contextmanager
def _opened(shard: Shard) -> Iterator[_Ipc]:
    with opened(shard, "Arrow") as source:
        found = _Ipc(source, shard)
        check_names(shard, found.schema)
        yield found


FORMAT = Format(
    "arrow",
    EXTENSIONS,
    find,
    lambda columns, allow_url: BlockReader(_opened, columns, allow_url),
    what="Arrow IPC files and streams, Feather, folders of `datasets`' `save_to_disk`",
    rows="rows",
)
