"""Vectors that are given: by a column of the source or in files beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.embedding.store import Vectors, write_part
from curate.embedding.user_vectors import Lengths, warn_of_lengths
from curate.errors import EmbeddingError
from curate.execution.context import Context
from curate.io import storage
from curate.linalg import units_and_norms
from curate.pipeline.stages import given_vectors
from curate.pipeline.stages.embed_task import EmbedTask, Outcomes, keys_of, write_samples
from curate.pipeline.stages.read_task import given_batches
from curate.runs.forgotten import OUTCOME
from curate.sources.vector_columns import why_unusable

__all__ = ["embed_own"]

#: Outcomes of rows that are broken as rows, not for want of an image.
BROKEN_ROWS = frozenset({"bad_row", "duplicate_key", "split_sample", "truncated", "forgotten"})

NO_TEXT = "concepts are made of captions, and there is no vector of one"


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


def _embed_own(task: EmbedTask) -> dict[str, float | None]:
    """Write the part; return the median length of its vectors as given, by what they stand for."""
    keys, lengths = keys_of(task), {"image": Lengths(), "text": Lengths()}
    outcomes = Outcomes([], [], [None] * len(keys), [None] * len(keys))
    path = task.run.part(task.run.embeddings, task.part.name)
    write_part(path, _own_pieces(task, keys, outcomes, lengths), task.dim, task.fingerprint, text=task.text)
    write_samples(task, keys, outcomes)
    return {kind: one.median() for kind, one in lengths.items()}


def _own_pieces(
    task: EmbedTask, keys: pl.DataFrame, outcomes: Outcomes, lengths: dict[str, Lengths]
) -> Iterator[Vectors]:
    """Yield the usable vectors of a part; outcomes and lengths of its rows are noted on the way."""
    uids, copied = keys["uid"].to_list(), keys["copy_of"].is_not_null().to_numpy()
    said = keys["outcome"].to_list(), keys["reason"].to_list()
    own = uids
    if task.part.vectors:  # a forgotten row has lost its uid
        named = storage.read_table(task.keys, ["uid"])["uid"].to_pylist()
        own = [None if one == OUTCOME else uid for uid, one in zip(named, said[0], strict=True)]
    start = 0
    for given, texts in given_batches(task.part, task.source, own, batch_bytes=task.batch_bytes):
        if given.shape[1] != task.dim:
            raise _other_length(task, str(given.shape[1]))
        stop = start + len(given)
        unit, norms = units_and_norms(given)
        words, text_norms = (None, None) if texts is None else units_and_norms(texts)
        known = None if text_norms is None else ~np.isnan(text_norms)
        valid = ~np.isnan(norms)
        ok = _judge_own(task, said[0][start:stop], said[1][start:stop], given, valid, known, outcomes)
        lengths["image"].note(norms[valid])
        wanted = np.flatnonzero(ok & ~copied[start:stop])
        chosen = [uids[start + row] for row in wanted.tolist()]
        image = _halves(unit, wanted)
        if words is None or known is None or text_norms is None:
            yield Vectors(chosen, image)
        else:
            lengths["text"].note(text_norms[known])
            yield Vectors(chosen, image, _halves(words, wanted), known[wanted])
        start = stop
    if start < len(keys):
        raise _other_length(task, "no")


def _other_length(task: EmbedTask, width: str) -> EmbeddingError:
    return EmbeddingError(f"{task.part.shard.url}: vectors of {width} numbers, {task.dim} expected")


def _halves(unit: npt.NDArray[np.float32], wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
    """Return the rows at ascending positions in half precision."""
    return (unit if len(wanted) == len(unit) else unit[wanted]).astype(np.float16)


def _judge_own(
    task: EmbedTask,
    outcome: list[str],
    reason: list[str | None],
    given: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_] | None,
    outcomes: Outcomes,
) -> npt.NDArray[np.bool_]:
    """Note the outcomes of rows whose vectors are given; return which rows are usable.

    outcome, reason : what reading said of the rows. It holds, unless the vectors are in files: then a row needs no
    image. valid, known : which rows have a usable vector, and one of the caption.
    """
    broken = np.array([one in BROKEN_ROWS for one in outcome], bool)
    ok = np.array([one == "ok" for one in outcome], bool)
    judged = (
        ~broken if task.in_files else ok
    )  # whatever the vector of a broken row: it is not the sample it seems to be
    for row in np.flatnonzero(judged & valid & ~ok).tolist():
        outcome[row], reason[row] = "ok", None
    bad = np.flatnonzero(judged & ~valid)
    for row, why in zip(bad.tolist(), why_unusable(given[bad]), strict=True):
        outcome[row], reason[row] = "bad_vector", why or "the vector has no usable length"
    ok = judged & valid
    if known is not None and task.on == "text":
        for row in np.flatnonzero(ok & ~known).tolist():
            outcome[row], reason[row] = "no_caption", NO_TEXT
        ok &= known
    outcomes.outcome += outcome
    outcomes.reason += reason
    return ok
