"""Rows that judge: kept out of the pool, and no near-copies of what is in it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from curate.hashing import hash_uids
from curate.linalg import margin, row_dots

__all__ = ["drawn", "near_copies"]

#: Rows of a tile of products.
_HELD, _POOL = 512, 8192

Mask = npt.NDArray[np.bool_]
Vectors = npt.NDArray[np.float32]


def drawn(uids: Sequence[str], among: Mask, count: int, *key: str | int) -> npt.NDArray[np.int64]:
    """Return `count` rows drawn at random, ascending; which they are depends on their uids and `key` alone.

    among : (n,), the rows to draw from, at least `count`.

    >>> drawn(["a", "b", "c"], np.array([True, False, True]), 2, 0, "draw")
    array([0, 2])
    """
    rows = np.flatnonzero(among)
    numbers = hash_uids([uids[row] for row in rows.tolist()], *key)
    return np.sort(rows[np.argsort(numbers, kind="stable")[:count]])


def near_copies(held: Sequence[Vectors], pool: Sequence[Vectors], epsilon: float) -> Mask:
    """Return which held-out rows have a near-copy in the pool: one row whose every similarity is above 1 - `epsilon`.

    held, pool : one or more kinds of unit vectors, (m, d) and (n, d) each: those of images, and of captions where a
    copy must have the same caption. Returns (m,). The float32 product proposes, float64 decides.

    >>> near_copies([np.eye(2, dtype=np.float32)], [np.array([[1, 0]], np.float32)], 0.1)
    array([ True, False])
    """
    found = np.zeros(len(held[0]), np.bool_)
    slack = np.float32(max(margin(one.shape[1]) for one in held))
    limit = np.float32(1 - epsilon)
    for first in range(0, len(held[0]), _HELD):
        mine = [one[first : first + _HELD] for one in held]
        near = found[first : first + _HELD]
        for start in range(0, len(pool[0]), _POOL):
            others = [one[start : start + _POOL] for one in pool]
            least = np.minimum.reduce([a @ b.T for a, b in zip(mine, others, strict=True)])
            near |= (least > limit + slack).any(axis=1)
            open_rows = np.flatnonzero(~near & (least > limit - slack).any(axis=1))
            for row in open_rows.tolist():
                columns = np.flatnonzero(least[row] > limit - slack)
                dots = [row_dots(a[row : row + 1], b[columns]) for a, b in zip(mine, others, strict=True)]
                near[row] = bool((np.minimum.reduce(dots) > 1 - epsilon).any())
    return found
