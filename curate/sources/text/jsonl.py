"""JSON lines: one object per line, a column per key.

Columns of strings, whole numbers, numbers or truth values have that type; anything else (lists, objects, mixed
kinds) is text, strings as they are and other values as JSON. A missing key is null.
"""

import json
from collections.abc import Iterator, Sequence

from curate.io.filesystem import StorageOptions
from curate.sources.base import Shard
from curate.sources.format import Format, find_files
from curate.sources.text.encoding import decoded, storable
from curate.sources.text.lines import Line, Lines, LinesReader, Record

__all__ = ["EXTENSIONS", "FORMAT", "find", "parse"]

EXTENSIONS = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")


def find(
    path: str | Sequence[str],
    *,
    storage_options: StorageOptions = None,
    source: str = "source",
    prefix: str = "",
) -> list[Shard]:
    """Return the shards that `path` matches, in the order of their names, which begin with `prefix`."""
    return find_files(
        path, EXTENSIONS, "jsonl", storage_options=storage_options, source=source, prefix=prefix
    )


def parse(lines: Lines, where: str) -> tuple[None, Iterator[Record]]:
    """Return the records of `lines`; blank ones are none. The columns are not known before all are read."""
    return None, (_record(line, lines.encoding) for line in lines if line.fault or line.data.strip())


def _record(line: Line, encoding: str | None) -> Record:
    size = len(line.data)
    if line.fault:
        return Record(line, None, line.fault, size)
    text, other = decoded(line.data)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Record(line, None, f"not valid JSON: {error}", size)
    if not isinstance(values, dict):
        return Record(line, None, f"holds a JSON {type(values).__name__}, not an object", size)
    if b"\\u" in line.data:
        values = {storable(name): value for name, value in values.items()}
    return Record(line, values, None, size, encoding or other)


FORMAT = Format(
    "jsonl",
    EXTENSIONS,
    find,
    lambda columns, allow_url: LinesReader(parse, columns, allow_url),
    what="JSON lines, also `.gz`; image paths or (with `allow: [url]`; inside your network `[url, private]`) addresses",
    rows="lines",
)
