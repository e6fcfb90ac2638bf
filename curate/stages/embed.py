"""Stage `embed`: vectors for every sample, by a CLIP model or as given, and the outcome of every row.

Writes `0_samples` (all rows, now with outcomes) and `1_embeddings` (usable samples, copies once).
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

import curate.embed
from curate import schema, storage
from curate.cluster.vectors import unit_rows
from curate.embed.lengths import Lengths, warn_of_lengths
from curate.embed.parts import Vectors, write_part
from curate.embed.vectors import open_npy_files, why_unusable
from curate.errors import EmbeddingError
from curate.runs import RunFolder
from curate.settings import Embed, Source
from curate.sources.base import Rows
from curate.stages import copies, read
from curate.stages.base import Context, Part, log, made

if TYPE_CHECKING:
    from curate.embed.clip import Clip
    from curate.embed.decode_pool import DecodePool
    from curate.embed.encode import Embedded, Unembedded

__all__ = [
    "VERSION",
    "EmbedTask",
    "Outcomes",
    "keys_of",
    "open_model",
    "retries",
    "run",
    "space_of",
    "take",
    "task_of",
    "unembedded",
    "write_samples",
]

VERSION = 1
#: Rows handed to the decoders at a time.
DECODE_ROWS = 64
#: Outcomes of rows that are broken as rows, not for want of an image.
BROKEN_ROWS = ("bad_row", "duplicate_key", "split_sample", "truncated")


@dataclass(frozen=True)
class EmbedTask:
    """One part to give vectors to."""

    run: RunFolder
    part: Part
    source: Source
    keys: Path
    copies: copies.Copies
    exact: bool
    npy: tuple[str, ...] | None
    dim: int
    text: bool
    on: str
    batch_bytes: int
    stamp: str


@dataclass
class Outcomes:
    """What became of the rows of a part, collected batch by batch."""

    outcome: list[str]
    reason: list[str | None]
    width: list[int | None]
    height: list[int | None]


def run(context: Context) -> bool:
    """Embed all parts that are not embedded yet; return whether anything was to do."""
    recipe, run = context.recipe, context.run
    space = space_of(recipe.embed)
    read_stamp = run.stamp(run.work / "keys")
    present = {part.name for part in context.parts}
    again = {name: said for name, said in retries(run).items() if name in present}
    stamp = storage.fingerprint(
        "embed", VERSION, space, recipe.cluster.on, recipe.dedup.exact, recipe.seed, read_stamp,
        *([again] if again else []),
    )  # fmt: skip
    if run.is_done(run.embeddings, stamp) and run.is_done(run.samples, stamp):
        return False
    run.unmark(run.samples)
    run.unmark(run.embeddings)
    found = copies.find(context)
    tasks = [task_of(context, part, found, space) for part in context.parts]
    todo = [task for task in tasks if not _is_made(task)]
    if todo and recipe.embed.own_vectors:
        dim = _dimension(context)
        todo = [replace(task, dim=dim) for task in todo]
        lengths = context.map("embed", "parts", _embed_own, todo)
        warn_of_lengths([task.part.shard.url for task in todo], lengths)
    elif todo:
        _embed_by_model(context, todo)
    names = [part.name for part in context.parts]
    run.keep_only(run.samples, names)
    run.keep_only(run.embeddings, names)
    facts = _count(context) | {"space": space, "parts_made": len(todo)}
    run.mark(run.embeddings, stamp, facts)
    run.mark(run.samples, stamp, facts)
    log.info(
        "embed: %s rows in, %s usable, %s copies, %s unusable",
        *(f"{facts[name]:,}" for name in ("rows", "usable", "copies", "unusable")),
    )
    return True


def retries(run: RunFolder) -> dict[str, str]:
    """Return what stands for the retries of each part that had one: they are in the part's fingerprint."""
    found = storage.read_json(run.work / "retries.json")
    return found if isinstance(found, dict) else {}


def space_of(embed: Embed) -> dict[str, object]:
    """Return what decides the numbers in a vector: model, weights, precision; or where vectors are from."""
    if embed.column is not None:
        both = {"column": embed.column, "text_column": embed.text_column}
        return {name: column for name, column in both.items() if column is not None}
    if embed.files is not None:
        return {"files": embed.files}
    space: dict[str, object] = {"model": embed.model, "pretrained": embed.pretrained}
    space |= {"precision": _precision(embed), "max_pixels": embed.max_pixels, "batch_size": embed.batch_size}
    shipped = Path(curate.embed.__file__).parent / "tiny" / "model.safetensors"
    weights = shipped if embed.model == "tiny" else embed.pretrained
    if weights is not None and Path(weights).is_file():
        space["weights"] = storage.hash_file(Path(weights))
    return space


