"""Selections of whole arrays in memory, written from their definitions: what the methods are compared with."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from curate.errors import BudgetError, RecipeError
from curate.ordering.keys import priority_key, rank_within
from curate.ordering.span import first_rows, rows_of
from curate.selection.prototypes import floors
from curate.selection.stratified import ENDS, find_strata, strata_budgets
from curate.selection.weighted import race_keys

Floats = npt.NDArray[np.floating[Any]]
Hashes = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.integer[Any]]


def select_prototypes(
    distance: npt.NDArray[np.floating[Any]],
    concept: Counts,
    tie: npt.NDArray[np.uint64],
    n_keep: int,
    balance: float | str = 0,
    prefer: Literal["hardest", "easiest"] = "hardest",
) -> npt.NDArray[np.bool_]:
    """Return which rows are kept: the floor of every concept, then the best of what is left.

    distance : (n,) to the own centroid; hardest keeps the largest, easiest the smallest. concept : (n,)
    ids from 0. tie : (n,) decides among equal distances; pairs (distance, tie) must differ. Exactly
    min(n_keep, n) rows are kept. In memory; the stage does the same shard by shard.

    >>> distance, concept, tie = np.array([0.9, 0.8, 0.1]), np.array([0, 0, 1]), np.arange(3, dtype=np.uint64)
    >>> select_prototypes(distance, concept, tie, 2)
    array([ True,  True, False])
    >>> select_prototypes(distance, concept, tie, 2, balance=1)
    array([ True, False,  True])
    """
    key = priority_key(distance, prefer)
    sizes = np.bincount(concept)
    by_concept = np.lexsort((tie, key, concept))
    rank = np.arange(len(concept)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    keep = np.zeros(len(concept), np.bool_)
    keep[by_concept] = rank < floors(sizes, n_keep, balance)[concept[by_concept]]
    rest = np.lexsort((tie, key, keep))[: int((~keep).sum())]
    keep[rest[: max(0, n_keep - int(keep.sum()))]] = True
    return keep


def take_quotas(
    group: Counts,
    key: npt.NDArray[np.uint64],
    tie: npt.NDArray[np.uint64],
    uid: npt.NDArray[Any],
    quota: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Return the first quota[g] rows of each group in the order of (key, tie, uid), as a mask (n,).

    group : (n,) ids from 0. From shards, `nth_smallest_by_group` finds the same rows.

    >>> group, key, tie = np.array([0, 0, 1]), np.array([3, 1, 2], np.uint64), np.zeros(3, np.uint64)
    >>> take_quotas(group, key, tie, np.array(list("abc")), np.array([1, 1]))
    array([False,  True,  True])
    """
    sizes = np.bincount(group, minlength=len(quota))
    if len(sizes) != len(quota) or (quota < 0).any() or (quota > sizes).any():
        raise BudgetError("a quota must be between 0 and the rows of its group, one per group")
    return rank_within(group, key, tie, uid) <= quota[group]


def select_weighted(
    score: Floats, draw: Hashes, uid: npt.NDArray[Any], n_keep: int, gamma: float = 1.0
) -> npt.NDArray[np.bool_]:
    """Return `n_keep` rows drawn with p in proportion to score^gamma, as a mask (n,).

    From shards: `nth_smallest` over (race_keys, draw). The probability of a row to be in is not known in
    closed form, so its inclusion probability is null.

    >>> select_weighted(np.array([0.0, 1.0]), np.array([9, 5], np.uint64), np.array(["a", "b"]), 1)
    array([False,  True])
    """
    return first_rows(race_keys(score, draw, gamma), draw, uid, n_keep)


@dataclass(frozen=True)
class Drawn:
    """What was kept, and from where.

    keep : (n,). stratum : (n,), -1 for the rows that `beta` dropped. sizes, budget : (n_strata,).
    """

    keep: npt.NDArray[np.bool_]
    stratum: Counts
    sizes: Counts
    budget: Counts


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
    ends: tuple[float | str, float | str] = ENDS,
) -> Drawn:
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
    stratum[rows] = find_strata(lambda: iter([pairs]), len(rows), n_strata, ends).of(score[rows])
    sizes = np.bincount(stratum[rows], minlength=n_strata)
    budget = strata_budgets(n_keep, sizes)
    keep = np.zeros(len(score), np.bool_)
    keep[rows] = rank_within(stratum[rows], draw[rows], tie[rows], uid[rows]) <= budget[stratum[rows]]
    return Drawn(keep, stratum, sizes, budget)


def _beta_hardest(
    cutoff: Floats | None, tie: Hashes, uid: npt.NDArray[Any], n_drop: int
) -> npt.NDArray[np.bool_]:
    if n_drop == 0:
        return np.zeros(len(tie), np.bool_)
    if cutoff is None:
        raise RecipeError("select.beta needs a cutoff column of its own, such as neg_aum or noise_prob")
    return first_rows(priority_key(cutoff, "hardest"), tie, uid, n_drop)
