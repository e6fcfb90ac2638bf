"""The caption and the label of a row where several are given: one rule for every format.

Several captions are a list, an object (Parquet: a struct), the JSON text of either, a list of these, or several
columns. The texts in them, in their order and without blank ones, are the captions of the row; the rule takes the
first, the longest, or all of them as one text. Of a list of labels the first counts.
"""

import ast
import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from curate.sources.arrow_types import is_bytes, is_list, is_string
from curate.sources.settings import Take
from curate.sources.text.encoding import decoded, storable

__all__ = [
    "LABEL_LIST", "SEVERAL", "encoded_as", "encoding_of", "labels_in", "opened", "plain_values", "taken",
    "texts_in",
]  # fmt: skip

#: Notes of a row: it has several captions; its label is a list.
SEVERAL, LABEL_LIST = "several captions", "label list"
#: Begins the note of a row whose caption is not UTF-8; the encoding follows.
_ENCODING = "encoding "
#: The fields of an object that hold its caption, the surest first; where it has none of them, all its texts count.
_FIELDS = ("caption", "text", "raw", "txt", "sentence", "value")
#: Deeper values are no captions.
_MAX_DEPTH = 8


def encoded_as(encoding: str) -> str:
    """Return the note of a row whose caption is in this encoding."""
    return _ENCODING + encoding


def encoding_of(note: str) -> str | None:
    """Return the encoding that a note is about; None where it is about something else."""
    return note.removeprefix(_ENCODING) if note.startswith(_ENCODING) else None


def taken(values: Sequence[object], take: Take) -> tuple[str | None, tuple[str, ...]]:
    """Return (caption, notes) of a row; values : what stands in each of its caption columns.

    Of equally long captions the first is taken; joined ones stand in their order with a space between, each once.

    >>> taken([["a dog", "a brown dog", " "]], "first"), taken(["a dog", '["a brown dog"]'], "longest")[0]
    (('a dog', ('several captions',)), 'a brown dog')
    >>> taken(["  "], "first"), taken([[None, ""]], "first"), taken([{"en": "a", "de": "b"}], "join")[0]
    (('  ', ()), (None, ()), 'a b')
    """
    if len(values) == 1 and (values[0] is None or isinstance(values[0], str)):
        text = values[0]
        if text is None or not _looks_packed(text):
            return text, ()
    texts = [text for value in values for text in texts_in(value)]
    if not texts:
        return next((value for value in values if isinstance(value, str)), None), ()
    notes = (SEVERAL,) if len(texts) > 1 else ()
    if take == "longest":
        return storable(max(texts, key=len)), notes
    joined = " ".join(dict.fromkeys(text.strip() for text in texts)) if take == "join" else texts[0]
    return storable(joined), notes


def texts_in(value: object, depth: int = 0) -> Iterator[str]:
    """Yield the texts in a value, in order, without blank ones.

    >>> list(texts_in('[{"raw": "a dog", "id": "7"}, {"raw": "a cat"}]')), list(texts_in("[a] dog"))
    (['a dog', 'a cat'], ['[a] dog'])
    """
    if isinstance(value, bytes):
        value = decoded(value)[0]
    if isinstance(value, str):
        inner = opened(value)
        if inner is None:
            if value.strip():
                yield value
            return
        value = inner
    if depth >= _MAX_DEPTH:
        return
    if isinstance(value, dict):
        names = {str(name).lower(): name for name in reversed(value)}
        field = next((names[name] for name in _FIELDS if name in names), None)
        for inner in value.values() if field is None else [value[field]]:
            yield from texts_in(inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_in(inner, depth + 1)


def _looks_packed(text: str) -> bool:
    return text.lstrip()[:1] in ("[", "{")


def opened(text: str) -> Any | None:  # noqa: ANN401  (a list or a dict of anything)
    """Return the list or object that a text is the JSON of (or the Python of, as pandas writes lists into CSV).

    None where it is neither, or holds no text: ``[1]`` and ``[sic] a dog`` are texts themselves.

    >>> opened('["a", "b"]'), opened("['a', 'b']"), opened("[1]"), opened("[sic] a dog"), opened('"a"')
    (['a', 'b'], ['a', 'b'], None, None, None)
    """
    if not _looks_packed(text):
        return None
    value = None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            found = ast.literal_eval(text.strip())
            # ['a' 'b'], as NumPy writes arrays, would be read as ['ab']
            value = found if repr(found) == text.strip() else None
    return value if isinstance(value, list | dict) and _holds_text(value) else None


def _holds_text(value: object, depth: int = 0) -> bool:
    if isinstance(value, str):
        return True
    if depth >= _MAX_DEPTH or not isinstance(value, list | dict):
        return False
    inner = list(value.values()) if isinstance(value, dict) else value
    known = [one for one in inner if one is not None]
    if isinstance(value, list):  # numbers between texts: this is no list of captions
        return bool(known) and all(_holds_text(one, depth + 1) for one in known)
    return any(_holds_text(one, depth + 1) for one in known)


def labels_in(value: object) -> tuple[Any, tuple[str, ...]]:
    """Return (label, notes) of a value that may be a list of labels, or the JSON text of one: its first.

    >>> labels_in(["cat", "dog"]), labels_in("[3]"), labels_in([]), labels_in("cat")
    (('cat', ('label list',)), (3, ()), (None, ()), ('cat', ()))
    """
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        with contextlib.suppress(ValueError, RecursionError):
            inner = json.loads(value)
            plain = isinstance(inner, list) and not any(isinstance(one, list | dict) for one in inner)
            value = inner if plain else value
    if not isinstance(value, list | tuple):
        return value, ()
    known = [one for one in value if one is not None]
    first = known[0] if known else None
    return storable(first) if isinstance(first, str) else first, ((LABEL_LIST,) if len(known) > 1 else ())


def plain_values(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column of texts, bytes, lists or structs; text that is not UTF-8 comes as bytes."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_plain(scalar) for scalar in column]


def _plain(scalar: pa.Scalar) -> Any:  # noqa: ANN401  (a list, a dict or a value)
    if not scalar.is_valid:
        return None
    if pt.is_struct(scalar.type):
        return {name: _plain(inner) for name, inner in scalar.items()}
    if is_list(scalar.type):
        return [_plain(inner) for inner in scalar.values]
    if is_string(scalar.type) or is_bytes(scalar.type):
        return scalar.cast(pa.large_binary()).as_py()
    return scalar.as_py()
