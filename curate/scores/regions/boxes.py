"""What a cell with boxes says: the boxes in pixels, their classes, how sure they are, in the layouts people have them in.

A cell is a list of objects (dicts), a dict of lists (as Hugging Face has it), or a list of bare boxes; text or bytes are
taken as JSON. A box is four numbers, a dict of its edges, or a polygon, which becomes the box around it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["BOX", "CATEGORY", "CONFIDENCE", "Layout", "ManyBoxes", "boxes_of", "named"]

#: What four numbers are: left, top, width, height (COCO), or left, top, right, bottom.
Layout = Literal["coco", "xyxy"]

#: Names of the fields of an object.
BOX = ("bbox", "bboxes", "box", "boxes", "polygon", "polygons")
CATEGORY = ("category", "categories", "category_id", "class", "classes", "label", "labels", "name", "text")
CONFIDENCE = ("confidence", "confidences", "score", "scores")
#: Names of edges, where a box is a dict.
_EDGES = (("xmin", "ymin", "xmax", "ymax"), ("x0", "y0", "x1", "y1"), ("x1", "y1", "x2", "y2"))
_SIZES = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
#: The class of boxes that have none.
NO_CLASS = "object"


@dataclass(frozen=True)
class ManyBoxes:
    """The boxes of one row.

    boxes : (n, 4) float64, x0 y0 x1 y1 in pixels; NaN where what stands there is no box. category : n names.
    confidence : (n,) float64, NaN where none is said.
    """

    boxes: npt.NDArray[np.float64]
    category: list[str]
    confidence: npt.NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self.category)


def boxes_of(cell: object, layout: Layout) -> ManyBoxes | None:
    """Return the boxes in a cell; None where it is null, or nothing that boxes can stand in.

    >>> found = boxes_of({"bbox": [[1, 2, 3, 4]], "category": ["cat"]}, "coco")
    >>> found.boxes, found.category
    (array([[1., 2., 4., 6.]]), ['cat'])
    """
    cell = _parsed(cell)
    if isinstance(cell, Mapping):
        given = named(cell, BOX)
        if not isinstance(given, Sequence) or isinstance(given, str):
            return None
        if given and not isinstance(given[0], Sequence | Mapping):
            given = [given]
        n = len(given)
        category, sure = _of_each(named(cell, CATEGORY), n), _of_each(named(cell, CONFIDENCE), n)
        return _made(given, category, sure, layout)
    if not isinstance(cell, Sequence) or isinstance(cell, str):
        return None
    objects = [one if isinstance(one, Mapping) else {"bbox": one} for one in cell]
    given = [_alone(one) for one in objects]
    return _made(
        given, [named(one, CATEGORY) for one in objects], [named(one, CONFIDENCE) for one in objects], layout
    )


def _alone(one: Mapping[str, Any]) -> object:
    """Return the box of an object; an object without such a field may be a box itself."""
    found = named(one, BOX)
    return one if found is None else found


def named(fields: Mapping[str, Any], names: Sequence[str]) -> Any:  # noqa: ANN401  (whatever stands there)
    """Return the first field that is there under one of some names."""
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _parsed(cell: object) -> object:
    if isinstance(cell, bytes | str):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return None
    return cell


def _of_each(values: object, n: int) -> list[Any]:
    """Return one value for each of n boxes: a list, cut or filled up with None; a single value is that of all."""
    if isinstance(values, Sequence) and not isinstance(values, str):
        return [*values[:n], *[None] * (n - len(values))]
    return [values] * n


def _made(given: Sequence[Any], category: Sequence[Any], sure: Sequence[Any], layout: Layout) -> ManyBoxes:
    boxes = np.array([_box(one, layout) for one in given], np.float64).reshape(len(given), 4)
    names = [NO_CLASS if one is None else str(one) for one in category]
    return ManyBoxes(boxes, names, np.array([_number(one) for one in sure], np.float64))


def _box(given: Any, layout: Layout) -> tuple[float, float, float, float]:  # noqa: ANN401  (whatever stands there)
    """Return the edges of one box; NaN where it is none."""
    broken = (np.nan,) * 4
    if isinstance(given, Mapping):
        for names, kind in [*((one, "xyxy") for one in _EDGES), *((one, "coco") for one in _SIZES)]:
            if all(name in given for name in names):
                return _edges([_number(given[name]) for name in names], kind)
        return broken
    if not isinstance(given, Sequence) or isinstance(given, str):
        return broken
    if len(given) > 2 and all(isinstance(one, Sequence) and len(one) == 2 for one in given):
        points = np.array([[_number(one) for one in point] for point in given])
        return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
    numbers = [_number(one) for one in given]
    if len(numbers) == 4:
        return _edges(numbers, layout)
    if len(numbers) > 4 and len(numbers) % 2 == 0:  # a polygon as one list: x, y, x, y, ...
        return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])
    return broken


def _edges(numbers: Sequence[float], layout: str) -> tuple[float, float, float, float]:
    a, b, c, d = numbers
    return (a, b, a + c, b + d) if layout == "coco" else (a, b, c, d)


def _number(value: object) -> float:
    """Return a number; NaN where there is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")
