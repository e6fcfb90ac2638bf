"""Which column holds what, and what its values are as images, captions, labels, uids and vectors."""

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from curate.errors import SourceError, UsageError
from curate.sources.arrow_types import (
    columns_that,
    is_bytes,
    is_caption,
    is_image,
    is_image_struct,
    is_label,
    is_list,
    is_list_of_labels,
    is_list_of_text,
    is_string,
    is_text,
    plain_type,
)
from curate.sources.base import Columns
from curate.sources.captions import encoded_as, labels_in, plain_values, taken
from curate.sources.text.encoding import decoded
from curate.sources.vector_columns import from_column

__all__ = [
    "AUTO",
    "captions_of",
    "check_columns",
    "class_names",
    "declared_features",
    "guess_columns",
    "images_of",
    "labels_of",
    "not_taken",
    "text_vectors_of",
    "uids_of",
    "vector_verdicts",
    "vectors_of",
]

AUTO = "auto"
#: Columns that a message names.
MAX_NAMED = 50
#: Columns that a hint names.
MAX_HINTED = 8
#: Names that captions beside others have: caption_0, text2, en.txt.
_LIKE_CAPTION = re.compile(
    r"(caption|text|txt|description|prompt)s?[._-]?\d+|.+\.(txt|text|caption)|conversations?|messages"
)

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
    caption: str | Sequence[str] | None = AUTO,
    label: str | None = AUTO,
    uid: str | None = None,
    vector: str | None = None,
    ids_only: bool = False,
) -> Columns:
    """Return which columns hold what; `auto` ones are found by name and type. Captions may be in several.

    A guess is made only where one column stands out: the one with the usual name, or the only
    candidate. None turns a role off. ids_only : vectors come from elsewhere, so that no image, caption
    or vector is needed. Raises UsageError for a name that is not there, and where neither image nor
    caption nor vector is left.
    """
    text = columns_that(schema, is_text, is_list_of_text)
    classes = list(class_names(schema))
    labels = columns_that(schema, is_label)
    first, *more = [caption] if caption is None or isinstance(caption, str) else caption
    columns = Columns(
        image=_guess_image(schema) if image == AUTO else image,
        caption=_guess_caption(schema, text) if first == AUTO else first,
        caption_more=tuple(filter(None, more)),
        label=_guess(labels, LABEL_NAMES, also=classes) if label == AUTO else label,
        uid=uid,
        vector=vector,
    )
    check_columns(schema, columns)
    if not ids_only and columns.image is None and columns.caption is None and columns.vector is None:
        raise UsageError(
            "no image, caption or vector column found; name one with source.image, source.caption or "
            f"embed.column (--set source.image=NAME, --vectors NAME); columns: {_present(schema)}"
        )
    return columns


def check_columns(schema: pa.Schema, columns: Columns, where: str | None = None) -> None:
    """Raise UsageError unless every named column is there and of a type its role can use, SourceError if it is there twice."""
    prefix = f"{where}: " if where else ""
    roles: dict[str, tuple[str | None, Callable[[pa.DataType], bool]]] = {
        "image": (columns.image, _is_image_or_id),
        "label": (columns.label, lambda kind: is_label(kind) or is_list_of_labels(kind)),
        "uid": (columns.uid, lambda kind: is_text(kind) or pt.is_integer(plain_type(kind))),
        "vector": (columns.vector, lambda kind: True),
        "text vector": (columns.text_vector, lambda kind: True),
    }
    named = [(role, name, fits) for role, (name, fits) in roles.items() if name is not None]
    for role, name, fits in [*(("caption", one, is_caption) for one in columns.captions), *named]:
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
    structs = columns_that(
        schema, lambda kind: is_image_struct(kind) and "bytes" in {part.name for part in kind}
    )
    inline, strings = columns_that(schema, is_bytes), columns_that(schema, is_string)
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


def _guess_caption(schema: pa.Schema, text: Sequence[str]) -> str | None:
    """Prefer columns of texts and lists of them over objects that hold captions."""
    objects = [field.name for field in schema if is_caption(field.type)]
    return _guess(text, CAPTION_NAMES) or _guess(objects, CAPTION_NAMES) or _guess(text, LATER_CAPTION_NAMES)


