"""What kind of values an Arrow type holds, however they are stored (dictionaries, views, large offsets)."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.types as pt

__all__ = [
    "columns_that",
    "has_view",
    "is_binary",
    "is_bytes",
    "is_caption",
    "is_image",
    "is_image_struct",
    "is_label",
    "is_list",
    "is_list_of_labels",
    "is_list_of_text",
    "is_string",
    "is_text",
    "plain_schema",
    "plain_type",
    "storable",
    "storable_type",
]


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that holds the same values without dictionaries and views, which few kernels take.

    List views stay: PyArrow 26 casts them to lists with wrong values.
    """
    if pt.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pt.is_string_view(kind):
        return pa.large_string()
    if pt.is_binary_view(kind):
        return pa.large_binary()
    return _nested(kind, plain_type)


def _nested(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """Return `kind` with the types inside it changed."""
    if pt.is_struct(kind):
        return pa.struct([field.with_type(change(field.type)) for field in kind])
    if pt.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(change(kind.value_type)), kind.list_size)
    if pt.is_list(kind):
        return pa.list_(kind.value_field.with_type(change(kind.value_type)))
    if pt.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(change(kind.value_type)))
    return kind


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return `schema` with all its types plain; names and metadata stay."""
    return pa.schema([field.with_type(plain_type(field.type)) for field in schema], schema.metadata)


def storable_type(kind: pa.DataType) -> pa.DataType:
    """Return the type with dictionaries of plain values: those of views (Polars writes them) no kernel takes."""
    if pt.is_dictionary(kind):
        return pa.dictionary(kind.index_type, plain_type(kind.value_type), kind.ordered)
    return _nested(kind, storable_type)


def storable(array: pa.Array) -> pa.Array:
    """Return the values of an array, which begins at its first, in its `storable_type`."""
    wanted = storable_type(array.type)
    if wanted == array.type:
        return array
    if pt.is_dictionary(wanted):
        words = array.dictionary.cast(wanted.value_type)
        return pa.DictionaryArray.from_arrays(array.indices, words, ordered=wanted.ordered)
    nulls = array.is_null()
    if pt.is_struct(wanted):
        inside = [storable(array.field(place)) for place in range(wanted.num_fields)]
        return pa.StructArray.from_arrays(inside, fields=list(wanted), mask=nulls)
    if pt.is_fixed_size_list(wanted):
        return pa.FixedSizeListArray.from_arrays(storable(array.values), type=wanted, mask=nulls)
    return type(array).from_arrays(array.offsets, storable(array.values), type=wanted, mask=nulls)


def is_binary(kind: pa.DataType) -> bool:
    """Return True if values are bytes, each of its own length."""
    kind = plain_type(kind)
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Return True if values are bytes, each of its own length or all of one."""
    return is_binary(kind) or bool(pt.is_fixed_size_binary(plain_type(kind)))


def is_string(kind: pa.DataType) -> bool:
    """Return True if values are strings."""
    kind = plain_type(kind)
    return bool(pt.is_string(kind) or pt.is_large_string(kind))


def is_text(kind: pa.DataType) -> bool:
    """Return True if values are strings, bytes that may be text, or nothing but nulls."""
    return is_string(kind) or is_bytes(kind) or bool(pt.is_null(kind))


def is_list(kind: pa.DataType) -> bool:
    """Return True if values are lists, however they are stored."""
    lists = pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)
    return bool(lists or pt.is_list_view(kind) or pt.is_large_list_view(kind))


def is_list_of_text(kind: pa.DataType) -> bool:
    """Return True if values are lists of strings or bytes."""
    kind = plain_type(kind)
    return is_list(kind) and is_text(kind.value_type)


def is_caption(kind: pa.DataType) -> bool:
    """Return True if values can be captions: text, an object with text in it, or lists of such."""
    kind = plain_type(kind)
    if is_list(kind):
        return is_caption(kind.value_type)
    if pt.is_struct(kind):
        return any(is_string(field.type) or _is_list_of(field.type, is_caption) for field in kind)
    return is_text(kind)


def _is_list_of(kind: pa.DataType, fits: Callable[[pa.DataType], bool]) -> bool:
    return is_list(kind) and fits(plain_type(kind).value_type)


def is_list_of_labels(kind: pa.DataType) -> bool:
    """Return True if values are lists of what can name a class."""
    return _is_list_of(kind, is_label)


def is_label(kind: pa.DataType) -> bool:
    """Return True if values can name a class: text, numbers, truth values, dates and times."""
    kind = plain_type(kind)
    numbers = pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind) or pt.is_boolean(kind)
    return is_text(kind) or bool(numbers or pt.is_date(kind) or pt.is_timestamp(kind))


def is_image_struct(kind: pa.DataType) -> bool:
    """Return True if values are structs of bytes, a path, or both: images as Hugging Face stores them."""
    if not pt.is_struct(kind):
        return False
    fields = {field.name: field.type for field in kind}
    given = [name for name in ("bytes", "path") if name in fields]
    fits = {"bytes": is_bytes, "path": is_string}
    return bool(given) and all(pt.is_null(fields[name]) or fits[name](fields[name]) for name in given)


def is_image(kind: pa.DataType) -> bool:
    """Return True if values can be images or the paths to them."""
    return is_image_struct(kind) or is_text(kind)


def has_view(kind: pa.DataType) -> bool:
    """Return True if values are views of strings or bytes, or have such inside."""
    if kind.num_fields:
        return any(has_view(kind.field(place).type) for place in range(kind.num_fields))
    return bool(pt.is_string_view(kind) or pt.is_binary_view(kind))


def columns_that(schema: pa.Schema, *fit: Callable[[pa.DataType], bool]) -> list[str]:
    """Return the columns whose values are of one of the kinds asked for, in the order of the schema."""
    return [field.name for field in schema if any(one(field.type) for one in fit)]
