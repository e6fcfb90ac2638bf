"""Which rows a step trains on: batches in hashed order, some of them of neighbours, or dealt from several sources.

Everything hangs on uids, seed and epoch alone. A batch of neighbours (by the mean of image and caption cosine) holds each
pair against those that it is most easily taken for, which random batches of a small part of a set hardly do.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from curate.hashing import hash_uids

__all__ = ["dealt", "epoch_batches", "neighbours_together"]

#: Batches that neighbours are looked for in at a time.
CHUNK = 16

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def epoch_batches(
    uids: Sequence[str], size: int, seed: int, epoch: int, *, hard: float = 0.0, image: Floats, text: Floats
) -> list[Ints]:
    """Return the batches of an epoch as row numbers: every row once, a last row alone in the batch before.

    hard : the share of chunks of `CHUNK` batches whose rows are put together by neighbourhood. image, text : (n, d) unit
    rows that neighbours are found by.
    """
    order = np.argsort(hash_uids(uids, seed, "order", epoch), kind="stable")
    draw = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    found: list[Ints] = []
    for start in range(0, len(order), CHUNK * size):
        chunk = order[start : start + CHUNK * size]
        if draw.random() < hard and len(chunk) > size:
            groups = neighbours_together(image[chunk], text[chunk], size)
            found += [chunk[groups[place]] for place in draw.permutation(len(groups))]
        else:
            found += [chunk[first : first + size] for first in range(0, len(chunk), size)]
    lonely = [place for place, batch in enumerate(found) if len(batch) == 1]
    for place in reversed(lonely):
        if len(found) > 1:
            found[place - 1] = np.concatenate([found[place - 1], found[place]])
            del found[place]
    return found


def neighbours_together(image: Floats, text: Floats, size: int) -> list[Ints]:
    """Return groups of `size` rows (the last has the rest): each the first row left and its nearest among those left.

    image, text : (n, d) unit rows; nearness is the mean of both cosines, ties by row.

    >>> rows = np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9]], np.float32)
    >>> [group.tolist() for group in neighbours_together(rows, rows, 2)]
    [[0, 2], [1, 3]]
    """
    left, groups = np.arange(len(image)), []
    while len(left):
        near = image[left] @ image[left[0]] + text[left] @ text[left[0]]
        near[0] = np.inf
        chosen = np.argsort(-near, kind="stable")[:size]
        groups.append(left[chosen])
        left = np.delete(left, chosen)
    return groups


def dealt(
    sources: Sequence[str], shares: Mapping[str, float], size: int, seed: int, epoch: int
) -> list[Ints]:
    """Return batches that hold a fixed share of each source: `floor(share size)` rows, dealt in shuffled order.

    sources : (n,) the source of each row. A source that runs out is shuffled again. As many batches as all rows fill.
    """
    names = np.array(sources, object)
    total = sum(shares.values())
    draw = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    batches = max(1, len(names) // size)
    columns = []
    for name in sorted(shares):
        rows = np.flatnonzero(names == name)
        part = int(shares[name] / total * size)
        times = -(-batches * part // max(1, len(rows))) if len(rows) else 0
        deck = np.concatenate([np.empty(0, np.int64), *(draw.permutation(rows) for _ in range(times))])
        columns.append(deck[: batches * part].reshape(batches, -1))
    return list(np.concatenate(columns, axis=1))
