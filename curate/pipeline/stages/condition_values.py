"""Conditions tried on the values of the rows before anything is embedded, where a value can make them fail."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from curate.execution.context import Context, Part
from curate.filtering.conditions import table_columns
from curate.filtering.source_columns import SourceColumns, as_frame, find_columns, numbers_of, read_by
from curate.filtering.sql import can_fail, failed_condition
from curate.io import storage
from curate.recipe import Recipe

__all__ = ["check_values", "types_of_source"]

#: Columns of the samples that are known before anything is embedded.
_KNOWN = ("row", "key", "caption", "caption_length", "label")


@dataclass(frozen=True)
class ValuesTask:
    """One part whose values are tried. source : what the conditions read of the shard, None for nothing."""

    part: Part
    keys: Path
    conditions: tuple[str, ...]
    later: Mapping[str, pl.DataType]
    source: SourceColumns | None


def types_of_source(recipe: Recipe, parts: Sequence[Part]) -> Mapping[str, pl.DataType]:
    """Return the columns of the source that conditions read, with their types."""
    known = table_columns(recipe).names
    if not (asked := read_by(recipe.filter, known)):
        return {}
    found = find_columns((part.shard for part in parts), asked, known, numbers_of(recipe.filter))
    return as_frame(pa.schema([found.field(name) for name in asked]).empty_table()).schema


def check_values(context: Context, parts: Sequence[Part], keys: Sequence[Path]) -> None:
    """Raise CurateError for a value on which a condition cannot be evaluated; rows that cannot be used do not count.

    keys : the table of the rows of each part.
    """
    conditions = tuple(one for one in context.recipe.filter if isinstance(one, str) and can_fail(one))
    if not conditions:
        return
    frame = pl.DataFrame(table_columns(context.recipe).empty_table())
    later = {name: kind for name, kind in frame.schema.items() if name not in (*_KNOWN, "shard")}
    types = types_of_source(context.recipe, parts)
    batch = min(64_000_000, context.task_memory // 4)
    tasks = [
        ValuesTask(part, path, conditions, later, SourceColumns(part.shard, types, batch) if types else None)
        for part, path in zip(parts, keys, strict=True)
    ]
    context.map("read", "parts", _try_part, tasks)


def _try_part(task: ValuesTask) -> None:
    rows = pl.DataFrame(storage.read_table(task.keys, [*_KNOWN, "outcome"])).filter(pl.col("outcome") == "ok")
    unknown = [pl.lit(None, kind).alias(name) for name, kind in task.later.items()]
    rows = rows.drop("outcome").with_columns(*unknown, shard=pl.lit(task.part.shard.name))
    if rows.is_empty():
        return
    for block in [rows] if task.source is None else task.source.beside(rows):
        failed_condition(block, task.conditions, {})
