"""What the members of a tar's sample are as image, caption, label and uid.

A role names a suffix: ``jpg``; or several of which each sample has its first (``jpg;png``, as webdataset writes
it); or a field of a JSON member (``json.caption``); or ``__key__``.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from curate.errors import SourceError, UsageError
from curate.sources.base import Columns, Rows, Shard
from curate.sources.captions import encoded_as, labels_in, taken, texts_in
from curate.sources.columns import AUTO
from curate.sources.settings import Take
from curate.sources.tar.samples import IMAGES, Sample
from curate.sources.text.encoding import decoded, storable

__all__ = ["IMAGE_KEY", "KEY", "Roles", "columns", "is_text", "rows_of"]

KEY = "__key__"
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
    caption: str | Sequence[str] | None = AUTO,
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
    caption = caption if caption is None or isinstance(caption, str) else ";".join(caption)
    roles = {"image": image, "caption": caption, "label": label, "uid": uid}
    if len(have) > 1:
        for role, name in roles.items():
            if name not in (None, AUTO):
                _check_named(role, str(name), have)
    images = (schema.metadata or {}).get(IMAGE_KEY, b"").decode()
    behind = [name for name in have if "." in name and name.rpartition(".")[2] in IMAGES]
    if image == AUTO and not images and behind and not ids_only:
        raise UsageError(
            f"which member is the image? there are {', '.join(have[1:])}; name it, such as source.image={behind[0]}"
        )
    guessed = images or (None if ids_only else IMAGES[0])
    named = bool(images) and images in ";".join(
        behind
    )  # all members are called so: 0001.image.jpg, 0001.caption.txt
    return Columns(
        image=guessed if image == AUTO else image,
        caption=_present(CAPTIONS, have, behind=named) if caption == AUTO else caption,
        label=_present(LABELS, have, behind=named) if label == AUTO else label,
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


def _present(names: Sequence[str], have: Sequence[str], *, behind: bool) -> str | None:
    """Return the names that are there; with `behind`, else the one suffix that ends in one (``caption.txt``, ``meta.json``)."""
    found = ";".join(name for name in names if _split_role(name)[0] in have)
    if found or not behind:
        return found or None
    ending = [name for name in have if "." in name and name.rpartition(".")[2] in names]
    packed = [name for name in have if name.endswith(".json")]
    if not ending and len(packed) == 1:
        fields = [field for _, field in map(_split_role, names) if field]
        return ";".join(f"{packed[0]}.{field}" for field in fields)
    return ending[0] if len(ending) == 1 else None


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
        self.take = columns.caption_take
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
    notes: tuple[str, ...] = ()


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
        notes=[one.notes for one in found],
    )


def _values(sample: Sample, roles: Roles, shard: Shard) -> _Values:
    """Return the values of a sample, and make it unusable where one is missing that it needs."""
    place = None if sample.outcome == "ok" else f"{shard.name}#{sample.row}"
    texts: list[str | None] = []
    notes: list[str] = []
    for read, role in (
        (partial(_caption, take=roles.take), roles.caption),
        (_label, roles.label),
        (_uid, roles.uid),
    ):
        try:
            text, said = read(sample, role)
        except _JsonError as error:
            text, said = None, ()
            sample.fail("bad_row", str(error))
            place = f"{shard.name}#{sample.row}"
        texts.append(text)
        notes += said
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
        return _Values(image, None, caption, label, uid, tuple(notes))
    ref = sample.names[suffix] if suffix else sample.key
    return _Values(None, ref, caption, label, place or uid, tuple(notes))


def _why_no_image(sample: Sample, suffix: str | None, roles: Roles) -> str:
    if suffix is not None:
        return f"the image ({sample.names[suffix]!r}) has no bytes"
    wanted = " or ".join(suffix for suffix, _ in roles.image)
    return f"the sample has no member {wanted}; it has {', '.join(sorted(sample.names))[:200]}"


def _caption(sample: Sample, role: _Role, take: Take) -> tuple[str | None, tuple[str, ...]]:
    """Return (caption, notes) of a sample. Members that stand for each other are tried in turn for the first."""
    found, notes = _values_of(sample, role, _may_be_caption, first=take == "first")
    text, said = taken(found, take) if found else (None, ())
    return text, (*notes, *said)


def _label(sample: Sample, role: _Role) -> tuple[str | None, tuple[str, ...]]:
    """Return (label, notes) of a sample."""
    found, notes = _values_of(sample, role, _may_be_label, first=True)
    value, said = labels_in(found[0]) if found else (None, ())
    return _plain(value), (*notes, *said)


def _uid(sample: Sample, role: _Role) -> tuple[str | None, tuple[str, ...]]:
    """Return (uid, no notes) of a sample."""
    found, _ = _values_of(sample, role, _may_be_label, first=True)
    value = found[0] if found else None
    return _plain(next(iter(value), None) if isinstance(value, list) else value), ()


def _may_be_caption(value: object) -> bool:
    return isinstance(value, str) or any(texts_in(value))


def _may_be_label(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and bool(value))


def _values_of(
    sample: Sample, role: _Role, fits: Callable[[object], bool], *, first: bool
) -> tuple[list[Any], tuple[str, ...]]:
    """Return the fitting values of a role that the sample has (with `first`, only that), and the notes on them."""
    found: list[Any] = []
    encodings: dict[str, None] = {}
    for suffix, inside in role:
        data = sample.data.get(suffix)
        if suffix == KEY:
            value: Any = sample.key
        elif data is None:
            continue
        else:
            value, encoding = decoded(data)
            if inside is not None:
                value = _field(sample, suffix, inside, value)
            elif suffix.rpartition(".")[2] == "cls":
                value = value.strip()
            if encoding is not None:
                encodings[encoded_as(encoding)] = None
        if not fits(value):
            continue
        found.append(value)
        if first:
            break
    return found, tuple(encodings)


def _field(sample: Sample, suffix: str, inside: str, text: str) -> Any:  # noqa: ANN401  (JSON may hold anything)
    """Return a field of a JSON member; a dot also goes into an object. None where there is none."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _JsonError(f"{sample.names[suffix]!r} is not JSON: {error}") from None
    path = [inside] if isinstance(value, dict) and inside in value else inside.split(".")
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, list | dict) else _plain(value)


def _plain(value: object) -> str | None:
    """Return a value of JSON as text; None for objects, lists and what is not finite."""
    if isinstance(value, float):
        value = int(value) if value.is_integer() else value if math.isfinite(value) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    return storable(str(value)) if isinstance(value, int | float | str) else None
