"""JSON files that are one value: an array with an object per sample (as LLaVA has it), or an object in the form of COCO.

COCO captions are rows with the file of their image, one for each caption. COCO instances are rows for each image, with
`categories` (the names of what is on it, as JSON) and a `label` where that is one. The file is parsed element by element;
what is held of COCO is the file name, or the categories, of each image. An element that is no object is a `bad_row`.
"""

import contextlib
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, cast

from curate.errors import SourceError
from curate.io import filesystem
from curate.io.filesystem import StorageOptions
from curate.sources.base import Shard
from curate.sources.format import Format
from curate.sources.text.encoding import storable
from curate.sources.text.lines import MAX_RECORD_BYTES, Line, LinesReader, Record, find_files

__all__ = ["FORMAT", "find"]

#: Found by what stands in them, because many a `.json` is no data.
EXTENSIONS = (".json", ".json.gz")
CHUNK = 1 << 20
_SPACE = re.compile(r"[\s,]*")
_DECODER = json.JSONDecoder()


def find(
    path: str | Sequence[str],
    *,
    storage_options: StorageOptions = None,
    source: str = "source",
    prefix: str = "",
) -> list[Shard]:
    """Return the shards that `path` matches, in the order of their names, which begin with `prefix`."""
    return find_files(path, EXTENSIONS, "json", storage_options=storage_options, source=source, prefix=prefix)


class _Text:
    """A file as text, of which a window is held."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self._file, self.where, self._ended = file, where, False
        self._rest, self._text, self._place = b"", "", 0
        self._more()
        self._text = self._text.removeprefix("\ufeff")

    def _more(self) -> bool:
        """Read on; False at the end of the file."""
        data = self._file.read(max(CHUNK, len(self._text) - self._place))
        self._ended = not data
        data = self._rest + data
        whole = len(data) if self._ended else max(data.rfind(b"\n"), data.rfind(b"}"), data.rfind(b",")) + 1
        self._rest = data[whole:]
        if len(self._rest) > MAX_RECORD_BYTES:
            raise SourceError(f"{self.where}: a value has more than {MAX_RECORD_BYTES:,} bytes")
        self._text = self._text[self._place :] + data[:whole].decode("utf-8", "replace")
        self._place = 0
        return not self._ended

    def peek(self) -> str:
        """Return the next character that is neither space nor comma; "" at the end."""
        while True:
            self._place = cast(re.Match[str], _SPACE.match(self._text, self._place)).end()
            if self._place < len(self._text) or (not self._more() and self._place >= len(self._text)):
                return self._text[self._place : self._place + 1]

    def skip(self, expected: str) -> None:
        """Pass one character; SourceError where another stands."""
        if self.peek() != expected:
            raise SourceError(f"{self.where}: not valid JSON: expected {expected!r}, found {self.peek()!r}")
        self._place += 1

    def value(self) -> Any:  # noqa: ANN401  (any JSON)
        """Return the next value; SourceError where there is none, or it is too large."""
        while True:
            try:
                found, end = _DECODER.raw_decode(self._text, self._place)
            except RecursionError:
                raise SourceError(f"{self.where}: not valid JSON: nested too deeply") from None
            except ValueError as error:
                if len(self._text) - self._place > MAX_RECORD_BYTES:
                    raise SourceError(
                        f"{self.where}: a value has more than {MAX_RECORD_BYTES:,} bytes"
                    ) from None
                if self._ended or (not self._more() and not self._text[self._place :].strip()):
                    raise SourceError(f"{self.where}: not valid JSON, or cut short: {error}") from None
                continue
            if end == len(self._text) and not self._ended:
                self._more()  # a number may go on
                continue
            self._place = end
            return found

    def elements(self) -> Iterator[Any]:
        """Yield the elements of the array that comes next."""
        self.skip("[")
        while (next_one := self.peek()) != "]":
            if not next_one:
                raise SourceError(f"{self.where}: not valid JSON: the file ends within a list")
            yield self.value()
        self.skip("]")

    def fields(self) -> Iterator[str]:
        """Yield the keys of the object that comes next; the caller takes each value, with `value` or `elements`."""
        self.skip("{")
        while (next_one := self.peek()) != "}":
            if next_one != '"':
                raise SourceError(f"{self.where}: not valid JSON: a key is missing")
            key = self.value()
            self.skip(":")
            yield str(key)
        self.skip("}")


class JsonReader(LinesReader):
    """Reads JSON files; see `base.Reader`."""

    @contextlib.contextmanager
    def _opened(self, shard: Shard) -> Iterator[tuple[list[str] | None, Iterator[Record]]]:
        with _text(shard) as text:
            if text.peek() == "[":
                yield None, _records(text.elements())
                return
        with _coco(shard) as records:
            yield None, _records(records)


def _records(elements: Iterator[Any]) -> Iterator[Record]:
    for number, values in enumerate(elements, 1):
        fault = None if isinstance(values, dict) else f"holds a JSON {type(values).__name__}, not an object"
        if fault:
            data = json.dumps(values).encode()
            yield Record(Line(number, data), None, fault, len(data))
            continue
        size = 64 + sum(len(str(value)) for value in values.values())
        yield Record(Line(number, b""), {storable(name): value for name, value in values.items()}, None, size)


@contextlib.contextmanager
def _text(shard: Shard) -> Iterator[_Text]:
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(filesystem.open_binary(shard.url, shard.storage_options))
        if shard.url.lower().endswith(".gz"):
            file = cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=file)))
        try:
            yield _Text(file, shard.url)
        except (OSError, EOFError, zlib.error) as error:
            text = filesystem.masked(filesystem.cause(error), shard.storage_options)
            raise SourceError(f"{shard.url}: cannot be read: {text}") from error


def _lists(shard: Shard, wanted: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (name of the list, element) of the lists of objects with these names."""
    with _text(shard) as text:
        for key in text.fields():
            if text.peek() != "[":
                text.value()
                continue
            for one in text.elements():
                if key in wanted and isinstance(one, dict):
                    yield key, one


