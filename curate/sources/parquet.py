"""Read samples from Parquet shards, a bounded batch at a time."""

import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.errors import SourceError
from curate.io import filesystem
from curate.io.filesystem import StorageOptions
from curate.io.names import printable
from curate.sources.addresses import UrlAccess
from curate.sources.arrow_types import has_view, is_list, plain_schema
from curate.sources.base import RULES, Columns, Rows, Shard
from curate.sources.columns import check_columns, declared_features
from curate.sources.format import Format, find_files
from curate.sources.rows import rows_of, with_images
from curate.sources.unknown import what_it_is

__all__ = ["EXTENSIONS", "FORMAT", "ParquetReader", "find", "scan", "take"]

EXTENSIONS = (".parquet", ".pq")

#: How Hive writes that a value is missing.
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
#: Sizes in a Parquet footer count a repeated value once, so the number of rows has a bound of its own.
MAX_ROWS = 1024
BUFFER_BYTES = 1 << 20


def find(
    path: str | Sequence[str],
    *,
    storage_options: StorageOptions = None,
    source: str = "source",
    prefix: str = "",
) -> list[Shard]:
    """Return the Parquet shards that `path` matches, in the order of their names, which begin with `prefix`."""
    return find_files(
        path,
        EXTENSIONS,
        "parquet",
        storage_options=storage_options,
        source=source,
        prefix=prefix,
        rules=RULES,
    )


@dataclass(frozen=True)
class ParquetReader:
    """Reads Parquet shards; see `base.Reader`.

    columns : which column holds what. allow_url : image columns may hold http(s) addresses, which
    are then fetched; otherwise such rows are `refused_path`.
    """

    columns: Columns
    allow_url: UrlAccess | bool = False

    def count(self, shard: Shard) -> int:
        """Return the number of rows, from the footer alone."""
        with _opened(shard) as file:
            return int(file.metadata.num_rows)

    def schema(self, shard: Shard) -> pa.Schema:
        """Return the Arrow schema of the shard as it stands, with its metadata."""
        with _opened(shard) as file:
            return _with_partitions(file.schema_arrow, shard)

    def batches(
        self, shard: Shard, *, images: bool, batch_bytes: int, start: int = 0, stop: int | None = None
    ) -> Iterator[Rows]:
        """Yield rows [start, stop) in order, in batches of at most about `batch_bytes`, never fewer than a row.

        Row groups outside are not read.
        """
        with _opened(shard) as file:
            roles = self.columns
            check_columns(_with_partitions(file.schema_arrow, shard), roles, shard.url)
            names = [name for name in roles.named if name in file.schema_arrow.names]
            dim = roles.vector_dim or self.vector_length(shard)
            stop = file.metadata.num_rows if stop is None else stop
            groups, first = _groups_of(file, start, stop)
            for table in _tables(file, groups, names or file.schema_arrow.names[:1], batch_bytes):
                table = _partitioned(table, file.schema_arrow, shard)
                rows = rows_of(table, roles, shard, first, dim=dim, allow_url=self.allow_url)
                first += table.num_rows
                rows = rows.slice(*np.searchsorted(rows.row, [start, stop]).tolist())
                if len(rows) == 0:
                    continue
                yield from with_images(
                    rows, shard, roles, images=images, batch_bytes=batch_bytes, allow_url=self.allow_url
                )
            if first < stop:
                said = f"row {first:,} of {file.metadata.num_rows:,} is not in it"
                raise SourceError(f"{shard.url}: the Parquet file is damaged: {said}")

    def read_rows(
        self,
        shard: Shard,
        rows: npt.NDArray[np.int64],
        *,
        batch_bytes: int,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.Table]:
        """Yield the named rows (ascending positions), all columns or those named, as they stand.

        Only row groups that hold a named row are read.
        """
        with _opened(shard) as file:
            _check_positions(shard, rows, file.metadata.num_rows)
            have = file.schema_arrow.names
            names = None if columns is None else [name for name in columns if name in have] or have[:1]
            group_start = 0
            for group in range(file.num_row_groups):
                n_rows = file.metadata.row_group(group).num_rows
                low, high = np.searchsorted(rows, [group_start, group_start + n_rows])
                if high > low:
                    for table in _taken(file, group, rows[low:high] - group_start, batch_bytes, names):
                        table = _partitioned(table, file.schema_arrow, shard)
                        yield table if columns is None else table.select(list(columns))
                group_start += n_rows

    def vector_length(self, shard: Shard) -> int | None:
        """Return the length of the first given vector that is not null or empty; None if there is none."""
        if self.columns.vector is None:
            return None
        with _opened(shard) as file:
            check_columns(_with_partitions(file.schema_arrow, shard), self.columns, shard.url)
            if self.columns.vector not in file.schema_arrow.names:
                return None
            for table in _tables(file, range(file.num_row_groups), [self.columns.vector], BUFFER_BYTES):
                column = table.column(self.columns.vector)
                if not is_list(column.type):
                    return None
                lengths = filter(None, pc.list_value_length(column).to_pylist())
                if (first := next(lengths, None)) is not None:
                    return int(first)
        return None


