"""What the members of a tar's sample are as image, caption, label and uid.

A role names a suffix: ``jpg``; or several of which each sample has its first (``jpg;png``, as webdataset writes
it); or a field of a JSON member (``json.caption``); or ``__key__``.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from curate.errors import SourceError, UsageError
from curate.sources.base import Columns, Rows, Shard
from curate.sources.columns import AUTO
from curate.sources.tar.samples import Sample

__all__ = ["IMAGES", "IMAGE_KEY", "KEY", "Roles", "columns", "is_text", "rows_of"]

KEY = "__key__"
#: Suffixes of images, the preferred first.
IMAGES = (
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2", "ppm", "pgm",
    "pbm", "pnm", "tga",
)  # fmt: skip
CAPTIONS = ("txt", "text", "caption", "json.caption", "json.text")
LABELS = ("cls", "json.label")
#: Suffixes whose members are text, also behind other parts (``en.txt``); all others are bytes.
TEXTS = ("txt", "text", "caption", "json", "cls")
#: In the metadata of a shard's schema: the suffixes that hold the one image of its samples.
IMAGE_KEY = b"curate.image"

_JSON_FIELD = re.compile(r"((?:.*\.)?json)\.(.+)")
_Role = list[tuple[str, str | None]]


class _JsonError(Exception):
    """A JSON member that a role needs is none."""


def columns(
    schema: pa.Schema,
    *,
    image: str | None = AUTO,
    caption: str | None = AUTO,
    label: str | None = AUTO,
    uid: str | None = None,
    vector: str | None = None,
    ids_only: bool = False,
) -> Columns:
    """Return which suffixes hold what, with the keywords of `guess_columns`.

    `auto` takes the image suffixes that never stand in one sample together (else the preferred one: the others
    may be masks), captions from txt, text, caption or the JSON fields caption and text, labels from cls or the
    JSON field label. Raises UsageError for a name that no member of the shard has.
    """
    if vector is not None:
        raise UsageError(
            f"embed.column {vector!r}: a tar has no columns of vectors; name .npy in embed.files"
        )
    have = schema.names
    roles = {"image": image, "caption": caption, "label": label, "uid": uid}
    if len(have) > 1:
        for role, name in roles.items():
            if name not in (None, AUTO):
                _check_named(role, str(name), have)
    images = (schema.metadata or {}).get(IMAGE_KEY, b"").decode()
    guessed = images or (None if ids_only else IMAGES[0])
    return Columns(
        image=guessed if image == AUTO else image,
        caption=_present(CAPTIONS, have) if caption == AUTO else caption,
        label=_present(LABELS, have) if label == AUTO else label,
        uid=uid,
    )


def _check_named(role: str, name: str, have: Sequence[str]) -> None:
    """Raise UsageError unless the suffixes of a role are there and can be used for it."""
    listed = ", ".join(have)
    for one in name.split(";"):
        suffix, inside = _split_role(one)
        if suffix not in have:
            raise UsageError(f"no member {suffix!r} (for {role}) in any sample; there are {listed}")
        if role == "image" and (inside or is_text(suffix)):
            raise UsageError(f"member {one!r} cannot be used as image: it is text; there are {listed}")
        if role != "image" and not is_text(suffix):
            raise UsageError(f"member {one!r} cannot be used as {role}: it is not text; there are {listed}")


def _present(names: Sequence[str], have: Sequence[str]) -> str | None:
    return ";".join(name for name in names if _split_role(name)[0] in have) or None


def _split_role(name: str) -> tuple[str, str | None]:
    """Return (suffix, field of its JSON or None).

    >>> _split_role("json.meta.url"), _split_role("seg.png")
    (('json', 'meta.url'), ('seg.png', None))
    """
    match = _JSON_FIELD.fullmatch(name)
    return (match[1], match[2]) if match else (name, None)


def is_text(suffix: str) -> bool:
    """Return True if members with this suffix are text."""
    return suffix == KEY or suffix.rpartition(".")[2] in TEXTS


class Roles:
    """The suffixes (with JSON fields) that each role names, in order of preference."""

    def __init__(self, columns: Columns) -> None:
        self.image = _role(columns.image)
        self.caption = _role(columns.caption)
        self.label = _role(columns.label)
        self.uid = _role(columns.uid)

    @property
    def uid_names(self) -> str:
        """The names in the role of the uid, as they were given."""
        return " or ".join(suffix if inside is None else f"{suffix}.{inside}" for suffix, inside in self.uid)

    @property
    def suffixes(self) -> set[str]:
        """The suffixes of the members that have to be read."""
        return {suffix for role in (self.image, self.caption, self.label, self.uid) for suffix, _ in role}


def _role(names: str | None) -> _Role:
    return [] if names is None else [_split_role(name) for name in names.split(";")]


@dataclass(frozen=True)
class _Values:
    """What one sample has for each role; ref : what stands for an image that is not there."""

    image: bytes | None
    ref: str | None
    caption: str | None
    label: str | None
    uid: str | None


def rows_of(held: Sequence[Sample], roles: Roles, shard: Shard) -> Rows:
    """Return what stands in these samples.

    Of a sample that cannot be used a name stands for the image, so that a sound sample with the same bytes is
    never taken for its copy. Raises SourceError for a sound sample without the uid that is asked for.
    """
    found = [_values(sample, roles, shard) for sample in held]
    return Rows(
        row=np.array([sample.row for sample in held], np.int64),
        uid=[str(one.uid) for one in found] if roles.uid else None,
        key=[sample.key for sample in held],
        image=[one.image for one in found],
        image_ref=[one.ref for one in found],
        caption=[one.caption for one in found],
        label=[one.label for one in found],
        outcome=[sample.outcome for sample in held],
        reason=[sample.reason for sample in held],
    )


def _values(sample: Sample, roles: Roles, shard: Shard) -> _Values:
    """Return the values of a sample, and make it unusable where one is missing that it needs."""
    place = None if sample.outcome == "ok" else f"{shard.name}#{sample.row}"
    texts: list[str | None] = []
    for role in (roles.caption, roles.label, roles.uid):
        try:
            texts.append(_text_of(sample, role))
        except _JsonError as error:
            texts.append(None)
            sample.fail("bad_row", str(error))
            place = f"{shard.name}#{sample.row}"
    caption, label, uid = texts
    suffix = next((suffix for suffix, _ in roles.image if suffix in sample.names), None)
    image = sample.data.get(suffix or "")
    if roles.image and not image:
        sample.fail("missing_image", _why_no_image(sample, suffix, roles))
    elif not roles.image and not (caption or "").strip():
        sample.fail("no_caption", "the caption is missing or blank")
    if roles.uid and place is None and uid is None:
        raise SourceError(f"{shard.url}: row {sample.row} ({sample.key!r}) has no uid in {roles.uid_names}")
    if sample.outcome == "ok":
        return _Values(image, None, caption, label, uid)
    ref = sample.names[suffix] if suffix else sample.key
    return _Values(None, ref, caption, label, place or uid)


def _why_no_image(sample: Sample, suffix: str | None, roles: Roles) -> str:
    if suffix is not None:
        return f"the image ({sample.names[suffix]!r}) has no bytes"
    wanted = " or ".join(suffix for suffix, _ in roles.image)
    return f"the sample has no member {wanted}; it has {', '.join(sorted(sample.names))[:200]}"


def _text_of(sample: Sample, role: _Role) -> str | None:
    """Return the first text of a role that the sample has; bytes that are not UTF-8 become U+FFFD."""
    for suffix, inside in role:
        if suffix == KEY:
            return sample.key
        data = sample.data.get(suffix)
        if data is None:
            continue
        text = data.decode("utf-8", "replace") if inside is None else _json_text(sample, suffix, inside)
        if text is not None:
            return text.strip() if suffix.rpartition(".")[2] == "cls" else text
    return None


def _json_text(sample: Sample, suffix: str, inside: str) -> str | None:
    """Return a field of a JSON member as text; a dot also goes into an object. None where there is none."""
    try:
        value: Any = json.loads(sample.data[suffix])
    except (ValueError, RecursionError) as error:
        raise _JsonError(f"{sample.names[suffix]!r} is not JSON: {error}") from None
    path = [inside] if isinstance(value, dict) and inside in value else inside.split(".")
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, float):
        value = int(value) if value.is_integer() else value if math.isfinite(value) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | str):
        return str(value).encode("utf-8", "replace").decode()
    return None
