"""Reading the rows of a part: what workers do for the stage `read`, and how the stages after it read the source again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from curate import hashing, schema
from curate.errors import SourceError
from curate.execution.context import Part
from curate.io import storage
from curate.pipeline.stages import given_vectors
from curate.pipeline.stages.read_notes import Notes
from curate.recipe import Source
from curate.runs.forgotten import OUTCOME, Forgotten
from curate.sources import registry
from curate.sources.addresses import url_access
from curate.sources.base import Columns, Reader, Rows, Shard

__all__ = [
    "BadShard",
    "ReadTask",
    "blank",
    "fails",
    "given_batches",
    "outcomes_of",
    "read_batches",
    "read_part",
    "reader_of",
    "unchecked_batches",
]

CAPTION_CHARACTERS = 300
#: Rows of vectors in files that are read at a time, at most.
_BLOCK_ROWS = 8_192
#: Formats that read a column by itself; in others, what else a row holds says whether it is one.
_BY_COLUMN = ("arrow", "parquet")


@dataclass(frozen=True)
class BadShard:
    """A shard that cannot be read, and the rows it was known to have."""

    name: str
    rows: int | None
    error: str


@dataclass(frozen=True)
class ReadTask:
    """One part to read."""

    part: Part
    source: Source
    out: Path
    fingerprint: str
    batch_bytes: int
    forgotten: Forgotten


def reader_of(source: Source, shard: Shard, columns: Columns) -> Reader:
    """Return the reader of a shard's format."""
    return registry.format_of(shard.format).reader(columns, url_access(source.allow))


def read_part(task: ReadTask) -> BadShard | None:
    """Write the keys of a part; return the shard if it cannot be read."""
    try:
        notes = Notes()
        storage.write_parquet(task.out, _keys(task, notes), schema.KEYS, task.fingerprint, facts=notes.counts)
    except SourceError as error:
        return BadShard(task.part.shard.name, task.part.rows, str(error))
    return None


def fails(task: ReadTask) -> bool:
    """Return True if the rows of a part cannot be read."""
    try:
        for _ in read_batches(task.part, task.source, batch_bytes=task.batch_bytes, images=False):
            pass
    except SourceError:
        return True
    return False


def _keys(task: ReadTask, notes: Notes) -> Iterator[pa.Table]:
    for rows, vectors in read_batches(task.part, task.source, batch_bytes=task.batch_bytes, images=False):
        notes.add(rows)
        captions = hashing.content_hashes(rows.caption)
        images = _image_hashes(rows, vectors)
        content = hashing.content_uids(images, captions, rows.label)
        caption_bytes = [_bytes_of(caption) for caption in rows.caption]
        columns = {
            "uid": content if rows.uid is None else list(rows.uid),
            "content": content,
            "row": rows.row,
            "key": rows.key,
            "image_hash": images,
            "caption_hash": captions,
            "bytes": [
                len(image or b"") + size for image, size in zip(rows.image, caption_bytes, strict=True)
            ],
            "caption": [None if c is None else _storable(c[:CAPTION_CHARACTERS]) for c in rows.caption],
            "caption_length": [None if c is None else len(c) for c in rows.caption],
            "label": rows.label,
            "outcome": rows.outcome,
            "reason": rows.reason,
        }
        table = pa.table([pa.array(columns[f.name], f.type) for f in schema.KEYS], schema=schema.KEYS)
        yield without_forgotten(table, task.forgotten, task.part) if task.forgotten else table


def without_forgotten(table: pa.Table, forgotten: Forgotten, part: Part) -> pa.Table:
    """Return the keys of rows with nothing in those of forgotten samples but their place."""
    names = ("uid", "content", "image_hash")
    known = np.logical_or.reduce([np.array(forgotten.knows(table[name].to_pylist()), bool) for name in names])
    return blank(table, known, forgotten, part) if known.any() else table


def blank(table: pa.Table, rows: npt.NDArray[np.bool_], forgotten: Forgotten, part: Part) -> pa.Table:
    """Return the keys, or the samples, of a part with nothing in some rows but their place, and that they are forgotten.

    rows : (n,), which ones.
    """
    frame = pl.DataFrame(table)
    numbers = frame["row"].to_list()
    stones = [forgotten.tombstone(part.shard.name, part.name, str(number)) for number in numbers]
    stone, gone = pl.Series("stone", stones, pl.String), pl.Series("gone", rows, pl.Boolean)
    kept = ("row", "source", "split", "shard")
    whole: dict[str, Any] = {
        "uid": stone,
        "content": stone,
        "bytes": 0,
        "occurrence": 0,
        "outcome": pl.lit(OUTCOME),
    }
    values = {name: whole.get(name) for name in frame.columns if name not in kept}
    blanked = frame.with_columns(
        pl.when(gone).then(value).otherwise(pl.col(name)).cast(frame.schema[name]).alias(name)
        for name, value in values.items()
    )
    return blanked.to_arrow().cast(table.schema)


