"""Read samples from files with a record per line (or a few): what JSON lines and CSV have in common.

A record that cannot be read is a row with the outcome `bad_row` and its line number; it never takes the records
after it along. Image paths are relative to the folder of the file; bytes are never held in such files.
"""

import contextlib
import gzip
import json
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO, ClassVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.errors import SourceError, UsageError
from curate.io import filesystem
from curate.sources import references
from curate.sources.addresses import UrlAccess
from curate.sources.base import Columns, Rows, Shard
from curate.sources.captions import encoded_as
from curate.sources.columns import check_columns
from curate.sources.rows import followed, rows_of
from curate.sources.text.encoding import UTF8_MARK, as_utf8, decoded, storable

__all__ = ["MAX_RECORD_BYTES", "Line", "Lines", "LinesReader", "Record"]

#: A longer record is a `bad_row`: a file without line ends must not fill the memory.
MAX_RECORD_BYTES = 16 << 20
MAX_COLUMNS = 100_000
MAX_ROWS = 1024
#: Whole numbers that float64 holds exactly.
EXACT = 2**53


@dataclass(frozen=True)
class Line:
    """One physical line, or the part of it that was read: `fault` says what is wrong with it."""

    number: int
    data: bytes
    fault: str | None = None
    outcome: str = "bad_row"


@dataclass(frozen=True)
class Record:
    """The values of one row by column, or None with what is wrong; `line` is its first."""

    line: Line
    values: Mapping[str, Any] | None
    fault: str | None = None
    size: int = 0
    encoding: str | None = None


#: How a format makes records of lines: (the names of the columns if the file says so, the records).
Parse = Callable[["Lines", str], tuple[list[str] | None, Iterator[Record]]]


@dataclass(frozen=True)
class Scan:
    """What a shard holds: how many rows, and its columns."""

    rows: int
    schema: pa.Schema


#: Scans of the last shards, because one shard is asked several times in a row.
_SCANS: OrderedDict[tuple[str, str], Scan] = OrderedDict()
KEPT_SCANS = 8


class Lines:
    """The physical lines of a file, from the first; those read ahead can be put back."""

    def __init__(self, file: BinaryIO, encoding: str | None = None) -> None:
        self.encoding = encoding  # that the whole file was in before it became UTF-8
        self._file = file
        self._number = 0
        self._waiting: list[Line] = []
        self._ended = False

    def __iter__(self) -> Iterator[Line]:
        """Yield the lines that are left."""
        return self

    def __next__(self) -> Line:
        """Return the next line; a compressed file that breaks off ends with a line of outcome `truncated`."""
        if self._waiting:
            return self._waiting.pop()
        if self._ended:
            raise StopIteration
        self._number += 1
        try:
            data = self._file.readline(MAX_RECORD_BYTES + 1)
            if len(data) > MAX_RECORD_BYTES:
                self._skip_line()
                return Line(self._number, data[:100], f"the line has more than {MAX_RECORD_BYTES:,} bytes")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self._ended = True
            if self._number == 1:
                raise
            return Line(self._number, b"", f"the gzip is broken or cut short: {error}", "truncated")
        if not data:
            self._ended = True
            raise StopIteration
        return Line(self._number, data.removeprefix(UTF8_MARK))  # also where files were joined

    def put_back(self, lines: Sequence[Line]) -> None:
        """Give `lines` out again, in this order."""
        self._waiting += reversed(lines)

    def _skip_line(self) -> None:
        while (piece := self._file.readline(1 << 20)) and not piece.endswith(b"\n"):
            pass


