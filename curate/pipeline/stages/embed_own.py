"""Vectors that are given: by a column of the source or in files beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.embedding.lengths import Lengths, warn_of_lengths
from curate.embedding.store import Vectors, write_part
from curate.errors import EmbeddingError
from curate.execution.context import Context
from curate.linalg import unit_rows
from curate.pipeline.stages import given_vectors, read_task
from curate.pipeline.stages.embed_task import EmbedTask, Outcomes, keys_of, write_samples
from curate.sources.base import Rows
from curate.sources.vector_columns import why_unusable

__all__ = ["embed_own"]

#: Outcomes of rows that are broken as rows, not for want of an image.
BROKEN_ROWS = ("bad_row", "duplicate_key", "split_sample", "truncated", "forgotten")


def embed_own(context: Context, tasks: Sequence[EmbedTask]) -> None:
    """Write the vectors and the samples of parts; warns where vectors are far from unit length."""
    dim = _dimension(context)
    lengths = context.map("embed", "parts", _embed_own, [replace(task, dim=dim) for task in tasks])
    warn_of_lengths([task.part.shard.url for task in tasks], lengths)


def _dimension(context: Context) -> int:
    """Return the length of the vectors; raises EmbeddingError if there is none."""
    if context.recipe.embed.files is not None:
        given = next(filter(None, map(given_vectors.rows_of, context.parts)), None)
        return 1 if given is None else given.dim  # no row, no vector: any length will do
    dims = [part.columns.vector_dim for part in context.parts if part.columns.vector_dim]
    if not context.rows:
        return 1  # no row, no vector: any length will do
    if not dims:
        raise EmbeddingError(f"embed.column {context.recipe.embed.column!r}: no usable vector in any row")
    return dims[0]


def _embed_own(task: EmbedTask) -> dict[str, Lengths]:
    """Write the part; return how long its vectors were as given."""
    keys, lengths = keys_of(task), {"image": Lengths(), "text": Lengths()}
    outcomes = Outcomes([], [], [None] * len(keys), [None] * len(keys))
    path = task.run.part(task.run.embeddings, task.part.name)
    write_part(path, _own_pieces(task, keys, outcomes, lengths), task.dim, task.fingerprint, text=task.text)
    write_samples(task, keys, outcomes)
    return lengths


def _own_pieces(
    task: EmbedTask, keys: pl.DataFrame, outcomes: Outcomes, lengths: dict[str, Lengths]
) -> Iterator[Vectors]:
    """Yield the usable vectors of a part; outcomes and lengths of its rows are noted on the way."""
    uids, copied = keys["uid"].to_list(), keys["copy_of"].is_not_null().to_numpy()
    start = 0
    for rows, given in read_task.read_batches(
        task.part, task.source, batch_bytes=task.batch_bytes, images=False
    ):
        if given is None or given.shape[1] != task.dim:
            width = "no" if given is None else given.shape[1]
            raise EmbeddingError(f"{task.part.shard.url}: vectors of {width} numbers, {task.dim} expected")
        rows = read_task.outcomes_of(rows, keys, start)
        unit, valid = unit_rows(given)
        words, known = (None, None) if rows.text_vector is None else unit_rows(rows.text_vector)
        ok = _judge_own(task, rows, given, valid, known, outcomes)
        lengths["image"].note(given[valid])
        wanted = np.flatnonzero(ok & ~copied[start : start + len(rows)])
        chosen = [uids[start + row] for row in wanted.tolist()]
        image = unit[wanted].astype(np.float16)
        if words is None or known is None or rows.text_vector is None:
            yield Vectors(chosen, image)
        else:
            lengths["text"].note(rows.text_vector[known])
            yield Vectors(chosen, image, words[wanted].astype(np.float16), known[wanted])
        start += len(rows)


def _judge_own(
    task: EmbedTask,
    rows: Rows,
    given: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_] | None,
    outcomes: Outcomes,
) -> npt.NDArray[np.bool_]:
    """Note the outcomes of rows whose vectors are given; return which rows are usable.

    valid, known : which rows have a usable vector, and one of the caption. What reading said of a row holds,
    unless the vectors are in files: then a row needs no image.
    """
    found, place = why_unusable(given), len(outcomes.outcome)
    for row, good in enumerate(valid):
        outcome, reason = rows.outcome[row], rows.reason[row]
        if outcome in BROKEN_ROWS:  # whatever its vector: the row is not the sample it seems to be
            pass
        elif task.in_files or (outcome == "ok" and not good):
            bad = ("bad_vector", found[row] or "the vector has no usable length")
            outcome, reason = ("ok", None) if good else bad
        if outcome == "ok" and task.on == "text" and known is not None and not known[row]:
            outcome, reason = "no_caption", "concepts are made of captions, and there is no vector of one"
        outcomes.outcome.append(outcome)
        outcomes.reason.append(reason)
    return np.array([outcome == "ok" for outcome in outcomes.outcome[place:]], bool)