def outcomes_of(rows: Rows, keys: pl.DataFrame, start: int) -> Rows:
    """Return rows read again, without what forgotten samples hold. keys : of their part. start : the first row among them."""
    said = keys["outcome"].slice(start, len(rows)).to_list()
    if OUTCOME not in said:
        return rows
    gone = [one == OUTCOME for one in said]

    def hidden(values: Sequence[Any]) -> list[Any]:
        return [None if out else value for out, value in zip(gone, values, strict=True)]

    outcome = [OUTCOME if out else one for out, one in zip(gone, rows.outcome, strict=True)]
    return replace(
        rows, image=hidden(rows.image), image_ref=hidden(rows.image_ref), caption=hidden(rows.caption),
        outcome=outcome, reason=hidden(rows.reason),
    )  # fmt: skip


def _bytes_of(text: str | None) -> int:
    """Return the length of a text in UTF-8."""
    if not text:
        return 0
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _storable(text: str) -> str:
    """Return `text` with what UTF-8 cannot say replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _image_hashes(rows: Rows, vectors: np.ndarray | None) -> list[str | None]:
    """Return the hash of each row's image as it stands: bytes, else path, else its vector."""
    present = [
        image if image is not None else ref for image, ref in zip(rows.image, rows.image_ref, strict=True)
    ]
    hashes = hashing.content_hashes(present)
    alone = [row for row, known in enumerate(present) if known is None]
    if vectors is None or not alone:
        return hashes
    of_vectors = hashing.vector_hashes(vectors if len(alone) == len(vectors) else vectors[alone])
    for row, found in zip(alone, of_vectors, strict=True):
        hashes[row] = found
    return hashes


def read_batches(
    part: Part, source: Source, *, batch_bytes: int, images: bool
) -> Iterator[tuple[Rows, np.ndarray | None]]:
    """Yield a part's rows with their own vectors (float32, as given), if it has any.

    Raises SourceError, before the last rows are given, unless what was read is what the part was found with.
    """
    since, of_vectors = registry.check_unchanged(part.shard), given_vectors.check_unchanged(part)
    checked = False

    def check() -> None:
        registry.check_unchanged(part.shard, since)
        given_vectors.check_unchanged(part, of_vectors)

    for rows, vectors in unchecked_batches(part, source, batch_bytes=batch_bytes, images=images):
        if len(rows) and int(rows.row[-1]) == part.stop - 1:
            check()
            checked = True
        yield rows, vectors
    if not checked:
        check()


def unchecked_batches(
    part: Part, source: Source, *, batch_bytes: int, images: bool
) -> Iterator[tuple[Rows, np.ndarray | None]]:
    """Yield what `read_batches` does; the caller sees to it that the shard is still what it was."""
    files = given_vectors.rows_of(part)
    reader = reader_of(source, part.shard, part.columns)
    for rows in reader.batches(
        part.shard, images=images, batch_bytes=batch_bytes, start=part.start, stop=part.stop
    ):
        vectors = rows.vector
        if files is not None:
            begin = int(rows.row[0]) - part.start - part.vectors[0].begin
            if rows.uid is not None:
                files.require_uids(rows.uid, begin, part.shard.url)
            vectors = files.read(begin, begin + len(rows))
        yield rows, vectors


def given_batches(
    part: Part, source: Source, uids: Sequence[str | None], *, batch_bytes: int
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield the vectors of a part's rows and those of their captions, as `read_batches` gives them, and nothing else.

    uids : of all rows of the part; where uids stand beside vectors in files, they must be these (None: any). Raises SourceError,
    before the last rows are given, unless what was read is what the part was found with.
    """
    if not part.vectors:
        if part.shard.format in _BY_COLUMN:
            columns = Columns(
                vector=part.columns.vector, vector_dim=part.columns.vector_dim,
                text_vector=part.columns.text_vector,
            )  # fmt: skip
            part = replace(part, columns=columns)
        for rows, vectors in read_batches(part, source, batch_bytes=batch_bytes, images=False):
            if vectors is not None:
                yield vectors, rows.text_vector
        return
    since, of_vectors = registry.check_unchanged(part.shard), given_vectors.check_unchanged(part)
    files = given_vectors.rows_of(part)
    if files is None:
        return
    first = -part.vectors[0].begin
    step = max(1, min(_BLOCK_ROWS, batch_bytes // (4 * files.dim)))
    for start in range(0, part.rows, step):
        stop = min(start + step, part.rows)
        if part.columns.uid is not None:
            files.require_uids(uids[start:stop], first + start, part.shard.url)
        vectors = files.read(first + start, first + stop)
        if stop == part.rows:
            registry.check_unchanged(part.shard, since)
            given_vectors.check_unchanged(part, of_vectors)
        yield vectors, None
