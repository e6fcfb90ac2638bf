"""Over the parts of a run: the objects in boxes, cut out and embedded; a part that is there is not made again.

What became of an object: `ok`; `unsure` (less than the confidence asked for); `not_finite`, `no_area`, `outside` the
picture (these three are bad boxes); `left_out` (beyond the most that an image may have); `no_image`, `no_vector`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.embedding.region_pool import Regions, embed_regions
from curate.embedding.store import EmbeddingPart
from curate.execution.context import Context, Part, reuse_or_remove, usable
from curate.io import storage
from curate.scores.objects.store import kind_of, objects_folder, objects_path, write_objects
from curate.scores.regions.boxes import ManyBoxes
from curate.scores.regions.rows import boxes_in, part_fingerprint, pictures, refuse_passing
from curate.scores.tables.output import Output

if TYPE_CHECKING:
    from curate.scores.objects.objects import Objects

__all__ = ["OUTCOMES", "compute", "judge"]

#: What may become of an object.
OUTCOMES = ("ok", "unsure", "not_finite", "no_area", "outside", "left_out", "no_image", "no_vector")
BAD = ("not_finite", "no_area", "outside")
_NO_BOXES, _NO_IMAGE = "no_boxes", "no_image"


def compute(context: Context, settings: "Objects", output: Output) -> dict[str, Any]:
    """Write the tables of all parts; return what became of objects."""
    tables = {part.name: _own(context, part, settings, output) for part in context.parts}
    todo = [
        part
        for part in context.parts
        if not (
            reuse_or_remove(output.path(part), tables[part.name].fingerprint)
            and reuse_or_remove(objects_path(context.run, part.name), tables[part.name].fingerprint)
        )
    ]
    if todo:
        context.engine.close()  # idle workers would hold memory that the model can use
        context.progress("score", 0, len(todo), "parts of objects")
        with output.sources.open_regions(context, "crops") as (clip, pool):
            for done, part in enumerate(todo):
                _part(context, part, settings, tables[part.name], clip, pool)
                context.progress("score", done + 1, len(todo), "parts of objects")
    context.run.keep_only(objects_folder(context.run), [part.name for part in context.parts])
    return _facts(context, output)


def _own(context: Context, part: Part, settings: "Objects", output: Output) -> Output:
    """Return where the tables of a part go: they depend on this part alone, so that others may come."""
    made_from = (type(settings).version, settings.fingerprinted())
    return replace(output, fingerprint=part_fingerprint(context, part, made_from))


def _part(context: Context, part: Part, settings: "Objects", output: Output, clip: Any, pool: Any) -> None:  # noqa: ANN401
    """Write both tables of a part."""
    counts: list[Counter[str]] = []
    given: dict[int, tuple[ManyBoxes, npt.NDArray[np.int64]]] = {}
    known: list[bool] = []
    place = _positions(context, part)
    for row, found in enumerate(boxes_in(part, settings.column, settings.format)):
        if row not in place:
            continue
        known.append(found is not None)
        outcomes, chosen = judge(found, settings.confidence, settings.most)
        counts.append(outcomes)
        if found is not None and len(chosen):
            given[place[row]] = found, chosen
    uids = EmbeddingPart(context.run.part(context.run.embeddings, part.name)).uids()
    classes, lost = np.zeros(len(uids), np.int32), np.zeros(len(uids), np.bool_)
    wanted = {at: found.boxes[chosen] for at, (found, chosen) in given.items()}

    total: dict[str, int] = {}

    def tables() -> Iterator[pa.Table]:
        asked = pictures(context, part, wanted, "objects", output.sources)
        for made in embed_regions(asked, clip, pool, settings.margin):
            refuse_passing(made.outcome, "objects")
            at = int(str(made.tag))
            found, chosen = given[at]
            _count(counts[at], made, wanted[at])
            lost[at] = made.outcome != "ok"
            here = chosen[made.there]
            names = [found.category[one] for one in here.tolist()]
            classes[at] = len(set(names))
            if len(here):
                yield _table(uids[at], at, here, names, found, made, clip.dim)
        every = sum(counts, Counter[str]())
        total.update({name: every[name] for name in OUTCOMES})

    write_objects(objects_path(context.run, part.name), tables(), clip.dim, output.fingerprint, total)
    n_ok = np.array([one["ok"] for one in counts], np.int32)
    n_bad = np.array([sum(one[name] for name in BAD) for one in counts], np.int32)
    there = np.array(known, np.bool_) & ~lost
    status = np.where(lost, _NO_IMAGE, np.where(there, "ok", _NO_BOXES))
    columns = {
        "objects_count": _masked(n_ok, there), "objects_classes": _masked(classes, there), "objects_bad": _masked(n_bad, there),
        "objects_status": status.tolist(),
    }  # fmt: skip
    output.write(part, columns)


def _positions(context: Context, part: Part) -> dict[int, int]:
    """Return the position of each sample with a vector, by its row in the part."""
    rows = usable(context.run, part.name)["row"].to_numpy() - part.start
    return {row: at for at, row in enumerate(rows.tolist())}


def judge(
    found: ManyBoxes | None, confidence: float, most: int
) -> tuple[Counter[str], npt.NDArray[np.int64]]:
    """Return what becomes of the objects of a row before its picture is seen, and which are to be embedded, in order.

    Of more than `most` the surest are embedded, the first of equal ones. Objects that do not say how sure they are, are
    sure.
    """
    outcomes: Counter[str] = Counter()
    if found is None:
        return outcomes, np.empty(0, np.int64)
    finite = np.isfinite(found.boxes).all(axis=1)
    sure = np.where(np.isnan(found.confidence), 1.0, found.confidence)
    with np.errstate(invalid="ignore"):
        area = (found.boxes[:, 2] > found.boxes[:, 0]) & (found.boxes[:, 3] > found.boxes[:, 1])
    enough = sure >= confidence
    outcomes["unsure"] = int((~enough).sum())
    outcomes["not_finite"] = int((enough & ~finite).sum())
    outcomes["no_area"] = int((enough & finite & ~area).sum())
    good = np.flatnonzero(enough & finite & area)
    first = np.sort(good[np.argsort(-sure[good], kind="stable")][:most])
    outcomes["left_out"] = len(good) - len(first)
    return outcomes, first


def _count(outcomes: Counter[str], made: Regions, asked: npt.NDArray[np.float64]) -> None:
    """Add what became of the objects of a picture."""
    if made.outcome != "ok":
        outcomes["no_image"] += len(asked)
        return
    seen = (made.boxes[:, 2] > made.boxes[:, 0]) & (made.boxes[:, 3] > made.boxes[:, 1])
    outcomes["outside"] += int((~seen).sum())
    outcomes["no_vector"] += int((seen & ~made.there).sum())
    outcomes["ok"] += int(made.there.sum())


def _table(
    uid: str,
    at: int,
    here: npt.NDArray[np.int64],
    names: list[str],
    found: ManyBoxes,
    made: Regions,
    dim: int,
) -> pa.Table:
    """Return the rows of the objects of one picture."""
    n = len(here)
    kind = kind_of(dim)
    edges = made.boxes[made.there].astype(np.float32)
    sure = found.confidence[here].astype(np.float32)
    columns = [
        pa.array([uid] * n), pa.array(np.full(n, at, np.int32)), pa.array(here.astype(np.int32)), pa.array(names),
        pa.array(sure, mask=np.isnan(sure)), *(pa.array(edges[:, side]) for side in range(4)),
        pa.FixedSizeListArray.from_arrays(pa.array(made.vectors.reshape(-1)), type=kind.field("vector").type),
    ]  # fmt: skip
    return pa.table(columns, schema=kind)


def _masked(values: npt.NDArray[np.int32], there: npt.NDArray[np.bool_]) -> list[int | None]:
    return [value if known else None for value, known in zip(values.tolist(), there.tolist(), strict=True)]


def _facts(context: Context, output: Output) -> dict[str, Any]:
    """Return what became of the objects of all parts, and how many rows were looked at."""
    total: Counter[str] = Counter()
    rows = scored = 0
    for part in context.parts:
        total.update(storage.stored_facts(objects_path(context.run, part.name)))
        table = storage.read_table(output.path(part), ["objects_status"])["objects_status"].to_pylist()
        rows, scored = rows + len(table), scored + table.count("ok")
    return {"scored": scored, "objects": dict(total), "warnings": _warnings(total, rows, scored)}


def _warnings(total: Mapping[str, int], rows: int, scored: int) -> list[str]:
    bad = {name: total[name] for name in (*BAD, "no_image", "no_vector") if total.get(name)}
    said = []
    if bad:
        listed = ", ".join(f"{name} {n:,}" for name, n in bad.items())
        said.append(f"{sum(bad.values()):,} of {sum(total.values()):,} objects have no vector ({listed})")
    if total.get("left_out"):
        said.append(f"{total['left_out']:,} objects are beyond the most of an image (objects.most)")
    if rows and not scored:
        said.append("no row has boxes: see objects.column")
    return said
