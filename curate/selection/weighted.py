"""Draw rows with a probability that grows with their score, without replacement, by exponential races."""

from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError, RecipeError
from curate.ordering.keys import priority_key
from curate.ordering.span import first_rows

__all__ = ["race_keys", "select_weighted"]

Floats = npt.NDArray[np.floating[Any]]
Hashes = npt.NDArray[np.uint64]


def race_keys(score: Floats, draw: Hashes, gamma: float = 1.0) -> Hashes:
    """Return unsigned keys whose n smallest are n draws without replacement with p in proportion to score^gamma.

    score : (n,) finite, >= 0. draw : (n,) uniform hashes, one per row. The key is the order of
    -ln(u) / score^gamma with u in (0, 1) from the hash, kept as a logarithm, so that no power over- or
    underflows. Rows of weight 0 come last (with gamma < 0 a score of 0 comes first). Equal keys are
    decided by the draw itself, then by uid.

    >>> draw = np.array([1 << 60, 1 << 63, 1 << 62], np.uint64)
    >>> race_keys(np.array([1.0, 100.0, 0.0]), draw).argsort()
    array([1, 0, 2])
    """
    if not np.isfinite(gamma):
        raise RecipeError(f"select.gamma must be finite, got {gamma}")
    if not (np.isfinite(score) & (score >= 0)).all():
        raise CurateError("scores to draw by must be finite and at least 0")
    uniform = ((draw >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    finish = np.log(-np.log(uniform))
    if gamma != 0:
        with np.errstate(divide="ignore"):
            finish = finish - gamma * np.log(score.astype(np.float64))
    largest = np.finfo(np.float64).max
    return priority_key(np.clip(finish, -largest, largest), "easiest")


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
