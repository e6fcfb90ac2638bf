"""Stage `embed`: vectors for every sample, by a CLIP model or as given, and the outcome of every row.

Writes `0_samples` (all rows, now with outcomes) and `1_embeddings` (usable samples, copies once).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from curate import schema
from curate.embedding.store import Vectors, write_part
from curate.errors import UsageError
from curate.execution.context import Context, log
from curate.execution.engines.base import Place
from curate.execution.stage import Stage
from curate.hashing import content_hashes
from curate.io import storage
from curate.pipeline.stages import copies, embed_precision, read_task
from curate.pipeline.stages.embed_captions import embed_captions
from curate.pipeline.stages.embed_model import model_of, open_model
from curate.pipeline.stages.embed_own import embed_own
from curate.pipeline.stages.embed_task import (
    VERSION,
    EmbedTask,
    Outcomes,
    is_made,
    keys_of,
    retries,
    space_of,
    task_of,
    write_samples,
)
from curate.pipeline.stages.unusable import why_unusable_rows
from curate.runs.forgotten import OUTCOME
from curate.schema import PASSING
from curate.sources.base import Rows

if TYPE_CHECKING:
    from curate.embedding.batching import Embedded, Unembedded
    from curate.embedding.clip import Clip
    from curate.embedding.decode_pool import DecodePool

__all__ = ["Embed", "count_outcomes", "take", "unembedded"]

#: Rows handed to the decoders at a time, and bytes of images (one image at least).
DECODE_ROWS = 64
DECODE_BYTES = 16_000_000
#: Rows that a holder of a cluster embeds before it answers (more where a part has more).
GROUP_ROWS = 8_192


class Embed(Stage):
    """Gives vectors to all parts that have none yet."""

    name = "embed"
    version = VERSION

    @cached_property
    def space(self) -> dict[str, object]:
        """What decides the numbers in a vector."""
        return space_of(self.recipe.embed)

    @property
    def marked(self) -> tuple[Path, ...]:
        """Vectors, and the samples that they are of."""
        return self.run_folder.embeddings, self.run_folder.samples

    def inputs(self) -> list[object]:
        """Return what vectors and outcomes depend on; retries only where there was one."""
        recipe, run = self.recipe, self.run_folder
        present = {part.name for part in self.parts}
        again = {name: said for name, said in retries(run).items() if name in present}
        read_before = run.fingerprint(run.stage("read"))
        return [
            self.space, recipe.cluster.asks_for, bool(recipe.dedup.exact), recipe.seed, read_before,
            *([again] if again else []),
        ]  # fmt: skip

    def prepare(self) -> None:
        """Note the precision, which the run keeps."""
        if not self.recipe.embed.own_vectors:
            embed_precision.note(self.run_folder, self.recipe.embed)

    def tasks(self) -> list[EmbedTask]:
        """Return what giving vectors to each part takes."""
        found = copies.find(self.context)
        return [task_of(self.context, part, found, self.space) for part in self.parts]

    def is_made(self, task: EmbedTask) -> bool:
        """Whether both tables of a part are there as they would be made now."""
        return is_made(task)

    def make(self, tasks: Sequence[EmbedTask]) -> tuple[()]:
        """Write vectors and samples of parts: as given, of captions, or by a model of images and captions."""
        if tasks and self.recipe.embed.own_vectors:
            embed_own(self.context, tasks)
        elif tasks and _captions_only(self.context):
            embed_captions(self.context, tasks)
        elif tasks:
            _embed_by_model(self.context, tasks)
        return ()

    def finish(self, results: Sequence[object]) -> dict[str, object]:
        """Return how many rows can be used."""
        made = self.context.worked[self.name]["parts"]
        for part in self.parts:
            _complete(self.run_folder.part(self.run_folder.samples, part.name))
        return count_outcomes(self.context) | {"space": self.space, "parts_made": made}

    def log(self, stats: Mapping[str, Any]) -> None:
        """Say how many rows can be used."""
        log.info(
            "embed: %s rows in, %s usable, %s copies, %s unusable",
            *(f"{stats[name]:,}" for name in ("rows", "usable", "copies", "unusable")),
        )
        if stats.get("unknown_images"):
            log.info(
                "embed: %s images were read before their content was noted; exact copies among them under other "
                "paths are found only in a new run (another --out)", f"{stats['unknown_images']:,}",
            )  # fmt: skip
        if stats["unusable"]:
            log.info("embed: unusable are %s", why_unusable_rows(self.context))


def _captions_only(context: Context) -> bool:
    """Whether the samples have no images; raises UsageError where some have, and where concepts cannot be made."""
    images = {part.columns.image is not None for part in context.parts if part.rows}
    if images == {True, False}:
        raise UsageError(
            "source.image must be null for all sources or for none: vectors of images and captions differ"
        )
    if images == {False} and context.recipe.cluster.on != "image":
        raise UsageError(
            "cluster.on must be image where source.image is null: the vector of a caption stands in its place"
        )
    return images == {False}


def _embed_by_model(context: Context, tasks: Sequence[EmbedTask]) -> None:
    """Run the model over all parts: in one stream here, or in groups of parts where holders of a cluster are."""
    total, done = sum(task.part.rows for task in tasks), 0
    context.progress("embed", 0, total, "images")
    for rows in _on_holders(context, tasks) if context.engine.remote else _here(context, tasks):
        done += rows
        context.progress("embed", done, total, "images")


def _here(context: Context, tasks: Sequence[EmbedTask]) -> Iterator[int]:
    with open_model(model_of(context), Place()) as (clip, pool):
        yield from _embed_parts(tasks, clip, pool)


def _on_holders(context: Context, tasks: Sequence[EmbedTask]) -> Iterator[int]:
    """Embed groups of parts where the engine holds the model; a group that is sent again makes what is not there."""
    groups: list[list[EmbedTask]] = [[]]
    for task in tasks:
        if sum(one.part.rows for one in groups[-1]) >= GROUP_ROWS:
            groups.append([])
        groups[-1].append(task)
    yield from context.engine.hold(partial(open_model, model_of(context)), _embed_group, groups)


def _embed_group(held: tuple["Clip", "DecodePool"], tasks: Sequence[EmbedTask]) -> int:
    for _ in _embed_parts([task for task in tasks if not is_made(task)], *held):
        pass
    return sum(task.part.rows for task in tasks)


def _embed_parts(tasks: Sequence[EmbedTask], clip: "Clip", pool: "DecodePool") -> Iterator[int]:
    """Write parts from one stream, so that the model never waits between them; yield rows as they are done."""
    from curate.embedding.batching import embed_rows

    results = embed_rows(_batches(tasks), clip, pool)
    for task in tasks:
        keys, outcomes = keys_of(task), Outcomes([], [], [], [])
        uids: list[str] = keys["uid"].to_list()
        pieces: list[Vectors] = []
        while len(outcomes.outcome) < task.part.rows:
            result = next(results)
            pieces.append(take(task, result, uids[len(outcomes.outcome) :], outcomes))
            yield len(result.outcome)
        path = task.run.part(task.run.embeddings, task.part.name)
        write_part(path, pieces, clip.dim, task.fingerprint, text=task.text)
        write_samples(task, keys, outcomes)


def take(task: EmbedTask, result: "Embedded", uids: list[str], outcomes: Outcomes) -> Vectors:
    """Note the outcomes of a batch and return its vectors; `uids` begins at the batch's first row."""
    rows: Rows
    rows, hashes = result.tag
    place = len(outcomes.outcome)
    _note(task, rows, result, outcomes, hashes)
    outcomes.content_hash += hashes
    ok = np.array([outcome == "ok" for outcome in outcomes.outcome[place:]], bool)
    wanted = np.flatnonzero(ok & result.has_image)
    chosen = [uids[row] for row in wanted.tolist()]
    return Vectors(chosen, result.image[wanted], result.text[wanted], result.has_text[wanted])


