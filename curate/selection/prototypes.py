"""Pruning by distance to the own prototype (Sorscher et al. 2022, arXiv:2206.14486), with a floor per concept."""

from fractions import Fraction
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from curate.errors import RecipeError
from curate.ordering.keys import priority_key

__all__ = ["floors", "select_prototypes"]

Counts = npt.NDArray[np.integer[Any]]


def floors(sizes: Counts, n_keep: int, balance: float | str) -> npt.NDArray[np.int64]:
    """Return how many rows each concept keeps for sure: min(size, floor(balance n_keep / k')).

    sizes : (k,); k' counts concepts with rows. balance : in [0, 1], in exact decimals; 0 keeps the
    best rows wherever they are, 1 starts with equal numbers for all. The floors add up to at most `n_keep`.

    >>> floors(np.array([5, 1, 0, 9]), 10, 0.9)
    array([3, 1, 0, 3])
    """
    try:
        exact = Fraction(str(balance))
    except (ValueError, ZeroDivisionError) as error:
        raise RecipeError(f"select.balance must be a number in [0, 1], got {balance!r}") from error
    if not 0 <= exact <= 1:
        raise RecipeError(f"select.balance must be in [0, 1], got {balance}")
    n_concepts = int((sizes > 0).sum())
    each = int(exact * n_keep / max(1, n_concepts))
    return np.minimum(sizes, each).astype(np.int64)


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
