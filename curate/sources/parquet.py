"""Read samples from Parquet shards, a bounded batch at a time."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.errors import SourceError
from curate.sources import files, paths, references
from curate.sources.arrow_types import has_view, is_list, plain_schema
from curate.sources.base import Columns, Rows, Shard
from curate.sources.columns import captions_of, check_columns, images_of, labels_of, uids_of, vectors_of
from curate.sources.files import StorageOptions
from curate.sources.formats import Format

__all__ = ["FORMAT", "ParquetReader", "find"]

EXTENSIONS = (".parquet", ".pq")

#: Sizes in a Parquet footer count a repeated value once, so the number of rows has a bound of its own.
MAX_ROWS = 1024
BUFFER_BYTES = 1 << 20
PARALLEL_READS = 16

OK: tuple[str, str | None] = ("ok", None)


def find(
    path: str | Sequence[str],
    *,
    storage_options: StorageOptions = None,
    source: str = "source",
    prefix: str = "",
) -> list[Shard]:
    """Return the Parquet shards that `path` matches, in the order of their names, which begin with `prefix`."""
    options = storage_options or {}
    return [
        Shard(
            name=prefix + file.name,
            url=file.url,
            split=paths.split_of(file.name, file.url),
            size=file.size,
            version=file.version,
            source=source,
            storage_options=options,
        )
        for file in paths.expand(path, options, extensions=EXTENSIONS)
    ]


@dataclass(frozen=True)
class ParquetReader:
    """Reads Parquet shards; see `base.Reader`.

    columns : which column holds what. allow_url : image columns may hold http(s) addresses, which
    are then fetched; otherwise such rows are `refused_path`.
    """

    columns: Columns
    allow_url: bool = False

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
            roles = self.columns
            check_columns(file.schema_arrow, roles, shard.url)
            wanted = (roles.image, roles.caption, roles.label, roles.uid, roles.vector)
            names = list(dict.fromkeys(name for name in wanted if name is not None))
            dim = roles.vector_dim or self.vector_length(shard)
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
            check_columns(file.schema_arrow, self.columns, shard.url)
            for table in _tables(file, range(file.num_row_groups), [self.columns.vector], BUFFER_BYTES):
                column = table.column(self.columns.vector)
                if not is_list(column.type):
                    return None
                lengths = filter(None, pc.list_value_length(column).to_pylist())
                if (first := next(lengths, None)) is not None:
                    return int(first)
        return None

    def _rows(self, shard: Shard, table: pa.Table, start: int, dim: int | None) -> Rows:
        """Return what stands in the rows of `table`; `start` is the position of its first in the shard."""
        roles = self.columns
        images, keys = images_of(table, roles.image)
        refs = [key if image is None else None for image, key in zip(images, keys, strict=True)]
        captions = captions_of(table, roles.caption)
        vectors, faults = vectors_of(table, roles.vector, dim)
        if roles.vector is not None:
            verdicts = [("bad_vector", fault) if fault else OK for fault in faults]
        elif roles.image is not None:
            verdicts = [self._judge_image(shard, *row) for row in zip(images, refs, strict=True)]
        else:
            blank = ("no_caption", "the caption is null or blank")
            verdicts = [OK if (caption or "").strip() else blank for caption in captions]
        return Rows(
            row=np.arange(start, start + table.num_rows, dtype=np.int64),
            uid=uids_of(table, roles.uid, start, shard.url),
            key=keys,
            image=[image or None for image in images],
            image_ref=refs,
            caption=captions,
            label=labels_of(table, roles.label),
            outcome=[outcome for outcome, _ in verdicts],
            reason=[reason for _, reason in verdicts],
            vector=vectors,
        )

    def _judge_image(self, shard: Shard, image: bytes | None, ref: str | None) -> tuple[str, str | None]:
        """Say what can be known of an image without following its path."""
        if image is not None:
            return OK if image else ("missing_image", "the image has no bytes")
        if not ref:
            return "missing_image", "the image is null" if ref is None else "the image path is empty"
        refused = references.refusal(ref, shard.url, allow_url=self.allow_url)
        return ("refused_path", refused) if refused else OK

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
            return references.follow(ref, shard.url, shard.storage_options, allow_url=self.allow_url)

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


@contextlib.contextmanager
def _opened(shard: Shard) -> Iterator[pq.ParquetFile]:
    """Open a shard; whatever goes wrong while reading it becomes one line that names it."""
    with files.open_binary(shard.url, shard.storage_options) as handle:
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
    with contextlib.suppress(SourceError), files.open_binary(shard.url, shard.storage_options) as handle:
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


def _check_positions(shard: Shard, rows: npt.NDArray[np.int64], n_rows: int) -> None:
    if len(rows) and (rows[0] < 0 or rows[-1] >= n_rows):
        raise SourceError(f"{shard.url}: has {n_rows:,} rows, but row {int(rows[-1])} is asked for")
    if (np.diff(rows) <= 0).any():
        raise ValueError("rows must be ascending, each once")


def _batch_rows(group: pq.RowGroupMetaData, names: list[str] | None, batch_bytes: int) -> int:
    """Return how many rows of a row group take about `batch_bytes`, by the sizes in its footer."""
    size, n_rows = 0, int(group.num_rows)
    for column in map(group.column, range(group.num_columns)):
        path = column.path_in_schema
        if names is None or any(path == name or path.startswith(f"{name}.") for name in names):
            size += int(column.total_uncompressed_size)
    return min(max(batch_bytes * n_rows // max(size, 1), 1), MAX_ROWS)


def _scan(
    file: pq.ParquetFile, group: int, names: list[str] | None, batch_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Yield the batches of one row group; names : of the columns to read, all by default."""
    n_rows = _batch_rows(file.metadata.row_group(group), names, batch_bytes)
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
    file: pq.ParquetFile, group: int, rows: npt.NDArray[np.int64], batch_bytes: int
) -> Iterator[pa.Table]:
    """Yield the rows at these places of one row group."""
    start, done, size = 0, 0, 0
    held: list[pa.Table] = []
    for batch in _scan(file, group, None, batch_bytes):
        stop = start + batch.num_rows
        upto = done + int(np.searchsorted(rows[done:], stop))
        if upto > done:
            held.append(_take(pa.Table.from_batches([batch]), rows[done:upto] - start))
            size += held[-1].nbytes
            if size >= batch_bytes:
                yield pa.concat_tables(held)
                held, size = [], 0
        start, done = stop, upto
        if done == len(rows):
            break
    if held:
        yield pa.concat_tables(held)


def _take(table: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    if len(rows) == rows[-1] - rows[0] + 1:
        return table.slice(int(rows[0]), len(rows))
    if not any(has_view(kind) for kind in table.schema.types):
        return table.take(rows)
    return table.cast(plain_schema(table.schema)).take(rows).cast(table.schema)


def _with_images(rows: Rows, first: int, results: Sequence[tuple[bytes | None, str, str | None]]) -> Rows:
    images, outcomes, reasons = zip(*results, strict=True)
    part = rows.slice(first, first + len(results))
    return replace(part, image=images, outcome=outcomes, reason=reasons)


FORMAT = Format("parquet", EXTENSIONS, find, lambda columns, allow_url: ParquetReader(columns, allow_url))
