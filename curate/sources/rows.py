"""Rows out of tables: what stands in each, whether it can be used, and the images that paths lead to."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np
import pyarrow as pa

from curate.sources import references
from curate.sources.addresses import Take, UrlAccess
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
    allow_url: UrlAccess | bool = False,
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


def with_images(
    rows: Rows,
    shard: Shard,
    columns: Columns,
    *,
    images: bool,
    batch_bytes: int,
    allow_url: UrlAccess | bool,
    below: str | None = None,
) -> Iterator[Rows]:
    """Yield `rows` with the bytes that their paths lead to, in pieces; as they are where no images are asked for.

    below : a file in whose folder paths begin, if that is not the folder of the shard.
    """
    if not images or columns.image is None or columns.vector is not None:
        yield rows
        return
    read = partial(
        references.follow, shard_url=below or shard.url, storage_options=shard.storage_options,
        allow_url=allow_url, access=shard.access,
    )  # fmt: skip
    yield from followed(rows, read, batch_bytes)


class Follow(Protocol):
    """Returns what `references.follow` does for a path as it stands in a row; called by several threads."""

    def __call__(self, reference: str, /, *, take: Take) -> Found:
        """Return (bytes, outcome, reason)."""


def followed(rows: Rows, read: Follow, batch_bytes: int) -> Iterator[Rows]:
    """Yield `rows` in pieces of at most about `batch_bytes`, with the bytes their paths lead to.

    What is read ahead is counted: there is never more than twice `batch_bytes` and one image.
    """
    if not any(_leads(rows, row) for row in range(len(rows))):
        yield rows
        return
    budget = _Budget(batch_bytes)

    def found(row: int) -> Found:
        ref = rows.image_ref[row]
        if ref is None or not _leads(rows, row):
            return rows.image[row], rows.outcome[row], rows.reason[row]
        result = read(ref, take=partial(budget.take, row))
        budget.settle(row, len(result[0] or b""))
        return result

    first, held = 0, 0
    results: list[Found] = []
    pending: deque[Future[Found]] = deque()
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        try:
            for row in range(len(rows)):
                ahead = range(row + len(pending), min(row + PARALLEL_READS, len(rows)))
                pending.extend(pool.submit(found, one) for one in ahead)
                budget.let_through(row)
                results.append(pending.popleft().result())
                held += len(results[-1][0] or b"")
                if held >= batch_bytes:
                    piece = _with_images(rows, first, results)
                    first, held, results = row + 1, 0, []
                    yield piece
                    del piece
                    budget.release(row)
        finally:
            budget.close()
            for future in pending:
                future.cancel()
    if results:
        yield _with_images(rows, first, results)


class _Budget:
    """Counts the bytes of images read ahead: who goes beyond the limit waits, but for the row that is waited for."""

    def __init__(self, limit: int) -> None:
        self._limit, self._total, self._next, self._closed = limit, 0, 0, False
        self._held: dict[int, int] = {}
        self._changed = threading.Condition()

    def take(self, row: int, size: int) -> None:
        """Count bytes of a row before they are read."""

        def may() -> bool:
            return row <= self._next or self._total + size <= self._limit or self._closed

        with self._changed:
            if size > 0:
                self._changed.wait_for(may)
            self._add(row, size)

    def settle(self, row: int, size: int) -> None:
        """Say what a row has in the end, whatever was counted on the way."""
        with self._changed:
            self._add(row, size - self._held.get(row, 0))

    def let_through(self, row: int) -> None:
        """Say which row is waited for."""
        with self._changed:
            self._next = row
            self._changed.notify_all()

    def release(self, last: int) -> None:
        """Stop counting the rows up to `last`, which were handed on."""
        with self._changed:
            for row in [one for one in self._held if one <= last]:
                self._add(row, -self._held[row])
                del self._held[row]

    def close(self) -> None:
        """Let everybody through: nobody waits for the rows any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _add(self, row: int, size: int) -> None:
        self._held[row] = self._held.get(row, 0) + size
        self._total += size
        if size < 0:
            self._changed.notify_all()


def _leads(rows: Rows, row: int) -> bool:
    """Return True if the image of a row is still to be read from where its path leads."""
    return rows.outcome[row] == "ok" and rows.image[row] is None


def _judged(
    shard: Shard, image: bytes | None, ref: str | None, *, allow_url: UrlAccess | bool
) -> tuple[str, str | None]:
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
