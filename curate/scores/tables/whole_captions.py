"""The captions of samples as the source has them: the samples of a run hold their beginning only."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from curate import schema
from curate.deduplication.captions import STORED_CHARACTERS
from curate.errors import RunError
from curate.execution.context import Context, Part, usable
from curate.io import storage
from curate.runs.folder import RunFolder
from curate.sources.settings import Source

if TYPE_CHECKING:
    from curate.scores.base import Sources
    from curate.sources.base import Rows

__all__ = ["CaptionTask", "caption_task", "whole_captions"]


@dataclass(frozen=True)
class CaptionTask:
    """Where the captions of a part are read from. read_batches : rows of a part (`Sources`)."""

    run: RunFolder
    part: Part
    source: Source
    read_batches: "Callable[..., Iterator[tuple[Rows, Any]]]"
    batch_bytes: int


def caption_task(context: Context, part: Part, sources: "Sources") -> CaptionTask:
    """Return where the captions of a part of a run are read from."""
    source = next(one for one in context.recipe.source if one.name == part.shard.source)
    room = min(64_000_000, context.task_memory // 4)
    return CaptionTask(context.run, replace(part, vectors=()), source, sources.read_batches, room)


def whole_captions(task: CaptionTask) -> pl.DataFrame:
    """Return the samples of a part that have vectors, in the order of its embeddings, with whole captions.

    The source is read again only where a caption is longer than what the run has of it.
    """
    frame = usable(task.run, task.part.name)
    if not (frame["caption_length"].fill_null(0) > STORED_CHARACTERS).any():
        return frame
    table = storage.read_table(task.run.part(task.run.samples, task.part.name))
    rows = pl.DataFrame(schema.complete(table, schema.SAMPLES))
    batches = task.read_batches(task.part, task.source, batch_bytes=task.batch_bytes, images=False)
    found = [None if one is None else _storable(one) for batch, _ in batches for one in batch.caption]
    if len(found) != len(rows):
        raise RunError(f"{task.part.shard.url}: {len(rows):,} rows expected, {len(found):,} found; run again")
    return frame.with_columns(pl.Series("caption", found, pl.String)[_used(rows)])


def _used(rows: pl.DataFrame) -> pl.Series:
    """Return the places of the rows that have vectors, copies once."""
    return rows.select(
        pl.arg_where((pl.col("outcome") == "ok") & pl.col("copy_of").is_null()).cast(pl.UInt32)
    ).to_series()


def _storable(text: str) -> str:
    """Return text as tables can hold it: without halves of characters."""
    return text.encode("utf-8", "replace").decode("utf-8")
