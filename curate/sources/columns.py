"""Which column holds what, and what its values are as images, captions, labels, uids and vectors."""

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from curate.errors import SourceError, UsageError
from curate.sources.arrow_types import (
    is_bytes,
    is_image,
    is_image_struct,
    is_label,
    is_list,
    is_list_of_text,
    is_string,
    is_text,
    plain_type,
)
from curate.sources.base import Columns
from curate.sources.vector_columns import from_column

__all__ = [
    "captions_of",
    "check_columns",
    "declared_features",
    "guess_columns",
    "images_of",
    "labels_of",
    "text_vectors_of",
    "uids_of",
    "vector_verdicts",
    "vectors_of",
]

AUTO = "auto"
#: Columns that a message names.
MAX_NAMED = 50

IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "picture", "photo")
PATH_NAMES = ("image", "img", "jpg", "png", "image_path", "img_path", "path", "file_name", "filename", "file")
#: Taken where there is no column of the names above: what open_clip calls its columns.
LATER_PATH_NAMES, LATER_CAPTION_NAMES = ("filepath",), ("title",)
URL_NAMES = ("url", "image_url", "img_url")
CAPTION_NAMES = ("caption", "text", "txt", "captions", "description", "alt_text", "prompt")
LABEL_NAMES = ("label", "labels", "cls", "class", "target", "category", "class_label", "fine_label")


def guess_columns(
    schema: pa.Schema,
    *,
    image: str | None = AUTO,
    caption: str | None = AUTO,
    label: str | None = AUTO,
    uid: str | None = None,
    vector: str | None = None,
    ids_only: bool = False,
) -> Columns:
    """Return which columns hold what; `auto` ones are found by name and type.

    A guess is made only where one column stands out: the one with the usual name, or the only
    candidate. None turns a role off. ids_only : vectors come from elsewhere, so that no image, caption
    or vector is needed. Raises UsageError for a name that is not there, and where neither image nor
    caption nor vector is left.
    """
    text = [field.name for field in schema if is_text(field.type) or is_list_of_text(field.type)]
    features = declared_features(schema.metadata).items()
    classes = [name for name, one in features if isinstance(one, dict) and one.get("_type") == "ClassLabel"]
    labels = [field.name for field in schema if is_label(field.type)]
    columns = Columns(
        image=_guess_image(schema) if image == AUTO else image,
        caption=_guess(text, CAPTION_NAMES) or _guess(text, LATER_CAPTION_NAMES)
        if caption == AUTO
        else caption,
        label=_guess(labels, LABEL_NAMES, also=classes) if label == AUTO else label,
        uid=uid,
        vector=vector,
    )
    check_columns(schema, columns)
    if not ids_only and columns.image is None and columns.caption is None and columns.vector is None:
        raise UsageError(
            "no image, caption or vector column found; name one with source.image, source.caption or "
            f"embed.column; columns: {_present(schema)}"
        )
    return columns


def check_columns(schema: pa.Schema, columns: Columns, where: str | None = None) -> None:
    """Raise UsageError unless every named column is there once and of a type its role can use."""
    prefix = f"{where}: " if where else ""
    roles = {
        "image": (columns.image, _is_image_or_id),
        "caption": (columns.caption, lambda kind: is_text(kind) or is_list_of_text(kind)),
        "label": (columns.label, is_label),
        "uid": (columns.uid, lambda kind: is_text(kind) or pt.is_integer(plain_type(kind))),
        "vector": (columns.vector, lambda kind: True),
        "text vector": (columns.text_vector, lambda kind: True),
    }
    for role, (name, fits) in roles.items():
        if name is None:
            continue
        places = schema.get_all_field_indices(name)
        if not places:
            raise UsageError(f"{prefix}no column {name!r} (for {role}); columns: {_present(schema)}")
        if len(places) > 1:
            raise SourceError(f"{prefix}{len(places)} columns are called {name!r}")
        kind = schema.field(name).type
        if not fits(kind):
            raise UsageError(f"{prefix}column {name!r} cannot be used as {role}: its type is {_short(kind)}")


def _is_image_or_id(kind: pa.DataType) -> bool:
    """Return True if values can be images, paths to them, or whole numbers that a template makes paths of."""
    return is_image(kind) or bool(pt.is_integer(plain_type(kind)))


def _present(schema: pa.Schema) -> str:
    """Return the columns there are, as many as fit a message."""
    known = [f"{field.name[:60]} ({_short(field.type)})" for field in islice(schema, MAX_NAMED)]
    more = [f"and {len(schema) - MAX_NAMED:,} more"] if len(schema) > MAX_NAMED else []
    return ", ".join(known + more) or "none"


def _short(kind: pa.DataType) -> str:
    text = str(plain_type(kind))
    return text if len(text) <= 60 else f"{text[:57]}..."


def _guess_image(schema: pa.Schema) -> str | None:
    """Prefer images that stand in the row over paths, and paths over addresses."""
    structs = [
        f.name for f in schema if is_image_struct(f.type) and "bytes" in {part.name for part in f.type}
    ]
    inline = [field.name for field in schema if is_bytes(field.type)]
    strings = [field.name for field in schema if is_string(field.type)]
    found = _guess(structs + inline, IMAGE_NAMES, also=structs)
    if found or structs or any(name.lower() in IMAGE_NAMES for name in inline):
        return found
    return _guess(strings, PATH_NAMES) or _guess(strings, LATER_PATH_NAMES) or _guess(strings, URL_NAMES)


