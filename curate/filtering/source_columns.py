"""Columns of the source that conditions read: what is in no table of a run is read from the shards again.

A name is that of a column, of a field of the JSON member of a tar's samples, or of one within a column (`meta.w`). With ``source.`` before it, it is one of
the source also where a table of the run has a column of that name.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from curate.errors import SourceError
from curate.filtering.expressions import BEFORE, numbers_in
from curate.filtering.json_fields import column_of, field_place, fields_of, inner_type
from curate.filtering.sql import parsed
from curate.sources.arrow_types import is_list, is_string, plain_schema, plain_type
from curate.sources.base import Shard
from curate.sources.registry import ShardReader, check_unchanged, format_of
from curate.sources.tar.roles import KEY

__all__ = [
    "SourceColumns", "as_frame", "columns_here", "find_columns", "is_there", "numbers_of", "read_by", "values_of",
]  # fmt: skip


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
        places = _Places(self.shard, self.types)
        done = 0
        for values in self._values(rows, places) if places.read else [pl.DataFrame(height=len(rows))]:
            yield rows.slice(done, len(values)).hstack(values.get_columns()).with_columns(places.absent)
            done += len(values)
        if done != len(rows):
            raise SourceError(
                f"{self.shard.url}: {len(rows):,} rows asked for, {done:,} read; did it change?"
            )

    def _values(self, rows: pl.DataFrame, places: "_Places") -> Iterator[pl.DataFrame]:
        wanted = rows["row"].to_numpy().astype(np.int64)
        found = ShardReader().read_rows(self.shard, wanted, batch_bytes=self.batch_bytes, columns=places.read)
        for table in found:
            yield places.frame(table)


class _Places:
    """Where names are in one shard.

    read : the columns of the shard to read for them. absent : the names that it lacks, as null.
    """

    def __init__(self, shard: Shard, types: Mapping[str, pl.DataType]) -> None:
        schema = ShardReader().schema(shard)
        self._types = types
        self._columns = {name: one for name in types if (one := _column(schema, name)) is not None}
        rest = {name: field_place(schema, _bare(name)) for name in types if name not in self._columns}
        self._fields = {name: place for name, place in rest.items() if place is not None}
        self.read = list(dict.fromkeys((*self._columns.values(), *(one for one, _ in self._fields.values()))))
        there = (*self._columns, *self._fields)
        self.absent = [pl.lit(None, kind).alias(name) for name, kind in types.items() if name not in there]

    def frame(self, table: pa.Table) -> pl.DataFrame:
        """Return the columns and fields of a table by name."""
        plain = as_frame(table.select(list(dict.fromkeys(self._columns.values()))))
        columns = [_as(self._types[name], plain[one]).alias(name) for name, one in self._columns.items()]
        fields = [
            column_of(table.column(member), path, self._types[name]).alias(name)
            for name, (member, path) in self._fields.items()
        ]
        return pl.DataFrame(columns + fields)


def _as(kind: pl.DataType, column: pl.Series) -> pl.Series:
    """Return a column, where it is text and asked for as numbers as numbers; what is none is null."""
    if column.dtype != pl.String or not kind.is_numeric():
        return column
    numbers = column.str.strip_chars().cast(pl.Float64, strict=False)
    return numbers.to_frame().select(pl.when(pl.first().is_finite()).then(pl.first())).to_series()


def as_frame(table: pa.Table) -> pl.DataFrame:
    """Return a table of a source as conditions see it: plain types, and no numbers that are not finite."""
    frame = pl.DataFrame(table.cast(plain_schema(table.schema)))
    floats = [name for name, kind in frame.schema.items() if kind.is_float()]
    return frame.with_columns(pl.when(pl.col(floats).is_finite()).then(pl.col(floats)))


def columns_here(schema: pa.Schema) -> pa.Schema:
    """Return the columns that a condition can be about: of one name each, no vectors or structs; lists of plain values are."""
    once = [field for field in schema if len(schema.get_all_field_indices(field.name)) == 1]
    return pa.schema([field for field in once if _is_plain(field.type)])


def _is_plain(kind: pa.DataType) -> bool:
    """Return True for single values, and for lists of texts, whole numbers or truth values."""
    if not is_list(kind):
        return not pa.types.is_nested(kind)
    inner = plain_type(kind.value_type)
    return is_string(inner) or pa.types.is_integer(inner) or pa.types.is_boolean(inner)


def _bare(name: str) -> str:
    return name.removeprefix(BEFORE)


def _column(schema: pa.Schema, name: str) -> str | None:
    """Return the column of a shard that a name stands for."""
    have = columns_here(schema).names
    return next((one for one in (name, _bare(name)) if one in have), None)


def is_there(schema: pa.Schema, name: str) -> bool:
    """Return True if a shard with this schema has a column of a name, or JSON members that may have such a field."""
    return _column(schema, name) is not None or field_place(schema, _bare(name)) is not None


def values_of(shard: Shard, row: int, names: Sequence[str]) -> dict[str, object]:
    """Return columns of one row of a shard; those that it lacks, or cannot be read any more, are left out."""
    try:
        found = find_columns([shard], names, ())
        asked = pa.schema([found.field(name) for name in names if name in found.names])
        if not len(asked):
            return {}
        frame = pl.DataFrame({"row": np.array([row], np.int64)})
        (one,) = SourceColumns(shard, as_frame(asked.empty_table()).schema, 1 << 20).beside(frame)
        return {name: value for name, value in one.row(0, named=True).items() if name != "row"}
    except SourceError:
        return {}


def find_columns(
    shards: Iterable[Shard], asked: Sequence[str], known: Sequence[str], numbers: Collection[str] = ()
) -> pa.Schema:
    """Return columns that no table has: those of the first shard, and of others until all `asked` for are found.

    Those that a table of the run has too, and those asked for so, are called ``source.NAME``. numbers : those that are
    compared with numbers: they are numbers also where a format has no types (CSV, folders such as ``year=2024``).
    """
    found: dict[str, pa.Field] = {}
    for shard in shards:
        try:
            schema = ShardReader().schema(shard)
            fields = {field.name: field for field in columns_here(schema)}
            untyped = format_of(shard.format).untyped(shard, schema)
            fields = {name: pa.field(name, kind) for name, kind in fields_of(shard, schema).items()} | fields
        except SourceError:  # the stage that reads it says so, or leaves it out
            continue
        here = {f"{BEFORE}{name}" if name in known else name: field for name, field in fields.items()}
        for name in asked:
            one = fields.get(name) or fields.get(_bare(name))
            place = field_place(schema, _bare(name)) if one is None else None
            if place is not None:
                one = _field_at(shard, schema, place, fields)
            if one is not None:
                number = name in numbers and one.name in untyped and is_string(one.type)
                here[name] = one.with_type(pa.float64()) if number else one
        named = {name: field.with_name(name) for name, field in here.items()}
        # a field that is null in the first rows may have values in another shard
        found = named | {name: field for name, field in found.items() if not pa.types.is_null(field.type)}
        if all(name in found and not pa.types.is_null(found[name].type) for name in asked):
            break
    return pa.schema(list(found.values()))


def _field_at(
    shard: Shard, schema: pa.Schema, place: tuple[str, str], fields: Mapping[str, pa.Field]
) -> pa.Field | None:
    """Return the field at a place within a column; fields : those of the JSON members of a tar."""
    if KEY in schema.names:
        return fields.get(".".join(place)) or fields.get(place[1])
    kind = inner_type(shard, schema, place)
    return None if kind is None else pa.field(".".join(place), kind)


def read_by(conditions: Sequence[object], known: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that conditions in SQL read beyond those of the tables, in order."""
    named = [name for one in conditions if isinstance(one, str) for name in parsed(one).meta.root_names()]
    return tuple(dict.fromkeys(name for name in named if name not in known))


def numbers_of(conditions: Sequence[object]) -> frozenset[str]:
    """Return the columns that conditions in SQL compare with numbers."""
    return frozenset[str]().union(*(numbers_in(one) for one in conditions if isinstance(one, str)))
