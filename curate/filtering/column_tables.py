"""Columns of the source that selections and reports group by: read once from the shards, as texts, into scratch.

A name is that of a column of the source, or of a field of the JSON member of a tar's samples; ``source.`` stands before it
where a table of the run has a column of that name. Numbers become texts as a person writes them (2024, not 2024.0). There is
one table per part, with a row for each that could be read, in the order of `0_samples`: uid, whether it is a copy, and the value, null
where there is none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from curate.errors import SourceError, UsageError
from curate.execution.context import Context, require_same, reuse_or_remove
from curate.filtering.conditions import table_columns
from curate.filtering.expressions import BEFORE
from curate.filtering.source_columns import SourceColumns, as_frame, find_columns, is_there
from curate.io import storage
from curate.runs.folder import RunFolder
from curate.sources.arrow_types import is_list
from curate.sources.base import Shard
from curate.sources.registry import ShardReader

if TYPE_CHECKING:
    from curate.recipe import Recipe

__all__ = [
    "OWN",
    "as_texts",
    "check_column",
    "check_numbers",
    "column_table",
    "folder_of_column",
    "number_readers",
    "say_missing",
    "values_of_part",
]

VERSION = 1
#: Columns of the samples that rows are grouped by; every other name is a column of the source.
OWN = ("label", "source", "split")
SCHEMA = pa.schema([("uid", pa.string()), ("copy", pa.bool_()), ("value", pa.string())])


@dataclass(frozen=True)
class ColumnTask:
    """One part whose values are read."""

    run: RunFolder
    part: str
    name: str
    source: SourceColumns
    out: Path
    fingerprint: str


def check_column(recipe: "Recipe", name: str, setting: str, shards: Iterable[Shard]) -> None:
    """Raise UsageError for a column that the source has not, that holds no single values, or that may be one of the run."""
    known = table_columns(recipe).names
    if name in known:
        raise UsageError(
            f"{setting}: {name!r} is a column of the run, which no row is grouped by; {BEFORE}{name} is the one of the "
            f"source; groups of the run are concept, {', '.join(OWN)}"
        )
    found = find_columns(shards, [name], known)
    if name not in found.names:
        have = ", ".join(field.name for field in found) or "none"
        raise UsageError(f"{setting}: the source has no column {name!r}; there are {have}")
    if is_list(found.field(name).type):
        raise UsageError(f"{setting}: {name!r} holds lists; a group is one value of each row")


def check_numbers(name: str, setting: str, shards: Iterable[Shard]) -> None:
    """Raise UsageError for a column that the source has not, or that holds no numbers."""
    found = find_columns(shards, [name], (), [name])
    if name not in found.names:
        have = ", ".join(field.name for field in found) or "none"
        raise UsageError(f"{setting}: the source has no column {name!r}; there are {have}")
    kind = as_frame(pa.schema([found.field(name)]).empty_table())[name].dtype
    if not (kind.is_numeric() or kind in (pl.Boolean, pl.Null)):
        raise UsageError(f"{setting}: {name!r} must be a column of numbers, it is {kind}")


def number_readers(context: Context, name: str) -> dict[str, SourceColumns]:
    """Return what reads a column of numbers, for each part by its name."""
    found = find_columns((part.shard for part in context.parts), [name], (), [name])
    return _readers(context, name, found)


def _readers(context: Context, name: str, found: pa.Schema) -> dict[str, SourceColumns]:
    if name not in found.names:  # there is no row
        found = pa.schema([(name, pa.null())])
    types = as_frame(pa.schema([found.field(name)]).empty_table()).schema
    batch = min(64_000_000, context.task_memory // 4)
    return {part.name: SourceColumns(part.shard, types, batch) for part in context.parts}


def folder_of_column(run: RunFolder, name: str) -> Path:
    """Return the folder of the tables of a column."""
    return run.work / "columns" / storage.fingerprint("column", VERSION, name)[:16]


def column_table(context: Context, name: str) -> Path:
    """Return the folder with the values of a column for the samples of all parts, read where they are not there yet."""
    run, folder = context.run, folder_of_column(context.run, name)
    known = table_columns(context.recipe).names
    found = find_columns((part.shard for part in context.parts), [name], known)
    readers = _readers(context, name, found)
    tasks = [
        ColumnTask(
            run, part.name, name, readers[part.name], run.part(folder, part.name),
            storage.fingerprint(
                "column", VERSION, name, part.fingerprint,
                storage.stored_fingerprint(run.part(run.embeddings, part.name)),
            ),
        )
        for part in context.parts
    ]  # fmt: skip
    context.map(
        "select", "parts", _read, [one for one in tasks if not reuse_or_remove(one.out, one.fingerprint)]
    )
    run.keep_only(folder, [part.name for part in context.parts])
    return folder


def _read(task: ColumnTask) -> None:
    table = storage.read_table(
        task.run.part(task.run.samples, task.part), ["uid", "row", "outcome", "copy_of"]
    )
    rows = pl.DataFrame(table).filter(pl.col("outcome") == "ok")
    rows = rows.select("uid", "row", copy=pl.col("copy_of").is_not_null())
    values = [as_texts(block[task.name]) for block in task.source.beside(rows)] if len(rows) else []
    column = pl.concat(values) if values else pl.Series("value", [], pl.String)
    made = rows.select("uid", "copy").with_columns(column.alias("value")).to_arrow().cast(SCHEMA)
    storage.write_parquet(task.out, made, SCHEMA, task.fingerprint)


def as_texts(column: pl.Series) -> pl.Series:
    """Return values as texts: whole numbers without a point, and nothing for an empty text.

    Raises UsageError for bytes that are no text, such as images.

    >>> as_texts(pl.Series([2024.0, 0.5, None])).to_list(), as_texts(pl.Series(["en", ""])).to_list()
    (['2024', '0.5', None], ['en', None])
    """
    try:
        texts = column.cast(pl.String)
    except pl.exceptions.PolarsError:
        raise UsageError(
            f"{column.name!r} cannot name groups of rows: {column.dtype} that is no text; name a column of texts, numbers or "
            "truth values"
        ) from None
    if column.dtype.is_float():
        whole = (column == column.round()) & (column.abs() < 1e15)
        texts = column.cast(pl.Int64, strict=False).cast(pl.String).zip_with(whole.fill_null(False), texts)
    return texts.set(texts.str.strip_chars() == "", None)


def say_missing(context: Context, name: str) -> list[str]:
    """Return a sentence on the rows that have no value of a column; empty where all have."""
    folder, rows, null, without = folder_of_column(context.run, name), 0, 0, 0
    lacking: set[str] = set()
    for part in context.parts:
        values = storage.read_table(context.run.part(folder, part.name), ["value"])["value"]
        rows, null = rows + len(values), null + values.null_count
        if not _has(part.shard, name):
            lacking.add(part.shard.url)
            without += len(values)
    where = f" ({without:,} of them in {len(lacking):,} shards without that column)" if lacking else ""
    return [f"{null:,} of {rows:,} rows have no {name}{where}"] if null else []


def _has(shard: Shard, name: str) -> bool:
    try:
        return is_there(ShardReader().schema(shard), name)
    except SourceError:  # the stage that reads it says so
        return True


def values_of_part(
    run: RunFolder, part: str, folders: Mapping[str, Path], uids: pl.Series
) -> list[pl.Series]:
    """Return columns of a part, (n,) texts each, by the names they were asked for. uids : of its embeddings."""
    found = []
    for name, folder in folders.items():
        path = run.part(folder, part)
        table = pl.DataFrame(storage.read_table(path)).filter(~pl.col("copy"))
        require_same(uids, table["uid"], path)
        found.append(table["value"].alias(name))
    return found