@dataclass(frozen=True)
class LinesReader:
    """Reads files of records; see `base.Reader`.

    parse : makes records of lines. columns : which column holds what. allow_url : http(s) addresses of images
    are fetched; otherwise such rows are `refused_path`.
    """

    records: ClassVar[str] = "lines"

    parse: Parse
    columns: Columns
    allow_url: UrlAccess | bool = False

    def count(self, shard: Shard) -> int:
        """Return the number of records, the bad ones included; blank lines are none."""
        return self._scan(shard).rows

    def schema(self, shard: Shard) -> pa.Schema:
        """Return the columns, with types that hold every value of the shard."""
        return self._scan(shard).schema

    def vector_length(self, shard: Shard) -> int | None:
        """Return None: lines hold no vectors. Raises UsageError where one is asked for."""
        if self.columns.vector is not None:
            raise UsageError(
                f"{shard.url}: vectors cannot be read from lines of text (embed.column is "
                f"{self.columns.vector!r}); store them as .npy (embed.files) or in Parquet"
            )
        return None

    def batches(
        self, shard: Shard, *, images: bool, batch_bytes: int, start: int = 0, stop: int | None = None
    ) -> Iterator[Rows]:
        """Yield rows [start, stop) in order, in batches of at most about `batch_bytes`, never fewer than a row."""
        schema = self.schema(shard)
        check_columns(schema, self.columns, shard.url)
        roles = (self.columns.image, *self.columns.captions, self.columns.label)
        wanted = pa.schema([schema.field(name) for name in dict.fromkeys(filter(None, roles))])
        read = partial(
            references.follow,
            shard_url=shard.url,
            storage_options=shard.storage_options,
            allow_url=self.allow_url,
            access=shard.access,
        )
        for first, records in self._records(shard, start, stop, batch_bytes):
            rows = self._rows(shard, wanted, first, records)
            if images and self.columns.image is not None:
                yield from followed(rows, read, batch_bytes)
            else:
                yield rows

    def read_rows(
        self,
        shard: Shard,
        rows: npt.NDArray[np.int64],
        *,
        batch_bytes: int,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.Table]:
        """Yield the named rows (ascending positions), all columns or those named; bad rows are null in all."""
        if len(rows) == 0:
            return
        schema, done = self.schema(shard), 0
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        for first, records in self._records(shard, int(rows[0]), int(rows[-1]) + 1, batch_bytes):
            upto = done + int(np.searchsorted(rows[done:], first + len(records)))
            if upto > done:
                yield _table([records[row - first] for row in rows[done:upto].tolist()], schema)
            done = upto
        if done < len(rows):
            raise SourceError(f"{shard.url}: has fewer rows than {int(rows[-1]) + 1:,}; did it change?")

    def _rows(self, shard: Shard, schema: pa.Schema, start: int, records: Sequence[Record]) -> Rows:
        """Return what stands in the records; the text of a bad one stands for it in its identity."""
        without = replace(self.columns, uid=None)
        rows = rows_of(_table(records, schema), without, shard, start, allow_url=self.allow_url)
        refs, outcomes, reasons = list(rows.image_ref), list(rows.outcome), list(rows.reason)
        for place, record in enumerate(records):
            if record.values is None:
                refs[place] = f"bad row: {_text(record.line.data)}"
                outcomes[place] = record.line.outcome
                reasons[place] = f"line {record.line.number}: {record.fault}"
        uids = None
        if self.columns.uid is not None:
            uids = [_uid(shard, record, self.columns.uid) for record in records]
        said = rows.notes or [()] * len(rows)
        notes = [
            before if record.encoding is None else (*before, encoded_as(record.encoding))
            for before, record in zip(said, records, strict=True)
        ]
        return replace(rows, uid=uids, image_ref=refs, outcome=outcomes, reason=reasons, notes=notes)

    def _records(
        self, shard: Shard, start: int, stop: int | None, batch_bytes: int
    ) -> Iterator[tuple[int, list[Record]]]:
        """Yield (position of the first, records) of rows [start, stop)."""
        held: list[Record] = []
        first, size = start, 0
        with self._opened(shard) as (_, records):
            for row, record in enumerate(records):
                if row < start:
                    continue
                if stop is not None and row >= stop:
                    break
                if held and (size + record.size > batch_bytes or len(held) >= MAX_ROWS):
                    yield first, held
                    held, first, size = [], row, 0
                held.append(record)
                size += record.size
        if held:
            yield first, held

    @contextlib.contextmanager
    def _opened(self, shard: Shard) -> Iterator[tuple[list[str] | None, Iterator[Record]]]:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(filesystem.open_binary(shard.url, shard.storage_options))
            if shard.url.lower().endswith(".gz"):
                file = cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=file)))
            try:
                head = file.read(4)
                file.seek(0)
                file, encoding = as_utf8(file, head)
                yield self.parse(Lines(file, encoding), shard.url)
            except (OSError, EOFError, zlib.error) as error:
                filesystem.require_enough(error, shard.url)
                text = filesystem.masked(filesystem.cause(error), shard.storage_options)
                raise SourceError(f"{shard.url}: cannot be read: {text}") from error

    def _scan(self, shard: Shard) -> Scan:
        """Read a shard once for its number of rows and its columns; what is found is remembered."""
        key = (shard.url, shard.version)
        if key not in _SCANS:
            _SCANS[key] = self._scanned(shard)
        _SCANS.move_to_end(key)
        while len(_SCANS) > KEPT_SCANS:
            _SCANS.popitem(last=False)
        return _SCANS[key]

    def _scanned(self, shard: Shard) -> Scan:
        kinds: dict[str, set[str]] = {}
        n_rows = n_good = 0
        with self._opened(shard) as (header, records):
            for record in records:
                n_rows += 1
                if record.values is None:
                    continue
                n_good += 1
                if header is None:
                    for name, value in record.values.items():
                        kinds.setdefault(name, set()).add(_kind(value))
                    if len(kinds) > MAX_COLUMNS:
                        raise SourceError(f"{shard.url}: has more than {MAX_COLUMNS:,} different keys")
        if header is None and not n_good:
            what = (
                f"none of its {n_rows:,} {self.records} is a JSON object" if n_rows else "the file is empty"
            )
            raise SourceError(f"{shard.url}: {what}")
        names = header if header is not None else kinds
        schema = pa.schema([(name, _type(kinds[name]) if name in kinds else pa.string()) for name in names])
        return Scan(n_rows, schema)


