"""JSON files that are one value: an array with an object per sample (as LLaVA has it), or an object in the form of COCO.

The file is parsed element by element. An element that is no object is a `bad_row`. What rows COCO has: `coco`.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from curate.io.filesystem import StorageOptions
from curate.sources.base import Shard
from curate.sources.format import Format, find_files
from curate.sources.text import coco
from curate.sources.text.encoding import storable
from curate.sources.text.json_stream import opened
from curate.sources.text.lines import Line, LinesReader, Record

__all__ = ["FORMAT", "find"]

#: Found by what stands in them, because many a `.json` is no data.
EXTENSIONS = (".json", ".json.gz")


def find(
    path: str | Sequence[str],
    *,
    storage_options: StorageOptions = None,
    source: str = "source",
    prefix: str = "",
) -> list[Shard]:
    """Return the shards that `path` matches, in the order of their names, which begin with `prefix`."""
    return find_files(path, EXTENSIONS, "json", storage_options=storage_options, source=source, prefix=prefix)


class JsonReader(LinesReader):
    """Reads JSON files; see `base.Reader`."""

    records: ClassVar[str] = "elements"

    @contextlib.contextmanager
    def _opened(self, shard: Shard) -> Iterator[tuple[list[str] | None, Iterator[Record]]]:
        with opened(shard) as text:
            if text.peek() == "[":
                yield None, _records(text.elements())
                return
        with coco.rows(shard) as records:
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


FORMAT = Format(
    "json",
    (),
    find,
    lambda columns, allow_url: JsonReader(lambda lines, where: (None, iter(())), columns, allow_url),
    what="a list of objects (LLaVA), COCO captions and instances; a `.json` of JSON lines is `jsonl`",
    rows="objects, captions, images",
)