def _note(
    task: EmbedTask, rows: Rows, decoded: "Embedded", outcomes: Outcomes, hashes: Sequence[str | None]
) -> None:
    """Add the outcomes of a batch: what reading found comes before what decoding found.

    The bytes of an image tell that it was forgotten wherever it is from; what the row says of it told `read` already.
    """
    known = task.forgotten.knows(hashes) if task.forgotten else [False] * len(rows)
    for row in range(len(rows)):
        outcome, reason = rows.outcome[row], rows.reason[row]
        if outcome == "ok":
            outcome, reason = decoded.outcome[row], decoded.reason[row]
        if outcome == "ok" and task.on == "text" and not (rows.caption[row] or "").strip():
            outcome, reason = "no_caption", "concepts are made of captions, and there is none"
        if known[row]:
            outcome, reason = OUTCOME, None
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
        for rows, _ in read_task.read_batches(
            task.part, task.source, batch_bytes=task.batch_bytes, images=True
        ):
            rows = read_task.outcomes_of(rows, keys, start)
            yield from unembedded(rows, embed[start : start + len(rows)])
            start += len(rows)


def unembedded(rows: Rows, embed: list[bool]) -> Iterator["Unembedded"]:
    """Yield rows in small batches, for the decoders; embed : which of them are no copies."""
    from curate.embedding.batching import Unembedded

    first = 0
    while first < len(rows):
        stop = _batch_end(rows, first)
        some = rows.slice(first, stop)
        images = [i if o == "ok" else None for i, o in zip(some.image, some.outcome, strict=True)]
        hashes = content_hashes(some.image)
        some = replace(some, image=[None] * len(some))  # only who decodes them holds the images
        yield Unembedded((some, hashes), images, some.caption, embed[first:stop])
        first = stop


