"""Fields of the JSON members of tars as columns: ``punsafe`` of ``000001.json``, as img2dataset and others write them.

A field within another goes by its path (``json.meta.score``), and so does one within a column of structs or of texts that are
JSON (``source.meta.score``). The type of a field is that of its values in the first rows
of the first shard that has it; another value is made one of that type where it is exact, and is null where it is not.
"""

import json
import math
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.types as pt

from curate.sources.arrow_types import is_string, plain_type
from curate.sources.base import Columns, Shard
from curate.sources.registry import ShardReader, format_of
from curate.sources.tar.roles import KEY
from curate.sources.text.encoding import decoded, storable

__all__ = ["PEEKED_ROWS", "column_of", "field_place", "fields_of", "inner_type"]

#: Rows of a shard that are looked at for what fields there are.
PEEKED_ROWS = 1_000
MAX_FIELDS = 1_000
_BATCH_BYTES = 16 << 20
_MEMBER = re.compile(r"((?:.*?\.)?json)\.(.+)")
#: Whole numbers that float64 holds exactly.
_EXACT = 2**53
_KEPT = 8
#: Types of single values in structs, and the one they are read as.
_SINGLE = (
    (pt.is_boolean, pa.bool_()), (is_string, pa.string()), (pt.is_uint64, pa.float64()), (pt.is_integer, pa.int64()),
    (pt.is_floating, pa.float64()),
)  # fmt: skip
_PEEKED: OrderedDict[tuple[str, str], dict[str, pa.DataType]] = OrderedDict()


def field_place(schema: pa.Schema, name: str) -> tuple[str, str] | None:
    """Return (column, path of the field) that a name stands for: a JSON member of tars, or what holds objects elsewhere.

    None where it can be none: elsewhere the column stands before the field, and is a struct or text.

    >>> tar = pa.schema([("__key__", pa.string()), ("a.json", pa.string())])
    >>> table = pa.schema([("meta", pa.struct([("w", pa.int32())])), ("n", pa.int32())])
    >>> field_place(tar, "punsafe"), field_place(tar, "a.json.x.y"), field_place(table, "meta.w"), field_place(table, "n.w")
    (('a.json', 'punsafe'), ('a.json', 'x.y'), ('meta', 'w'), None)
    """
    names = schema.names
    if KEY not in names:
        return _inner_place(schema, name)
    members = [one for one in names if one == "json" or one.endswith(".json")]
    if (named := _MEMBER.fullmatch(name)) and named[1] in members:
        return named[1], named[2]
    if "json" in members or len(members) == 1:
        return "json" if "json" in members else members[0], name
    return None


def _inner_place(schema: pa.Schema, name: str) -> tuple[str, str] | None:
    for dot in (one.start() for one in re.finditer(r"\.", name)):
        if schema.names.count(name[:dot]) == 1:
            kind = plain_type(schema.field(name[:dot]).type)
            if pt.is_struct(kind) or is_string(kind):
                return name[:dot], name[dot + 1 :]
    return None


def inner_type(shard: Shard, schema: pa.Schema, place: tuple[str, str]) -> pa.DataType | None:
    """Return the type of the values of a field in a column; None where no row has it, or it is no single value.

    That of a struct is told by the schema, that of texts by the first rows.
    """
    column, path = place
    kind = plain_type(schema.field(column).type)
    if not pt.is_struct(kind):
        rows = np.arange(min(PEEKED_ROWS, format_of(shard.format).reader(Columns(), False).count(shard)))
        tables = ShardReader().read_rows(shard, rows, batch_bytes=_BATCH_BYTES, columns=[column])
        found = [_at(one, path) for table in tables for one in _objects(table.column(column))]
        kinds = {_kind(value) for value in found if value is not None and not isinstance(value, list | dict)}
        return _type(kinds) if kinds else None
    for name in path.split("."):
        if not pt.is_struct(kind) or kind.get_field_index(name) < 0:
            return None
        kind = kind.field(name).type
    return next((one for fits, one in _SINGLE if fits(kind)), None)


