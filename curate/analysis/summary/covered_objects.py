"""What the report shows of objects that were covered: counts of each class, and pictures of some objects."""

from collections.abc import Mapping
from typing import Any

from curate.analysis.summary.thumbnails import Box, Place, thumbnails
from curate.errors import RunError
from curate.execution.context import Context, usable
from curate.io import storage
from curate.scores.objects.store import objects_path

__all__ = ["covered_objects"]


def covered_objects(context: Context) -> dict[str, Any]:
    """Return the classes with what is covered of each, and `shots`: pictures of objects by class; nothing without any."""
    found = context.facts(context.run.decisions).get("objects")
    if not found or not found["classes"]:
        return {}
    images = _crops(context, found["examples"])
    shots: dict[str, list[dict[str, object]]] = {}
    for one in found["examples"]:
        shown = {"uid": one["uid"], "covered": one["covered"], "image": images.get(_name(one))}
        shots.setdefault(one["class"], []).append(shown)
    return {"classes": found["classes"], "of": found["of"], "shots": shots}


def _name(one: Mapping[str, Any]) -> str:
    return f"{one['part']}/{one['position']}/{one['index']}"


def _crops(context: Context, examples: list[dict[str, Any]]) -> dict[str, str]:
    """Return a thumbnail of each object that can be had, by its name; those of tables that are gone are left out."""
    wanted: dict[str, Place] = {}
    boxes: dict[str, Box] = {}
    parts = {part.name: part for part in context.parts}
    for name in sorted({one["part"] for one in examples} & set(parts)):
        columns = ["position", "index", "x0", "y0", "x1", "y1"]
        try:
            table = storage.read_table(objects_path(context.run, name), columns)
        except RunError:
            continue
        stored = zip(*(column.to_pylist() for column in table.columns), strict=True)
        edges = {(position, index): box for position, index, *box in stored}
        rows = usable(context.run, name)["row"].to_list()
        for one in examples:
            box = edges.get((one["position"], one["index"]))
            if one["part"] == name and box is not None:
                wanted[_name(one)] = Place(parts[name].index, rows[one["position"]])
                boxes[_name(one)] = (box[0], box[1], box[2], box[3])
    return thumbnails(context, wanted, boxes)