def _batch_end(rows: Rows, first: int) -> int:
    """Return the row behind the batch for the decoders that begins with `first`."""
    size, last = len(rows.image[first] or b""), min(first + DECODE_ROWS, len(rows))
    for row in range(first + 1, last):
        size += len(rows.image[row] or b"")
        if size > DECODE_BYTES:
            return row
    return last


def _complete(path: Path) -> None:
    """Give a table of samples the columns that it was made before, so that all parts of the run have the same."""
    if set(schema.SAMPLES.names) <= set(pq.read_schema(storage.ensure_local(path)).names):
        return
    whole = schema.complete(storage.read_table(path), schema.SAMPLES)
    storage.write_parquet(path, whole, schema.SAMPLES, storage.stored_fingerprint(path) or "")


def count_outcomes(context: Context) -> dict[str, int]:
    """Return how many rows there are, and how many of them are usable, copies, and unusable (and more, where there are any).

    passing : rows that the next run tries again. named_images : images that are not in their row, so that its uid does
    not say what they are. unknown_images : images that were read before their content was noted.
    """
    rows = usable = copied = passing = named = unknown = 0
    read = not context.recipe.embed.own_vectors
    for part in context.parts:
        path = context.run.part(context.run.samples, part.name)
        columns = ["outcome", "copy_of", "image_hash", "content_hash"]
        frame = pl.DataFrame(storage.read_table(path, columns))
        ok = frame["outcome"] == "ok"
        rows, usable = rows + len(frame), usable + int(ok.sum())
        copied += int((ok & frame["copy_of"].is_not_null()).sum())
        passing += int(frame["outcome"].is_in(PASSING).sum())
        named += int((ok & (frame["content_hash"] != frame["image_hash"])).sum())
        if read and part.columns.image is not None:
            unknown += int((ok & frame["content_hash"].is_null()).sum())
    counts = {"rows": rows, "usable": usable, "copies": copied, "unusable": rows - usable}
    more = {"passing": passing, "named_images": named, "unknown_images": unknown}
    return counts | {name: number for name, number in more.items() if number}
