"""Family `clip_score`: the cosine of image and caption."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate import schema
from curate.embedding.store import BATCH_ROWS, EmbeddingPart
from curate.execution.context import Context
from curate.io import storage
from curate.linalg import load_unit
from curate.recipe import ClipScore
from curate.scores.base import FamilyStage, Output
from curate.scores.clip_score import clip_score

__all__ = ["STAGE"]


@dataclass(frozen=True)
class ScoreTask:
    """One part to score."""

    embeddings: Path
    out: Path
    fingerprint: str


def _compute(context: Context, settings: ClipScore, output: Output) -> dict[str, Any]:
    tasks = [
        ScoreTask(context.run.part(context.run.embeddings, part.name), output.path(part), output.fingerprint)
        for part in output.todo()
    ]
    return {"scored": sum(context.map("score", "parts", _clip_score, tasks))}


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
    storage.write_parquet(task.out, table, schema.CLIP_SCORE, task.fingerprint)
    return int(known.sum())


STAGE = FamilyStage(table=lambda settings: schema.CLIP_SCORE, compute=_compute)