def scan(
    shard: Shard, names: Sequence[str], start: int, stop: int, batch_bytes: int
) -> Iterator[tuple[int, pa.Table]]:
    """Yield (position of the first row, these columns) of rows [start, stop), at most about `batch_bytes` at a time.

    Without names the first column stands for the rows.
    """
    with _opened(shard) as file:
        groups, first = _groups_of(file, start, stop)
        for table in _tables(file, groups, list(names) or file.schema_arrow.names[:1], batch_bytes):
            low, high = max(start - first, 0), min(stop - first, table.num_rows)
            if high > low:
                yield first + low, table.slice(low, high - low)
            first += table.num_rows


def partitions(shard: Shard) -> dict[str, str | None]:
    """Return the columns that the folders of a shard stand for, as Hive writes them: ``year=2024/part.parquet``.

    Only folders below what was named count. The values are text.

    >>> partitions(Shard("lang=en/tag=a%2Fb/0.parquet", "0.parquet", "train", 0, "", rules=2))
    {'lang': 'en', 'tag': 'a/b'}
    """
    folders = shard.name.split("/")[:-1] if shard.rules >= 2 else []
    pairs = (folder.partition("=") for folder in folders)
    found = {unquote(name): unquote(value) for name, equals, value in pairs if name and equals}
    return {name: None if value == HIVE_NULL else value for name, value in found.items()}


def _with_partitions(schema: pa.Schema, shard: Shard) -> pa.Schema:
    """Return a schema with the columns that the folders of a shard stand for; those of the file come first."""
    more = [name for name in partitions(shard) if name not in schema.names]
    if not more:
        return schema
    metadata, declared = dict(schema.metadata or {}), declared_features(schema.metadata)
    if declared:
        content = json.loads(metadata[b"huggingface"])
        text = {name: {"dtype": "string", "_type": "Value"} for name in more}
        content["info"]["features"] = {**declared, **text}
        metadata[b"huggingface"] = json.dumps(content).encode()
    return pa.schema([*schema, *((name, pa.string()) for name in more)], metadata)


def _partitioned(table: pa.Table, schema: pa.Schema, shard: Shard) -> pa.Table:
    """Return rows of a file with this schema, with the columns that its folders stand for."""
    for name, value in partitions(shard).items():
        if name not in schema.names:
            table = table.append_column(name, pa.array([value] * table.num_rows, pa.string()))
    return table


@contextlib.contextmanager
def _opened(shard: Shard) -> Iterator[pq.ParquetFile]:
    """Open a shard; whatever goes wrong while reading it becomes one line that names it."""
    with filesystem.open_binary(shard.url, shard.storage_options) as handle:
        try:
            with pq.ParquetFile(
                _native(handle), pre_buffer=False, buffer_size=BUFFER_BYTES, page_checksum_verification=True
            ) as file:
                _check_footer(shard, file.metadata)
                yield file
        except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
            filesystem.require_enough(error, shard.url)
            raise SourceError(f"{shard.url}: {_explanation(shard, error)}") from error


def _check_footer(shard: Shard, footer: pq.FileMetaData) -> None:
    """Raise SourceError unless the row groups have the rows that the file says it has."""
    n_rows = sum(footer.row_group(group).num_rows for group in range(footer.num_row_groups))
    if n_rows != footer.num_rows:
        said = f"its footer says {footer.num_rows:,} rows, its row groups have {n_rows:,}"
        raise SourceError(f"{shard.url}: the Parquet file is damaged: {said}")


def _native(handle: BinaryIO) -> Any:  # noqa: ANN401  (a path, or a file object)
    """Return what Arrow reads fastest: the path of a local file, else the open file itself."""
    named = isinstance(handle, io.BufferedReader) and isinstance(handle.name, str)
    return handle.name if named and printable(handle.name) == handle.name else handle


