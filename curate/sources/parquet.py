"""Read samples from Parquet shards: any common way to store images, captions and labels in columns."""

import contextlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from curate.errors import SourceError, UsageError
from curate.sources import paths
from curate.sources.base import Columns, Rows, Shard

__all__ = ["EXTENSIONS", "ParquetReader", "find", "guess_columns", "plain_type"]

EXTENSIONS = (".parquet", ".pq")
AUTO = "auto"

IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "picture", "photo")
PATH_NAMES = ("image", "img", "jpg", "png", "image_path", "img_path", "path", "file_name", "filename", "file")
URL_NAMES = ("url", "image_url", "img_url")
CAPTION_NAMES = ("caption", "text", "txt", "captions", "description", "alt_text", "prompt")
LABEL_NAMES = ("label", "labels", "cls", "class", "target", "category", "class_label", "fine_label")

#: Sizes in a Parquet footer count a repeated value once, so the number of rows has a bound of its own.
MAX_ROWS = 1024
BUFFER_BYTES = 1 << 20
PARALLEL_READS = 16


def find(
    path: str | Sequence[str],
    *,
    storage_options: dict[str, object] | None = None,
    source: str = "source",
) -> list[Shard]:
    """Return the Parquet shards that `path` matches, in the order of their names."""
    files = paths.expand(path, storage_options, extensions=EXTENSIONS)
    options = storage_options or {}
    return [
        Shard(
            file.name, file.url, paths.split_of(file.name, file.url), file.size, file.version, source, options
        )
        for file in files
    ]


def guess_columns(
    schema: pa.Schema,
    *,
    image: str | None = AUTO,
    caption: str | None = AUTO,
    label: str | None = AUTO,
    uid: str | None = None,
    vector: str | None = None,
    ids_only: bool = False,
) -> Columns:
    """Return which columns hold what; `auto` ones are found by name and type.

    A guess is made only where one column stands out: the one with the usual name, or the only
    candidate. None turns a role off. ids_only : vectors come from elsewhere, so that no image, caption
    or vector is needed. Raises UsageError for a name that is not there, and where neither image nor
    caption nor vector is left.
    """
    text = [field.name for field in schema if _is_text(field.type) or _is_list_of_text(field.type)]
    features = _features(schema)
    classes = [name for name, feature in features.items() if _kind(feature) == "ClassLabel"]
    labels = [field.name for field in schema if _is_label(field.type)]
    columns = Columns(
        image=_guess_image(schema) if image == AUTO else image,
        caption=_guess(text, CAPTION_NAMES) if caption == AUTO else caption,
        label=_guess(labels, LABEL_NAMES, also=classes) if label == AUTO else label,
        uid=uid,
        vector=vector,
    )
    _check_columns(schema, columns)
    if not ids_only and columns.image is None and columns.caption is None and columns.vector is None:
        raise UsageError(
            "no image, caption or vector column found; name one with source.image, source.caption or "
            f"embed.column; columns: {_present(schema)}"
        )
    return columns