def _guess(candidates: Sequence[str], names: Sequence[str], also: Sequence[str] = ()) -> str | None:
    """Return the candidate with the first of `names`, else the only one named so (or in `also`)."""
    named = [name for name in candidates if name.lower() in names or name in also]
    usual = [name for name in named if name.lower() == names[0]]
    for fitting in (usual, named):
        if len(fitting) == 1:
            return fitting[0]
    return None


def declared_features(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """Return the Hugging Face features that the metadata of a schema declares, or nothing."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return dict(json.loads((metadata or {})[b"huggingface"])["info"]["features"])
    return {}


def images_of(table: pa.Table, name: str | None) -> tuple[list[bytes | None], list[str | None]]:
    """Return (inline bytes, path) of each row's image."""
    nothing = [None] * table.num_rows
    if name is None:
        return list(nothing), list(nothing)
    column = _plain_column(table, name)
    if pt.is_struct(column.type):
        fields = {field.name for field in column.type}
        data = pc.struct_field(column, "bytes").to_pylist() if "bytes" in fields else list(nothing)
        return data, _texts(pc.struct_field(column, "path")) if "path" in fields else list(nothing)
    if is_bytes(column.type):
        return column.to_pylist(), list(nothing)
    if pt.is_integer(column.type):
        column = column.cast(pa.string())  # ids, which `source.template` makes paths of
    return list(nothing), _texts(column)


def captions_of(table: pa.Table, name: str | None) -> list[str | None]:
    """Return the caption of each row, the first of a list; bytes that are not UTF-8 become U+FFFD."""
    if name is None:
        return [None] * table.num_rows
    column = _plain_column(table, name)
    if not is_list(column.type):
        return _texts(column)
    firsts = (value.values[0] if value.is_valid and len(value.values) else None for value in column)
    data = [None if first is None else first.cast(pa.binary()).as_py() for first in firsts]
    return [None if text is None else text.decode("utf-8", "replace") for text in data]


def labels_of(table: pa.Table, name: str | None) -> list[str | None]:
    """Return the label of each row as text."""
    if name is None:
        return [None] * table.num_rows
    column = _plain_column(table, name)
    if is_text(column.type):
        return _texts(column)
    if pt.is_floating(column.type):
        return [_number_text(value) for value in column.to_pylist()]
    return list(column.cast(pa.string()).to_pylist())


def uids_of(table: pa.Table, name: str | None, start: int, where: str) -> list[str] | None:
    """Return the uid of each row; raises SourceError naming `where` for a null or text that is not UTF-8.

    start : position in the shard of the first row.
    """
    if name is None:
        return None
    column = _plain_column(table, name)
    if pt.is_integer(column.type):
        column = column.cast(pa.string())
    texts: list[str] = []
    try:
        for uid in column.cast(pa.large_binary()).to_pylist():
            if uid is None:
                raise SourceError(f"{where}: row {start + len(texts)}: the uid (column {name!r}) is null")
            texts.append(uid.decode())
    except UnicodeDecodeError:
        raise SourceError(f"{where}: column {name!r} holds a uid that is not valid UTF-8") from None
    return texts


def vectors_of(
    table: pa.Table, name: str | None, dim: int | None
) -> tuple[npt.NDArray[np.float32] | None, Sequence[str | None]]:
    """Return the given embeddings with rows of NaN where unusable, and why they are."""
    if name is None:
        return None, [None] * table.num_rows
    vectors, _, reasons = from_column(table.column(name), name=name, dim=dim)
    return vectors, reasons


def text_vectors_of(
    table: pa.Table, name: str | None, dim: int | None
) -> tuple[npt.NDArray[np.float32] | None, Sequence[str | None]]:
    """Return the given embeddings of captions as `vectors_of`; one that is null is no fault but no caption."""
    vectors, faults = vectors_of(table, name, dim)
    if name is None:
        return vectors, faults
    absent = table.column(name).is_null().to_pylist()
    return vectors, [None if gone else fault for gone, fault in zip(absent, faults, strict=True)]


def vector_verdicts(
    faults: Sequence[str | None], text_faults: Sequence[str | None]
) -> list[tuple[str, str | None]]:
    """Return (outcome, reason) of rows by what is wrong with their vector, else with that of their caption.

    >>> vector_verdicts([None, "the vector is zero"], ["the vector is not finite", None])
    [('bad_vector', 'text: the vector is not finite'), ('bad_vector', 'the vector is zero')]
    """
    pairs = zip(faults, text_faults, strict=True)
    said = [fault or (text and f"text: {text}") for fault, text in pairs]
    return [("bad_vector", reason) if reason else ("ok", None) for reason in said]


def _plain_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    column = table.column(name)
    plain = plain_type(column.type)
    return column if plain == column.type else column.cast(plain)


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    """Return strings; bytes that are not UTF-8 become replacement characters."""
    if pt.is_null(column.type):
        return [None] * len(column)
    if is_string(column.type):
        with contextlib.suppress(UnicodeDecodeError):
            return list(column.to_pylist())
        column = column.cast(pa.large_binary() if pt.is_large_string(column.type) else pa.binary())
    return [None if value is None else value.decode("utf-8", "replace") for value in column.to_pylist()]


def _number_text(value: float | None) -> str | None:
    """Return a label that was stored as a float: 3.0 is the class 3, not a number is no label."""
    if value is None or math.isnan(value):
        return None
    return str(int(value)) if value.is_integer() else str(value)