def fields_of(shard: Shard, schema: pa.Schema) -> dict[str, pa.DataType]:
    """Return the fields in the JSON members of the first rows of a tar, with their types: empty where it has none.

    Fields of fields, and those of one of several members, have the name of the member before them. Lists are no columns.
    """
    key = (shard.url, shard.version)
    if key not in _PEEKED:
        _PEEKED[key] = _peeked(shard, schema)
        while len(_PEEKED) > _KEPT:
            _PEEKED.popitem(last=False)
    return _PEEKED[key]


def _peeked(shard: Shard, schema: pa.Schema) -> dict[str, pa.DataType]:
    members = [
        one for one in schema.names if KEY in schema.names and field_place(schema, f"{one}.x") == (one, "x")
    ]
    if not members:
        return {}
    seen: dict[str, set[str]] = {}
    rows = np.arange(min(PEEKED_ROWS, format_of(shard.format).reader(Columns(), False).count(shard)))
    for table in ShardReader().read_rows(shard, rows, batch_bytes=_BATCH_BYTES, columns=members):
        for member in members:
            alone = member == "json" or len(members) == 1
            for found in _objects(table.column(member)):
                for path, value in _leaves(found):
                    name = path if alone and "." not in path else f"{member}.{path}"
                    if len(seen) < MAX_FIELDS or name in seen:
                        seen.setdefault(name, set()).add(_kind(value))
    return {name: _type(kinds) for name, kinds in seen.items()}


def column_of(texts: pa.ChunkedArray, path: str, kind: pl.DataType) -> pl.Series:
    """Return a field of JSON texts or structs, null where it is not there, or of another type."""
    values = [_as(kind, _at(found, path)) for found in _objects(texts)]
    return pl.Series(values, dtype=kind)


def _objects(texts: pa.ChunkedArray) -> Iterable[Mapping[str, object]]:
    """Yield the object of each text, or struct; an empty one where it is none."""
    if pt.is_struct(plain_type(texts.type)):
        yield from (found or {} for found in texts.to_pylist())
        return
    for data in texts.cast(pa.large_binary()).to_pylist():
        try:
            found = json.loads(decoded(data)[0]) if data else {}
        except (ValueError, RecursionError):
            found = {}
        yield found if isinstance(found, dict) else {}


def _leaves(found: Mapping[str, object], before: str = "") -> Iterable[tuple[str, object]]:
    for name, value in found.items():
        if isinstance(value, dict) and before.count(".") < 8:
            yield from _leaves(value, f"{before}{name}.")
        elif not isinstance(value, list | dict):
            yield f"{before}{name}", value


def _at(found: Mapping[str, object], path: str) -> object:
    """Return the value at a path: names with dots in them come before fields of fields."""
    if path in found:
        return found[path]
    for place in (one.start() for one in re.finditer(r"\.", path)):
        inner = found.get(path[:place])
        if isinstance(inner, dict) and (value := _at(inner, path[place + 1 :])) is not None:
            return value
    return None


def _kind(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return "int" if abs(value) <= _EXACT else "long" if -(2**63) <= value < 2**63 else "text"
    return {bool: "bool", float: "float", str: "text"}.get(type(value), "null")


def _type(kinds: set[str]) -> pa.DataType:
    kinds = kinds - {"null"}
    if not kinds:
        return pa.null()
    if kinds == {"bool"}:
        return pa.bool_()
    if kinds <= {"int", "long"} and "long" in kinds:
        return pa.int64()
    return pa.float64() if kinds <= {"int", "long", "float"} else pa.string()


def _as(kind: pl.DataType, value: object) -> object:
    """Return a value as one of a type; None where it is none."""
    if value is None or isinstance(value, list | dict):
        return None
    if kind == pl.String:
        return storable(value) if isinstance(value, str) else json.dumps(value)
    if kind == pl.Boolean:
        return value if isinstance(value, bool) else None
    if not isinstance(value, int | float | str) or isinstance(value, bool) or kind == pl.Null:
        return None
    try:
        number = float(value) if isinstance(value, str) else value
        if kind == pl.Int64:
            return int(number) if int(number) == number and -(2**63) <= number < 2**63 else None
        return float(number) if math.isfinite(number) else None
    except (ValueError, OverflowError):
        return None
