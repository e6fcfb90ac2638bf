"""Vectors of samples that are captions alone (`source.image: null`): the caption's stands where an image's would.

There is no `text` column then: clip_score and pair scores compare images with captions, and have nothing to say.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from curate.embedding.store import Vectors, write_part
from curate.execution.context import Context
from curate.pipeline.stages import read_task
from curate.pipeline.stages.embed_model import model_of, open_clip
from curate.pipeline.stages.embed_task import EmbedTask, Outcomes, keys_of, write_samples
from curate.process import cpu_count
from curate.sources.base import Rows

if TYPE_CHECKING:
    from curate.embedding.clip import Clip

__all__ = ["embed_captions"]


def embed_captions(context: Context, tasks: Sequence[EmbedTask]) -> None:
    """Write the vectors and the samples of parts that have captions and no images."""
    total, done = sum(task.part.rows for task in tasks), 0
    context.progress("embed", 0, total, "captions")
    for rows in context.engine.hold(partial(open_clip, model_of(context)), _embed_part, tasks):
        done += rows
        context.progress("embed", done, total, "captions")


def _embed_part(clip: "Clip", task: EmbedTask) -> int:
    keys, outcomes = keys_of(task), Outcomes([], [], [], [])
    path = task.run.part(task.run.embeddings, task.part.name)
    write_part(path, _pieces(task, clip, keys, outcomes), clip.dim, task.fingerprint, text=False)
    write_samples(task, keys, outcomes)
    return task.part.rows


def _pieces(task: EmbedTask, clip: "Clip", keys: pl.DataFrame, outcomes: Outcomes) -> Iterator[Vectors]:
    """Yield the vectors of a part, read batch by read batch; outcomes are noted on the way."""
    uids, copied = keys["uid"].to_list(), keys["copy_of"].is_not_null().to_numpy()
    with ThreadPoolExecutor(cpu_count() if clip.device == "cpu" else 1) as pool:
        for rows, _ in read_task.read_batches(
            task.part, task.source, batch_bytes=task.batch_bytes, images=False
        ):
            start = len(outcomes.outcome)
            rows = read_task.outcomes_of(rows, keys, start)
            found = [_judge(rows, row) for row in range(len(rows))]
            new = [row for row, (said, _) in enumerate(found) if said == "ok" and not copied[start + row]]
            words = [rows.caption[row] or "" for row in new]
            chunks = [words[at : at + clip.batch_size] for at in range(0, len(words), clip.batch_size)]
            made = [np.empty((0, clip.dim), np.float32), *pool.map(clip.encode_texts, chunks)]
            vectors = np.concatenate(made)
            finite = np.asarray(np.isfinite(vectors).all(axis=1))
            for row in np.array(new, np.int64)[~finite].tolist():
                found[row] = "bad_vector", "the model gives no finite vector for the caption"
            outcomes.outcome += [said for said, _ in found]
            outcomes.reason += [why for _, why in found]
            outcomes.width += [None] * len(rows)
            outcomes.height += [None] * len(rows)
            chosen = [uids[start + row] for row, good in zip(new, finite.tolist(), strict=True) if good]
            yield Vectors(chosen, vectors[finite].astype(np.float16))


def _judge(rows: Rows, row: int) -> tuple[str, str | None]:
    """Return the outcome of a row whose caption is all there is, and why."""
    if rows.outcome[row] == "ok" and not (rows.caption[row] or "").strip():
        return "no_caption", "the caption is all there could be, and there is none"
    return rows.outcome[row], rows.reason[row]
