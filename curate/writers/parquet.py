"""Write filtered Parquet shards: original bytes, types and order, in files planned before the first byte.

Only PyArrow writes here: Polars would drop the ``huggingface`` metadata and widen types. Each output
file is one task that depends on no other, so an engine may write them in parallel; the bytes of a file
depend on its rows alone, not on batch sizes or workers.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from curate.errors import RunError, SourceError
from curate.io.storage import atomic
from curate.sources.arrow_types import is_binary, is_list, is_string, plain_schema
from curate.sources.base import RowReader, Shard
from curate.sources.columns import class_names
from curate.sources.registry import check_unchanged
from curate.writers.relabelled import with_corrected
from curate.writers.shard_plan import KeptRows, OutputFile, Piece, pieces

__all__ = ["WriteTask", "tasks", "write_file"]

ROW_GROUP_BYTES = 32 << 20
ROW_GROUP_ROWS = 10_000
BATCH_BYTES = 32 << 20


@dataclass(frozen=True)
class WriteTask:
    """All that `write_file` needs; picklable, and independent of the other files."""

    name: str
    folder: Path
    pieces: tuple[Piece, ...]
    serialized_schema: bytes
    reader: RowReader
    batch_bytes: int = BATCH_BYTES

    @property
    def schema(self) -> pa.Schema:
        """The schema of the file; kept serialized, because pickling a type loses the names inside lists."""
        return pa.ipc.read_schema(pa.py_buffer(self.serialized_schema))


def tasks(
    files: Iterable[OutputFile],
    load: Callable[[str], KeptRows],
    reader: RowReader,
    folder: Path,
    schema: pa.Schema,
    *,
    batch_bytes: int = BATCH_BYTES,
) -> Iterator[WriteTask]:
    """Yield one task per file; `load` gives the kept rows of a shard by name, one shard at a time."""
    for file, rows in pieces(files, load):
        yield WriteTask(file.name, folder, rows, schema.serialize().to_pybytes(), reader, batch_bytes)


def write_file(task: WriteTask) -> int:
    """Write one output file, whole or not at all; return the number of its rows.

    Raises SourceError if a source shard is no longer what it was when it was read, RunError where rows are missing.
    """
    n_rows = sum(len(piece.rows) for piece in task.pieces)
    since = [check_unchanged(piece.shard) for piece in task.pieces]
    schema = task.schema
    plain = plain_schema(schema)
    with atomic(Path(task.folder) / task.name) as partial:
        with pq.ParquetWriter(str(partial), schema, **_options(schema)) as writer:
            written = unreleased = 0
            for group in _row_groups(_aligned(task, plain)):
                writer.write_table(_canonical(group, schema), row_group_size=max(group.num_rows, 1))
                written += group.num_rows
                unreleased += group.nbytes
                if unreleased >= ROW_GROUP_BYTES:  # else the pool grows to twice what is in use
                    pa.default_memory_pool().release_unused()
                    unreleased = 0
        for piece, before in zip(task.pieces, since, strict=True):
            check_unchanged(piece.shard, before)
        if written != n_rows:
            raise RunError(f"{task.name}: {n_rows:,} rows were planned, but {written:,} were read")
    return n_rows


def _options(schema: pa.Schema) -> dict[str, Any]:
    """Return the writer's settings: dictionaries and statistics only where they help, all else fixed.

    Images are compressed already and never repeat inside a shard, and a dictionary of float vectors
    costs more than it saves. Page sizes are looked at every 64 values: with the usual 1,024 a page of
    large images is as large as its row group, and so is the memory of whoever reads it.
    """
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, schema).close()
    leaves = pq.read_metadata(pa.BufferReader(sink.getvalue())).schema
    columns = [leaves.column(place) for place in range(len(leaves.names))]
    light = [
        leaf.path
        for leaf in columns
        if leaf.physical_type in ("INT32", "INT64", "BOOLEAN") or leaf.logical_type.type == "STRING"
    ]
    return {
        "compression": "zstd",
        "version": "2.6",
        "data_page_version": "1.0",
        "use_dictionary": light,
        "write_statistics": light,
        "write_page_checksum": True,
        "write_batch_size": 64,
    }


def _aligned(task: WriteTask, plain: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of all pieces in order, with the columns and (plain) types of the output."""
    classes = class_names(task.schema)
    for piece in task.pieces:
        done = 0
        for table in task.reader.read_rows(piece.shard, piece.rows, batch_bytes=task.batch_bytes):
            columns = [
                _own(piece, table.column(one.name), one, done, classes.get(one.name, ()))
                if one.name in table.column_names
                else _added(piece, one, done, table.num_rows)
                for one in plain
            ]
            done += table.num_rows
            yield pa.table(columns, schema=plain)


