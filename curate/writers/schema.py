"""The one schema of all files that are written together, from the schemas of the shards they are made of."""

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

__all__ = ["HF_DTYPES", "output_schema"]

NO_EXTRA = pa.schema([])

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


def output_schema(reader: RowReader, shards: Iterable[Shard], extra: pa.Schema = NO_EXTRA) -> pa.Schema:
    """Return the one schema of all output files: the columns of the first shard, in its order.

    Columns that only later shards have follow (null where a shard lacks them), then `extra`. Types
    that differ in width only are joined (int32 and int64, string and large_string, null and any);
    others raise SourceError naming both files. The ``huggingface`` features cover every column.
    """
    shards = list(shards)
    fields: dict[str, pa.Field] = {}
    origin: dict[str, Shard] = {}
    found: Counter[str] = Counter()
    features: dict[str, Any] = {}
    metadata: dict[bytes, bytes] | None = None
    for shard in shards:
        check_unchanged(shard)
        schema = reader.schema(shard)
        _check_unique(schema, shard)
        for new in schema:
            old = fields.setdefault(new.name, new)
            fields[new.name] = _joined(old, new, origin.setdefault(new.name, shard), shard)
        found.update(schema.names)
        features = {**declared_features(schema.metadata), **features}
        metadata = metadata or schema.metadata
    for name, one in fields.items():
        if found[name] < len(shards):
            fields[name] = one.with_nullable(True)
        if len(shards) > 1:
            fields[name] = fields[name].with_type(_wide_index(one.type))
    for one in extra:
        if one.name in fields:
            raise UsageError(
                f"write.columns: the source already has a column {one.name!r}; rename or leave out one"
            )
        if one.type in HF_DTYPES:
            features[one.name] = {"dtype": HF_DTYPES[one.type], "_type": "Value"}
    return pa.schema([*fields.values(), *extra], _with_features(metadata, features))


def _check_unique(schema: pa.Schema, shard: Shard) -> None:
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise SourceError(f"{shard.url}: several columns are called {twice!r}")


def _joined(old: pa.Field, new: pa.Field, first: Shard, second: Shard) -> pa.Field:
    kind = _common(old.type, new.type)
    if kind is None:
        raise SourceError(
            f"column {old.name!r} is {old.type} in {first.url} but {new.type} in {second.url}; "
            "shards that are written together need types that fit"
        )
    return old.with_type(kind).with_nullable(old.nullable or new.nullable)


def _common(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """Return the type that holds the values of both unchanged, or None."""
    if a == b or pt.is_null(b):
        return a
    if pt.is_null(a):
        return b
    a, b = plain_type(a), plain_type(b)
    if a == b:
        return a
    if any(fits(a) and fits(b) for fits in (is_string, is_binary)):
        return a
    for fits in (pt.is_signed_integer, pt.is_unsigned_integer, pt.is_floating):
        if fits(a) and fits(b):
            return a if a.bit_width >= b.bit_width else b
    if pt.is_struct(a) and pt.is_struct(b) and [f.name for f in a] == [f.name for f in b]:
        kinds = [_common(x.type, y.type) for x, y in zip(a, b, strict=True)]
        if None not in kinds:
            return pa.struct(
                [f.with_type(kind).with_nullable(True) for f, kind in zip(a, kinds, strict=True)]
            )
    if all(pt.is_list(kind) or pt.is_large_list(kind) for kind in (a, b)):
        kind = _common(a.value_type, b.value_type)
        large = pt.is_large_list(a) or pt.is_large_list(b)
        item = None if kind is None else a.value_field.with_type(kind).with_nullable(True)
        return None if item is None else pa.large_list(item) if large else pa.list_(item)
    return None


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
        **{name: features[name] for name in features if name not in declared},
    }
    return {**metadata, b"huggingface": json.dumps(content).encode()}
