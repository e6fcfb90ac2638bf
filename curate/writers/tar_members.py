"""The members that a row becomes in a tar: bytes as they stand, with suffixes that say what they are."""

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from curate.sources import references
from curate.sources.addresses import UrlAccess
from curate.sources.arrow_types import is_bytes, is_list, is_string, is_text, plain_schema, plain_type
from curate.sources.base import Columns, Shard
from curate.sources.columns import captions_of, class_names, images_of

__all__ = ["KEY", "Row", "image_suffix", "rows_of", "safe_key"]

#: The column that holds the key of a sample where the source is a tar.
KEY = "__key__"
#: Where added columns go beside members that are copied as they stand.
EXTRA_SUFFIX = "curate.json"
UNKNOWN_IMAGE = "bin"
PARALLEL_READS = 16

#: The first bytes of image files, and the suffix they go by.
_MAGIC = (
    (b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"GIF8", "gif"), (b"BM", "bmp"),
    (b"II*\0", "tif"), (b"MM\0*", "tif"), (b"\0\0\0\x0cjP  ", "jp2"), (b"\xff\x4f\xff\x51", "j2k"),
    (b"\0\0\0\x0cJXL ", "jxl"), (b"\xff\x0a", "jxl"), (b"P6", "ppm"), (b"P5", "pgm"), (b"P4", "pbm"),
    (b"\0\0\1\0", "ico"), (b"8BPS", "psd"),
)  # fmt: skip
_BRANDS = {b"avif": "avif", b"avis": "avif", b"heic": "heic", b"heix": "heic", b"mif1": "heic"}
#: A suffix that keeps a member inside its folder and its sample.
_SUFFIX = re.compile(r"[^/\\\0]+")
_UNSAFE_KEY = re.compile(r"(^|/)(\.\.?)?(/|$)|[\\\0]|[^/]*\.[^/]*$")


@dataclass(frozen=True)
class Row:
    """One sample of a tar.

    key : the one it has in the source, None where there is none that is fit. members : (suffix, bytes), in
    order. missing : why there is no image though the row names one, else None.
    """

    key: str | None
    members: Sequence[tuple[str, bytes]]
    missing: str | None = None


