"""How many equally weighted rows a weighted set is worth."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError

__all__ = ["effective_by_group", "effective_sample_size"]

Floats = npt.NDArray[np.floating[Any]]


def effective_sample_size(weight: Floats) -> float:
    """Return (sum w)^2 / sum w^2, from 1 (one row has all) to n (all equal); 0 where no row counts.

    weight : (n,), >= 0. NaN (no weight) is left out.

    >>> effective_sample_size(np.array([1.0, 1.0, 0.0, np.nan])), effective_sample_size(np.zeros(3))
    (2.0, 0.0)
    """
    known = weight[~np.isnan(weight)].astype(np.float64)
    if (known < 0).any() or not np.isfinite(known).all():
        raise CurateError("weights must be finite and at least 0")
    largest = known.max(initial=0.0)
    if largest == 0:
        return 0.0
    scaled = known / largest
    return math.fsum(scaled.tolist()) ** 2 / math.fsum((scaled * scaled).tolist())


def effective_by_group(
    weight: Floats, group: npt.NDArray[np.integer[Any]], k: int
) -> npt.NDArray[np.float64]:
    """Return the effective sample size of each group, (k,); group : (n,) ids from 0.

    >>> effective_by_group(np.array([2.0, 2.0, 5.0]), np.array([0, 0, 2]), 3)
    array([2., 0., 1.])
    """
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group, minlength=k))[: k - 1] if k else np.empty(0, np.int64)
    parts = np.split(weight[order], ends) if k else []
    return np.array([effective_sample_size(part) for part in parts], np.float64)
