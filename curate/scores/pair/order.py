"""Which pairs of image and caption there are, and in which batches they meet.

Nothing here depends on where a row is stored: batches follow hashes of the uids.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.embedding.store import BATCH_ROWS, EmbeddingPart
from curate.execution.context import require_same
from curate.hashing import hash_uids
from curate.io import storage
from curate.runs.folder import RunFolder
from curate.scores.pair.formula import batches

__all__ = ["ROW_BYTES", "KeyTask", "deal", "has_text", "in_hash_order", "keys"]

#: Bytes of one pair in the main process while batches are dealt: hash, place, codes, orders.
ROW_BYTES = 120
#: Hexadecimal digits of a hash that make a code: 60 bits, never negative.
CODE_DIGITS = 15

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class KeyTask:
    """One part whose pairs are looked up."""

    run: RunFolder
    part: str
    seed: int


def keys(task: KeyTask) -> tuple[Hashes, Ints]:
    """Return the pairs of a part: hash of the uid, and (position, code of caption, code of image)."""
    embeddings = task.run.part(task.run.embeddings, task.part)
    part = EmbeddingPart(embeddings)
    uids = pl.Series("uid", part.uids(), pl.String)
    present = has_text(part)
    names = ["uid", "outcome", "copy_of", "caption_hash", "image_hash"]
    samples = pl.DataFrame(storage.read_table(task.run.part(task.run.samples, task.part), names))
    samples = samples.filter((pl.col("outcome") == "ok") & pl.col("copy_of").is_null())
    require_same(samples["uid"], uids, embeddings)
    samples = samples.with_columns(
        pl.col("caption_hash", "image_hash")
        .str.head(CODE_DIGITS)
        .str.to_integer(base=16, dtype=pl.Int64)
        .fill_null(-1)
    ).filter(present)
    columns = [np.flatnonzero(present), *(samples[name].to_numpy() for name in names[3:])]
    return hash_uids(samples["uid"], task.seed, "pair"), np.stack(columns, axis=1)


def has_text(part: EmbeddingPart) -> npt.NDArray[np.bool_]:
    """Return which of the n samples of a part have a caption, (n,)."""
    present = np.zeros(len(part), np.bool_)
    for start in range(0, len(part) if part.has_text else 0, BATCH_ROWS):
        present[start : start + BATCH_ROWS] = part.present("text", start // BATCH_ROWS)
    return present


def in_hash_order(found: Sequence[tuple[Hashes, Ints]], sizes: Sequence[int]) -> tuple[Hashes, Ints]:
    """Return the pairs of all parts, places counted over all rows, in an order that no file changes.

    Equal hashes go by what the rows hold: a tie that storage could decide would decide batches.
    """
    if not found:
        return np.empty(0, np.uint64), np.empty((0, 3), np.int64)
    first = np.cumsum([0, *sizes[:-1]])
    hashes = np.concatenate([one for one, _ in found])
    info = np.concatenate(
        [one + np.array([start, 0, 0]) for (_, one), start in zip(found, first, strict=True)]
    )
    order = np.lexsort((info[:, 2], info[:, 1], hashes))
    return hashes[order], info[order]


def deal(
    hashes: Hashes, info: Ints, batch: int, repeats: int, scratch: Path
) -> Iterator[tuple[Path, list[int]]]:
    """Write the rows of each repeat in the order of its batches; yield the file and the sizes of batches."""
    for repeat, dealt in groupby(batches(hashes, batch, repeats), itemgetter(0)):
        path, sizes = scratch / f"order-{repeat}.npy", []
        with storage.atomic(path) as partial:
            order = np.lib.format.open_memmap(partial, "w+", np.int64, info.shape)
            start = 0
            for _, rows in dealt:
                order[start : start + len(rows)] = info[rows]
                start += len(rows)
                sizes.append(len(rows))
            order.flush()
        yield path, sizes
