"""Several score columns as one: brought to [0, 1], weighted and added; ranks and quantiles in groups."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError, RecipeError
from curate.scores.reliability import ranks

__all__ = ["Scale", "fuse", "normalise", "quantile", "rank_in_group"]

Scale = Literal["rank", "minmax"]

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[np.floating[Any]]
Groups = npt.NDArray[np.integer[Any]]


def fuse(
    columns: Sequence[Array], weights: Sequence[float], scale: Scale = "rank", *, group: Groups | None = None
) -> Floats:
    """Return the weighted mean of columns that were brought to [0, 1]; (n,) in [0, 1].

    columns : each (n,); weights : one each, finite, not all 0, scaled so that their sizes add up to 1. A
    negative weight turns its column round (1 - value). scale, group : as `normalise`. NaN where a
    column with a weight is not finite: a row without one of its scores has none.
    Raises RecipeError for bad weights.

    >>> fuse([np.array([1.0, 2.0, 3.0]), np.array([7.0, 7.0, np.nan])], [3, 1])
    array([0.125, 0.5  ,   nan])
    """
    sizes = np.abs(np.asarray(weights, np.float64))
    if len(weights) != len(columns) or not np.isfinite(sizes).all() or not sizes.any():
        raise RecipeError(f"weights must be {len(columns)} finite numbers and not all 0, got {list(weights)}")
    if len({column.shape for column in columns}) != 1 or columns[0].ndim != 1:
        raise CurateError(f"columns must be (n,) alike, got {[column.shape for column in columns]}")
    shares = sizes / sizes.max()
    shares /= shares.sum()
    total = np.zeros(len(columns[0]))
    for column, weight, share in zip(columns, weights, shares, strict=True):
        if weight:
            value = normalise(column, scale, group=group)
            total += share * (value if weight > 0 else 1.0 - value)
    return np.clip(total, 0.0, 1.0)


def normalise(values: Array, scale: Scale = "rank", *, group: Groups | None = None) -> Floats:
    """Return values brought to [0, 1] in their order: by their rank or by their range; (n,).

    rank : (rank - 1) / (n - 1) with ties at their average, whatever the distances. minmax : 0 at the
    smallest and 1 at the largest. Equal values all become 0.5. group : (n,) codes, each group by itself.
    What is not finite does not count and becomes NaN.

    >>> normalise(np.array([5.0, 1.0, 2.0, np.inf])), normalise(np.array([5.0, 1.0, 2.0]), "minmax")
    (array([1. , 0. , 0.5,  nan]), array([1.  , 0.  , 0.25]))
    """
    if scale not in ("rank", "minmax"):
        raise RecipeError(f"scale must be rank or minmax, got {scale!r}")
    result = np.full(len(values), np.nan)
    for rows in _groups(values, group):
        part = values[rows].astype(np.float64)
        low, high = part.min(), part.max()
        if low == high:
            result[rows] = 0.5
        elif scale == "rank":
            result[rows] = (ranks(part) - 1) / (len(part) - 1)
        else:
            result[rows] = np.clip((part / 2 - low / 2) / (high / 2 - low / 2), 0.0, 1.0)
    return result


def rank_in_group(values: Array, group: Groups | None = None) -> Floats:
    """Return the rank of each value in its group, from 1 for the smallest, ties at their average; (n,).

    NaN where a value is not finite. For ranks without ties see `select.ranking.rank_within`.

    >>> rank_in_group(np.array([0.3, 0.1, 9.0]), np.array([0, 0, 1]))
    array([2., 1., 1.])
    """
    result = np.full(len(values), np.nan)
    for rows in _groups(values, group):
        result[rows] = ranks(values[rows])
    return result


def quantile(values: Array, share: float, group: Groups | None = None) -> Floats:
    """Return for each row the quantile of its group, linear between values: a threshold per row; (n,).

    share : in [0, 1]. What is not finite does not count; NaN for a group that holds nothing else. A
    row that is not finite itself has the threshold of its group too.

    >>> quantile(np.array([1.0, 3.0, 10.0, np.nan]), 0.5, np.array([0, 0, 1, 1]))
    array([ 2.,  2., 10., 10.])
    """
    if not 0 <= share <= 1:
        raise RecipeError(f"a quantile must be in [0, 1], got {share}")
    codes = np.zeros(len(values), np.int64) if group is None else np.unique(group, return_inverse=True)[1]
    thresholds = np.full(int(codes.max(initial=-1)) + 1, np.nan)
    for rows in _groups(values, codes):
        thresholds[codes[rows[0]]] = np.quantile(values[rows].astype(np.float64), share)
    return thresholds[codes]


def _groups(values: Array, group: Groups | None) -> list[npt.NDArray[np.int64]]:
    """Return the rows with finite values of each group; groups without any are left out."""
    if group is not None and group.shape != values.shape:
        raise CurateError(f"group must be {values.shape}, got {group.shape}")
    finite = np.flatnonzero(np.isfinite(values))
    if len(finite) == 0:
        return []
    if group is None:
        return [finite]
    order = finite[np.argsort(group[finite], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