def _precision(embed: Embed) -> str:
    """Return the precision `auto` stands for, without importing torch where there is no GPU driver."""
    if embed.precision != "auto":
        return embed.precision
    driver = any(Path("/dev").glob("nvidia[0-9]*"))
    on_gpu = embed.device.startswith("cuda") or (embed.device == "auto" and driver)
    if on_gpu and embed.device == "auto":
        import torch

        on_gpu = torch.cuda.is_available()
    return "float16" if on_gpu else "float32"


def task_of(context: Context, part: Part, found: copies.Copies, space: object) -> EmbedTask:
    """Return what giving vectors to a part takes."""
    recipe = context.recipe
    source = next(source for source in recipe.source if source.name == part.shard.source)
    npy = read.npy_of(recipe)
    words = recipe.embed.text_column
    if not recipe.embed.own_vectors:
        words = next((p.columns.caption for p in context.parts if p.columns.caption), None)
    text = words is not None
    stamp = storage.fingerprint(
        "embed", VERSION, space, part.fingerprint, text, recipe.cluster.on, recipe.dedup.exact,
        read.vectors_of(part, npy), found.fingerprint_of(part),
    )  # fmt: skip
    if (retried := retries(context.run).get(part.name)) is not None:
        stamp = storage.fingerprint(stamp, retried)
    return EmbedTask(
        context.run, part, source, read.keys_path(context, part), found, recipe.dedup.exact, npy, 0, text,
        recipe.cluster.on, min(64_000_000, context.task_memory // 4), stamp,
    )  # fmt: skip


def _is_made(task: EmbedTask) -> bool:
    run, name = task.run, task.part.name
    return made(run.part(run.samples, name), task.stamp) and made(run.part(run.embeddings, name), task.stamp)


def keys_of(task: EmbedTask) -> pl.DataFrame:
    """Return what is known of the rows of a part before decoding, with which rows are copies."""
    keys = pl.DataFrame(storage.read_table(task.keys))
    return copies.of_part(task.copies, task.part, keys, exact=task.exact)


def write_samples(task: EmbedTask, keys: pl.DataFrame, outcomes: Outcomes) -> None:
    """Write the samples table of a part."""
    shard = task.part.shard
    frame = keys.with_columns(
        source=pl.lit(shard.source),
        split=pl.lit(shard.split),
        shard=pl.lit(shard.name),
        outcome=pl.Series(outcomes.outcome, dtype=pl.String),
        reason=pl.Series(outcomes.reason, dtype=pl.String),
        width=pl.Series(outcomes.width, dtype=pl.Int32),
        height=pl.Series(outcomes.height, dtype=pl.Int32),
    )
    table = frame.select(schema.SAMPLES.names).to_arrow().cast(schema.SAMPLES)
    storage.write_parquet(task.run.part(task.run.samples, task.part.name), table, schema.SAMPLES, task.stamp)


# --- vectors that are given -------------------------------------------------------------------------


def _dimension(context: Context) -> int:
    """Return the length of the vectors; raises EmbeddingError if there is none."""
    npy = read.npy_of(context.recipe)
    if npy is not None:
        return open_npy_files(read.npy_files(npy)).dim
    dims = [part.columns.vector_dim for part in context.parts if part.columns.vector_dim]
    if not any(part.rows for part in context.parts):
        return 1  # no row, no vector: any length will do
    if not dims:
        raise EmbeddingError(f"embed.column {context.recipe.embed.column!r}: no usable vector in any row")
    return dims[0]


def _embed_own(task: EmbedTask) -> dict[str, Lengths]:
    """Write the part; return how long its vectors were as given."""
    keys, lengths = keys_of(task), {"image": Lengths(), "text": Lengths()}
    outcomes = Outcomes([], [], [None] * len(keys), [None] * len(keys))
    path = task.run.part(task.run.embeddings, task.part.name)
    write_part(path, _own_pieces(task, keys, outcomes, lengths), task.dim, task.stamp, text=task.text)
    write_samples(task, keys, outcomes)
    return lengths


def _own_pieces(
    task: EmbedTask, keys: pl.DataFrame, outcomes: Outcomes, lengths: dict[str, Lengths]
) -> Iterator[Vectors]:
    """Yield the usable vectors of a part; outcomes and lengths of its rows are noted on the way."""
    uids, copied = keys["uid"].to_list(), keys["copy_of"].is_not_null().to_numpy()
    start = 0
    for rows, given in read.read_batches(
        task.part, task.source, task.npy, batch_bytes=task.batch_bytes, images=False
    ):
        if given is None or given.shape[1] != task.dim:
            width = "no" if given is None else given.shape[1]
            raise EmbeddingError(f"{task.part.shard.url}: vectors of {width} numbers, {task.dim} expected")
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
        elif task.npy is not None or (outcome == "ok" and not good):
            bad = ("bad_vector", found[row] or "the vector has no usable length")
            outcome, reason = ("ok", None) if good else bad
        if outcome == "ok" and task.on == "text" and known is not None and not known[row]:
            outcome, reason = "no_caption", "concepts are made of captions, and there is no vector of one"
        outcomes.outcome.append(outcome)
        outcomes.reason.append(reason)
    return np.array([outcome == "ok" for outcome in outcomes.outcome[place:]], bool)


# --- vectors by a model -----------------------------------------------------------------------------


@contextlib.contextmanager
def open_model(context: Context) -> Iterator[tuple["Clip", "DecodePool"]]:
    """Give the model of the recipe, and the processes that decode for it."""
    from curate.embed import clip as clips
    from curate.embed.decode_pool import DecodePool
    from curate.embed.encode import default_decode_workers

    embed, workers = context.recipe.embed, context.engine.workers
    clip = clips.load(
        embed.model,
        embed.pretrained,
        device=embed.device,
        precision=embed.precision,
        batch_size=embed.batch_size,
    )
    if context.recipe.workers == "auto":
        workers = default_decode_workers(clip.device)
    limit = max(1_000_000_000, context.recipe.memory // 2)
    with DecodePool(
        clip.preprocess, workers=workers, max_pixels=embed.max_pixels, memory_limit_bytes=limit
    ) as pool:
        yield clip, pool


def _embed_by_model(context: Context, tasks: Sequence[EmbedTask]) -> None:
    """Run the model over all parts in one stream, so that it never waits between parts."""
    from curate.embed.encode import embed_rows

    total, done = sum(task.part.rows for task in tasks), 0
    context.progress("embed", 0, total, "images")
    with open_model(context) as (clip, pool):
        results = embed_rows(_batches(tasks), clip, pool)
        for task in tasks:
            keys, outcomes = keys_of(task), Outcomes([], [], [], [])
            uids: list[str] = keys["uid"].to_list()
            pieces: list[Vectors] = []
            while len(outcomes.outcome) < task.part.rows:
                result = next(results)
                pieces.append(take(task, result, uids[len(outcomes.outcome) :], outcomes))
                done += len(result.outcome)
                context.progress("embed", done, total, "images")
            path = task.run.part(task.run.embeddings, task.part.name)
            write_part(path, pieces, clip.dim, task.stamp, text=task.text)
            write_samples(task, keys, outcomes)


def take(task: EmbedTask, result: "Embedded", uids: list[str], outcomes: Outcomes) -> Vectors:
    """Note the outcomes of a batch and return its vectors; `uids` begins at the batch's first row."""
    rows: Rows = result.tag
    place = len(outcomes.outcome)
    _note(task, rows, result, outcomes)
    ok = np.array([outcome == "ok" for outcome in outcomes.outcome[place:]], bool)
    wanted = np.flatnonzero(ok & result.has_image)
    chosen = [uids[row] for row in wanted.tolist()]
    return Vectors(chosen, result.image[wanted], result.text[wanted], result.has_text[wanted])


def _note(task: EmbedTask, rows: Rows, decoded: "Embedded", outcomes: Outcomes) -> None:
    """Add the outcomes of a batch: what reading found comes before what decoding found."""
    for row in range(len(rows)):
        outcome, reason = rows.outcome[row], rows.reason[row]
        if outcome == "ok":
            outcome, reason = decoded.outcome[row], decoded.reason[row]
        if outcome == "ok" and task.on == "text" and not (rows.caption[row] or "").strip():
            outcome, reason = "no_caption", "concepts are made of captions, and there is none"
        outcomes.outcome.append(outcome)
        outcomes.reason.append(reason)
    outcomes.width += decoded.width
    outcomes.height += decoded.height


def _batches(tasks: Sequence[EmbedTask]) -> Iterator["Unembedded"]:
    """Yield the rows of all parts in small batches, for the decoders."""
    for task in tasks:
        keys = keys_of(task)
        embed = keys["copy_of"].is_null().to_list()
        start = 0
        for rows, _ in read.read_batches(
            task.part, task.source, None, batch_bytes=task.batch_bytes, images=True
        ):
            yield from unembedded(rows, embed[start : start + len(rows)])
            start += len(rows)


def unembedded(rows: Rows, embed: list[bool]) -> Iterator["Unembedded"]:
    """Yield rows in small batches, for the decoders; embed : which of them are no copies."""
    from curate.embed.encode import Unembedded

    for first in range(0, len(rows), DECODE_ROWS):
        some = rows.slice(first, min(first + DECODE_ROWS, len(rows)))
        images = [i if o == "ok" else None for i, o in zip(some.image, some.outcome, strict=True)]
        yield Unembedded(some, images, some.caption, embed[first : first + len(some)])


def _count(context: Context) -> dict[str, int]:
    """Return how many rows there are, and how many of them are usable, copies, and unusable."""
    rows = usable = copied = 0
    for part in context.parts:
        path = context.run.part(context.run.samples, part.name)
        frame = pl.DataFrame(storage.read_table(path, ["outcome", "copy_of"]))
        ok = frame["outcome"] == "ok"
        rows, usable = rows + len(frame), usable + int(ok.sum())
        copied += int((ok & frame["copy_of"].is_not_null()).sum())
    return {"rows": rows, "usable": usable, "copies": copied, "unusable": rows - usable}
