"""Rows of a table that is kept in Parquet files: those of its live files that were not deleted, with all its columns.

A shard is one live file. Its url is ``TABLE/./FILE``; the dot stands between the folder of the table and the file below
it, as in rsync. Its version begins with that of the table, so that every process reads the same one.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.errors import SourceError, UsageError
from curate.hashing import digest
from curate.io import filesystem, paths
from curate.io.filesystem import StorageOptions
from curate.sources import parquet
from curate.sources.addresses import UrlAccess
from curate.sources.base import Columns, Rows, Shard
from curate.sources.columns import check_columns
from curate.sources.lake.recognition import NAMES, tables_of
from curate.sources.rows import rows_of, with_images

__all__ = ["LiveFile", "Snapshot", "TableKind", "TableReader"]

NONE_DELETED: npt.NDArray[np.int64] = np.zeros(0, np.int64)
KEPT_SNAPSHOTS = 4


@dataclass(frozen=True)
class LiveFile:
    """A file of a table as it is now.

    rest : path below the folder of the table. url : where to open it. constants : columns whose value is the same in
    all its rows and stands in the table's log. deletions : what tells a change of the rows deleted from it.
    """

    rest: str
    url: str
    constants: Mapping[str, object] = field(default_factory=dict)
    deletions: str = ""


@dataclass(frozen=True)
class Snapshot:
    """A table at one version.

    files : by path below the table. field_ids : ids by which columns are found in files, where the table has such.
    deleted : positions of the rows deleted from a file, ascending.
    """

    root: str
    version: str
    schema: pa.Schema
    files: Mapping[str, LiveFile]
    deleted: Callable[[LiveFile], npt.NDArray[np.int64]]
    field_ids: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TableKind:
    """What a format of tables adds: its name, and (folder, options, version or None for the latest) to a snapshot."""

    name: str
    snapshot: Callable[[str, StorageOptions, str | None], Snapshot]

    def find(
        self,
        path: str | Sequence[str],
        *,
        storage_options: StorageOptions = None,
        source: str = "source",
        prefix: str = "",
    ) -> list[Shard]:
        """Return the live files of the tables that `path` names, or those of its files that are live."""
        patterns = [path] if isinstance(path, str) else list(path)
        found: dict[str, Shard] = {}
        roots = {url for kind, url in tables_of(patterns, storage_options) if kind == self.name}
        for pattern in (part.strip() for text in patterns for part in text.split("::")):
            tables = [url for kind, url in tables_of([pattern], storage_options) if kind == self.name]
            if not tables:
                raise UsageError(
                    f"{pattern}: not {NAMES[self.name]}, and not in one; name it as a source of its own"
                )
            snapshot = self.at(tables[0], storage_options, None)
            above = prefix if len(roots) == 1 else f"{prefix}{tables[0].rpartition('/')[2]}/"
            for one in _shards(
                self.name, snapshot, _wanted(pattern, tables[0], storage_options), storage_options
            ):
                shard = replace(one, name=above + one.name, source=source)
                if found.setdefault(shard.name, shard).url != shard.url:
                    raise UsageError(
                        f"{pattern}: two tables have one name; name them as sources of their own"
                    )
        if not found:
            raise UsageError(f"{', '.join(patterns)}: matches no live file of {NAMES[self.name]}")
        return sorted(found.values(), key=lambda shard: shard.name.encode())

    def at(self, root: str, options: StorageOptions, version: str | None) -> Snapshot:
        """Return a table at a version, the latest where that is None; the last few are remembered."""
        if version is None:
            snapshot = self.snapshot(root, options, None)
            _SNAPSHOTS[self.name, root, snapshot.version] = snapshot
        elif (self.name, root, version) not in _SNAPSHOTS:
            _SNAPSHOTS[self.name, root, version] = self.snapshot(root, options, version)
        while len(_SNAPSHOTS) > KEPT_SNAPSHOTS:
            _SNAPSHOTS.popitem(last=False)
        return snapshot if version is None else _SNAPSHOTS[self.name, root, version]

    def file_of(self, shard: Shard) -> tuple[Snapshot, LiveFile]:
        """Return the table and the file of a shard."""
        root, _, rest = shard.url.partition("/./")
        snapshot = self.at(root, shard.storage_options, shard.version.partition(" ")[0])
        if rest not in snapshot.files:
            raise SourceError(f"{shard.url}: no live file of the table at version {snapshot.version}")
        return snapshot, snapshot.files[rest]

    def fingerprint(self, shard: Shard) -> str:
        """Return 32 hex digits that change with the rows of a shard, whatever else became of its table."""
        _, live = self.file_of(shard)
        own = shard.version.partition(" ")[2]
        content = paths.fingerprint(paths.FoundFile(live.url, live.rest, shard.size, own))
        return digest(
            content, live.deletions, *(f"{name}={live.constants[name]!r}" for name in sorted(live.constants))
        )

    def check_unchanged(self, shard: Shard) -> None:
        """Raise SourceError unless the file of a shard is the one it was found with."""
        _, live = self.file_of(shard)
        paths.check_unchanged(replace(shard, url=live.url, version=shard.version.partition(" ")[2]))


_SNAPSHOTS: OrderedDict[tuple[str, str, str], Snapshot] = OrderedDict()


def _wanted(pattern: str, root: str, options: StorageOptions) -> set[str] | None:
    """Return the files that a pattern inside a table matches; None where it names the table."""
    with filesystem.explained(pattern, options):
        fs, path = filesystem.filesystem(pattern, options)
    if filesystem.url_of(fs, path.rstrip("/")) == root:
        return None
    return {file.url for file in paths.expand(pattern, options, extensions=parquet.EXTENSIONS)}


def _shards(
    kind: str, snapshot: Snapshot, wanted: set[str] | None, options: StorageOptions
) -> Iterator[Shard]:
    """Yield the shards of the live files of a table, or of those that are wanted."""
    live = [one for one in snapshot.files.values() if wanted is None or one.url in wanted]
    if not live:
        return
    with filesystem.explained(snapshot.root, options):
        places = {one.url: filesystem.filesystem(one.url, options)[1] for one in live}
        fs, _ = filesystem.filesystem(snapshot.root, options)
        entries = filesystem.lookup(fs, list(places.values()))
    for one in live:
        entry = entries.get(places[one.url])
        if entry is None or entry.is_folder:
            raise SourceError(
                f"{one.url}: {NAMES[kind]} lists this file, but it is not there; was it copied whole?"
            )
        split = paths.split_of(one.rest, f"{snapshot.root}/{one.rest}")
        url, version = f"{snapshot.root}/./{one.rest}", f"{snapshot.version} {entry.version}"
        yield Shard(one.rest, url, split, entry.size, version, "", options or {}, kind)


@dataclass(frozen=True)
class TableReader:
    """Reads the live rows of one file of a table; see `base.Reader`."""

    kind: TableKind
    columns: Columns
    allow_url: UrlAccess | bool = False

    def count(self, shard: Shard) -> int:
        """Return the number of rows that were not deleted."""
        file = self._opened(shard)
        return parquet.ParquetReader(Columns()).count(file.shard) - len(file.deleted)

    def schema(self, shard: Shard) -> pa.Schema:
        """Return the columns of the table, which some of its files may lack."""
        return self.kind.file_of(shard)[0].schema

    def vector_length(self, shard: Shard) -> int | None:
        """Return the length of the first vector in the vector column; None if there is none."""
        if self.columns.vector is None:
            return None
        file = self._opened(shard)
        name = file.names.get(self.columns.vector)
        if name is None:
            return None
        return parquet.ParquetReader(Columns(vector=name)).vector_length(file.shard)

    def batches(
        self, shard: Shard, *, images: bool, batch_bytes: int, start: int = 0, stop: int | None = None
    ) -> Iterator[Rows]:
        """Yield rows [start, stop) in order, in batches of at most about `batch_bytes`, never fewer than a row."""
        file, roles = self._opened(shard), self.columns
        check_columns(file.schema, roles, shard.url)
        dim = roles.vector_dim or self.vector_length(shard)
        place = replace(
            shard, url=f"{shard.url.partition('/./')[0]}/shard"
        )  # paths of images begin at the table

        stop = self.count(shard) if stop is None else stop
        first = start
        for table in file.tables(roles.named, start, stop, batch_bytes):
            rows = rows_of(table, roles, place, first, dim=dim, allow_url=self.allow_url)
            first += len(rows)
            yield from with_images(
                rows, shard, roles, images=images, batch_bytes=batch_bytes, allow_url=self.allow_url,
                below=place.url,
            )  # fmt: skip

    def read_rows(
        self,
        shard: Shard,
        rows: npt.NDArray[np.int64],
        *,
        batch_bytes: int,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.Table]:
        """Yield the named rows (ascending positions) with all columns of the table, or those named."""
        file = self._opened(shard)
        reader = parquet.ParquetReader(Columns())
        for table in reader.read_rows(file.shard, file.positions(rows), batch_bytes=batch_bytes):
            yield file.completed(table, file.schema.names if columns is None else columns)

    def _opened(self, shard: Shard) -> "_File":
        snapshot, live = self.kind.file_of(shard)
        plain = replace(shard, url=live.url, format="parquet")
        return _File(
            plain, snapshot.schema, live.constants, snapshot.deleted(live), _names(plain, snapshot, live)
        )


@dataclass(frozen=True)
class _File:
    """One data file as rows of its table.

    names : {column of the table: its name in the file}, of those it has. deleted : positions in the file, ascending.
    """

    shard: Shard
    schema: pa.Schema
    constants: Mapping[str, object]
    deleted: npt.NDArray[np.int64]
    names: Mapping[str, str]

    def positions(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return where in the file these rows of the table are: past every row that was deleted before them."""
        before = self.deleted - np.arange(len(self.deleted))
        return rows + np.searchsorted(before, rows, side="right")

    def tables(self, names: Sequence[str], start: int, stop: int, batch_bytes: int) -> Iterator[pa.Table]:
        """Yield the named columns of rows [start, stop)."""
        if stop <= start:
            return
        first, last = self.positions(np.array([start, stop - 1])).tolist()
        wanted = [self.names[name] for name in names if name in self.names]
        for place, table in parquet.scan(self.shard, wanted, first, last + 1, batch_bytes):
            low, high = np.searchsorted(self.deleted, [place, place + table.num_rows])
            if high > low:
                here = np.ones(table.num_rows, bool)
                here[self.deleted[low:high] - place] = False
                table = table.filter(pa.array(here))
            if table.num_rows:
                yield self.completed(table, names)

    def completed(self, table: pa.Table, names: Sequence[str]) -> pa.Table:
        """Return rows of the file with these columns of the table: what the file lacks is a constant, or null."""
        columns: list[Any] = []
        schema = pa.schema([self.schema.field(name) for name in names], self.schema.metadata)
        for one in schema:
            if one.name in self.constants:
                value = pa.scalar(self.constants[one.name]).cast(one.type)
                columns.append(pa.repeat(value, table.num_rows))
            elif one.name in self.names:
                columns.append(self._cast(table.column(self.names[one.name]), one))
            else:
                columns.append(pa.nulls(table.num_rows, one.type))
        return pa.table(columns, schema=schema) if columns else table.select([])

    def _cast(self, column: pa.ChunkedArray, wanted: pa.Field) -> pa.ChunkedArray:
        with contextlib.suppress(pa.ArrowException):
            return column if column.type == wanted.type else column.cast(wanted.type)
        raise SourceError(
            f"{self.shard.url}: column {wanted.name!r} is {column.type} here and {wanted.type} in the table"
        )


def _names(plain: Shard, snapshot: Snapshot, live: LiveFile) -> dict[str, str]:
    """Return {column of the table: its name in the file}: by field ids where the table and the file have them."""
    present = parquet.ParquetReader(Columns()).schema(plain)
    ids = {
        int(one.metadata[b"PARQUET:field_id"]): one.name
        for one in present
        if one.metadata and b"PARQUET:field_id" in one.metadata
    }
    if snapshot.field_ids and ids:
        found = {name: ids[number] for name, number in snapshot.field_ids.items() if number in ids}
    else:
        found = {name: name for name in snapshot.schema.names if name in present.names}
    return {name: inside for name, inside in found.items() if name not in live.constants}
