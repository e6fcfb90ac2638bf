"""Embedding again only the rows of a run that failed, among those of their part that did not.

Rows whose fate stands in the shard itself (a null image, a refused path, a damaged tar member) cannot change
without the shard, and a changed shard is read anew. Here are those whose image was looked for elsewhere, or given
to the decoder. Their part of `0_samples` and `1_embeddings` is written again with every other row as it was.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from curate import schema
from curate.embedding.store import BATCH_ROWS, EmbeddingPart, Vectors, write_part
from curate.errors import RunError
from curate.execution.context import Context, log
from curate.execution.engines.base import Place
from curate.io import storage
from curate.pipeline.stages import copies, embed, embed_task, read, read_task
from curate.pipeline.stages.embed_model import model_of, open_model
from curate.pipeline.stages.embed_task import EmbedTask, Outcomes
from curate.sources import registry
from curate.sources.addresses import MAX_IMAGE_BYTES
from curate.sources.base import Rows

if TYPE_CHECKING:
    from curate.embedding.batching import Embedded, Unembedded

__all__ = ["embed_again"]

#: Stretches of failed rows up to this long are read side by side, longer ones by themselves.
SHORT_STRETCH = 8
PARALLEL_STRETCHES = 16

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Failed:
    """A part, its samples as they are, and the positions of the rows to try again."""

    task: EmbedTask
    samples: pl.DataFrame
    positions: Positions


def embed_again(context: Context, outcomes_of: Sequence[str]) -> Counter[tuple[str, str]]:
    """Embed the rows with these outcomes again, those of all parts in one stream.

    Returns how many there were by outcome before and now. The mark of the stage is gone where any is another now.
    """
    tried: Counter[tuple[str, str]] = Counter()
    if context.recipe.embed.own_vectors:
        return tried
    failed = list(_failed(context, outcomes_of))
    if not failed:
        return tried
    from curate.embedding.batching import embed_rows

    total = sum(len(part.positions) for part in failed)
    context.progress("retry", 0, total, "images")
    with open_model(model_of(context), Place()) as (clip, pool):
        results = embed_rows(_batches(failed), clip, pool)
        for part in failed:
            outcomes, pieces = _results(part, results)
            before = part.samples["outcome"].gather(part.positions).to_list()
            tried.update(zip(before, outcomes.outcome, strict=True))
            _merge(context, part, outcomes, pieces)
            context.progress("retry", sum(tried.values()), total, "images")
    repaired = sum(count for (_, now), count in tried.items() if now == "ok")
    log.info("retry: %s rows tried, %s of them can be used now", f"{total:,}", f"{repaired:,}")
    return tried


def _failed(context: Context, outcomes_of: Sequence[str]) -> Iterator[Failed]:
    """Yield the parts with rows that failed after what stands in the shard was found good."""
    found, space = copies.find(context), embed_task.space_of(context.recipe.embed)
    for part in context.parts:
        table = storage.read_table(context.run.part(context.run.samples, part.name))
        samples = pl.DataFrame(schema.complete(table, schema.SAMPLES))
        keys = storage.read_table(read.keys_path(context, part), ["outcome"])
        good = pl.Series(keys["outcome"]) == "ok"
        positions = (good & samples["outcome"].is_in(outcomes_of)).arg_true().to_numpy().astype(np.int64)
        if len(positions):
            yield Failed(embed_task.task_of(context, part, found, space), samples, positions)


# --- reading the failed rows, and no others -----------------------------------------------------------


def _batches(failed: Iterable[Failed]) -> Iterator["Unembedded"]:
    """Yield the failed rows of all parts in order, in small batches for the decoders."""
    for part in failed:
        stands_alone = part.samples["copy_of"].gather(part.positions).is_null().to_list()
        for rows in _rows_of(part.task, part.positions):
            yield from embed.unembedded(rows, stands_alone[: len(rows)])
            stands_alone = stands_alone[len(rows) :]


def _rows_of(task: EmbedTask, positions: Positions) -> Iterator[Rows]:
    """Yield the rows of a part at `positions`, in order, with their images; no other path is followed."""
    pieces = _stretches(task, positions)
    # Each stretch may have an image beyond its share: only so many side by side as have room for one.
    parallel = max(1, min(PARALLEL_STRETCHES, task.batch_bytes * 4 // MAX_IMAGE_BYTES))
    with ThreadPoolExecutor(parallel) as pool:
        for short, group in groupby(pieces, key=lambda rows: len(rows) <= SHORT_STRETCH):
            if not short:
                for rows in group:
                    yield from _with_images(task, rows)
                continue
            while some := list(islice(group, parallel)):
                for found in pool.map(lambda rows: list(_with_images(task, rows)), some):
                    yield from found


def _stretches(task: EmbedTask, positions: Positions) -> Iterator[Rows]:
    """Yield the stretches of adjacent rows among `positions`, read without following a path."""
    start = task.part.start
    span = replace(task.part, start=start + int(positions[0]), stop=start + int(positions[-1]) + 1)
    for rows, _ in read_task.read_batches(span, task.source, batch_bytes=task.batch_bytes, images=False):
        here = np.flatnonzero(np.isin(rows.row - start, positions))
        for places in np.split(here, np.flatnonzero(np.diff(here) > 1) + 1):
            if len(places):
                yield rows.slice(int(places[0]), int(places[-1]) + 1)


def _with_images(task: EmbedTask, rows: Rows) -> Iterator[Rows]:
    """Yield adjacent rows with their images: those at hand, or what their paths lead to."""
    if all(ref is None for ref in rows.image_ref):
        yield rows
        return
    span = replace(task.part, start=int(rows.row[0]), stop=int(rows.row[-1]) + 1)
    share = max(1, task.batch_bytes // PARALLEL_STRETCHES)
    for found, _ in read_task.unchecked_batches(span, task.source, batch_bytes=share, images=True):
        yield found


# --- writing them among the others --------------------------------------------------------------------


def _results(part: Failed, results: Iterator["Embedded"]) -> tuple[Outcomes, list[Vectors]]:
    """Return what became of the rows tried of one part, and the vectors of those that can be used."""
    outcomes, pieces = Outcomes([], [], [], []), []
    uids: list[str] = part.samples["uid"].gather(part.positions).to_list()
    while len(outcomes.outcome) < len(uids):
        pieces.append(embed.take(part.task, next(results), uids[len(outcomes.outcome) :], outcomes))
    return outcomes, pieces


def _merge(context: Context, part: Failed, tried: Outcomes, pieces: list[Vectors]) -> None:
    """Write a part again with the new outcomes and vectors among the old ones, if any outcome is new."""
    run, task, samples = context.run, part.task, part.samples
    names = ("outcome", "reason", "width", "height", "content_hash")
    outcomes = Outcomes(*(samples[name].to_list() for name in names))
    for place, position in enumerate(part.positions.tolist()):
        for name in names:
            getattr(outcomes, name)[position] = getattr(tried, name)[place]
    if outcomes.outcome == samples["outcome"].to_list() and outcomes.reason == samples["reason"].to_list():
        return
    registry.check_unchanged(task.part.shard)  # once for all stretches: a folder is listed for it
    run.unmark(run.samples)
    run.unmark(run.embeddings)
    # First the new fingerprint, then the files that carry it: what an interruption leaves is not taken as made.
    said = storage.fingerprint(task.fingerprint, outcomes.outcome, outcomes.reason)
    storage.write_record(run.work / "retries.json", embed_task.retries(run) | {task.part.name: said})
    task = embed_task.task_of(context, task.part, task.copies, embed_task.space_of(context.recipe.embed))
    path = run.part(run.embeddings, task.part.name)
    old, alone = EmbeddingPart(path), samples["copy_of"].is_null()
    before = (alone & (samples["outcome"] == "ok")).to_numpy()
    now = (alone & (pl.Series(outcomes.outcome) == "ok")).to_numpy()
    write_part(path, _merged(old, pieces, before[now], str(path)), old.dim, task.fingerprint, text=task.text)
    embed_task.write_samples(task, embed_task.keys_of(task), outcomes)


def _merged(
    old: EmbeddingPart, pieces: list[Vectors], is_old: npt.NDArray[np.bool_], where: str
) -> Iterator[Vectors]:
    """Yield the vectors of a part block by block; is_old : which rows, in order, come from the old part."""
    fresh = _joined(pieces)
    uids = old.uids()
    if is_old.sum() != len(uids) or (~is_old).sum() != len(fresh.uid):
        raise RunError(f"{where}: its rows are not those of the samples table; remove it and run again")
    texts = None
    if old.has_text:
        n_batches = -(-len(uids) // BATCH_ROWS)
        texts = np.concatenate(
            [np.empty(0, bool), *(old.present("text", index) for index in range(n_batches))]
        )
    place = np.where(is_old, np.cumsum(is_old), np.cumsum(~is_old)) - 1
    for start in range(0, len(is_old), BATCH_ROWS):
        kept, places = is_old[start : start + BATCH_ROWS], place[start : start + BATCH_ROWS]
        names = [uids[at] if same else fresh.uid[at] for same, at in zip(kept, places, strict=True)]
        image = _picked(old.take("image", places[kept]), fresh.image[places[~kept]], kept)
        if texts is None or fresh.text is None or fresh.has_text is None:
            yield Vectors(names, image)
            continue
        text = _picked(old.take("text", places[kept]), fresh.text[places[~kept]], kept)
        has_text = np.empty(len(kept), np.bool_)
        has_text[kept], has_text[~kept] = texts[places[kept]], fresh.has_text[places[~kept]]
        yield Vectors(names, image, text, has_text)


def _joined(pieces: list[Vectors]) -> Vectors:
    """Return the vectors of a model, several batches as one."""
    texts = [piece.text for piece in pieces if piece.text is not None]
    masks = [piece.has_text for piece in pieces if piece.has_text is not None]
    uids = [uid for piece in pieces for uid in piece.uid]
    image = np.concatenate([piece.image for piece in pieces])
    return Vectors(uids, image, np.concatenate(texts), np.concatenate(masks))


def _picked(
    old: npt.NDArray[np.float16], fresh: npt.NDArray[np.float16], kept: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float16]:
    rows = np.empty((len(kept), old.shape[1]), np.float16)
    rows[kept], rows[~kept] = old, fresh
    return rows