def _text(data: bytes) -> str:
    return decoded(data)[0]


def _kind(value: object) -> str:
    """Return what kind of value this is, as far as columns tell them apart."""
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > EXACT:
            return "long" if -(2**63) <= value < 2**63 else "other"
        return "int"
    names = {type(None): "null", bool: "bool", float: "float", str: "text"}
    return names.get(type(value), "other")


def _type(kinds: set[str]) -> pa.DataType:
    """Return the type of a column with values of these kinds; a mixed column is text."""
    kinds = kinds - {"null"}
    if not kinds:
        return pa.null()
    for allowed, kind in (
        ({"bool"}, pa.bool_()), ({"int", "long"}, pa.int64()), ({"int", "float"}, pa.float64()),
    ):  # fmt: skip
        if kinds <= allowed:
            return kind
    return pa.string()


def _table(records: Sequence[Record], schema: pa.Schema) -> pa.Table:
    """Return the records as a table; values that are no text are JSON in columns of text."""
    columns = []
    for field in schema:
        values = [None if r.values is None else r.values.get(field.name) for r in records]
        if pa.types.is_string(field.type):
            values = [None if value is None else _as_text(value) for value in values]
        columns.append(pa.array(values, field.type))
    if not columns:  # a table must know its length, and has it from a column
        return pa.table({"": pa.nulls(len(records))})
    return pa.table(columns, schema=schema)


def _as_text(value: object) -> str:
    return storable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _uid(shard: Shard, record: Record, name: str) -> str:
    """Return the uid of a record; one that cannot be read is called by its place."""
    if record.values is None:
        return f"{shard.name}:line {record.line.number}"
    value = record.values.get(name)
    if value is None:
        raise SourceError(
            f"{shard.url}: line {record.line.number}: the uid (column {name!r}) is null; every row needs one"
        )
    return _as_text(value)