@contextlib.contextmanager
def _coco(shard: Shard) -> Iterator[Iterator[dict[str, Any]]]:
    """Give the rows of a COCO file, after a first pass over it."""
    files: dict[Any, Any] = {}
    names: dict[Any, Any] = {}
    there: dict[Any, set[Any]] = {}
    captions = annotated = False
    for key, one in _lists(shard, ("images", "categories", "annotations")):
        if key == "images":
            files[_key(one, "id")] = one.get("file_name")
        elif key == "categories":
            names[_key(one, "id")] = one.get("name")
        else:
            annotated, captions = True, captions or "caption" in one
            if "category_id" in one:
                there.setdefault(_key(one, "image_id"), set()).add(_key(one, "category_id"))
    if not files:
        raise SourceError(
            f"{shard.url}: neither a list of objects nor in the form of COCO (images, annotations); write JSON lines: one "
            "object per line"
        )
    if captions:
        rows = (
            {
                "image": files.get(_key(one, "image_id")),
                "caption": one.get("caption"),
                "image_id": one.get("image_id"),
            }
            for key, one in _lists(shard, ("annotations",))
        )
    else:
        rows = (_of_image(one, there, names, annotated) for _, one in _lists(shard, ("images",)))
    yield rows


def _of_image(
    one: Mapping[str, Any], there: Mapping[Any, set[Any]], names: Mapping[Any, Any], annotated: bool
) -> dict[str, Any]:
    row = {
        "image": one.get("file_name"),
        "image_id": one.get("id"),
        "width": one.get("width"),
        "height": one.get("height"),
    }
    if annotated:
        found = sorted({str(names.get(place, place)) for place in there.get(_key(one, "id"), ())})
        row |= {"label": found[0] if len(found) == 1 else None, "categories": found}
    return row


def _key(one: Mapping[str, Any], name: str) -> int | str | None:
    """Return an id that can be looked up."""
    value = one.get(name)
    return value if isinstance(value, int | str | None) else json.dumps(value)


FORMAT = Format(
    "json",
    (),
    find,
    lambda columns, allow_url: JsonReader(lambda lines, where: (None, iter(())), columns, allow_url),
)
