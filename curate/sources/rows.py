"""Rows out of tables: what stands in each, whether it can be used, and the images that paths lead to."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa

from curate.sources import references
from curate.sources.base import Columns, Rows, Shard
from curate.sources.columns import (
    captions_of,
    images_of,
    labels_of,
    text_vectors_of,
    uids_of,
    vector_verdicts,
    vectors_of,
)

__all__ = ["Found", "followed", "rows_of"]

#: What opening an image gives: (bytes, outcome, reason).
Found = tuple[bytes | None, str, str | None]

PARALLEL_READS = 16

OK: tuple[str, str | None] = ("ok", None)


def rows_of(
    table: pa.Table,
    columns: Columns,
    shard: Shard,
    start: int,
    *,
    dim: int | None = None,
    allow_url: bool = False,
) -> Rows:
    """Return what stands in the rows of `table`; no path is followed.

    start : position in the shard of the first row. dim : length that vectors must have.
    allow_url : addresses in the image column may be fetched later, and are not refused.
    """
    images, keys = images_of(table, columns.image)
    refs = [key if image is None else None for image, key in zip(images, keys, strict=True)]
    captions, said = captions_of(table, columns)
    labels, more = labels_of(table, columns.label)
    vectors, faults = vectors_of(table, columns.vector, dim)
    words, text_faults = text_vectors_of(table, columns.text_vector, dim)
    if columns.vector is not None:
        verdicts = vector_verdicts(faults, text_faults)
    elif columns.image is not None:
        verdicts = [_judged(shard, *row, allow_url=allow_url) for row in zip(images, refs, strict=True)]
    else:
        blank = ("no_caption", "the caption is null or blank")
        verdicts = [OK if (caption or "").strip() else blank for caption in captions]
    return Rows(
        row=np.arange(start, start + table.num_rows, dtype=np.int64),
        uid=uids_of(table, columns.uid, start, shard.url),
        key=keys,
        image=[image or None for image in images],
        image_ref=refs,
        caption=captions,
        label=labels,
        outcome=[outcome for outcome, _ in verdicts],
        reason=[reason for _, reason in verdicts],
        vector=vectors,
        text_vector=words,
        notes=[one + other for one, other in zip(said, more, strict=True)],
    )


def followed(rows: Rows, read: Callable[[str], Found], batch_bytes: int) -> Iterator[Rows]:
    """Yield `rows` in pieces of at most about `batch_bytes`, with the bytes their paths lead to.

    read : (path as it stands in the row) to what `references.follow` returns; called by several threads.
    """
    if not any(_leads(rows, row) for row in range(len(rows))):
        yield rows
        return

    def found(row: int) -> Found:
        ref = rows.image_ref[row]
        if ref is None or not _leads(rows, row):
            return rows.image[row], rows.outcome[row], rows.reason[row]
        return read(ref)

    first, held = 0, 0
    results: list[Found] = []
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        for start in range(0, len(rows), PARALLEL_READS):
            for result in pool.map(found, range(start, min(start + PARALLEL_READS, len(rows)))):
                results.append(result)
                held += len(result[0] or b"")
            if held >= batch_bytes:
                yield _with_images(rows, first, results)
                first, held, results = first + len(results), 0, []
    if results:
        yield _with_images(rows, first, results)


def _leads(rows: Rows, row: int) -> bool:
    """Return True if the image of a row is still to be read from where its path leads."""
    return rows.outcome[row] == "ok" and rows.image[row] is None


def _judged(shard: Shard, image: bytes | None, ref: str | None, *, allow_url: bool) -> tuple[str, str | None]:
    """Say what can be known of an image without following its path."""
    if image is not None:
        return OK if image else ("missing_image", "the image has no bytes")
    if not ref:
        return "missing_image", "the image is null" if ref is None else "the image path is empty"
    refused = references.refusal(ref, shard.url, allow_url=allow_url, access=shard.access)
    return ("refused_path", refused) if refused else OK


def _with_images(rows: Rows, first: int, results: Sequence[Found]) -> Rows:
    images, outcomes, reasons = zip(*results, strict=True)
    part = rows.slice(first, first + len(results))
    return replace(part, image=images, outcome=outcomes, reason=reasons)
