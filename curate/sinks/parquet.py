"""Write filtered Parquet shards: original bytes, types and order, in files planned before the first byte.

Only PyArrow writes here: Polars would drop the ``huggingface`` metadata and widen types. Each output
file is one task that depends on no other, so an engine may write them in parallel; the bytes of a file
depend on its rows alone, not on batch sizes or workers.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from curate.errors import RunError, SourceError, UsageError
from curate.sources import paths
from curate.sources.base import Reader, Shard
from curate.sources.parquet import plain_type
from curate.storage import atomic

__all__ = [
    "KeptRows",
    "OutputFile",
    "Piece",
    "Slice",
    "WriteTask",
    "output_schema",
    "plan",
    "tasks",
    "write",
    "write_file",
]

NO_EXTRA = pa.schema([])
ROW_GROUP_BYTES = 32 << 20
ROW_GROUP_ROWS = 10_000
BATCH_BYTES = 32 << 20

_HF_DTYPES = {
    pa.bool_(): "bool",
    pa.string(): "string",
    pa.large_string(): "large_string",
    pa.float16(): "float16",
    pa.float32(): "float32",
    pa.float64(): "float64",
    **{getattr(pa, name)(): name for name in ("int8", "int16", "int32", "int64")},
    **{getattr(pa, f"u{name}")(): f"u{name}" for name in ("int8", "int16", "int32", "int64")},
}


@dataclass(frozen=True)
class KeptRows:
    """The rows of one source shard that are to be written.

    rows : (n,) int64, ascending positions in the shard. sizes : (n,) int64, the stored bytes of each:
    image bytes plus caption length, before compression. extra : n rows of columns to add, or None.
    """

    shard: Shard
    rows: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    extra: pa.Table | None = None


@dataclass(frozen=True)
class Slice:
    """The kept rows `start` to `stop` (places among the kept rows, not in the file) of one shard."""

    shard: str
    start: int
    stop: int


@dataclass(frozen=True)
class OutputFile:
    """One file to write and the kept rows that go into it, in order."""

    name: str
    split: str
    slices: tuple[Slice, ...]

    @property
    def n_rows(self) -> int:
        """The number of rows the file will hold."""
        return sum(part.stop - part.start for part in self.slices)


@dataclass(frozen=True)
class Piece:
    """Rows of one shard, with the values of the columns to add."""

    shard: Shard
    rows: npt.NDArray[np.int64]
    extra: pa.Table | None = None


@dataclass(frozen=True)
class WriteTask:
    """All that `write_file` needs; picklable, and independent of the other files."""

    name: str
    folder: Path
    pieces: tuple[Piece, ...]
    schema: pa.Schema
    reader: Reader
    batch_bytes: int = BATCH_BYTES


@dataclass
class _OpenFile:
    """A file that the plan is still filling."""

    size: int = 0
    slices: list[Slice] = field(default_factory=list)


def plan(kept: Iterable[KeptRows], max_shard_size: int, *, empty: bool = False) -> list[OutputFile]:
    """Return the files to write: rows keep the order of shards and rows, splits stay apart.

    A file takes rows until the next would bring the sum of their sizes above `max_shard_size` (sizes
    are uncompressed; files on disk are mostly smaller), and holds at least one row. Without kept rows
    there is no file, or with `empty` one that holds the schema only.

    >>> rows = np.arange(3)
    >>> shard = Shard("train.parquet", "train.parquet", "train", 0, "")
    >>> [file.name for file in plan([KeptRows(shard, rows, np.array([5, 5, 5]))], 10)]
    ['train-00000-of-00002.parquet', 'train-00001-of-00002.parquet']
    """
    if max_shard_size < 1:
        raise UsageError(f"write.max_shard_size must be at least 1 byte, got {max_shard_size}")
    splits: dict[str, list[_OpenFile]] = {}
    for item in kept:
        if len(item.rows) != len(item.sizes):
            raise ValueError(f"{item.shard.name}: {len(item.rows)} rows but {len(item.sizes)} sizes")
        if len(item.rows):
            _fill(splits.setdefault(item.shard.split, [_OpenFile()]), item, max_shard_size)
    if not splits and empty:
        splits["train"] = [_OpenFile()]
    return [
        OutputFile(f"{split}-{number:05d}-of-{len(files):05d}.parquet", split, tuple(file.slices))
        for split, files in splits.items()
        for number, file in enumerate(files)
    ]


def output_schema(reader: Reader, shards: Iterable[Shard], extra: pa.Schema = NO_EXTRA) -> pa.Schema:
    """Return the one schema of all output files: the columns of the first shard, in its order.

    Columns that only later shards have follow (null where a shard lacks them), then `extra`. Types
    that differ in width only are joined (int32 and int64, string and large_string, null and any);
    others raise SourceError naming both files. The ``huggingface`` features cover every column.
    """
    fields: dict[str, pa.Field] = {}
    origin: dict[str, Shard] = {}
    features: dict[str, Any] = {}
    metadata: dict[bytes, bytes] | None = None
    n_shards = 0
    for shard in shards:
        _check_version(shard)
        schema = reader.schema(shard)
        _check_unique(schema, shard)
        for new in schema:
            old = fields.setdefault(new.name, new)
            fields[new.name] = _joined(old, new, origin.setdefault(new.name, shard), shard)
        for name in set(fields) - set(schema.names):
            fields[name] = fields[name].with_nullable(True)
        if n_shards:
            fields |= {name: f.with_nullable(True) for name, f in fields.items() if origin[name] is shard}
        features = {**_hf_features(schema.metadata), **features}
        metadata = metadata or schema.metadata
        n_shards += 1
    if n_shards > 1:
        fields = {name: one.with_type(_wide_index(one.type)) for name, one in fields.items()}
    clash = next((one.name for one in extra if one.name in fields), None)
    if clash is not None:
        raise UsageError(f"write.columns: the source already has a column {clash!r}; rename or leave out one")
    features |= {
        one.name: {"dtype": _HF_DTYPES[one.type], "_type": "Value"} for one in extra if one.type in _HF_DTYPES
    }
    return pa.schema([*fields.values(), *extra], _with_features(metadata, features))


def tasks(
    files: Iterable[OutputFile],
    load: Callable[[str], KeptRows],
    reader: Reader,
    folder: Path,
    schema: pa.Schema,
    *,
    batch_bytes: int = BATCH_BYTES,
) -> Iterator[WriteTask]:
    """Yield one task per file; `load` gives the kept rows of a shard by name, one shard at a time."""
    held: KeptRows | None = None
    for file in files:
        pieces = []
        for part in file.slices:
            if held is None or held.shard.name != part.shard:
                held = load(part.shard)
            place = slice(part.start, part.stop)
            extra = (
                None if held.extra is None else held.extra.take(pa.array(np.arange(part.start, part.stop)))
            )
            pieces.append(Piece(held.shard, held.rows[place].copy(), extra))
        yield WriteTask(file.name, folder, tuple(pieces), schema, reader, batch_bytes)


def write(
    files: Sequence[OutputFile],
    kept: Mapping[str, KeptRows],
    reader: Reader,
    folder: Path,
    *,
    extra: pa.Schema = NO_EXTRA,
    batch_bytes: int = BATCH_BYTES,
) -> int:
    """Write all planned files in this process; return the number of rows written.

    kept : by the name of the shard. extra : names and types of the columns that every `KeptRows.extra` holds.
    """
    shards = [item.shard for item in kept.values() if len(item.rows)] or [
        item.shard for item in kept.values()
    ]
    schema = output_schema(reader, shards, extra)
    return sum(
        map(write_file, tasks(files, kept.__getitem__, reader, folder, schema, batch_bytes=batch_bytes))
    )


def write_file(task: WriteTask) -> int:
    """Write one output file, whole or not at all; return the number of its rows.

    Raises SourceError if a source shard is no longer what it was when it was read.
    """
    n_rows = sum(len(piece.rows) for piece in task.pieces)
    for piece in task.pieces:
        _check_version(piece.shard)
    plain = pa.schema([one.with_type(plain_type(one.type)) for one in task.schema], task.schema.metadata)
    with atomic(Path(task.folder) / task.name) as partial:
        with pq.ParquetWriter(str(partial), task.schema, **_options(task.schema)) as writer:
            written = 0
            for group in _row_groups(_aligned(task, plain)):
                writer.write_table(_canonical(group, task.schema), row_group_size=max(group.num_rows, 1))
                written += group.num_rows
                pa.default_memory_pool().release_unused()  # else the pool grows to twice what is in use
        for piece in task.pieces:
            _check_version(piece.shard)
        if written != n_rows:
            raise RunError(f"{task.name}: {n_rows:,} rows were planned, but {written:,} were read")
    return n_rows


def _fill(files: list[_OpenFile], item: KeptRows, limit: int) -> None:
    """Put the rows of one shard into the last of `files`, and into new ones as it gets full."""
    ends = np.cumsum(np.maximum(item.sizes, 0), dtype=np.int64)
    start, before = 0, 0
    while start < len(ends):
        file = files[-1]
        stop = int(np.searchsorted(ends, before + limit - file.size, side="right"))
        if not file.slices:
            stop = max(stop, start + 1)
        if stop <= start:
            files.append(_OpenFile())
            continue
        file.slices.append(Slice(item.shard.name, start, stop))
        file.size += int(ends[stop - 1]) - before
        start, before = stop, int(ends[stop - 1])


def _check_version(shard: Shard) -> None:
    now = paths.version_of(shard.url, shard.storage_options)
    if now != shard.version:
        raise SourceError(
            f"{shard.url}: the file changed since it was read (was {shard.version}, is {now}); run again"
        )


def _check_unique(schema: pa.Schema, shard: Shard) -> None:
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise SourceError(f"{shard.url}: several columns are called {twice!r}")


def _joined(old: pa.Field, new: pa.Field, first: Shard, second: Shard) -> pa.Field:
    kind = _common(old.type, new.type)
    if kind is None:
        raise SourceError(
            f"column {old.name!r} is {old.type} in {first.url} but {new.type} in {second.url}; "
            "shards that are written together need types that fit"
        )
    return old.with_type(kind).with_nullable(old.nullable or new.nullable)


def _common(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """Return the type that holds the values of both unchanged, or None."""
    if a == b or pt.is_null(b):
        return a
    if pt.is_null(a):
        return b
    a, b = plain_type(a), plain_type(b)
    if a == b:
        return a
    if any(fits(a) and fits(b) for fits in (_is_string, _is_binary)):
        return a
    for fits in (pt.is_signed_integer, pt.is_unsigned_integer, pt.is_floating):
        if fits(a) and fits(b):
            return a if a.bit_width >= b.bit_width else b
    if pt.is_struct(a) and pt.is_struct(b) and [f.name for f in a] == [f.name for f in b]:
        kinds = [_common(x.type, y.type) for x, y in zip(a, b, strict=True)]
        if None not in kinds:
            return pa.struct(
                [f.with_type(kind).with_nullable(True) for f, kind in zip(a, kinds, strict=True)]
            )
    if _is_list(a) and _is_list(b):
        kind = _common(a.value_type, b.value_type)
        large = pt.is_large_list(a) or pt.is_large_list(b)
        item = None if kind is None else a.value_field.with_type(kind).with_nullable(True)
        return None if item is None else pa.large_list(item) if large else pa.list_(item)
    return None


def _is_string(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_large_string(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind))


def _wide_index(kind: pa.DataType) -> pa.DataType:
    """Return a dictionary type whose indices have room for the values of many shards."""
    return pa.dictionary(pa.int32(), kind.value_type) if pt.is_dictionary(kind) else kind


def _hf_features(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    try:
        return dict(json.loads((metadata or {})[b"huggingface"])["info"]["features"])
    except (KeyError, TypeError, ValueError):
        return {}


def _with_features(
    metadata: dict[bytes, bytes] | None, features: Mapping[str, Any]
) -> dict[bytes, bytes] | None:
    """Return the metadata with `features` declared; untouched where it declares none, or all of them."""
    declared = _hf_features(metadata)
    if metadata is None or not declared or declared == features:
        return metadata
    content = json.loads(metadata[b"huggingface"])
    content["info"]["features"] = {
        **declared,
        **{name: features[name] for name in features if name not in declared},
    }
    return {**metadata, b"huggingface": json.dumps(content).encode()}


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
    for piece in task.pieces:
        done = 0
        for table in task.reader.read_rows(piece.shard, piece.rows, batch_bytes=task.batch_bytes):
            columns = [
                _as_type(table.column(one.name), one.type, piece.shard)
                if one.name in table.column_names
                else _added(piece, one, done, table.num_rows)
                for one in plain
            ]
            done += table.num_rows
            yield pa.table(columns, schema=plain)


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
    if _is_string(kind) or _is_binary(kind):
        return _filled(pc.binary_length(array))
    if pt.is_struct(kind):
        return sum(map(_value_bytes, array.flatten()), np.zeros(len(array), np.int64))
    if _is_list(kind) or pt.is_fixed_size_list(kind) or pt.is_list_view(kind) or pt.is_large_list_view(kind):
        ends = np.concatenate([[0], np.cumsum(_value_bytes(array.flatten()))])
        stops = np.cumsum(_filled(pc.list_value_length(array)))
        return np.asarray(np.diff(ends[np.concatenate([[0], stops])]), np.int64)
    try:
        width = kind.bit_width // 8
    except ValueError:
        width = 8
    return np.full(len(array), width, np.int64)


def _filled(lengths: pa.Array) -> npt.NDArray[np.int64]:
    return np.asarray(lengths.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False), np.int64)


def _canonical(group: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return one chunk per column in the output types, so that pages fall the same however rows came.

    Dictionaries are made anew here: they hold the values of these rows only.
    """
    return group.combine_chunks().cast(schema)
