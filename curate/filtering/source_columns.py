"""Columns of the source that conditions read: what is in no table of a run is read from the shards again."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from curate.errors import SourceError
from curate.filtering.sql import parsed
from curate.sources.arrow_types import is_list, plain_schema
from curate.sources.base import Shard
from curate.sources.registry import ShardReader, check_unchanged

__all__ = ["SourceColumns", "as_frame", "comparable", "find_columns", "read_by", "values_of"]


@dataclass(frozen=True)
class SourceColumns:
    """What conditions read of one shard.

    types : the columns, and the type they have in the first shard with them; null where this one lacks them.
    """

    shard: Shard
    types: Mapping[str, pl.DataType]
    batch_bytes: int

    def beside(self, rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """Yield `rows` batch by batch with the columns of the source beside them.

        rows : with `row`, ascending places in the shard. Raises SourceError where the shard is not what it was.
        """
        check_unchanged(self.shard)
        have = comparable(ShardReader().schema(self.shard)).names
        names = [name for name in self.types if name in have]
        nulls = [pl.lit(None, kind).alias(name) for name, kind in self.types.items() if name not in have]
        done = 0
        for values in self._values(rows, names) if names else [pl.DataFrame(height=len(rows))]:
            yield rows.slice(done, len(values)).hstack(values.get_columns()).with_columns(nulls)
            done += len(values)
        if done != len(rows):
            raise SourceError(
                f"{self.shard.url}: {len(rows):,} rows asked for, {done:,} read; did it change?"
            )

    def _values(self, rows: pl.DataFrame, names: Sequence[str]) -> Iterator[pl.DataFrame]:
        places = rows["row"].to_numpy().astype(np.int64)
        found = ShardReader().read_rows(self.shard, places, batch_bytes=self.batch_bytes, columns=names)
        for table in found:
            yield as_frame(table)


def as_frame(table: pa.Table) -> pl.DataFrame:
    """Return a table of a source as conditions see it: plain types, and no numbers that are not finite."""
    frame = pl.DataFrame(table.cast(plain_schema(table.schema)))
    floats = [name for name, kind in frame.schema.items() if kind.is_float()]
    return frame.with_columns(pl.when(pl.col(floats).is_finite()).then(pl.col(floats)))


def comparable(schema: pa.Schema) -> pa.Schema:
    """Return the columns that a condition can be about: of one name each, and no vectors or structs."""
    once = [field for field in schema if len(schema.get_all_field_indices(field.name)) == 1]
    return pa.schema([field for field in once if not (is_list(field.type) or pa.types.is_nested(field.type))])


def values_of(shard: Shard, row: int, names: Sequence[str]) -> dict[str, object]:
    """Return columns of one row of a shard; those that it lacks, or cannot be read any more, are left out."""
    try:
        have = comparable(ShardReader().schema(shard)).names
        wanted = [name for name in names if name in have]
        if not wanted:
            return {}
        found = ShardReader().read_rows(shard, np.array([row]), batch_bytes=1 << 20, columns=wanted)
        return dict(as_frame(next(iter(found))).row(0, named=True))
    except SourceError:
        return {}


def find_columns(shards: Iterable[Shard], asked: Sequence[str], known: Sequence[str]) -> pa.Schema:
    """Return columns that no table has: those of the first shard, and of others until all `asked` for are found."""
    found: dict[str, pa.Field] = {}
    for shard in shards:
        try:
            fields = comparable(ShardReader().schema(shard))
        except SourceError:  # the stage that reads it says so, or leaves it out
            continue
        found = {field.name: field for field in fields if field.name not in known} | found
        if all(name in found for name in asked):
            break
    return pa.schema(list(found.values()))


def read_by(conditions: Sequence[object], known: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that conditions in SQL read beyond those of the tables, in order."""
    named = [name for one in conditions if isinstance(one, str) for name in parsed(one).meta.root_names()]
    return tuple(dict.fromkeys(name for name in named if name not in known))
