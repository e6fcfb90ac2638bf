"""Which epsilon has a wanted precision, where nobody knows the copies (Auto-FuzzyJoin, Li et al. 2021, arXiv:2103.04489).

What is kept at an epsilon is a table without copies. A row that is dropped was joined to one row of it, its representative, at
a distance d. How many kept rows lie within 2 d of the representative says how sure that join is: if there are k of them (the
representative is one), the row could as well be any of k things, and the join is right with probability 1 / k. Where
copies stand apart, k is 1; where samples lie close together anyway, it is large.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curate.deduplication.semantic import MIN_EPSILON, find_duplicates, threshold_of

__all__ = ["ROWS", "PrecisionCut", "cut_for_precision", "joins"]

#: Rows of whole concepts that an estimate is made from.
ROWS = 6_000
#: An estimate is about at least so many dropped rows, and leaves at least this share of the rows for reference.
FEWEST, REFERENCE = 10, 0.5
#: Kept rows within so many times the distance of a join speak against it.
REACH = 2.0

_STEPS = tuple(
    round(step * 10.0**power, 6)
    for power in (-4, -3, -2, -1)
    for step in (1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.3, 8)
)

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PrecisionCut:
    """The largest epsilon with a wanted precision.

    epsilon : 1e-6, which drops equal vectors only, where none has it. estimated : of that epsilon; None where none has it.
    best : the largest estimate of any epsilon, None where there are too few near rows for one. rows : that were looked at.
    """

    epsilon: float
    wanted: float
    estimated: float | None
    best: float | None
    rows: int


def joins(vectors: Vectors, epsilon: float) -> npt.NDArray[np.float64]:
    """Return how sure each join is that dedup at `epsilon` makes among the rows of one concept, in (0, 1].

    vectors : (n, d) float32 unit rows, first to keep first. Returns (dropped,): 1 / the kept rows within 2 d of the
    representative; equal rows count as 1e-6 apart.

    >>> angles = np.radians([0, 1, 60])
    >>> joins(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32), 0.01)
    array([1.])
    """
    found = find_duplicates(vectors, threshold=threshold_of(epsilon))
    lost, kept = np.flatnonzero(~found.keep), np.flatnonzero(found.keep)
    wide = vectors.astype(np.float64)
    of, at = np.unique(found.duplicate_of[lost], return_inverse=True)
    sure = np.empty(len(lost))
    for number, row in enumerate(of):
        mine = np.flatnonzero(at == number)
        away = np.sort(np.maximum(1 - wide[kept] @ wide[row], 0))
        reach = REACH * np.maximum(1 - found.similarity[lost[mine]].astype(np.float64), MIN_EPSILON)
        sure[mine] = 1 / np.maximum(np.searchsorted(away, reach.round(9), side="right"), 1)
    return sure


def cut_for_precision(concepts: Sequence[Vectors], precision: float) -> PrecisionCut:
    """Return the largest epsilon whose joins in some concepts are right with this probability, as estimated.

    concepts : vectors of each, first to keep first. Tries epsilons from 1e-4 to .8, ten to a decade, as long as half of
    the rows stay. precision : in (0, 1).
    """
    total = sum(map(len, concepts))
    chosen, best = None, None
    for epsilon in _STEPS:
        sure = np.concatenate([np.empty(0), *(joins(rows, epsilon) for rows in concepts)])
        if len(sure) > (1 - REFERENCE) * total:
            break
        if len(sure) < FEWEST:
            continue
        estimated = round(float(sure.mean()), 6)
        best = estimated if best is None else max(best, estimated)
        if estimated >= precision:
            chosen = epsilon, estimated
    epsilon, said = (MIN_EPSILON, None) if chosen is None else chosen
    return PrecisionCut(epsilon, precision, said, best, total)