@dataclass(frozen=True)
class ParquetReader:
    """Reads Parquet shards; see `base.Reader`.

    columns : which column holds what. allow_url : image columns may hold http(s) addresses, which
    are then fetched; otherwise such rows are `refused_path`. vector_dim : the length that given vectors
    must have; by default that of the first one in each shard.
    """

    columns: Columns
    allow_url: bool = False
    vector_dim: int | None = None

    def count(self, shard: Shard) -> int:
        """Return the number of rows, from the footer alone."""
        with _opened(shard) as file:
            return int(file.metadata.num_rows)

    def schema(self, shard: Shard) -> pa.Schema:
        """Return the Arrow schema of the shard as it stands, with its metadata."""
        with _opened(shard) as file:
            return file.schema_arrow

    def batches(
        self, shard: Shard, *, images: bool, batch_bytes: int, start: int = 0, stop: int | None = None
    ) -> Iterator[Rows]:
        """Yield rows [start, stop) in order, in batches of at most about `batch_bytes`, never fewer than a row.

        Row groups outside are not read.
        """
        with _opened(shard) as file:
            _check_columns(file.schema_arrow, self.columns, shard.url)
            roles = self.columns
            wanted = (roles.image, roles.caption, roles.label, roles.uid, roles.vector)
            names = list(dict.fromkeys(name for name in wanted if name is not None))
            dim = self.vector_dim or self.vector_length(shard)
            stop = file.metadata.num_rows if stop is None else stop
            groups, first = _groups_of(file, start, stop)
            for table in _tables(file, groups, names or file.schema_arrow.names[:1], batch_bytes):
                rows = self._rows(shard, table, first, dim)
                first += table.num_rows
                rows = rows.slice(*np.searchsorted(rows.row, [start, stop]).tolist())
                if len(rows) == 0:
                    continue
                if images and roles.image is not None and roles.vector is None:
                    yield from self._followed(shard, rows, batch_bytes)
                else:
                    yield rows

    def read_rows(self, shard: Shard, rows: npt.NDArray[np.int64], *, batch_bytes: int) -> Iterator[pa.Table]:
        """Yield the named rows (ascending positions) with all columns, types and bytes as they stand.

        Only row groups that hold a named row are read.
        """
        with _opened(shard) as file:
            _check_positions(shard, rows, file.metadata.num_rows)
            group_start = 0
            for group in range(file.num_row_groups):
                n_rows = file.metadata.row_group(group).num_rows
                low, high = np.searchsorted(rows, [group_start, group_start + n_rows])
                if high > low:
                    yield from _taken(file, group, rows[low:high] - group_start, batch_bytes)
                group_start += n_rows

    def vector_length(self, shard: Shard) -> int | None:
        """Return the length of the first given vector that is not null or empty; None if there is none."""
        if self.columns.vector is None:
            return None
        with _opened(shard) as file:
            _check_columns(file.schema_arrow, self.columns, shard.url)
            for table in _tables(file, range(file.num_row_groups), [self.columns.vector], BUFFER_BYTES):
                column = table.column(self.columns.vector)
                if not _is_list(column.type):
                    return None
                lengths = pc.list_value_length(column).to_pylist()
                if any(lengths):
                    return int(next(length for length in lengths if length))
        return None

    def _rows(self, shard: Shard, table: pa.Table, start: int, dim: int | None) -> Rows:
        n_rows = table.num_rows
        roles = self.columns
        image, path = _image_parts(table, roles.image)
        vector, vector_reasons = _vectors(table, roles.vector, dim)
        captions = _captions(table, roles.caption)
        outcome = ["ok"] * n_rows
        reason: list[str | None] = [None] * n_rows
        refs: list[str | None] = [None] * n_rows
        for row in range(n_rows):
            if image[row] is None:
                refs[row] = path[row]
            if roles.vector is not None:
                verdict = ("bad_vector", vector_reasons[row]) if vector_reasons[row] else ("ok", None)
            elif roles.image is not None:
                verdict = self._judge_image(shard, image[row], refs[row])
            else:
                blank = not (captions[row] or "").strip()
                verdict = ("no_caption", "the caption is null or blank") if blank else ("ok", None)
            outcome[row], reason[row] = verdict
        return Rows(
            row=np.arange(start, start + n_rows, dtype=np.int64),
            uid=_uids(shard, table, roles.uid, start),
            key=path,
            image=[value or None for value in image],
            image_ref=refs,
            caption=captions,
            label=_labels(table, roles.label),
            outcome=outcome,
            reason=reason,
            vector=vector,
        )

    def _judge_image(self, shard: Shard, image: bytes | None, ref: str | None) -> tuple[str, str | None]:
        """Say what can be known of an image without following its path."""
        if image is not None:
            return ("ok", None) if image else ("missing_image", "the image has no bytes")
        if not ref:
            return "missing_image", "the image is null" if ref is None else "the image path is empty"
        refused = paths.refusal(ref, shard.url, allow_url=self.allow_url)
        return ("refused_path", refused) if refused else ("ok", None)

    def _followed(self, shard: Shard, rows: Rows, batch_bytes: int) -> Iterator[Rows]:
        """Yield `rows` in pieces of at most about `batch_bytes`, with the bytes their paths lead to."""
        ends = {row for row in range(len(rows)) if rows.outcome[row] == "ok" and rows.image[row] is None}
        if not ends:
            yield rows
            return

        def read(row: int) -> tuple[bytes | None, str, str | None]:
            ref = rows.image_ref[row]
            if row not in ends or ref is None:
                return rows.image[row], rows.outcome[row], rows.reason[row]
            return paths.follow(ref, shard.url, shard.storage_options, allow_url=self.allow_url)

        first, held = 0, 0
        results: list[tuple[bytes | None, str, str | None]] = []
        with ThreadPoolExecutor(PARALLEL_READS) as pool:
            for start in range(0, len(rows), PARALLEL_READS):
                for result in pool.map(read, range(start, min(start + PARALLEL_READS, len(rows)))):
                    results.append(result)
                    held += len(result[0] or b"")
                if held >= batch_bytes:
                    yield _with_images(rows, first, results)
                    first, held, results = first + len(results), 0, []
        if results:
            yield _with_images(rows, first, results)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that holds the same values without dictionaries and views, which few kernels take.

    List views stay: PyArrow 26 casts them to lists with wrong values.
    """
    if pt.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pt.is_string_view(kind):
        return pa.large_string()
    if pt.is_binary_view(kind):
        return pa.large_binary()
    if pt.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind])
    if pt.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(plain_type(kind.value_type)), kind.list_size)
    if pt.is_list(kind):
        return pa.list_(kind.value_field.with_type(plain_type(kind.value_type)))
    if pt.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(plain_type(kind.value_type)))
    return kind


@contextlib.contextmanager
def _opened(shard: Shard) -> Iterator[pq.ParquetFile]:
    """Open a shard; whatever goes wrong while reading it becomes one line that names it."""
    with paths.open_binary(shard.url, shard.storage_options) as handle:
        try:
            with pq.ParquetFile(
                _native(handle), pre_buffer=False, buffer_size=BUFFER_BYTES, page_checksum_verification=True
            ) as file:
                yield file
        except (pa.ArrowException, OSError, EOFError) as error:
            raise SourceError(f"{shard.url}: {_explanation(shard, error)}") from error


def _native(handle: BinaryIO) -> Any:  # noqa: ANN401  (a path, or a file object)
    """Return what Arrow reads fastest: the path of a local file, else the open file itself."""
    return handle.name if isinstance(handle, io.BufferedReader) and isinstance(handle.name, str) else handle


def _explanation(shard: Shard, error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    with contextlib.suppress(SourceError), paths.open_binary(shard.url, shard.storage_options) as handle:
        head = handle.read(4)
        if head == b"":
            return "the file is empty (0 bytes)"
        if "encrypted" in text or head == b"PARE":
            return "the Parquet file is encrypted, which curate cannot read"
        if head != b"PAR1":
            return "not a Parquet file"
        if "magic bytes" in text or "smaller than the minimum" in text:
            return "the Parquet file is cut short: it has no footer"
    return f"the Parquet file is damaged: {text}"


def _check_columns(schema: pa.Schema, columns: Columns, where: str | None = None) -> None:
    """Raise UsageError unless every named column is there once and of a type its role can use."""
    prefix = f"{where}: " if where else ""
    roles = {
        "image": (columns.image, _is_image),
        "caption": (columns.caption, lambda kind: _is_text(kind) or _is_list_of_text(kind)),
        "label": (columns.label, _is_label),
        "uid": (columns.uid, lambda kind: _is_text(kind) or pt.is_integer(plain_type(kind))),
        "vector": (columns.vector, lambda kind: True),
    }
    for role, (name, fits) in roles.items():
        if name is None:
            continue
        places = schema.get_all_field_indices(name)
        if not places:
            raise UsageError(f"{prefix}no column {name!r} (for {role}); columns: {_present(schema)}")
        if len(places) > 1:
            raise SourceError(f"{prefix}{len(places)} columns are called {name!r}")
        kind = schema.field(name).type
        if not fits(kind):
            raise UsageError(f"{prefix}column {name!r} cannot be used as {role}: its type is {_short(kind)}")


def _present(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({_short(field.type)})" for field in schema) or "none"


def _short(kind: pa.DataType) -> str:
    text = str(plain_type(kind))
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_bytes(kind: pa.DataType) -> bool:
    kind = plain_type(kind)
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_fixed_size_binary(kind))


def _is_string(kind: pa.DataType) -> bool:
    kind = plain_type(kind)
    return bool(pt.is_string(kind) or pt.is_large_string(kind))


def _is_text(kind: pa.DataType) -> bool:
    return _is_string(kind) or _is_bytes(kind) or bool(pt.is_null(kind))


def _is_list(kind: pa.DataType) -> bool:
    lists = pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)
    return bool(lists or pt.is_list_view(kind) or pt.is_large_list_view(kind))


def _is_list_of_text(kind: pa.DataType) -> bool:
    kind = plain_type(kind)
    return _is_list(kind) and _is_text(kind.value_type)


def _is_label(kind: pa.DataType) -> bool:
    kind = plain_type(kind)
    numbers = pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind) or pt.is_boolean(kind)
    return _is_text(kind) or bool(numbers or pt.is_date(kind) or pt.is_timestamp(kind))


def _is_image_struct(kind: pa.DataType) -> bool:
    if not pt.is_struct(kind):
        return False
    fields = {field.name: field.type for field in kind}
    given = [name for name in ("bytes", "path") if name in fields]
    fits = {"bytes": _is_bytes, "path": _is_string}
    return bool(given) and all(pt.is_null(fields[name]) or fits[name](fields[name]) for name in given)


def _is_image(kind: pa.DataType) -> bool:
    return _is_image_struct(kind) or _is_text(kind)


def _guess_image(schema: pa.Schema) -> str | None:
    """Prefer images that stand in the row over paths, and paths over addresses."""
    structs = [
        f.name for f in schema if _is_image_struct(f.type) and "bytes" in {part.name for part in f.type}
    ]
    inline = [field.name for field in schema if _is_bytes(field.type)]
    strings = [field.name for field in schema if _is_string(field.type)]
    found = _guess(structs + inline, IMAGE_NAMES, also=structs)
    if found or structs or any(name.lower() in IMAGE_NAMES for name in inline):
        return found
    return _guess(strings, PATH_NAMES) or _guess(strings, URL_NAMES)


def _guess(candidates: Sequence[str], names: Sequence[str], also: Sequence[str] = ()) -> str | None:
    """Return the candidate with the first of `names`, else the only one named so (or in `also`)."""
    named = [name for name in candidates if name.lower() in names or name in also]
    usual = [name for name in named if name.lower() == names[0]]
    for fitting in (usual, named):
        if len(fitting) == 1:
            return fitting[0]
    return None


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Return the Hugging Face features that the metadata of a schema declares, or nothing."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return dict(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"])
    return {}


def _kind(feature: object) -> object:
    return feature.get("_type") if isinstance(feature, dict) else None


def _check_positions(shard: Shard, rows: npt.NDArray[np.int64], n_rows: int) -> None:
    if len(rows) and (rows[0] < 0 or rows[-1] >= n_rows):
        raise SourceError(f"{shard.url}: has {n_rows:,} rows, but row {int(rows[-1])} is asked for")
    if (np.diff(rows) <= 0).any():
        raise ValueError("rows must be ascending, each once")


def _batch_rows(group: Any, names: Sequence[str] | None, batch_bytes: int) -> int:  # noqa: ANN401
    """Return how many rows of a row group take about `batch_bytes`, by the sizes in its footer."""
    size, n_rows = 0, int(group.num_rows)
    for column in map(group.column, range(group.num_columns)):
        path = column.path_in_schema
        if names is None or any(path == name or path.startswith(f"{name}.") for name in names):
            size += int(column.total_uncompressed_size)
    return min(max(batch_bytes * n_rows // max(size, 1), 1), MAX_ROWS)


def _scan(
    file: pq.ParquetFile, group: int, names: Sequence[str] | None, batch_bytes: int
) -> Iterator[pa.RecordBatch]:
    n_rows = _batch_rows(file.metadata.row_group(group), names, batch_bytes)
    columns = None if names is None else list(names)
    yield from file.iter_batches(batch_size=n_rows, row_groups=[group], columns=columns)


def _groups_of(file: pq.ParquetFile, start: int, stop: int) -> tuple[range, int]:
    """Return the row groups that hold rows [start, stop), and the position of the first row of the first."""
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    ends = np.cumsum([0, *sizes])
    first = max(0, int(np.searchsorted(ends, start, side="right")) - 1)
    last = int(np.searchsorted(ends[:-1], stop, side="left")) if stop > start else first
    return range(first, last), int(ends[min(first, len(ends) - 1)])


def _tables(
    file: pq.ParquetFile, groups: Sequence[int], names: Sequence[str], batch_bytes: int
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
    file: pq.ParquetFile, group: int, rows: npt.NDArray[np.int64], batch_bytes: int
) -> Iterator[pa.Table]:
    """Yield the rows at these places of one row group."""
    start, done = 0, 0
    held: list[pa.Table] = []
    for batch in _scan(file, group, None, batch_bytes):
        stop = start + batch.num_rows
        upto = done + int(np.searchsorted(rows[done:], stop))
        if upto > done:
            held.append(_take(pa.Table.from_batches([batch]), rows[done:upto] - start))
            if sum(table.nbytes for table in held) >= batch_bytes:
                yield pa.concat_tables(held)
                held = []
        start, done = stop, upto
        if done == len(rows):
            break
    if held:
        yield pa.concat_tables(held)


def _take(table: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    if len(rows) == rows[-1] - rows[0] + 1:
        return table.slice(int(rows[0]), len(rows))
    schema = table.schema
    plain = pa.schema([field.with_type(plain_type(field.type)) for field in schema], schema.metadata)
    indices = pa.array(rows)
    if not any(_has_view(field.type) for field in schema):
        return table.take(indices)
    return table.cast(plain).take(indices).cast(schema)


def _has_view(kind: pa.DataType) -> bool:
    if kind.num_fields:
        return any(_has_view(kind.field(place).type) for place in range(kind.num_fields))
    return bool(pt.is_string_view(kind) or pt.is_binary_view(kind))


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    column = table.column(name)
    plain = plain_type(column.type)
    return column if plain == column.type else column.cast(plain)


def _bytes_type(kind: pa.DataType) -> pa.DataType:
    return pa.large_binary() if pt.is_large_string(kind) else pa.binary()


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    """Return strings; bytes that are not UTF-8 become replacement characters."""
    if pt.is_null(column.type):
        return [None] * len(column)
    if _is_string(column.type):
        with contextlib.suppress(UnicodeDecodeError):
            return list(column.to_pylist())
        column = column.cast(_bytes_type(column.type))
    return [None if value is None else value.decode("utf-8", "replace") for value in column.to_pylist()]


def _image_parts(table: pa.Table, name: str | None) -> tuple[list[bytes | None], list[str | None]]:
    """Return (inline bytes, path) of each row's image."""
    nothing = [None] * table.num_rows
    if name is None:
        return list(nothing), list(nothing)
    column = _column(table, name)
    if pt.is_struct(column.type):
        fields = {field.name for field in column.type}
        data = pc.struct_field(column, "bytes").to_pylist() if "bytes" in fields else list(nothing)
        return data, _texts(pc.struct_field(column, "path")) if "path" in fields else list(nothing)
    if _is_bytes(column.type):
        return column.to_pylist(), list(nothing)
    return list(nothing), _texts(column)