def _own(
    piece: Piece, column: pa.ChunkedArray, one: pa.Field, start: int, classes: Sequence[str]
) -> pa.ChunkedArray:
    """Return a column of the source; where one to add has its name, its values (unless null) stand in it."""
    typed = _as_type(column, one.type, piece.shard)
    if piece.extra is None or one.name not in piece.extra.column_names:
        return typed
    given = piece.extra.column(one.name).slice(start, len(column))
    return with_corrected(typed, given, piece.shard.url, classes)


def _as_type(column: pa.ChunkedArray, kind: pa.DataType, shard: Shard) -> pa.ChunkedArray:
    try:
        return column if column.type == kind else column.cast(kind)
    except pa.ArrowException as error:
        raise SourceError(f"{shard.url}: {' '.join(str(error).split())}") from error


def _added(piece: Piece, one: pa.Field, start: int, n_rows: int) -> pa.ChunkedArray | pa.Array:
    if piece.extra is not None and one.name in piece.extra.column_names:
        return piece.extra.column(one.name).slice(start, n_rows).cast(one.type)
    return pa.nulls(n_rows, one.type)


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows cut into row groups, by the bytes and number of rows alone.

    A row group ends before the row that would bring it above ROW_GROUP_BYTES, or is ROW_GROUP_ROWS long.
    """
    held: list[pa.Table] = []
    n_held, held_bytes = 0, 0
    for table in tables:
        ends = np.cumsum(_row_bytes(table))
        start = 0
        while start < table.num_rows:
            before = int(ends[start - 1]) if start else 0
            room = int(np.searchsorted(ends, before + ROW_GROUP_BYTES - held_bytes, side="right"))
            stop = min(max(room, start if held else start + 1), start + ROW_GROUP_ROWS - n_held)
            if stop > start:
                held.append(table.slice(start, stop - start))
                n_held += stop - start
                held_bytes += int(ends[stop - 1]) - before
            if stop < table.num_rows:
                yield pa.concat_tables(held)
                held, n_held, held_bytes = [], 0, 0
            start = stop
    if held:
        yield pa.concat_tables(held)


def _row_bytes(table: pa.Table) -> npt.NDArray[np.int64]:
    total = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        total += np.concatenate([np.zeros(0, np.int64), *map(_value_bytes, column.chunks)])
    return total


def _value_bytes(array: pa.Array) -> npt.NDArray[np.int64]:
    """Return about how many bytes each value of an array of plain type takes."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _value_bytes(array.storage)
    if is_string(kind) or is_binary(kind):
        return _filled(pc.binary_length(array))
    if pt.is_struct(kind):
        return sum(map(_value_bytes, array.flatten()), np.zeros(len(array), np.int64))
    if is_list(kind):
        ends = np.concatenate([[0], np.cumsum(_value_bytes(array.flatten()))])
        stops = np.cumsum(_filled(pc.list_value_length(array)))
        return np.asarray(np.diff(ends[np.concatenate([[0], stops])]), np.int64)
    try:
        width = kind.bit_width // 8
    except ValueError:
        width = 8
    return np.full(len(array), width, np.int64)


def _filled(lengths: pa.Array) -> npt.NDArray[np.int64]:
    known = lengths.fill_null(0) if lengths.null_count else lengths
    return np.asarray(known.to_numpy(), np.int64)


def _canonical(group: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return one chunk per column in the output types, so that pages fall the same however rows came.

    Dictionaries are made anew here: they hold the values of these rows only.
    """
    whole = group.combine_chunks()
    return whole if whole.schema == schema else whole.cast(schema)
