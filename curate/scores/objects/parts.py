"""Over the parts of a run: the objects in boxes, cut out and embedded; a part that is there is not made again.

What became of an object: `ok`; `unsure` (less than the confidence asked for); `not_finite`, `no_area`, `outside` the
picture (these three are bad boxes); `left_out` (beyond the most that an image may have); `no_image`, `no_vector`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
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
from curate.scores.regions.rows import boxes_in, part_fingerprint, pictures, refuse_passing, worked_on
from curate.scores.tables.output import Output

if TYPE_CHECKING:
    from curate.embedding.clip import Clip
    from curate.embedding.region_pool import RegionPool
    from curate.scores.objects.objects import Objects

__all__ = ["OUTCOMES", "compute", "judge"]

#: What may become of an object.
OUTCOMES = ("ok", "unsure", "not_finite", "no_area", "outside", "left_out", "no_image", "no_vector")
BAD = ("not_finite", "no_area", "outside")
#: Objects that are written together.
_TABLE_ROWS = 4_096
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
        with output.sources.open_regions(context, "crops") as (clip, pool):
            for part, report in worked_on(context, todo):
                _part(context, part, settings, tables[part.name], clip, pool, report)
    context.run.keep_only(objects_folder(context.run), [part.name for part in context.parts])
    return _facts(context, output)


def _own(context: Context, part: Part, settings: "Objects", output: Output) -> Output:
    """Return where the tables of a part go: they depend on this part alone, so that others may come."""
    made_from = (type(settings).version, settings.fingerprinted())
    return replace(output, fingerprint=part_fingerprint(context, part, made_from))


def _part(
    context: Context, part: Part, settings: "Objects", output: Output, clip: "Clip", pool: "RegionPool",
    report: Callable[[int, int], None],
) -> None:  # fmt: skip
    """Write both tables of a part."""
    rows = _looked_at(context, part, settings)
    asked = pictures(context, part, rows.wanted, "objects", output.sources)
    made = embed_regions(asked, clip, pool, settings.margin)
    totals: dict[str, int] = {}

    def tables() -> Iterator[pa.Table]:
        yield from _joined(_table(rows, *one, clip.dim) for one in _noted(rows, made, report))
        every = sum(rows.counts, Counter[str]())
        totals.update({name: every[name] for name in OUTCOMES})

    write_objects(objects_path(context.run, part.name), tables(), clip.dim, output.fingerprint, totals)
    output.write(part, rows.columns())


@dataclass
class _Rows:
    """What is known of the samples of a part, (n,) each: their boxes, which are embedded, what became of the objects.

    chosen : of each sample, places of the objects that are embedded. classes : of objects with a vector. lost : samples
    whose picture cannot be had.
    """

    uids: list[str]
    found: list[ManyBoxes | None]
    chosen: list[npt.NDArray[np.int64]]
    counts: list[Counter[str]]

    def __post_init__(self) -> None:
        self.classes = np.zeros(len(self.uids), np.float32)
        self.lost = np.zeros(len(self.uids), np.bool_)

    @property
    def wanted(self) -> dict[int, npt.NDArray[np.float64]]:
        """The boxes that are embedded, by the position of their sample."""
        pairs = enumerate(zip(self.found, self.chosen, strict=True))
        return {at: found.boxes[chosen] for at, (found, chosen) in pairs if found is not None and len(chosen)}

    def columns(self) -> dict[str, Any]:
        """Return the columns of the table of scores; null where nothing is known."""
        known = np.array([one is not None for one in self.found], np.bool_)
        there = known & ~self.lost
        n_ok = np.array([one["ok"] for one in self.counts], np.float32)
        n_bad = [sum(one[name] for name in BAD) for one in self.counts]
        return {
            "objects_count": np.where(there, n_ok, np.nan), "objects_classes": np.where(there, self.classes, np.nan),
            "objects_bad": [n if ok else None for n, ok in zip(n_bad, there.tolist(), strict=True)],
            "objects_status": np.where(self.lost, _NO_IMAGE, np.where(known, "ok", _NO_BOXES)).tolist(),
        }  # fmt: skip


def _looked_at(context: Context, part: Part, settings: "Objects") -> _Rows:
    """Return the boxes of the samples of a part, in the order of the embeddings, and which are to be embedded."""
    uids = EmbeddingPart(context.run.part(context.run.embeddings, part.name)).uids()
    rows = (usable(context.run, part.name)["row"].to_numpy() - part.start).tolist()
    place = {row: at for at, row in enumerate(rows)}
    looked = _Rows(uids, [None] * len(uids), [np.empty(0, np.int64)] * len(uids), [Counter() for _ in uids])
    for row, found in enumerate(boxes_in(part, settings.column, settings.format)):
        if (at := place.get(row)) is not None:
            looked.found[at] = found
            looked.counts[at], looked.chosen[at] = judge(found, settings.confidence, settings.most)
    return looked


def _noted(
    rows: _Rows, pictures: Iterator[Regions], report: Callable[[int, int], None]
) -> Iterator[tuple[int, Regions]]:
    """Yield what became of each picture, with its position, when it was counted."""
    n = len(rows.wanted)
    for done, made in enumerate(pictures, 1):
        report(done, n)
        refuse_passing(made.outcome, "objects")
        at = int(str(made.tag))
        found, chosen = rows.found[at], rows.chosen[at]
        _count(rows.counts[at], made)
        rows.lost[at] = made.outcome != "ok"
        if found is not None and made.there.any():
            rows.classes[at] = len({found.category[one] for one in chosen[made.there].tolist()})
            yield at, made


def _joined(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yield small tables as fewer larger ones."""
    held: list[pa.Table] = []
    for one in tables:
        held.append(one)
        if sum(map(len, held)) >= _TABLE_ROWS:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()


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


def _count(outcomes: Counter[str], made: Regions) -> None:
    """Add what became of the objects of a picture."""
    if made.outcome != "ok":
        outcomes["no_image"] += len(made.boxes)
        return
    seen = (made.boxes[:, 2] > made.boxes[:, 0]) & (made.boxes[:, 3] > made.boxes[:, 1])
    outcomes["outside"] += int((~seen).sum())
    outcomes["no_vector"] += int((seen & ~made.there).sum())
    outcomes["ok"] += int(made.there.sum())


def _table(rows: _Rows, at: int, made: Regions, dim: int) -> pa.Table:
    """Return the rows of the objects of one picture. at : its position."""
    found = rows.found[at]
    if found is None:
        return kind_of(dim).empty_table()
    here = rows.chosen[at][made.there]
    n, kind = len(here), kind_of(dim)
    edges = made.boxes[made.there].astype(np.float32)
    sure = found.confidence[here].astype(np.float32)
    columns = [
        pa.array([rows.uids[at]] * n), pa.array(np.full(n, at, np.int32)), pa.array(here.astype(np.int32)),
        pa.array([found.category[one] for one in here.tolist()]), pa.array(sure, mask=np.isnan(sure)),
        *(pa.array(edges[:, side]) for side in range(4)),
        pa.FixedSizeListArray.from_arrays(pa.array(made.vectors.reshape(-1)), type=kind.field("vector").type),
    ]  # fmt: skip
    return pa.table(columns, schema=kind)


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
