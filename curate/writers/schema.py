"""The one schema of all files that are written together, from the schemas of the shards they are made of."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from curate.errors import SourceError, UsageError
from curate.sources.arrow_types import is_binary, is_string, plain_type
from curate.sources.base import RowReader, Shard
from curate.sources.columns import declared_features
from curate.sources.registry import check_unchanged

__all__ = ["HF_DTYPES", "JoinedSchema", "output_schema", "schemas_apart"]

NO_EXTRA = pa.schema([])

#: Characters of a type in a line for people.
_MAX_SAID = 80

#: How Hugging Face calls plain types.
HF_DTYPES = {
    pa.bool_(): "bool",
    pa.string(): "string",
    pa.large_string(): "large_string",
    pa.float16(): "float16",
    pa.float32(): "float32",
    pa.float64(): "float64",
    **{getattr(pa, name)(): name for name in ("int8", "int16", "int32", "int64")},
    **{getattr(pa, f"u{name}")(): f"u{name}" for name in ("int8", "int16", "int32", "int64")},
}


class JoinedSchema:
    """The columns of several shards under one schema: types that hold the values of all of them unchanged.

    by_values : also types that hold them unchanged as long as no value is out of their range (whole numbers of 64 bits
    beside floats, times of another unit); the names of such columns are then in `by_value`.
    """

    def __init__(self, *, by_values: bool = True) -> None:
        self.by_value: set[str] = set()
        self.fields: dict[str, pa.Field] = {}
        self._by_values = by_values
        self._origin: dict[str, tuple[Shard, pa.DataType]] = {}
        self._kinds: dict[str, dict[str, None]] = {}
        self._found: Counter[str] = Counter()
        self._features: dict[str, Any] = {}
        self._metadata: dict[bytes, bytes] | None = None
        self._n_shards = 0

    def add(self, shard: Shard, schema: pa.Schema) -> None:
        """Join the columns of one more shard; raises SourceError, and changes nothing, where types do not fit."""
        _check_unique(schema, shard)
        joined, by_value = {}, set()
        for new in schema:
            old = self.fields.get(new.name, new)
            joined[new.name], ranged = self._joined(old, new, shard)
            by_value |= {new.name} if ranged else set()
        self.fields |= joined
        self.by_value |= by_value
        for new in schema:
            self._origin.setdefault(new.name, (shard, new.type))
            if not pt.is_null(new.type):
                self._kinds.setdefault(new.name, {})[_said(new.type)] = None
        self._found.update(schema.names)
        self._features = {**declared_features(schema.metadata), **self._features}
        self._metadata = self._metadata or schema.metadata
        self._n_shards += 1

    def _joined(self, old: pa.Field, new: pa.Field, shard: Shard) -> tuple[pa.Field, bool]:
        kind, ranged = _common(old.type, new.type)
        if kind is None or (ranged and not self._by_values):
            first, written = self._origin[old.name]
            raise SourceError(
                f"column {old.name!r} is {written} in {first.url} but {new.type} in {shard.url}; "
                "shards that are written together need types that fit: convert one of them, or write the shards of "
                "each schema by themselves with write.schemas: apart"
            )
        return old.with_type(kind).with_nullable(old.nullable or new.nullable), ranged

    def told(self) -> list[str]:
        """Return one line per column of different types: those it has, and the one that holds the values of all."""
        return [
            f"column {name!r} is {' and '.join(kinds)} in different shards, and written as {_said(self.fields[name].type)}"
            for name, kinds in self._kinds.items()
            if len(kinds) > 1
        ]

    def whole(self, extra: pa.Schema = NO_EXTRA) -> pa.Schema:
        """Return the one schema: columns that some shards lack may be null, then come those of `extra`."""
        fields, features = dict(self.fields), dict(self._features)
        for name, one in fields.items():
            if self._found[name] < self._n_shards:
                fields[name] = one.with_nullable(True)
            if self._n_shards > 1:
                fields[name] = fields[name].with_type(_wide_index(one.type))
            told = features.get(name)
            if isinstance(told, dict) and told.get("_type") == "Value" and one.type != self._origin[name][1]:
                features[name] = {**told, "dtype": HF_DTYPES.get(one.type, told.get("dtype"))}
        for one in extra:
            if one.name in fields:
                raise UsageError(
                    f"write.columns: the source already has a column {one.name!r}; rename or leave out one"
                )
            if one.type in HF_DTYPES:
                features[one.name] = {"dtype": HF_DTYPES[one.type], "_type": "Value"}
        return pa.schema([*fields.values(), *extra], _with_features(self._metadata, features))


def _said(kind: pa.DataType) -> str:
    """Return a type as it is told: how texts and bytes are stored, and a long list of fields, are left out."""
    text = str(_alike(kind))
    return text if len(text) <= _MAX_SAID else f"{text[:_MAX_SAID]}..."


def _alike(kind: pa.DataType) -> pa.DataType:
    kind = plain_type(kind)
    if pt.is_struct(kind):
        return pa.struct([(field.name, _alike(field.type)) for field in kind])
    if pt.is_list(kind) or pt.is_large_list(kind):
        return pa.list_(_alike(kind.value_type))
    return pa.string() if is_string(kind) else pa.binary() if is_binary(kind) else kind


def output_schema(reader: RowReader, shards: Iterable[Shard], extra: pa.Schema = NO_EXTRA) -> pa.Schema:
    """Return the one schema of all output files: the columns of the first shard, in its order.

    Columns that only later shards have follow (null where a shard lacks them), then `extra`. Types are joined where
    one holds the values of both unchanged (`JoinedSchema`); others raise SourceError naming both files. The
    ``huggingface`` features cover every column.
    """
    joined = JoinedSchema()
    for shard in shards:
        check_unchanged(shard)
        joined.add(shard, reader.schema(shard))
    return joined.whole(extra)


def schemas_apart(
    reader: RowReader, shards: Iterable[Shard], extra: pa.Schema = NO_EXTRA
) -> list[tuple[frozenset[str], pa.Schema]]:
    """Return the names of shards whose columns fit each other, group by group, each group with its schema.

    A shard goes to the first group that it fits.
    """
    groups: list[tuple[set[str], JoinedSchema]] = []
    for shard in shards:
        check_unchanged(shard)
        schema = reader.schema(shard)
        _check_unique(schema, shard)
        for names, joined in groups:
            with contextlib.suppress(SourceError):
                joined.add(shard, schema)
                names.add(shard.name)
                break
        else:
            joined = JoinedSchema(by_values=False)
            joined.add(shard, schema)
            groups.append(({shard.name}, joined))
    groups = groups or [(set(), JoinedSchema())]
    return [(frozenset(names), joined.whole(extra)) for names, joined in groups]


def _check_unique(schema: pa.Schema, shard: Shard) -> None:
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise SourceError(
            f"{shard.url}: several columns are called {twice!r}, which cannot be written again; rename one of them"
        )


#: A type that holds the values of two others, and whether that depends on the values.
_Common = tuple[pa.DataType | None, bool]


def _common(a: pa.DataType, b: pa.DataType) -> _Common:
    """Return the type that holds the values of both unchanged, or None; and whether only values in its range are."""
    if a == b or pt.is_null(b):
        return a, False
    if pt.is_null(a):
        return b, False
    a, b = plain_type(a), plain_type(b)
    if a == b or any(fits(a) and fits(b) for fits in (is_string, is_binary)):
        return a, False
    if pt.is_struct(a) and pt.is_struct(b):
        return _common_struct(a, b)
    if all(pt.is_list(one) or pt.is_large_list(one) or pt.is_fixed_size_list(one) for one in (a, b)):
        return _common_list(a, b)
    if pt.is_decimal(a) and pt.is_decimal(b):
        return _common_decimal(a, b), False
    if all(pt.is_integer(one) or pt.is_floating(one) for one in (a, b)):
        return _common_number(a, b)
    if pt.is_date(a) and pt.is_date(b):
        return pa.date64(), False
    return _common_time(a, b)


def _common_number(a: pa.DataType, b: pa.DataType) -> _Common:
    """Join whole numbers and floats: a float holds whole numbers of fewer bits than its mantissa has."""
    for fits in (pt.is_signed_integer, pt.is_unsigned_integer, pt.is_floating):
        if fits(a) and fits(b):
            return (a if a.bit_width >= b.bit_width else b), False
    if pt.is_floating(a) or pt.is_floating(b):
        number, real = (a, b) if pt.is_integer(a) else (b, a)
        for kind, bits in ((pa.float16(), 11), (pa.float32(), 24), (pa.float64(), 53)):
            if kind.bit_width >= real.bit_width and number.bit_width <= bits:
                return kind, False
        return pa.float64(), True
    signed, unsigned = (a, b) if pt.is_signed_integer(a) else (b, a)
    width = max(signed.bit_width, 2 * unsigned.bit_width)
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(width, pa.int64()), width > 64


def _common_struct(a: pa.StructType, b: pa.StructType) -> _Common:
    """Join structs by the names of their fields; one that only one of them has is null in the other."""
    others = {field.name: field for field in b}
    if len(others) < b.num_fields or len({field.name for field in a}) < a.num_fields:
        return None, False
    fields, by_value = [], False
    for field in [*a, *(field for field in b if field.name not in {one.name for one in a})]:
        kind, ranged = _common(field.type, others.get(field.name, field).type)
        if kind is None:
            return None, False
        fields.append(field.with_type(kind).with_nullable(True))
        by_value |= ranged
    return pa.struct(fields), by_value


def _common_list(a: pa.DataType, b: pa.DataType) -> _Common:
    """Join lists by their items; of fixed lengths only where both have the same."""
    kind, by_value = _common(a.value_type, b.value_type)
    if kind is None:
        return None, False
    item = a.value_field.with_type(kind).with_nullable(True)
    if pt.is_fixed_size_list(a) and pt.is_fixed_size_list(b) and a.list_size == b.list_size:
        return pa.list_(item, a.list_size), by_value
    large = pt.is_large_list(a) or pt.is_large_list(b)
    return (pa.large_list(item) if large else pa.list_(item)), by_value


def _common_decimal(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    scale = max(a.scale, b.scale)
    digits = max(a.precision - a.scale, b.precision - b.scale) + scale
    return (
        pa.decimal128(digits, scale)
        if digits <= 38
        else pa.decimal256(digits, scale)
        if digits <= 76
        else None
    )


_UNITS = ("s", "ms", "us", "ns")


def _common_time(a: pa.DataType, b: pa.DataType) -> _Common:
    """Join times of one kind by the finer unit; far dates have no place among nanoseconds."""
    if pt.is_time(a) and pt.is_time(b):
        unit = max(a.unit, b.unit, key=_UNITS.index)
        return (pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)), False
    if pt.is_timestamp(a) and pt.is_timestamp(b) and a.tz == b.tz:
        return pa.timestamp(max(a.unit, b.unit, key=_UNITS.index), a.tz), True
    if pt.is_duration(a) and pt.is_duration(b):
        return pa.duration(max(a.unit, b.unit, key=_UNITS.index)), True
    return None, False


def _wide_index(kind: pa.DataType) -> pa.DataType:
    """Return a dictionary type whose indices have room for the values of many shards."""
    return pa.dictionary(pa.int32(), kind.value_type) if pt.is_dictionary(kind) else kind


def _with_features(
    metadata: dict[bytes, bytes] | None, features: Mapping[str, Any]
) -> dict[bytes, bytes] | None:
    """Return the metadata with `features` declared; untouched where it declares none, or all of them."""
    declared = declared_features(metadata)
    if metadata is None or not declared or declared == features:
        return metadata
    content = json.loads(metadata[b"huggingface"])
    content["info"]["features"] = {
        **declared,
        **features,
    }
    return {**metadata, b"huggingface": json.dumps(content).encode()}
