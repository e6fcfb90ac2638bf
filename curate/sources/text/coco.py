"""The form of COCO: one JSON object with lists of `images`, `annotations` and `categories`.

Captions are rows for each annotation, with the file of its image; instances are rows for each image, with `categories`
(the names of what is on it, as JSON) and a `label` where that is one. What is held of a file is the file name, or the
categories, of each image.
"""

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.errors import SourceError
from curate.sources.base import Shard
from curate.sources.text.json_stream import opened
from curate.sources.unknown import inner_list

__all__ = ["Kept", "is_coco", "kept", "objects", "rows"]

LISTS = ("images", "annotations")


@contextlib.contextmanager
def rows(shard: Shard) -> Iterator[Iterator[dict[str, Any]]]:
    """Give the rows of a COCO file, after a first pass over it; SourceError where it is none."""
    files: dict[Any, Any] = {}
    names: dict[Any, Any] = {}
    there: dict[Any, set[Any]] = {}
    captions = annotated = False
    for key, one in _objects(shard, (*LISTS, "categories")):
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
            f"{shard.url}: neither a list of objects nor in the form of COCO (images, annotations){_inner(shard)}; write JSON "
            "lines: one object per line"
        )
    if captions:
        yield (_of_caption(one, files) for _, one in _objects(shard, ("annotations",)))
    else:
        yield (_of_image(one, there, names, annotated) for _, one in _objects(shard, ("images",)))


def _inner(shard: Shard) -> str:
    """Say which list of objects a file holds, if one is seen."""
    key = inner_list(shard.url, shard.storage_options)
    return (
        ""
        if key is None
        else f"; its {key!r} is a list of objects: save that alone (json.dump(data[{key!r}], file))"
    )


def _objects(shard: Shard, wanted: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (name of the list, element) of the lists of objects with these names."""
    with opened(shard) as text:
        for key in text.fields():
            if text.peek() != "[":
                text.value()
                continue
            for one in text.elements():
                if key in wanted and isinstance(one, dict):
                    yield key, one


def _of_caption(one: Mapping[str, Any], files: Mapping[Any, Any]) -> dict[str, Any]:
    image = one.get("image_id")
    return {"image": files.get(_key(one, "image_id")), "caption": one.get("caption"), "image_id": image}


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


def objects(shard: Shard, start: int, stop: int) -> Iterator[list[dict[str, Any]] | None]:
    """Yield what is on each of the images [start, stop): `bbox` (x, y, width, height), `category`, and `score` if it has one.

    Crowds (`iscrowd`) are no objects. None for each row where rows are captions.
    """
    names: dict[Any, Any] = {}
    found: dict[Any, list[Mapping[str, Any]]] = {}
    images: list[Any] = []
    captions = False
    for key, one in _objects(shard, (*LISTS, "categories")):
        if key == "images":
            images.append(_key(one, "id"))
        elif key == "categories":
            names[_key(one, "id")] = one.get("name")
        else:
            captions = captions or "caption" in one
            if "bbox" in one and not one.get("iscrowd"):
                found.setdefault(_key(one, "image_id"), []).append(one)
    if captions:
        yield from (None for _ in range(start, stop))
        return
    for image in images[start:stop]:
        yield [
            {"bbox": one["bbox"], "category": _name(one, names)}
            | ({"score": one["score"]} if "score" in one else {})
            for one in found.get(image, ())
        ]


def _name(one: Mapping[str, Any], names: Mapping[Any, Any]) -> str | None:
    category = _key(one, "category_id")
    return None if category is None else str(names.get(category, category))


def _key(one: Mapping[str, Any], name: str) -> int | str | None:
    """Return an id that can be looked up."""
    value = one.get(name)
    return value if isinstance(value, int | str | None) else json.dumps(value)


# --- a COCO file of some of its rows ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """What is left of a COCO file when some of its rows are kept.

    captions : rows are annotations; else they are images. rows : their positions. images : the ids of the images that
    they are, or are of.
    """

    shard: Shard
    captions: bool
    rows: Collection[int]
    images: Collection[Any]

    def fields(self) -> Iterator[tuple[str, Iterator[Any] | None, Any]]:
        """Yield (key, elements, None) of each list, and (key, None, value) of what is none, in the order of the file.

        `images` are those kept; `annotations` those kept, or all of a kept image; everything else is as it is.
        """
        with opened(self.shard) as text:
            for key in text.fields():
                if text.peek() != "[":
                    yield key, None, text.value()
                elif key in LISTS:
                    yield key, self._left(key, text.elements()), None
                else:
                    yield key, text.elements(), None

    def _left(self, key: str, elements: Iterator[Any]) -> Iterator[Mapping[str, Any]]:
        by_row = (key == "annotations") == self.captions
        name = "id" if key == "images" else "image_id"
        objects = (one for one in elements if isinstance(one, dict))
        for row, one in enumerate(objects):
            if row in self.rows if by_row else _key(one, name) in self.images:
                yield one


def is_coco(shard: Shard) -> bool:
    """Return True for a JSON file that is one object; False for a list."""
    with opened(shard) as text:
        return text.peek() == "{"


def kept(shard: Shard, positions: Sequence[int]) -> Kept:
    """Return what is left of a COCO file of which the rows at these positions are kept."""
    captions = any("caption" in one for _, one in _objects(shard, ("annotations",)))
    by, name = ("annotations", "image_id") if captions else ("images", "id")
    wanted = frozenset(positions)
    found = (one for _, one in _objects(shard, (by,)))
    return Kept(shard, captions, wanted, {_key(one, name) for row, one in enumerate(found) if row in wanted})
