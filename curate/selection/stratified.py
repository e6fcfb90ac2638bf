"""Coverage-centric selection: equal numbers from every stretch of the score (Zheng et al. 2023, CCS).

The hardest `beta` by a column of its own (noise, AUM) go first; what is left is cut into strata of equal
width, and every stratum gives the same number of rows, drawn by hash, as far as it has them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import BudgetError, CurateError, RecipeError
from curate.ordering.cutoff import Pairs, nth_smallest
from curate.ordering.keys import priority_key, rank_within
from curate.ordering.shares import exact_share
from curate.ordering.span import first_rows, key_value, rows_of

__all__ = ["Strata", "Stratified", "find_strata", "select_stratified", "strata_budgets"]

CLIP = (0.01, 0.99)

Floats = npt.NDArray[np.floating[Any]]
Hashes = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Strata:
    """`n_strata` stretches of equal width from `lower` to `upper`; the last one is closed on the right."""

    lower: float
    upper: float
    n_strata: int

    def of(self, score: Floats) -> Counts:
        """Return the stratum of each row, (n,) in [0, n_strata); scores beyond an end belong to the end.

        >>> Strata(0.0, 4.0, 4).of(np.array([-9.0, 0.0, 1.0, 3.9, 4.0]))
        array([0, 0, 1, 3, 3])
        """
        if not np.isfinite(score).all():
            raise CurateError("scores to divide into strata must be finite")
        scale = 1.0 if np.isfinite(self.upper - self.lower) else 0.5
        width = self.upper * scale - self.lower * scale
        if not width > 0:
            return np.zeros(len(score), np.int64)
        above = np.clip(score.astype(np.float64), self.lower, self.upper) * scale - self.lower * scale
        return np.minimum((above / width * self.n_strata).astype(np.int64), self.n_strata - 1)


@dataclass(frozen=True)
class Stratified:
    """What was kept, and from where.

    keep : (n,). stratum : (n,), -1 for the rows that `beta` dropped. sizes, budget : (n_strata,).
    """

    keep: npt.NDArray[np.bool_]
    stratum: Counts
    sizes: Counts
    budget: Counts


def find_strata(
    read: Callable[[], Iterator[Pairs]],
    total: int,
    n_strata: int = 50,
    clip: tuple[float | str, float | str] = CLIP,
) -> Strata:
    """Return strata between two quantiles of the scores, so that outliers do not stretch them.

    read : yields (priority_key(score, "easiest"), tie) of all `total` rows, block by block. The ends are
    scores of rows: number floor(q (n - 1)) from 0 for the lower quantile, ceil(q (n - 1)) for the upper.
    Where both are the same score, the whole range is taken; where that is one score, all is one stratum.
    """
    low, high = (exact_share(q) for q in clip)
    if n_strata < 1:
        raise RecipeError(f"select.strata must be at least 1, got {n_strata}")
    if not 0 <= low < high <= 1:
        raise RecipeError(f"select.clip must be two quantiles in [0, 1], the lower first, got {clip}")
    if total == 0:
        return Strata(0.0, 0.0, n_strata)
    last = total - 1
    ends = (int(low * last), _ceil(high * last))
    lower, upper = (_nth_score(read, place) for place in ends)
    if lower == upper and ends != (0, last):
        lower, upper = _nth_score(read, 0), _nth_score(read, last)
    return Strata(lower, upper, n_strata)


def _ceil(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)


def _nth_score(read: Callable[[], Iterator[Pairs]], place: int) -> float:
    cut = nth_smallest(read, place + 1)
    if cut is None:
        raise BudgetError(f"no row at place {place}")
    return key_value(cut[0], "easiest")


def strata_budgets(n_keep: int, sizes: Counts) -> Counts:
    """Return how many rows each stratum gives: min(n_keep, sum of sizes) together, none above its size.

    sizes : (k,). From the smallest stratum up (equal sizes by index), each gives floor(rows left /
    strata left) as far as it has them; what a small stratum cannot give goes to the larger ones.

    >>> strata_budgets(10, np.array([1, 2, 20, 30])), strata_budgets(7, np.array([3, 3, 3]))
    (array([1, 2, 3, 4]), array([2, 2, 3]))
    """
    if n_keep < 0 or (sizes < 0).any():
        raise BudgetError("rows to keep and sizes of strata must be at least 0")
    budget = np.zeros(len(sizes), np.int64)
    left = n_keep
    for done, stratum in enumerate(np.argsort(sizes, kind="stable").tolist()):
        budget[stratum] = min(int(sizes[stratum]), left // (len(sizes) - done))
        left -= int(budget[stratum])
    if budget.sum() != min(n_keep, int(sizes.sum())):
        raise BudgetError(f"budgets of strata must add up to {n_keep}, got {budget.sum()}")
    return budget


def select_stratified(
    score: Floats,
    draw: Hashes,
    tie: Hashes,
    uid: npt.NDArray[Any],
    n_keep: int,
    *,
    cutoff: Floats | None = None,
    beta: float | str = 0,
    n_strata: int = 50,
    clip: tuple[float | str, float | str] = CLIP,
) -> Stratified:
    """Return a selection of exactly `n_keep` rows that covers the whole range of the score.

    score : (n,) finite. draw : (n,) uniform hashes that decide inside a stratum; tie, uid : (n,), order
    equal values. beta : the share of the rows with the largest `cutoff` (n,) that is dropped first; it
    needs that column. The same from shards: `nth_smallest` over the cutoff, `find_strata`, a histogram of
    `Strata.of`, `strata_budgets`, `nth_smallest_by_group` over the draws.

    >>> score, draw = np.array([0.0, 0.1, 0.2, 9.0]), np.arange(4, dtype=np.uint64)
    >>> select_stratified(score, draw, draw, np.array(list("abcd")), 2, n_strata=2).keep
    array([ True, False, False,  True])
    """
    stratum = np.full(len(score), -1, np.int64)
    left = ~_beta_hardest(cutoff, tie, uid, rows_of(beta, len(score), "select.beta"))
    rows = np.flatnonzero(left)
    if not 0 <= n_keep <= len(rows):
        raise BudgetError(
            f"{n_keep:,} rows asked for, there are {len(rows):,} of {len(score):,} left after beta {beta}"
        )
    pairs = priority_key(score[rows], "easiest"), tie[rows]
    stratum[rows] = find_strata(lambda: iter([pairs]), len(rows), n_strata, clip).of(score[rows])
    sizes = np.bincount(stratum[rows], minlength=n_strata)
    budget = strata_budgets(n_keep, sizes)
    keep = np.zeros(len(score), np.bool_)
    keep[rows] = rank_within(stratum[rows], draw[rows], tie[rows], uid[rows]) <= budget[stratum[rows]]
    return Stratified(keep, stratum, sizes, budget)


def _beta_hardest(
    cutoff: Floats | None, tie: Hashes, uid: npt.NDArray[Any], n_drop: int
) -> npt.NDArray[np.bool_]:
    if n_drop == 0:
        return np.zeros(len(tie), np.bool_)
    if cutoff is None:
        raise RecipeError("select.beta needs a cutoff column of its own, such as neg_aum or noise_prob")
    return first_rows(priority_key(cutoff, "hardest"), tie, uid, n_drop)
