"""Rows of a Parquet file with arrays beside it: what clip-retrieval and DataComp folders have in common.

A shard is shown as one table, the columns of the Parquet file followed by one column of vectors per array, so that
`embed.column` and `embed.text_column` name arrays like any column, and writers lose none of them. Rows are aligned
by position: an array of another length is an error, never a guess.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.errors import SourceError
from curate.hashing import digest
from curate.io import filesystem, paths
from curate.io.filesystem import StorageOptions
from curate.io.paths import FoundFile
from curate.sources.addresses import UrlAccess
from curate.sources.arrays.npy import ArrayFile, RowStream, opened
from curate.sources.base import Columns, Rows, Shard
from curate.sources.columns import check_columns
from curate.sources.parquet import ParquetReader
from curate.sources.rows import rows_of, with_images

__all__ = ["BesideReader", "Partners", "changed_at", "check_unchanged", "fingerprint", "present", "shards_of"]

#: From the URL of a Parquet file to the URLs of the files that may lie beside it, by name.
Partners = Callable[[str], dict[str, str]]

MAX_ROWS = 1024


def shards_of(
    found: Sequence[FoundFile],
    partners: Partners,
    format_: str,
    *,
    storage_options: StorageOptions,
    source: str,
    prefix: str,
) -> list[Shard]:
    """Return the shards of Parquet files; size and version of each are those of all its files."""
    beside = [url for file in found for url in partners(file.url).values()]
    entries = _entries(beside, storage_options)
    shards = []
    for file in found:
        there = [entries[url] for url in partners(file.url).values() if url in entries]
        version = "+".join([file.version, *(entry.version for entry in there)])
        size = file.size + sum(entry.size for entry in there)
        split = paths.split_of(file.name, file.url)
        options = storage_options or {}
        shards.append(Shard(prefix + file.name, file.url, split, size, version, source, options, format_))
    return shards


def present(shard: Shard, partners: Partners) -> dict[str, str]:
    """Return the URLs of the files beside a shard that are there, by name."""
    urls = partners(shard.url)
    entries = _entries(list(urls.values()), shard.storage_options)
    return {name: url for name, url in urls.items() if url in entries}


def fingerprint(shard: Shard, partners: Partners) -> str:
    """Return 32 hex digits that change with the content of any file of a shard."""
    entries = _entries([shard.url, *partners(shard.url).values()], shard.storage_options)
    prints = []
    for url, entry in sorted(entries.items()):
        name = url.rpartition("/")[2]
        prints += [name, paths.fingerprint(FoundFile(url, name, entry.size, entry.version))]
    return digest(*prints)


def changed_at(shard: Shard, partners: Partners) -> str:
    """Return when each file of a shard was last changed."""
    return "+".join(filesystem.changed_at(url) for url in (shard.url, *partners(shard.url).values()))


def check_unchanged(shard: Shard, partners: Partners) -> None:
    """Raise SourceError unless all files of a shard are what they were when it was found."""
    urls = [shard.url, *partners(shard.url).values()]
    entries = _entries(urls, shard.storage_options)
    now = "+".join(entries[url].version for url in urls if url in entries)
    if now != shard.version:
        raise SourceError(
            f"{shard.url}: it or a file beside it changed since it was read (was {shard.version}, is {now}); "
            "run again"
        )


def _entries(urls: Sequence[str], storage_options: StorageOptions) -> dict[str, filesystem.Entry]:
    """Return what is known of those files that exist, by URL; one listing for many of a folder."""
    if not urls:
        return {}
    with filesystem.explained(urls[0], storage_options):
        fs, _ = filesystem.filesystem(urls[0], storage_options)
        to_path = filesystem.local_path if filesystem.is_local(fs) else fs._strip_protocol
        path_of = {url: to_path(url) for url in urls}
        entries = filesystem.lookup(fs, list(path_of.values()))
    return {
        url: entries[path] for url, path in path_of.items() if path in entries and not entries[path].is_folder
    }


@dataclass(frozen=True)
class BesideReader:
    """Reads Parquet shards with arrays beside them; see `base.Reader`.

    columns : which column (or array) holds what. arrays_of : a shard to its arrays by name.
    """

    columns: Columns
    allow_url: UrlAccess | bool
    arrays_of: Callable[[Shard], Mapping[str, ArrayFile]]

    @property
    def _table(self) -> ParquetReader:
        return ParquetReader(Columns())

    def count(self, shard: Shard) -> int:
        """Return the number of rows; raises SourceError unless every array has as many."""
        self._arrays(shard)
        return self._table.count(shard)

    def schema(self, shard: Shard) -> pa.Schema:
        """Return the columns of the Parquet file, then one of vectors per array."""
        schema = self._table.schema(shard)
        for name, array in self._arrays(shard).items():
            schema = schema.append(pa.field(name, _kind(array)))
        return schema

    def vector_length(self, shard: Shard) -> int | None:
        """Return the length of the vectors; None if there are none."""
        array = self._arrays(shard).get(self.columns.vector or "")
        return ParquetReader(self.columns).vector_length(shard) if array is None else array.shape[1]

    def batches(
        self, shard: Shard, *, images: bool, batch_bytes: int, start: int = 0, stop: int | None = None
    ) -> Iterator[Rows]:
        """Yield rows [start, stop) in order, in batches of at most about `batch_bytes`, never fewer than a row."""
        roles = self.columns
        check_columns(self.schema(shard), roles, shard.url)
        arrays = self._arrays(shard)
        wanted = {name: arrays[name] for name in (roles.vector, roles.text_vector) if name in arrays and name}
        stop = self.count(shard) if stop is None else stop
        dim = roles.vector_dim or self.vector_length(shard)

        first = start
        rows = np.arange(start, stop, dtype=np.int64)
        for table in self._tables(shard, rows, wanted, batch_bytes):
            for piece in range(0, table.num_rows, MAX_ROWS):
                some = table.slice(piece, MAX_ROWS)
                found = rows_of(some, roles, shard, first, dim=dim, allow_url=self.allow_url)
                first += len(found)
                yield from with_images(
                    found, shard, roles, images=images, batch_bytes=batch_bytes, allow_url=self.allow_url
                )

    def read_rows(
        self,
        shard: Shard,
        rows: npt.NDArray[np.int64],
        *,
        batch_bytes: int,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.Table]:
        """Yield the named rows (ascending positions) with all columns (or those named), and all arrays."""
        arrays = self._arrays(shard)
        if columns is None:
            return self._tables(shard, rows, arrays, batch_bytes)
        plain = [name for name in columns if name not in arrays] or self._table.schema(shard).names[:1]
        wanted = {name: array for name, array in arrays.items() if name in columns}
        tables = self._tables(shard, rows, wanted, batch_bytes, plain)
        return (table.select(list(columns)) for table in tables)

    def _tables(
        self,
        shard: Shard,
        rows: npt.NDArray[np.int64],
        arrays: Mapping[str, ArrayFile],
        batch_bytes: int,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.Table]:
        """Yield rows with these arrays, in tables of at most about `batch_bytes` of each kind."""
        step = max(1, batch_bytes // max(1, sum(array.row_bytes for array in arrays.values())))
        done = 0
        with contextlib.ExitStack() as stack:
            streams = {name: stack.enter_context(opened(array)) for name, array in arrays.items()}
            for table in self._table.read_rows(shard, rows, batch_bytes=batch_bytes, columns=columns):
                for piece in range(0, table.num_rows, step):
                    some = table.slice(piece, step)
                    here = rows[done : done + some.num_rows]
                    done += len(here)
                    for name, stream in streams.items():
                        some = some.append_column(pa.field(name, _kind(stream.array)), _column(stream, here))
                    yield some

    def _arrays(self, shard: Shard) -> dict[str, ArrayFile]:
        """Return the arrays of a shard, each with one row per row of the Parquet file."""
        arrays = dict(self.arrays_of(shard))
        count = self._table.count(shard)
        names = self._table.schema(shard).names
        for name, array in arrays.items():
            if array.shape[0] != count:
                raise SourceError(
                    f"{array.where} has {array.shape[0]:,} vectors, but {shard.url} has {count:,} rows: they must "
                    "belong together row by row; make both again from the same samples"
                )
            if name in names:
                raise SourceError(f"{array.where}: {shard.url} has a column {name!r} too; rename one of them")
        image, text = (arrays.get(name or "") for name in (self.columns.vector, self.columns.text_vector))
        if image is not None and text is not None and image.shape[1] != text.shape[1]:
            raise SourceError(
                f"{text.where}: vectors of {text.shape[1]} numbers, but those of {image.where} have "
                f"{image.shape[1]}: take image and text vectors of one model"
            )
        return arrays


def _kind(array: ArrayFile) -> pa.DataType:
    number = {2: pa.float16(), 4: pa.float32(), 8: pa.float64()}[array.dtype.itemsize]
    return pa.list_(number, array.shape[1])


def _column(stream: RowStream, rows: npt.NDArray[np.int64]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(stream.take(rows)).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=_kind(stream.array))