def image_suffix(data: bytes) -> str:
    """Return the suffix that fits what an image is, by its first bytes.

    >>> image_suffix(b"RIFF....WEBPVP8 "), image_suffix(b"?")
    ('webp', 'bin')
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], UNKNOWN_IMAGE)
    return next((suffix for magic, suffix in _MAGIC if data.startswith(magic)), UNKNOWN_IMAGE)


def safe_key(key: str | None) -> str | None:
    """Return a key of the source if members named so stay inside the tar's folder and together, else None.

    >>> safe_key("a/000017"), safe_key("../x"), safe_key("/x"), safe_key("a.b")
    ('a/000017', None, None, None)
    """
    return None if not key or _UNSAFE_KEY.search(key) else key


def rows_of(
    table: pa.Table, shard: Shard, columns: Columns, extra: pa.Table | None, *, allow_url: UrlAccess | bool
) -> Iterator[Row]:
    """Yield the members of each row of `table`.

    A table of tar members (`__key__`, and a column per suffix) gives them back as they are; of any other,
    image and caption become members and all else is JSON. extra : columns to add, row by row.
    """
    added = [{}] * table.num_rows if extra is None else _values(extra)
    if _is_tar(table.schema):
        yield from _tar_rows(table, columns, added)
    else:
        yield from _column_rows(table, shard, columns, added, allow_url=allow_url)


def _is_tar(schema: pa.Schema) -> bool:
    members = [field for field in schema if not field.name.startswith("__")]
    fits = all(
        _SUFFIX.fullmatch(field.name)
        and (is_bytes(field.type) or is_string(field.type) or pt.is_null(field.type))
        for field in members
    )
    return KEY in schema.names and fits


def _tar_rows(table: pa.Table, columns: Columns, added: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    caption = (columns.caption or "").partition(";")[0]
    names = [name for name in table.column_names if not name.startswith("__")]
    keys = _raw(table.column(KEY))
    values_of = [_raw(table.column(name)) for name in names]
    for place, (key, more) in enumerate(zip(keys, added, strict=True)):
        values = zip(names, (column[place] for column in values_of), strict=True)
        members = [
            (name, data or b"") for name, data in values if data is not None or (name == caption and key)
        ]
        if more:
            members.append((EXTRA_SUFFIX, _json(more)))
        yield Row(safe_key(None if key is None else key.decode("utf-8", "replace")), members)


def _column_rows(
    table: pa.Table,
    shard: Shard,
    columns: Columns,
    added: Sequence[Mapping[str, Any]],
    *,
    allow_url: UrlAccess | bool,
) -> Iterator[Row]:
    images, paths = images_of(table, columns.image)
    texts, more = _caption_texts(table, columns)
    drop = [columns.image, None if any(more) else columns.caption]
    others = _values(table.select([name for name in table.column_names if name not in drop]))

    for name, names in class_names(table.schema).items():
        called = f"{name}_name"
        for values in others if called not in table.column_names else ():
            code = values.get(name)
            if isinstance(code, int) and 0 <= code < len(names):
                values[called] = names[code]

    def fetched(place: int) -> tuple[bytes | None, str | None]:
        path = paths[place]
        if images[place] is not None or path is None:
            return images[place], None
        data, _, why = references.follow(
            path, shard.url, shard.storage_options, allow_url=allow_url, access=shard.access
        )
        return data, why

    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        for start in range(0, table.num_rows, PARALLEL_READS):  # bounds how many fetched images are held
            block = range(start, min(start + PARALLEL_READS, table.num_rows))
            results = (
                pool.map(fetched, block) if any(images[one] is None for one in block) else map(fetched, block)
            )
            for place, (image, missing) in zip(block, results, strict=True):
                members = [(image_suffix(image), image)] if image else []
                text = texts[place]
                if columns.caption is not None:
                    members.append(("txt", text or b""))  # readers want the same members in every sample
                if not more[place]:
                    others[place].pop(columns.caption or "", None)
                path = {} if columns.image is None or not paths[place] else {columns.image: paths[place]}
                if about := {**path, **others[place], **added[place]}:
                    members.append(("json", _json(about)))
                yield Row(None, members, missing)


def _caption_texts(table: pa.Table, columns: Columns) -> tuple[list[bytes | None], list[bool]]:
    """Return the caption of each row as bytes, and whether its columns say more than that.

    A caption that stands alone is given as it stands; one of several was chosen.
    """
    found = [None if text is None else text.encode() for text in captions_of(table, columns)[0]]
    if len(columns.captions) != 1 or not is_text(table.schema.field(str(columns.caption)).type):
        return found, [columns.caption is not None] * len(found)
    raw = _raw(table.column(str(columns.caption)))
    packed = [
        text is not None and text.lstrip()[:1] in (b"[", b"{") and text != new
        for text, new in zip(raw, found, strict=True)
    ]
    return [new if more else text for text, new, more in zip(raw, found, packed, strict=True)], packed


def _raw(column: pa.ChunkedArray) -> list[bytes | None]:
    """Return the bytes of text or bytes, whatever they hold."""
    plain = plain_type(column.type)
    if plain != column.type:
        column = column.cast(plain)
    if pt.is_null(plain):
        return [None] * len(column)
    large = pt.is_large_string(plain) or pt.is_large_binary(plain)
    return list(column.cast(pa.large_binary() if large else pa.binary()).to_pylist())


def _values(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows as dicts; text that is not UTF-8 gets replacement characters."""
    plain = plain_schema(table.schema)
    if plain != table.schema:
        table = table.cast(plain)
    if table.num_columns == 0:
        return [{} for _ in range(table.num_rows)]
    try:
        found: list[dict[str, Any]] = table.to_pylist()
    except UnicodeDecodeError:
        columns = [[_value(scalar) for scalar in column] for column in table.columns]
        found = [dict(zip(table.column_names, values, strict=True)) for values in zip(*columns, strict=True)]
    return found


def _value(scalar: pa.Scalar) -> Any:  # noqa: ANN401  (any value JSON can say)
    if not scalar.is_valid:
        return None
    if pt.is_struct(scalar.type):
        return {name: _value(inner) for name, inner in scalar.items()}
    if is_list(scalar.type):
        return [_value(inner) for inner in scalar.values]
    if is_string(scalar.type):
        return scalar.cast(pa.large_binary()).as_py().decode("utf-8", "replace")
    return scalar.as_py()


def _json(values: Mapping[str, Any]) -> bytes:
    """Return values as one line of JSON; bytes as base64, times in ISO form, decimals as text."""
    return json.dumps(values, ensure_ascii=False, default=_plain).encode("utf-8", "replace")


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    isoformat = getattr(value, "isoformat", None)
    return str(isoformat() if isoformat is not None else value)