def _explanation(shard: Shard, error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    with contextlib.suppress(SourceError), filesystem.open_binary(shard.url, shard.storage_options) as handle:
        head = handle.read(4)
        if head == b"":
            return "the file is empty (0 bytes)"
        if "encrypted" in text or "decrypt" in text or head == b"PARE":
            return "the Parquet file is encrypted, which curate cannot read"
        if head != b"PAR1":
            return f"not a Parquet file{what_it_is(shard.url, shard.storage_options)}"
        if "magic bytes" in text or "smaller than the minimum" in text:
            return "the Parquet file is cut short: it has no footer"
    return f"the Parquet file is damaged: {text}"


def _check_positions(shard: Shard, rows: npt.NDArray[np.int64], n_rows: int) -> None:
    if len(rows) and (rows[0] < 0 or rows[-1] >= n_rows):
        raise SourceError(f"{shard.url}: has {n_rows:,} rows, but row {int(rows[-1])} is asked for")
    if (np.diff(rows) <= 0).any():
        raise ValueError("rows must be ascending, each once")


def _batch_rows(group: pq.RowGroupMetaData, batch_bytes: int) -> int:
    """Return how many rows of a row group take at most about `batch_bytes`, by the size in its footer.

    All columns count, whichever are read: asking PyArrow for one of an encrypted or damaged column ends the process.
    """
    size = max(int(group.total_byte_size), 1)
    return min(max(batch_bytes * int(group.num_rows) // size, 1), MAX_ROWS)


def _scan(
    file: pq.ParquetFile, group: int, names: Sequence[str] | None, batch_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Yield the batches of one row group; names : of the columns to read, all by default."""
    n_rows = _batch_rows(file.metadata.row_group(group), batch_bytes)
    yield from file.iter_batches(batch_size=n_rows, row_groups=[group], columns=names)


def _groups_of(file: pq.ParquetFile, start: int, stop: int) -> tuple[range, int]:
    """Return the row groups that hold rows [start, stop), and the position of the first row of the first."""
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    ends = np.cumsum([0, *sizes])
    first = max(0, int(np.searchsorted(ends, start, side="right")) - 1)
    last = int(np.searchsorted(ends[:-1], stop, side="left")) if stop > start else first
    return range(first, last), int(ends[min(first, len(ends) - 1)])


def _tables(
    file: pq.ParquetFile, groups: Sequence[int], names: list[str], batch_bytes: int
) -> Iterator[pa.Table]:
    """Yield all rows as tables of at most about `batch_bytes`."""
    held: list[pa.RecordBatch] = []
    size = 0
    for group in groups:
        for batch in _scan(file, group, names, batch_bytes):
            if held and (size + batch.nbytes > batch_bytes or sum(map(len, held)) >= MAX_ROWS):
                yield pa.Table.from_batches(held)
                held, size = [], 0
            held.append(batch)
            size += batch.nbytes
    if held:
        yield pa.Table.from_batches(held)


def _taken(
    file: pq.ParquetFile,
    group: int,
    rows: npt.NDArray[np.int64],
    batch_bytes: int,
    names: Sequence[str] | None,
) -> Iterator[pa.Table]:
    """Yield the rows at these places of one row group, all columns or those named."""
    start, done, size = 0, 0, 0
    held: list[pa.Table] = []
    for batch in _scan(file, group, names, batch_bytes):
        stop = start + batch.num_rows
        upto = done + int(np.searchsorted(rows[done:], stop))
        if upto > done:
            table = pa.Table.from_batches([batch])
            table = table if names is None else table.select(names)
            held.append(take(table, rows[done:upto] - start))
            size += held[-1].nbytes
            if size >= batch_bytes:
                yield pa.concat_tables(held)
                held, size = [], 0
        start, done = stop, upto
        if done == len(rows):
            break
    if held:
        yield pa.concat_tables(held)


def take(table: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Return the rows at these places, (m,) with m > 0; types stay as they are, views too."""
    if len(rows) == rows[-1] - rows[0] + 1:
        return table.slice(int(rows[0]), len(rows))
    if not any(has_view(kind) for kind in table.schema.types):
        return table.take(rows)
    return table.cast(plain_schema(table.schema)).take(rows).cast(table.schema)


FORMAT = Format(
    "parquet",
    EXTENSIONS,
    find,
    lambda columns, allow_url: ParquetReader(columns, allow_url),
    untyped=lambda shard, schema: partitions(shard),
    what="shards with images as bytes, `{bytes, path}` or paths, or with vectors; `year=2024/` is a column",
    rows="rows",
)
