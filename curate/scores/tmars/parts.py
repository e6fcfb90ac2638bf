"""Over the parts of a run: pictures with text are masked and embedded once more; a part that is there is not made again."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate.embedding.region_pool import embed_regions
from curate.embedding.store import BATCH_ROWS, EmbeddingPart
from curate.execution.context import Context, Part, reuse_or_remove, usable
from curate.io import storage
from curate.linalg import load_unit
from curate.scores.clip_score import clip_score
from curate.scores.regions.boxes import ManyBoxes
from curate.scores.regions.rows import boxes_in, part_fingerprint, pictures, refuse_passing, worked_on
from curate.scores.tables.output import Output

if TYPE_CHECKING:
    from curate.embedding.clip import Clip
    from curate.embedding.region_pool import RegionPool
    from curate.scores.tmars.tmars import Tmars

__all__ = ["compute", "good_boxes"]

NO_TEXT, NO_IMAGE, NONFINITE = "no_text", "no_image", "nonfinite"


def compute(context: Context, settings: "Tmars", output: Output) -> dict[str, Any]:
    """Write the tables of all parts; return how many pictures were masked."""
    made_from = ("tmars", type(settings).version, settings.fingerprinted())
    own = {
        part.name: replace(output, fingerprint=part_fingerprint(context, part, made_from))
        for part in context.parts
    }
    todo = [
        part for part in context.parts if not reuse_or_remove(output.path(part), own[part.name].fingerprint)
    ]
    if todo:
        context.engine.close()  # idle workers would hold memory that the model can use
        with output.sources.open_regions(context, "filled") as (clip, pool):
            for part, report in worked_on(context, todo):
                _part(context, part, settings, own[part.name], clip, pool, report)
    return _facts(context, output)


def _part(
    context: Context, part: Part, settings: "Tmars", output: Output, clip: "Clip", pool: "RegionPool",
    report: Callable[[int, int], None],
) -> None:  # fmt: skip
    """Write the table of a part: the clip score of each pair, and in its place that of the masked picture."""
    stored = EmbeddingPart(context.run.part(context.run.embeddings, part.name))
    n = len(stored)
    score, has_text = np.full(n, np.nan, np.float32), np.zeros(n, np.bool_)
    for batch in range(stored.batches if stored.has_text else 0):
        start = batch * BATCH_ROWS
        there = np.flatnonzero(stored.present("text", batch))
        image, text = (load_unit(stored.half(name, batch)[there]) for name in ("image", "text"))
        score[start + there] = clip_score(image, text)
        has_text[start + there] = True
    count, wanted = np.zeros(n, np.int32), {}
    place = {row: at for at, row in enumerate((usable(context.run, part.name)["row"] - part.start).to_list())}
    for row, found in enumerate(boxes_in(part, settings.boxes, settings.format)):
        if row in place and has_text[place[row]]:
            boxes = good_boxes(found, settings.confidence)
            count[place[row]] = len(boxes)
            if len(boxes):
                wanted[place[row]] = boxes
    status = np.where(has_text, "ok", NO_TEXT).astype(object)
    asked = pictures(context, part, wanted, "tmars", output.sources)
    for done, made in enumerate(embed_regions(asked, clip, pool, settings.margin), 1):
        report(done, len(wanted))
        refuse_passing(made.outcome, "tmars")
        at = int(str(made.tag))
        if made.outcome == "ok" and len(made.vectors):
            words = load_unit(stored.take("text", np.array([at], np.int64)))
            score[at] = clip_score(load_unit(made.vectors), words)[0]
        else:
            score[at], status[at] = np.nan, NONFINITE if made.outcome == "bad_vector" else NO_IMAGE
    output.write(part, {"tmars_score": score, "tmars_boxes": count, "tmars_status": status.tolist()})


def good_boxes(found: ManyBoxes | None, confidence: float) -> npt.NDArray[np.float64]:
    """Return the boxes of a row that are sure enough and have an area, (n, 4)."""
    if found is None:
        return np.empty((0, 4))
    sure = np.where(np.isnan(found.confidence), 1.0, found.confidence)
    boxes = found.boxes
    with np.errstate(invalid="ignore"):
        area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return np.asarray(boxes[(sure >= confidence) & area & np.isfinite(boxes).all(axis=1)])


def _facts(context: Context, output: Output) -> dict[str, Any]:
    scored = masked = rows = lost = 0
    for part in context.parts:
        table = storage.read_table(output.path(part), ["tmars_score", "tmars_boxes", "tmars_status"])
        rows, scored = rows + len(table), scored + len(table) - table["tmars_score"].null_count
        masked += int((table["tmars_boxes"].to_numpy() > 0).sum())
        lost += table["tmars_status"].to_pylist().count(NO_IMAGE)
    said = (
        []
        if masked or not rows
        else ["no picture has boxes of text (tmars.boxes): tmars_score is clip_score"]
    )
    if lost:
        said.append(f"{lost:,} pictures with text cannot be read any more, and have no score")
    return {"scored": scored, "masked": masked, "warnings": said}
