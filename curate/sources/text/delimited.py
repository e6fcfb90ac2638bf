"""CSV and TSV: a header, then one record per line or, inside quotes, per several lines.

All columns are text and an empty field is null. Commas, semicolons and tabs are told apart by the header. A
quote that is never closed spoils its own line only: reading goes on with the line after it.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence

from curate.errors import SourceError
from curate.io.filesystem import StorageOptions
from curate.sources.base import Shard
from curate.sources.format import Format, find_files
from curate.sources.text.encoding import decoded
from curate.sources.text.lines import (
    MAX_COLUMNS,
    MAX_RECORD_BYTES,
    Line,
    Lines,
    LinesReader,
    Record,
)

__all__ = ["EXTENSIONS", "FORMAT", "find", "parse"]

EXTENSIONS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
DELIMITERS = ",;\t"


def find(
    path: str | Sequence[str],
    *,
    storage_options: StorageOptions = None,
    source: str = "source",
    prefix: str = "",
) -> list[Shard]:
    """Return the shards that `path` matches, in the order of their names, which begin with `prefix`."""
    return find_files(path, EXTENSIONS, "csv", storage_options=storage_options, source=source, prefix=prefix)


def parse(lines: Lines, where: str) -> tuple[list[str], Iterator[Record]]:
    """Return the names in the header and the records after it; SourceError naming `where` if there is no header."""
    csv.field_size_limit(MAX_RECORD_BYTES)  # 131,072 by default, for the whole process
    first = next((line for line in lines if line.fault or line.data.strip()), None)
    if first is None:
        raise SourceError(f"{where}: the file is empty; a CSV file begins with the names of its columns")
    feed = _Feed(lines, _delimiter(first))
    names, fault = feed.record(first)
    if fault or b"\0" in first.data:
        raise SourceError(f"{where}: line {first.number} is no CSV header: {fault or 'it holds a NUL byte'}")
    if len(names) > MAX_COLUMNS:
        raise SourceError(f"{where}: has {len(names):,} columns, more than {MAX_COLUMNS:,}")
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise SourceError(
            f"{where}: line {first.number}: several columns are called {twice[0]!r}; rename them"
        )
    return names, _records(lines, feed, names)


def _delimiter(header: Line) -> str:
    """Return the delimiter that the header has most of; a comma where it has none."""
    return max(DELIMITERS, key=lambda one: header.data.count(one.encode()))


def _records(lines: Lines, feed: "_Feed", names: Sequence[str]) -> Iterator[Record]:
    for line in lines:
        if line.fault:
            yield Record(line, None, line.fault, len(line.data))
            continue
        values, fault = feed.record(line)
        if not values and not fault:
            continue  # a blank line
        if not fault and len(values) != len(names):
            fault = f"has {len(values):,} fields, but there are {len(names):,} columns"
        if fault:
            lines.put_back(feed.taken[1:])
            yield Record(line, None, fault, len(line.data))
            continue
        found = {n: v or None for n, v in zip(names, values, strict=True)}
        yield Record(line, found, None, feed.size, lines.encoding or feed.encoding)


class _Feed:
    """Gives lines to the csv reader and remembers which made the record it is at."""

    def __init__(self, lines: Lines, delimiter: str) -> None:
        self.taken: list[Line] = []
        self.size = 0
        self.encoding: str | None = None
        self._lines = lines
        self._first: Line | None = None
        self._reader = csv.reader(self, delimiter=delimiter, strict=True)

    def record(self, first: Line) -> tuple[list[str], str | None]:
        """Return (values, fault) of the record that begins with the line `first`."""
        self.taken, self.size, self._first, self.encoding = [], 0, first, None
        try:
            return next(self._reader), None
        except csv.Error as error:
            return [], "a quote is not closed" if "unexpected end" in str(error) else f"no valid CSV: {error}"

    def __iter__(self) -> Iterator[str]:
        """Return itself."""
        return self

    def __next__(self) -> str:
        """Return the next line of the record; there is none after MAX_RECORD_BYTES."""
        line = self._first or next(self._lines)
        self._first = None
        if line.fault or self.size > MAX_RECORD_BYTES:
            self._lines.put_back([line])
            raise StopIteration
        self.taken.append(line)
        self.size += len(line.data)
        text, encoding = decoded(line.data)
        self.encoding = self.encoding or encoding
        return text


FORMAT = Format(
    "csv",
    EXTENSIONS,
    find,
    lambda columns, allow_url: LinesReader(parse, columns, allow_url),
    untyped=lambda shard, schema: schema.names,
    what="also `.tsv` and `.gz`; a column of image paths or (with `allow`, as `jsonl`) addresses",
    rows="lines",
)
