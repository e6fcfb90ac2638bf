"""Thin out the easy half and weigh up what is left of it (Qin et al. 2024, "InfoBatch")."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import BudgetError, CurateError, RecipeError
from curate.ordering.shares import exact_share
from curate.ordering.span import first_rows

__all__ = ["InfoBatch", "easy_rows_kept", "select_infobatch"]

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class InfoBatch:
    """What is kept, all (n,); easy rows have a score below the mean. The weights add up to n."""

    keep: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.float64]
    easy: npt.NDArray[np.bool_]


def easy_rows_kept(n_easy: int, r: float | str) -> int:
    """Return how many of `n_easy` rows stay: floor((1 - r) n_easy + 1/2), but at least one of them.

    >>> easy_rows_kept(3, 0.5), easy_rows_kept(3, 1), easy_rows_kept(0, 0.5)
    (2, 1, 0)
    """
    exact = exact_share(r)
    if not 0 <= exact <= 1:
        raise RecipeError(f"select.r must be in [0, 1], got {r}")
    if n_easy < 0:
        raise BudgetError(f"the number of rows must be at least 0, got {n_easy}")
    return min(n_easy, max(1, int((1 - exact) * n_easy + Fraction(1, 2))))


def select_infobatch(
    score: Floats, draw: npt.NDArray[np.uint64], uid: npt.NDArray[Any], r: float | str = 0.5
) -> InfoBatch:
    """Drop the share `r` of the rows below the mean score, by hash, and weigh the others m / k.

    score : (n,) finite, larger is harder. draw : (n,) uniform hashes. Of the m easy rows k stay
    (`easy_rows_kept`) with weight m / k; all others stay with weight 1. From shards: the mean by
    `math.fsum` over all scores, m by counting, then `nth_smallest` over the draws of the easy rows.

    >>> draw = np.arange(4, dtype=np.uint64)
    >>> select_infobatch(np.array([1.0, 2.0, 3.0, 4.0]), draw, np.array(list("abcd"))).weight
    array([2., 0., 1., 1.])
    """
    if not np.isfinite(score).all():
        raise CurateError("scores must be finite")
    easy = score < _mean(score)
    rows = np.flatnonzero(easy)
    n_kept = easy_rows_kept(len(rows), r)
    keep = ~easy
    keep[rows] = first_rows(draw[rows], draw[rows], uid[rows], n_kept)
    weight = keep.astype(np.float64)
    weight[rows[keep[rows]]] = len(rows) / max(1, n_kept)
    return InfoBatch(keep, weight, easy)


def _mean(score: Floats) -> float:
    """Return the exactly rounded mean, never outside the scores, so that no constant is below itself."""
    if len(score) == 0:
        return 0.0
    mean = math.fsum(score.astype(np.float64).tolist()) / len(score)
    return min(max(mean, float(score.min())), float(score.max()))
