"""All float32 products of a block of rows with those up to its end: what decides where pairs are many."""

import numpy as np
import numpy.typing as npt

from curate.deduplication.similarity import EXCLUDED, most_similar, pair_similarities, reaching
from curate.linalg import margin

__all__ = ["Products"]

_LONG = 384  # numbers of a row from which on half of the products of a block cost less than all of them

Vectors = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Products:
    """The rows [start, stop) of a concept, first to keep first, beside all rows before each; rows : (n, d) unit rows.

    nearest, largest : (r,) the most similar earlier row of each (the first where equal) and the similarity; -1 and NaN
    where there is no earlier row.
    """

    def __init__(self, rows: Vectors, start: int, stop: int) -> None:
        self._rows, self._start, self._stop = rows, start, stop
        block = rows[start:stop]
        self._products = np.empty((len(block), stop), np.float32)
        np.matmul(block, rows[:start].T, out=self._products[:, :start])
        # NumPy multiplies a matrix by itself at half the cost, but turning the half over takes longer where rows are short.
        left = block if rows.shape[1] >= _LONG else block.copy()
        np.matmul(left, block.T, out=self._products[:, start:])
        not_before = ~np.tri(len(block), k=-1, dtype=np.bool_)
        np.copyto(self._products[:, start:], EXCLUDED, where=not_before)
        self.nearest, self.largest = most_similar(
            rows, np.arange(start, stop), np.arange(stop), self._products
        )

    def decide_greedily(
        self, suspects: Indices, keep: Mask, lowest: np.float32
    ) -> tuple[Indices, Indices, Vectors]:
        """Return the suspects that are dropped, the kept row each duplicates, and how similar.

        suspects : rows of the block, ascending. keep : (n,) decisions on the rows before the block; True for all others.
        """
        rows, start, stop, products = self._rows, self._start, self._stop, self._products
        if not len(suspects):
            return suspects, suspects, np.empty(0, np.float32)
        columns = np.concatenate([np.flatnonzero(keep[:start]), np.arange(start, stop)])
        n_before = len(columns) - len(products)
        over = reaching(rows, suspects, columns, products[np.ix_(suspects - start, columns)], lowest)
        dropped = over[:, :n_before].any(axis=1)
        kept_here = np.ones(stop - start, np.bool_)
        kept_here[suspects[dropped] - start] = False
        for place in np.flatnonzero(~dropped):
            if (over[place, n_before:] & kept_here).any():
                kept_here[suspects[place] - start] = False
        lost = start + np.flatnonzero(~kept_here)
        kept = columns[np.concatenate([np.ones(n_before, np.bool_), kept_here])]
        nearest, similarity = most_similar(rows, lost, kept, products[np.ix_(lost - start, kept)])
        return lost, nearest, similarity

    def near(self, row: int, counts: Mask, lowest: np.float32, most: int) -> tuple[Indices, Vectors]:
        """Return earlier rows that count and reach `lowest` (at least the `most` nearest of them), and how similar they are.

        counts : (n,) which rows count.
        """
        slack = np.float32(margin(self._rows.shape[1]))
        proposed = self._products[row - self._start, :row]
        near = np.flatnonzero(counts[:row] & (proposed >= lowest - slack))
        if len(near) > most:
            bound = np.partition(proposed[near], -most)[-most]
            near = near[proposed[near] >= bound - 2 * slack]
        exact = pair_similarities(self._rows, np.full(len(near), row), near)
        over = exact >= lowest
        return near[over], exact[over]
