"""Texts without what they say of some samples, and the search for what is left of them."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from curate.io import storage
from curate.pipeline.forget.tables import drop_rows

__all__ = ["Left", "left_in", "scrub", "without_lines", "without_marks"]

#: Columns that name samples.
NAMING = (
    "uid", "key", "duplicate_of", "copy_of", "same_content_as", "image_hash", "content_hash", "content", "smallest_uid", "id",
)  # fmt: skip
#: A mark that is shorter may stand in a text by chance, and is looked for in tables alone.
_SHORTEST = 6
#: Files that are lists with one sample a line.
LINES = (".txt", ".csv", ".jsonl")

#: A file, and how many places in it say something of a forgotten sample.
Left = tuple[str, int]


def _pattern(marks: Iterable[str]) -> re.Pattern[bytes] | None:
    long = sorted({mark for mark in marks if len(mark) >= _SHORTEST}, key=len, reverse=True)
    return (
        re.compile(b"|".join(re.escape(mark.encode("utf-8", "replace")) for mark in long)) if long else None
    )


def without_lines(path: Path, marks: Sequence[str]) -> int:
    """Write a text without the lines that name a sample; return how many those were."""
    pattern = _pattern(marks)
    lines = path.read_bytes().splitlines(keepends=True)
    exact = {mark.encode("utf-8", "replace") for mark in marks}
    kept = [
        line for line in lines
        if not (pattern is not None and pattern.search(line)) and line.strip().split(b",")[0].strip(b'"') not in exact
    ]  # fmt: skip
    if len(kept) < len(lines):
        with storage.atomic(path) as partial:
            partial.write_bytes(b"".join(kept))
    return len(lines) - len(kept)


def without_marks(value: Any, marks: Sequence[str]) -> Any:  # noqa: ANN401  (JSON may hold anything)
    """Return JSON in which texts that name a sample say nothing.

    >>> without_marks({"rows": 2, "such": ["photo-17.jpg"]}, ["photo-17"])
    {'rows': 2, 'such': ['(forgotten)']}
    """
    pattern = _pattern(marks)
    if pattern is None:
        return value
    if isinstance(value, dict):
        return {
            name: without_marks(one, marks)
            for name, one in value.items()
            if not pattern.search(name.encode())
        }
    if isinstance(value, list):
        return [without_marks(one, marks) for one in value]
    said = isinstance(value, str) and pattern.search(value.encode("utf-8", "replace"))
    return "(forgotten)" if said else value


def scrub(path: Path, uids: Sequence[str], marks: Sequence[str]) -> int:
    """Take samples out of a file outside of the run: rows of a table with a column uid, lines of a list."""
    if path.suffix == ".parquet":
        return drop_rows(path, uids)
    return without_lines(path, marks) if path.suffix.lower() in LINES else 0


def left_in(files: Iterable[Path], marks: Sequence[str]) -> Iterator[Left]:
    """Yield the files in which something still names a sample: cells of tables, and bytes of all else."""
    pattern, wanted = _pattern(marks), pl.Series(list(marks), dtype=pl.String)
    for path in files:
        if path.suffix in (".parquet", ".arrow"):
            found = _in_table(path, wanted)
        else:
            found = 0 if pattern is None else len(pattern.findall(path.read_bytes()))
        if found:
            yield str(path), found


def _in_table(path: Path, wanted: pl.Series) -> int:
    if path.suffix == ".arrow":
        table = storage.map_ipc(path).read_all()
        names = [name for name in NAMING if name in table.column_names]
        table = table.select(names)
    else:
        names = [name for name in NAMING if name in pq.read_schema(path).names]
        table = pq.read_table(path, columns=names)
    texts = [
        name
        for name in names
        if pa.types.is_string(table[name].type) or pa.types.is_large_string(table[name].type)
    ]
    frame = pl.DataFrame(table.select(texts)) if texts else pl.DataFrame()
    return sum(int(frame[name].is_in(wanted.implode()).sum()) for name in frame.columns)
