"""Keep what is good enough: a score from a threshold up, the top of all rows, the top of each group."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from curate.errors import BudgetError, CurateError, RecipeError
from curate.ordering.cutoff import Pairs, nth_smallest
from curate.ordering.keys import priority_key
from curate.ordering.span import Cuts, first_rows, rows_of

__all__ = ["above", "top", "top_cuts", "top_rows"]

Missing = Literal["drop", "keep", "error"]
Floats = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]


def above(score: Floats, threshold: float, on_missing: Missing = "drop") -> Mask:
    """Return which rows have a score of `threshold` or more.

    score : (n,), higher is better. Missing rows (NaN or infinite) follow `on_missing`, never the score.

    >>> above(np.array([0.1, 0.3, np.nan]), 0.3), above(np.array([np.inf]), 0.3)
    (array([False,  True, False]), array([False]))
    """
    if not np.isfinite(threshold):
        raise RecipeError(f"a threshold must be finite, got {threshold}")
    scored, extra = _missing(score, on_missing)
    return (scored & (score >= threshold)) | extra


def top_rows(
    share: float | str, n_scored: int, n_rows: int, base: Literal["scored", "all"] = "scored"
) -> int:
    """Return how many rows the top `share` is; `base` says of what: the rows with a score, or all rows.

    Raises BudgetError where fewer rows have a score.

    >>> top_rows(0.5, 6, 10), top_rows(0.5, 6, 10, "all")
    (3, 5)
    """
    if base not in ("scored", "all"):
        raise RecipeError(f"the base of a share must be scored or all, got {base!r}")
    n_top = rows_of(share, n_scored if base == "scored" else n_rows)
    if n_top > n_scored:
        raise BudgetError(f"{share} of {n_rows:,} rows = {n_top:,} asked for, {n_scored:,} have a score")
    return n_top


def top(
    score: Floats,
    tie: npt.NDArray[np.uint64],
    uid: npt.NDArray[Any],
    n_top: int,
    *,
    ties: Literal["cut", "all"] = "cut",
    on_missing: Missing = "drop",
) -> Mask:
    """Return the `n_top` rows with the highest scores.

    score : (n,), higher is better. tie, uid : (n,), order equal scores. ties: cut keeps exactly `n_top`
    rows; all keeps every row that equals the last of them too. Missing rows are not counted: with
    on_missing "keep" they come on top.

    >>> score, tie, uid = np.array([2.0, 1.0, 1.0]), np.arange(3, dtype=np.uint64), np.array(list("abc"))
    >>> top(score, tie, uid, 2), top(score, tie, uid, 2, ties="all")
    (array([ True,  True, False]), array([ True,  True,  True]))
    """
    _known_ties(ties)
    scored, extra = _missing(score, on_missing)
    rows = np.flatnonzero(scored)
    keep = extra.copy()
    keep[rows] = first_rows(priority_key(score[rows]), tie[rows], uid[rows], n_top)
    if ties == "all" and n_top > 0:
        keep |= scored & (score >= score[rows][keep[rows]].min())
    return keep


def top_cuts(read: Callable[[], Iterator[Pairs]], n_top: int, *, ties: Literal["cut", "all"] = "cut") -> Cuts:
    """Return the cut of the `n_top` highest scores, in a few passes.

    read : yields (priority_key(score), tie) of the rows with a score, block by block.
    """
    _known_ties(ties)
    cut = nth_smallest(read, n_top)
    if cut is not None and ties == "all":
        cut = cut[0], int(np.iinfo(np.uint64).max)
    return Cuts(None, cut)


def _missing(score: Floats, on_missing: Missing) -> tuple[Mask, Mask]:
    """Return which rows have a score, and which are kept without one."""
    if on_missing not in ("drop", "keep", "error"):
        raise RecipeError(
            f"missing scores are dropped, kept or an error (drop, keep, error), got {on_missing!r}"
        )
    scored = np.isfinite(score)
    n_missing = int((~scored).sum())
    if on_missing == "error" and n_missing:
        raise CurateError(f"{n_missing:,} of {len(score):,} rows have no finite score")
    return scored, ~scored if on_missing == "keep" else np.zeros(len(score), np.bool_)


def _known_ties(ties: str) -> None:
    if ties not in ("cut", "all"):
        raise RecipeError(f"ties must be cut or all, got {ties!r}")
