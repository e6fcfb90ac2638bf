"""At which epsilon a near-duplicate would be kept, and how many rows an epsilon drops."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from curate.deduplication.semantic import MIN_EPSILON, find_duplicates
from curate.deduplication.similarity import EXCLUDED, pair_similarities, reaching

__all__ = ["Keeping", "ancestors", "keeping_threshold", "largest_epsilon", "partner"]

_ROWS = 256  # rows compared at a time
_MOST = 2048  # rows that bear on one decision, up to which every similarity among them is tried
_TRIES = 500

Vectors = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Keeping:
    """The thresholds [low, high) at which a row is kept; no lower one from the present threshold on keeps it.

    nearest : False where the rows that bear on it are too many to try all: a lower threshold may keep it.
    """

    low: float
    high: float
    nearest: bool


def ancestors(vectors: Vectors, row: int, threshold: float) -> Indices:
    """Return the earlier rows on which it hangs whether `row` is a duplicate at `threshold` or above, and `row`.

    Those similar to it beyond the threshold, those similar to these, and so on; in order. vectors : (n, d)
    float32 unit rows, first to keep first.
    """
    lowest = np.nextafter(np.float32(threshold), np.float32(-np.inf))
    found, waiting = np.zeros(row + 1, np.bool_), np.array([row])
    found[row] = True
    while len(waiting):
        of, waiting = waiting[:_ROWS], waiting[_ROWS:]
        against = np.arange(int(of.max()))
        products = vectors[of] @ vectors[against].T
        products[against >= of[:, None]] = EXCLUDED
        near = reaching(vectors, of, against, products, lowest).any(axis=0)
        new = np.flatnonzero(near & ~found[: len(against)])
        found[new] = True
        waiting = np.concatenate([waiting, new])
    return np.flatnonzero(found)


def keeping_threshold(
    vectors: Vectors, row: int, threshold: float, mode: Literal["greedy", "reference"], n_fixed: int = 0
) -> Keeping | None:
    """Return the lowest thresholds from `threshold` on at which the duplicate `row` is kept; None if none does.

    vectors : (n, d) float32 unit rows, first to keep first; the first `n_fixed` are never dropped. Found by
    comparing again the rows that bear on it, at every similarity there is among them. A copy is never kept.
    """
    related = ancestors(vectors, row, threshold)
    fixed = related < n_fixed
    related = np.concatenate([related[fixed], related[~fixed]])
    rows = vectors[related]
    last = len(rows) - 1
    own = pair_similarities(rows, np.full(last, last), np.arange(last))
    if last == 0 or (rows[:last] == rows[last]).all(axis=1).any():
        return None
    small = len(rows) <= _MOST and mode == "greedy"
    values = _similarities(rows, threshold) if small else np.unique(own[own > threshold])[-1:]
    tried = values if len(values) <= _TRIES else np.append(values[: _TRIES - 1], own.max())
    for value in tried.tolist():
        found = find_duplicates(
            rows, threshold=value, mode=mode, fixed=fixed[np.argsort(~fixed, kind="stable")]
        )
        if found.keep[last]:
            above = values[values > value]
            exact = mode == "reference" or (small and (len(tried) == len(values) or value < tried[-1]))
            return Keeping(value, float(above[0]) if len(above) else 1.0, exact)
    return None


def _similarities(rows: Vectors, threshold: float) -> npt.NDArray[np.float32]:
    """Return the different similarities above `threshold` among the rows, sorted."""
    i, j = np.tril_indices(len(rows), -1)
    near = np.flatnonzero((rows @ rows.T)[i, j] > threshold - 1e-4)
    found = np.unique(pair_similarities(rows, i[near], j[near]))
    return found[found > threshold]


def largest_epsilon(keeping: Keeping) -> float | None:
    """Return a short epsilon whose threshold lies strictly between the two, near the lower one; None below 1e-6.

    >>> largest_epsilon(Keeping(0.875, 1.0, True)), largest_epsilon(Keeping(0.95999, 0.96001, True))
    (0.1249, 0.04)
    """
    high, low = 1 - Fraction(keeping.low), 1 - Fraction(keeping.high)
    if high <= Fraction(str(MIN_EPSILON)):
        return None
    for digits in range(1, 40):
        scaled = high * 10**digits
        epsilon = Fraction(-(-scaled.numerator // scaled.denominator) - 1, 10**digits)
        if epsilon > max(low, Fraction(0)) and high - epsilon <= high / 1000:
            return float(epsilon)
    return None


def partner(vectors: Vectors, row: int, similarity: np.float32) -> int:
    """Return a row that is exactly as similar to `row` as stored, -1 where there is none.

    vectors : (n, d) float32 unit rows in any order.
    """
    proposed = vectors @ vectors[row]
    near = np.flatnonzero(np.abs(proposed - similarity) < 1e-4)
    near = near[near != row]
    exact = pair_similarities(vectors, np.full(len(near), row), near)
    hits = near[exact == similarity]
    return int(hits[0]) if len(hits) else -1
