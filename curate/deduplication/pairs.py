"""Few pairs instead of all products: which rows of a concept can be near each other, by bfloat16 products.

A block of rows is multiplied with all rows before it in bfloat16. Of these products only the pairs are looked at that may be
the most similar of their row, or similar enough to be duplicates, by the bound on the error (`curate.products.bf16`); each is computed
as `pair_similarities` does, so the answers are those of all pairs. Where too many pairs are left, the caller falls back to
float32 products.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curate.deduplication.similarity import pair_similarities
from curate.products import bf16, one_thread

__all__ = ["STEP", "Pairs", "Proposals"]

#: Rows of a block. More of them multiply the pairs that are not before each other.
STEP = 512

_COLUMNS = 2048  # of a tile of products
_PER_PAIR = 128  # a pair costs about as much as so many float32 products
_LOWEST = np.int16(-(2**15))

Vectors = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pairs:
    """Pairs of a row and an earlier one, in the order of rows: i, j, similarity, all (m,).

    nearest, largest : (r,) of each row of the block the most similar earlier row (the first where equal) and the
    similarity; -1 and NaN where there is no earlier row.
    """

    i: Indices
    j: Indices
    similarity: Vectors
    nearest: Indices
    largest: Vectors

    def decide_greedily(
        self, suspects: Indices, keep: Mask, lowest: np.float32
    ) -> tuple[Indices, Indices, Vectors]:
        """Return the suspects that are dropped, the kept row each duplicates, and how similar.

        suspects : rows of the block, ascending. keep : (n,) decisions on the rows before the block; True for all others.

        >>> found = np.array([1, 2, 2]), np.array([0, 0, 1]), np.array([0.99, 0.5, 0.98], np.float32)
        >>> pairs = Pairs(*found, np.array([-1, 0, 1]), np.array([np.nan, 0.99, 0.98], np.float32))
        >>> pairs.decide_greedily(np.array([1, 2]), np.ones(3, bool), np.float32(0.95))
        (array([1]), array([0]), array([0.99], dtype=float32))
        """
        over = (self.similarity >= lowest) & np.isin(self.i, suspects)
        i, j, similarity = self.i[over], self.j[over], self.similarity[over]
        kept = keep.copy()
        begins, ends = np.searchsorted(i, suspects), np.searchsorted(i, suspects, side="right")
        for row, begin, end in zip(suspects.tolist(), begins.tolist(), ends.tolist(), strict=True):
            kept[row] = not kept[j[begin:end]].any()
        lost = suspects[~kept[suspects]]
        counts = kept[j] & ~kept[i]
        place = np.searchsorted(lost, i[counts])
        return lost, *_first_largest(len(lost), place, j[counts], similarity[counts])

    def near(self, row: int, counts: Mask, lowest: np.float32, most: int) -> tuple[Indices, Vectors]:
        """Return earlier rows that count and reach `lowest` (at least the `most` nearest of them), and how similar they are.

        counts : (n,) which rows count.
        """
        here = slice(*np.searchsorted(self.i, [row, row + 1]))
        j, exact = self.j[here], self.similarity[here]
        over = (exact >= lowest) & counts[j]
        return j[over], exact[over]


class Proposals:
    """Rows of a concept, first to keep first, of which blocks are asked for the pairs that matter; all (n, d) unit rows.

    lowest : the smallest similarity of duplicates. always : never say that pairs are too many.
    """

    def __init__(self, rows: Vectors, lowest: np.float32, *, always: bool = False) -> None:
        self._rows, self._lowest, self._always = rows, float(lowest), always
        # x . y = u . v + c . v + c . x with u = x - c and v = y - c: only u and v are rounded, and they are as short as
        # the rows are near to each other.
        centre = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._along = rows @ centre
        with one_thread():
            rounded = bf16.Rounded.of(rows, centre)
            self._left = rounded.with_ones()
            self._right = bf16.Right(rounded, self._along - np.float32(centre @ centre))
        products = (
            3 * (len(centre) + 8) * 2.0**-24 * 1.01 * float(np.linalg.norm(centre))
        )  # three, in float32
        self._slack = self._right.slack(rounded) + products

    def pairs(self, start: int, stop: int) -> Pairs | None:
        """Return the pairs of the rows from `start` to `stop` with earlier ones; None if they are too many.

        Among them are the most similar earlier row of each row, and all pairs that are duplicates.
        """
        ends = range(0, bf16.whole_groups(stop), _COLUMNS)
        with one_thread():
            tiles = [self._tile(start, stop, first) for first in ends]
        tops = [tile.max(axis=1) for tile in tiles]
        cut = self._cut(np.maximum.reduce([top.max(axis=1) for top in tops]), slice(start, stop))
        hard = np.flatnonzero(cut <= 0)  # what is before them is not on their side of the centre
        cut[hard] = np.iinfo(np.int16).max
        room = np.inf if self._always else (stop - start) * stop // _PER_PAIR
        room -= (hard + start).sum()
        i, j = [np.repeat(hard, hard + start)], [np.arange(row + start) for row in hard]
        for first, tile, top in zip(ends, tiles, tops, strict=True):
            room -= np.count_nonzero(top >= cut[:, None])
            if room < 0:
                return None
            row, column = bf16.reaching(tile, top, cut)
            i.append(row)
            j.append(first + column)
        return self._exact(start, stop, np.concatenate(i), np.concatenate(j))

    def _tile(self, start: int, stop: int, first: int) -> bf16.Keys:
        """Return the products of a block with rows from `first` on, in groups: (r, GROUPS, c), row by row of the last two."""
        last = min(bf16.whole_groups(stop), first + _COLUMNS)
        keys = self._right.keys(self._left[start:stop], slice(first, last))
        later = np.arange(max(start, first), last) >= np.arange(start, stop)[:, None]
        np.copyto(keys[:, last - first - later.shape[1] :], _LOWEST, where=later)
        return keys.reshape(len(keys), bf16.GROUPS, -1)

    def _cut(self, top: bf16.Keys, here: slice) -> bf16.Keys:
        """Return the key from which on a pair of each row may be its most similar, or a duplicate."""
        slack = self._slack[here]
        duplicates = self._lowest - self._along[here] - slack
        return bf16.cut_keys(np.minimum(bf16.largest_bound(top, slack), duplicates))

    def _exact(self, start: int, stop: int, i: Indices, j: Indices) -> Pairs:
        """Return the pairs of the block's rows `i` with rows `j` and their similarities."""
        order = np.lexsort((j, i))
        i, j = i[order], j[order]
        similarity = pair_similarities(self._rows, start + i, j)
        nearest, largest = _first_largest(stop - start, i, j, similarity)
        return Pairs(start + i, j, similarity, nearest, largest)


def _first_largest(n: int, i: Indices, j: Indices, similarity: Vectors) -> tuple[Indices, Vectors]:
    """Return for each of n rows the j of the largest similarity, the first where equal, and it; -1 and NaN without any.

    i, j : (m,) ascending by i, then j.
    """
    nearest, largest = np.full(n, -1, np.int64), np.full(n, np.nan, np.float32)
    if len(i):
        starts = np.flatnonzero(np.diff(i, prepend=-1))
        largest[i[starts]] = np.maximum.reduceat(similarity, starts)
        best = np.flatnonzero(similarity == largest[i])
        first = best[np.flatnonzero(np.diff(i[best], prepend=-1))]
        nearest[i[first]] = j[first]
    return nearest, largest
