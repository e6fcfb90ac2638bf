"""Undo a selection's bias: each kept row stands for 1 / (its probability of being kept) rows."""

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError, RecipeError
from curate.selection.rules import group_inclusion
from curate.weighting.base import Kept, Weigher

__all__ = ["CERTAIN", "DRAWN", "UNKNOWN", "Inverse", "inclusion", "inverse_inclusion"]

#: Methods that rank: a row is in or out, with certainty.
CERTAIN = (
    "hardest",
    "easiest",
    "window",
    "middle",
    "threshold",
    "top",
    "quotas",
    "prototypes",
    "density",
    "diversity",
)
#: Methods that draw with equal chances inside groups: all rows, a stratum, the easy rows.
DRAWN = ("random", "stratified", "infobatch")
#: Methods whose probabilities have no closed form.
UNKNOWN = ("weighted",)

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class Inverse(Weigher):
    """1 / the probability with which each row was kept, so that the kept rows stand for all."""

    weighs = "1 / the probability of having been kept: undoes the odds of a selection"
    needs = "a selection with known odds: random, stratified, or `prefer: random`"
    direction = "samples that were unlikely to be kept"
    paper = "Horvitz and Thompson 1952"
    cost = "one pass over the kept rows"
    avoid = "when rows were ranked: each was certain to be kept, and all weights are 1"
    needs_odds = True
    place = 6

    method: Literal["inverse"] = "inverse"

    def weigh(self, kept: Kept) -> Floats:
        """Return 1 / probability; raises CurateError where it is not known."""
        if np.isnan(kept.inclusion).any():
            raise CurateError(
                "weight.method inverse needs the probability with which each row was kept; this selection "
                f"(method {kept.method}) has none in closed form"
            )
        return inverse_inclusion(kept.inclusion, np.ones(len(kept.concept), np.bool_))


def inclusion(method: str, keep: Mask, group: npt.NDArray[np.integer[Any]] | None = None) -> Floats:
    """Return the probability with which each row was to be kept, (n,); NaN where it is not known.

    method : a name of CERTAIN, DRAWN or UNKNOWN. keep : (n,). group : (n,) ids, for methods that draw:
    the strata, whether a row is easy (infobatch), nothing for random. Rows without a score are a group
    of their own. Certain methods give 1 to what they keep and 0 to the rest.

    >>> inclusion("random", np.array([True, False, False, False])), inclusion("hardest", np.array([True, False]))
    (array([0.25, 0.25, 0.25, 0.25]), array([1., 0.]))
    """
    if method in CERTAIN:
        return keep.astype(np.float64)
    if method in UNKNOWN:
        return np.full(len(keep), np.nan)
    if method not in DRAWN:
        raise RecipeError(f"no selection method {method!r}; there are {', '.join(CERTAIN + DRAWN + UNKNOWN)}")
    ids = np.zeros(len(keep), np.int64) if group is None else group
    code = np.unique(ids, return_inverse=True)[1]
    sizes = np.bincount(code)
    return group_inclusion(np.bincount(code[keep], minlength=len(sizes)), sizes)[code]


def inverse_inclusion(probability: Floats, keep: Mask, *, normalise: bool = True) -> Floats:
    """Return 1 / probability for kept rows and 0 for others, (n,).

    normalise : scale to mean 1 over the kept rows. Raises CurateError where a kept row's probability
    is not known (NaN) or not in (0, 1].

    >>> inverse_inclusion(np.array([0.5, 0.5, 1.0]), np.array([True, False, True]), normalise=False)
    array([2., 0., 1.])
    """
    kept = probability[keep]
    if np.isnan(kept).any():
        raise CurateError("weights 1 / p need the probability of every kept row, and this method has none")
    if not ((kept > 0) & (kept <= 1)).all():
        raise CurateError("the probability of a kept row must be in (0, 1]")
    weight = np.zeros(len(keep))
    weight[keep] = 1 / kept
    if normalise and len(kept):
        weight *= len(kept) / math.fsum(weight[keep].tolist())
    return weight
