"""Write COCO JSON of the kept samples: what the source has, without the images and annotations that are not kept."""

import contextlib
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from curate.errors import UsageError
from curate.io.storage import atomic
from curate.sources.base import Shard
from curate.sources.registry import check_unchanged
from curate.sources.text import coco

__all__ = ["ENDS", "require_coco", "write_coco"]

#: Ends of the names of such files.
ENDS = (".json", ".json.gz")


def require_coco(shards: Sequence[Shard]) -> None:
    """Raise UsageError for a shard that is not in the form of COCO."""
    for shard in shards:
        if shard.format != "json" or not coco.is_coco(shard):
            what = "a JSON list of objects" if shard.format == "json" else shard.format
            raise UsageError(
                f"--format coco is for sources in the form of COCO (JSON with images and annotations); {shard.url} is {what}: "
                "use --format parquet for its rows, csv or names for a list"
            )


def write_coco(path: Path, shard: Shard, rows: Sequence[int]) -> int:
    """Write what is left of a COCO file when the rows at these positions are kept; return how many images.

    Ids stay, and so does everything that is neither in `images` nor in `annotations`. Of captions, where each is a row,
    those kept are written with their images; of instances all annotations of the kept images.
    """
    since = check_unchanged(shard)
    left, images = coco.kept(shard, rows), 0
    with atomic(path) as partial, _text(partial, path.name) as file:
        file.write("{")
        for number, (key, elements, value) in enumerate(left.fields()):
            file.write(f"{', ' if number else ''}{_json(key)}: ")
            if elements is None:
                file.write(_json(value))
                continue
            file.write("[")
            for place, one in enumerate(elements):
                file.write(f"{', ' if place else ''}{_json(one)}")
                images += key == "images"
            file.write("]")
        file.write("}\n")
    check_unchanged(shard, since)
    return images


@contextlib.contextmanager
def _text(path: Path, name: str) -> Iterator[TextIO]:
    """Open a new file for text, packed where the name says so, without the time of day in it."""
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(path.open("wb"))
        packed = name.lower().endswith(".gz")
        file = stack.enter_context(gzip.GzipFile("", "wb", fileobj=raw, mtime=0)) if packed else raw
        yield stack.enter_context(io.TextIOWrapper(cast(BinaryIO, file), encoding="utf-8", newline="\n"))


def _json(value: object) -> str:
    """Return a value as JSON, as people read it where UTF-8 can say it."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return json.dumps(value)
    return text