def not_taken(schema: pa.Schema, columns: Columns) -> Iterator[str]:
    """Yield what could have been a caption or label, and why it is none, where a guess found no such column.

    >>> text = pa.schema([("text", pa.string()), ("prompt", pa.string()), ("labels", pa.list_(pa.int64()))])
    >>> for line in not_taken(text, Columns()):
    ...     print(line)
    no caption is taken: text, prompt could be; name one with source.caption, or {of: [text, prompt]}
    no label is taken: labels holds lists; with source.label=labels the first of each counts
    """
    if columns.caption is None:
        named = [
            field.name for field in schema
            if is_caption(field.type) and (field.name.lower() in CAPTION_NAMES or _LIKE_CAPTION.fullmatch(field.name.lower()))
        ]  # fmt: skip
        if named:
            listed, few = ", ".join(named[:MAX_HINTED]), ", ".join(named[:2])
            yield f"no caption is taken: {listed} could be; name one with source.caption, or {{of: [{few}]}}"
    if columns.label is None:
        lists = [f.name for f in schema if is_list_of_labels(f.type) and f.name.lower() in LABEL_NAMES]
        if lists:
            yield f"no label is taken: {lists[0]} holds lists; with source.label={lists[0]} the first of each counts"


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the names of the classes of each column that Hugging Face declares a ClassLabel, by code."""
    found = declared_features(schema.metadata).items()
    return {
        name: [str(one) for one in feature.get("names") or ()]
        for name, feature in found
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }


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


def captions_of(table: pa.Table, columns: Columns) -> tuple[list[str | None], list[tuple[str, ...]]]:
    """Return the caption of each row, and the notes on it: see `captions.taken`."""
    values: list[list[Any]] = []
    notes: list[tuple[str, ...]] = [()] * table.num_rows
    for name in columns.captions:
        column = _plain_column(table, name)
        if is_text(column.type):
            texts, said = _read_texts(column)
            notes = [before + more for before, more in zip(notes, said, strict=True)]
            values.append(texts)
        else:
            values.append(plain_values(column))
    if not values:
        return [None] * table.num_rows, notes
    found = [taken(row, columns.caption_take) for row in zip(*values, strict=True)]
    return [text for text, _ in found], [
        before + more for before, (_, more) in zip(notes, found, strict=True)
    ]


def labels_of(table: pa.Table, name: str | None) -> tuple[list[str | None], list[tuple[str, ...]]]:
    """Return the label of each row as text, and the notes on it; of a list of labels the first.

    The -1 of a ClassLabel says that there is no label.
    """
    if name is None:
        return [None] * table.num_rows, [()] * table.num_rows
    column = _plain_column(table, name)
    if is_list(column.type) or is_text(column.type):
        texts = plain_values(column) if is_list(column.type) else _read_texts(column)[0]
        found = [labels_in(value) for value in texts]
        labels, notes = [_label_text(label) for label, _ in found], [said for _, said in found]
    else:
        numbers = column.to_pylist() if pt.is_floating(column.type) else column.cast(pa.string()).to_pylist()
        labels, notes = [_label_text(value) for value in numbers], [()] * table.num_rows
    if name in class_names(table.schema):
        labels = [None if label == "-1" else label for label in labels]
    return labels, notes


def uids_of(table: pa.Table, name: str | None, start: int, where: str) -> list[str] | None:
    """Return the uid of each row; raises SourceError naming `where` for a null or text that is not UTF-8.

    start : position in the shard of the first row.
    """
    if name is None:
        return None
    column = _plain_column(table, name)
    if pt.is_integer(column.type):
        column = column.cast(pa.string())
    if column.null_count == 0 and is_string(column.type) and _is_utf8(column):
        return list(column.to_pylist())
    texts: list[str] = []
    try:
        for uid in column.cast(pa.large_binary()).to_pylist():
            if uid is None:
                raise SourceError(f"{where}: row {start + len(texts)}: the uid (column {name!r}) is null")
            texts.append(uid.decode())
    except UnicodeDecodeError:
        raise SourceError(f"{where}: column {name!r} holds a uid that is not valid UTF-8") from None
    return texts


def _is_utf8(column: pa.ChunkedArray) -> bool:
    """Return True if all texts of a column are valid UTF-8."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def vectors_of(
    table: pa.Table, name: str | None, dim: int | None
) -> tuple[npt.NDArray[np.float32] | None, Sequence[str | None]]:
    """Return the given embeddings, (n, d), with rows of NaN where unusable, and why they are; None without a column."""
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


def _read_texts(column: pa.ChunkedArray) -> tuple[list[str | None], list[tuple[str, ...]]]:
    """Return texts or bytes as strings, and as notes which are in an encoding other than UTF-8."""
    if is_string(column.type):
        with contextlib.suppress(UnicodeDecodeError):
            return list(column.to_pylist()), [()] * len(column)
    if pt.is_null(column.type):
        return [None] * len(column), [()] * len(column)
    texts: list[str | None] = []
    notes: list[tuple[str, ...]] = []
    for data in column.cast(pa.large_binary()).to_pylist():
        text, encoding = (None, None) if data is None else _text(data, marked=not is_string(column.type))
        texts.append(text)
        notes.append(() if encoding is None else (encoded_as(encoding),))
    return texts, notes


def _text(data: bytes, *, marked: bool) -> tuple[str, str | None]:
    """Return (text, encoding); marked : a byte order mark is none of the text, as in files."""
    if not marked:
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode("utf-8"), None
    return decoded(data)


def _label_text(value: Any) -> str | None:  # noqa: ANN401  (any label)
    """Return a label as text; one that was stored as a float 3.0 is the class 3, not a number is no label."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return decoded(value)[0]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else str(value)
    return str(value)