def _captions(table: pa.Table, name: str | None) -> list[str | None]:
    if name is None:
        return [None] * table.num_rows
    column = _column(table, name)
    if not _is_list(column.type):
        return _texts(column)
    firsts = [_first(value) for value in column]
    data = [None if first is None else first.cast(pa.binary()).as_py() for first in firsts]
    return [None if first is None else first.decode("utf-8", "replace") for first in data]


def _first(value: pa.Scalar) -> pa.Scalar | None:
    return value.values[0] if value.is_valid and len(value.values) else None


def _labels(table: pa.Table, name: str | None) -> list[str | None]:
    if name is None:
        return [None] * table.num_rows
    column = _column(table, name)
    if _is_text(column.type):
        return _texts(column)
    if pt.is_floating(column.type):
        return [_number_text(value) for value in column.to_pylist()]
    return list(column.cast(pa.string()).to_pylist())


def _number_text(value: float | None) -> str | None:
    """Return a label that was stored as a float: 3.0 is the class 3, not a number is no label."""
    if value is None or math.isnan(value):
        return None
    return str(int(value)) if value.is_integer() else str(value)


def _uids(shard: Shard, table: pa.Table, name: str | None, start: int) -> list[str] | None:
    if name is None:
        return None
    column = _column(table, name)
    if pt.is_integer(column.type):
        column = column.cast(pa.string())
    try:
        uids: list[Any] = column.cast(pa.large_binary()).to_pylist()
        texts = [None if uid is None else uid.decode() for uid in uids]
    except UnicodeDecodeError:
        raise SourceError(f"{shard.url}: column {name!r} holds a uid that is not valid UTF-8") from None
    if None in texts:
        row = start + texts.index(None)
        raise SourceError(f"{shard.url}: row {row}: the uid (column {name!r}) is null")
    return [text for text in texts if text is not None]


def _vectors(
    table: pa.Table, name: str | None, dim: int | None
) -> tuple[npt.NDArray[np.float32] | None, Sequence[str | None]]:
    """Return the given embeddings with rows of NaN where unusable, and why they are."""
    if name is None:
        return None, [None] * table.num_rows
    from curate.embed.vectors import from_column

    vectors, _, reasons = from_column(table.column(name), name=name, dim=dim)
    return vectors, reasons


def _with_images(rows: Rows, first: int, results: Sequence[tuple[bytes | None, str, str | None]]) -> Rows:
    part = slice(first, first + len(results))
    return Rows(
        row=rows.row[part],
        uid=None if rows.uid is None else rows.uid[part],
        key=rows.key[part],
        image=[image for image, _, _ in results],
        image_ref=rows.image_ref[part],
        caption=rows.caption[part],
        label=rows.label[part],
        outcome=[outcome for _, outcome, _ in results],
        reason=[reason for _, _, reason in results],
        vector=None if rows.vector is None else rows.vector[part],
    )
