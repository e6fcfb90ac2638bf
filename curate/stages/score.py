"""Stage `score`: one number per sample and score, each family a folder of its own."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from curate import schema, storage
from curate.cluster.vectors import load_unit
from curate.embed.parts import BATCH_ROWS, EmbeddingPart
from curate.score.clip_score import clip_score
from curate.stages.base import Context, log, made

__all__ = ["FAMILIES", "VERSION", "run"]

VERSION = 1
#: The table of each family: uid, then its columns.
FAMILIES = {"clip_score": schema.CLIP_SCORE}


@dataclass(frozen=True)
class ScoreTask:
    """One part to score."""

    embeddings: Path
    out: Path
    stamp: str


def run(context: Context) -> bool:
    """Compute every family of the recipe; return whether anything was to do."""
    embedded = context.run.stamp(context.run.embeddings)
    worked = False
    for family in context.recipe.score:
        folder = context.run.scores(family)
        stamp = storage.fingerprint("score", VERSION, family, embedded)
        if context.run.is_done(folder, stamp):
            continue
        worked = True
        context.run.unmark(folder)
        tasks = []
        for part in context.parts:
            embeddings = context.run.part(context.run.embeddings, part.name)
            made_from = storage.fingerprint(family, VERSION, storage.stored_fingerprint(embeddings))
            tasks.append(ScoreTask(embeddings, context.run.part(folder, part.name), made_from))
        todo = [task for task in tasks if not made(task.out, task.stamp)]
        counts = context.map("score", "parts", _clip_score, todo)
        context.run.keep_only(folder, [part.name for part in context.parts])
        context.run.mark(folder, stamp, {"scored": sum(counts), "parts": len(tasks)})
        log.info("score: %s, %s samples scored", family, f"{sum(counts):,}")
    return worked


def _clip_score(task: ScoreTask) -> int:
    part = EmbeddingPart(task.embeddings)
    score = np.full(len(part), np.nan, np.float32)
    for start, image in part.blocks("image"):
        if part.has_text:
            batch = start // BATCH_ROWS
            given = part.present("text", batch)
            text = load_unit(part.half("text", batch)[given])
            score[start : start + len(image)][given] = clip_score(image[given], text)
    known = ~np.isnan(score)
    status = np.where(known, "ok", "no_text")
    column = pa.array(score, mask=~known)
    table = pa.table([part.uids(), column, pa.array(status, pa.string())], schema=schema.CLIP_SCORE)
    storage.write_parquet(task.out, table, schema.CLIP_SCORE, task.stamp)
    return int(known.sum())
