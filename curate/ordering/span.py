"""Keep a stretch of all rows in the order of one score: the hardest, the easiest, a window, the middle.

A `Span` says which ranks are kept; `take` applies it to rows in memory, `span_cuts` finds the same rows in
a few passes over any number of them.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from curate.errors import BudgetError, RecipeError
from curate.ordering.cutoff import Pairs, nth_smallest
from curate.ordering.keys import priority_key, rank_within
from curate.ordering.shares import exact_share

__all__ = [
    "Cuts",
    "Span",
    "easiest",
    "first_rows",
    "hardest",
    "key_value",
    "middle",
    "rows_of",
    "span_cuts",
    "take",
    "window",
]

log = logging.getLogger(__name__)

Prefer = Literal["hardest", "easiest"]
Floats = npt.NDArray[np.floating[Any]]
Hashes = npt.NDArray[np.uint64]

_SIGN = 1 << 63
_ALL = (1 << 64) - 1


@dataclass(frozen=True)
class Span:
    """The ranks start + 1 to stop in the order of `prefer` (hardest: the largest score is rank 1)."""

    prefer: Prefer
    start: int
    stop: int


@dataclass(frozen=True)
class Cuts:
    """Two (key, tie) pairs: rows behind `after` and up to `upto` are kept.

    after : None where the span begins with the first row. upto : None where nothing is kept.
    """

    after: tuple[int, int] | None
    upto: tuple[int, int] | None

    def holds(self, key: Hashes, tie: Hashes) -> npt.NDArray[np.bool_]:
        """Return which rows are kept, (n,), given the pairs that `span_cuts` saw."""
        if self.upto is None:
            return np.zeros(len(key), np.bool_)
        held = _up_to(key, tie, self.upto)
        return held if self.after is None else held & ~_up_to(key, tie, self.after)


def _up_to(key: Hashes, tie: Hashes, cut: tuple[int, int]) -> npt.NDArray[np.bool_]:
    last_key, last_tie = np.uint64(cut[0]), np.uint64(cut[1])
    held: npt.NDArray[np.bool_] = (key < last_key) | ((key == last_key) & (tie <= last_tie))
    return held


def rows_of(share: float | str | Fraction, total: int, name: str = "a share") -> int:
    """Return `share` of `total` rows in exact decimals, halves rounded up; unlike `n_keep` 0 is a share.

    Raises BudgetError unless 0 <= share <= 1.

    >>> rows_of(0, 5), rows_of("10%", 7), rows_of(0.018, 750)
    (0, 1, 14)
    """
    exact = exact_share(share)
    if not 0 <= exact <= 1:
        raise BudgetError(f"{name} must be in [0, 1], got {share}")
    if total < 0:
        raise BudgetError(f"the number of rows must be at least 0, got {total}")
    return int(exact * total + Fraction(1, 2))


def hardest(n_keep: int, total: int) -> Span:
    """Return the span of the `n_keep` hardest of `total` rows; warns below half, where noise takes over.

    >>> hardest(3, 5)
    Span(prefer='hardest', start=0, stop=3)
    """
    span = _span("hardest", 0, n_keep, total)
    if 0 < 2 * n_keep < total:
        log.warning(
            "select: the hardest %s of %s rows are often mislabelled ones, and worse than random below half; "
            "consider method stratified with beta",
            f"{n_keep:,}", f"{total:,}",
        )  # fmt: skip
    return span


def easiest(n_keep: int, total: int) -> Span:
    """Return the span of the `n_keep` easiest of `total` rows.

    >>> easiest(3, 5)
    Span(prefer='easiest', start=0, stop=3)
    """
    return _span("easiest", 0, n_keep, total)


def window(
    n_keep: int, total: int, *, drop_hardest: float | str | None = None, offset: int | None = None
) -> Span:
    """Return `n_keep` rows next to each other in rank; exactly one of the two places is given.

    drop_hardest : the share of the rows above the window, in [0, 1], which is not kept.
    offset : the number of easier rows below the window. Raises BudgetError where the window
    does not fit, instead of keeping fewer.

    >>> window(4, 10, offset=5), window(4, 10, drop_hardest=0.1)
    (Span(prefer='easiest', start=5, stop=9), Span(prefer='hardest', start=1, stop=5))
    """
    if drop_hardest is not None and offset is None:
        return _span("hardest", rows_of(drop_hardest, total, "select.drop_hardest"), n_keep, total)
    if offset is not None and drop_hardest is None:
        return _span("easiest", offset, n_keep, total)
    raise RecipeError("select: a window takes drop_hardest or offset, exactly one of them")


def middle(n_keep: int, total: int, center: float | str = 0.5) -> Span:
    """Return `n_keep` rows around the quantile `center` of the score (0: easiest, 1: hardest).

    The first is number center x total - n_keep / 2, rounded like every count, and moved where the
    rows would not fit at one end.

    >>> middle(4, 10), middle(4, 10, 1.0)
    (Span(prefer='easiest', start=3, stop=7), Span(prefer='easiest', start=6, stop=10))
    """
    exact = exact_share(center)
    if not 0 <= exact <= 1:
        raise RecipeError(f"select.center must be in [0, 1], got {center}")
    first = exact * total - Fraction(n_keep, 2) + Fraction(1, 2)
    start = min(first.numerator // first.denominator, total - n_keep)
    return _span("easiest", max(0, start), n_keep, total)


def _span(prefer: Prefer, start: int, n_keep: int, total: int) -> Span:
    if start < 0 or n_keep < 0:
        raise BudgetError(f"rows to keep and rows to skip must be at least 0, got {n_keep} and {start}")
    if start + n_keep > total:
        skipped = f" after {start:,} others" if start else ""
        raise BudgetError(f"{n_keep:,} rows asked for{skipped}, there are {total:,}")
    return Span(prefer, start, start + n_keep)


def take(
    score: Floats, tie: Hashes, uid: npt.NDArray[Any], span: Span
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int32]]:
    """Return which rows are kept, and the rank of every row from 1 in the order of `span.prefer`.

    score : (n,) finite, larger is harder. tie, uid : (n,), order equal scores. Raises BudgetError for a span of more rows.

    >>> score, tie = np.array([0.1, 0.9, 0.5]), np.arange(3, dtype=np.uint64)
    >>> take(score, tie, np.array(["a", "b", "c"]), hardest(2, 3))
    (array([False,  True,  True]), array([3, 1, 2], dtype=int32))
    """
    if span.stop > len(score):
        raise BudgetError(f"{span.stop:,} rows asked for, there are {len(score):,}")
    rank = rank_within(np.zeros(len(score), np.int8), priority_key(score, span.prefer), tie, uid)
    return (rank > span.start) & (rank <= span.stop), rank


def span_cuts(read: Callable[[], Iterator[Pairs]], span: Span) -> Cuts:
    """Return the cuts between which a span's rows lie, in a few passes (see `nth_smallest`).

    read : yields (priority_key(score, span.prefer), tie) of all rows, block by block. Where all pairs
    differ, `Cuts.holds` keeps exactly the rows that `take` keeps.
    """
    if span.start == span.stop:
        return Cuts(None, None)
    return Cuts(nth_smallest(read, span.start), nth_smallest(read, span.stop))


def first_rows(key: Hashes, tie: Hashes, uid: npt.NDArray[Any], n_keep: int) -> npt.NDArray[np.bool_]:
    """Return the `n_keep` first rows in the order of (key, tie, uid), as a mask (n,); raises BudgetError for more than n.

    >>> key, tie = np.array([5, 1, 5], np.uint64), np.array([2, 9, 1], np.uint64)
    >>> first_rows(key, tie, np.array(["a", "b", "c"]), 2)
    array([False,  True,  True])
    """
    if not 0 <= n_keep <= len(key):
        raise BudgetError(f"{n_keep:,} rows asked for, there are {len(key):,}")
    return rank_within(np.zeros(len(key), np.int8), key, tie, uid) <= n_keep


def key_value(key: int, prefer: Prefer = "hardest") -> float:
    """Return the score that `priority_key` turned into `key`: how a cut becomes a number again.

    >>> key_value(int(priority_key(np.array([-2.5]))[0]))
    -2.5
    """
    ascending = key if prefer == "easiest" else key ^ _ALL
    bits = ascending ^ (_SIGN if ascending & _SIGN else _ALL)
    return float(np.array([bits], np.uint64).view(np.float64)[0])
