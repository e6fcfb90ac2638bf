"""Weigh concepts by what they may keep, instead of dropping rows; and turn weights into whole repeats."""

import hashlib
import math
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from curate.errors import BudgetError, CurateError, RecipeError
from curate.ordering.shares import n_keep
from curate.settings import KeepShare
from curate.weighting import base
from curate.weighting.base import Kept, Weigher

__all__ = ["Concept", "concept_weights", "offset", "repeats"]

Floats = npt.NDArray[np.floating[Any]]
Counts = npt.NDArray[np.integer[Any]]


class Concept(Weigher):
    """What density pruning would keep of a concept (`budget`, a share), divided by what it has."""

    weighs = "what density pruning would keep of the concept, divided by what is there; `temperature` weighs far samples more"
    needs = "concepts"
    direction = "samples of complex concepts"
    paper = "Abbas et al. 2024, arXiv:2401.04578"
    avoid = "when little is kept by density: concepts are balanced already"
    place = 0

    method: Literal["concept"] = "concept"
    budget: KeepShare = 0.3
    temperature: Annotated[float, Field(gt=0)] | None = None

    def weigh(self, kept: Kept) -> base.Floats:
        """Return budget / size per concept."""
        sizes = np.bincount(kept.concept, minlength=kept.n_concepts).astype(np.int64)
        wanted = max(1, n_keep(self.budget, len(kept.concept)))  # a share of few rows may round to none
        budget = kept.density(sizes, wanted).budget
        if self.temperature is None:
            return concept_weights(kept.concept, sizes, budget)
        return concept_weights(kept.concept, sizes, budget, kept.distance, self.temperature)


def concept_weights(
    concept: Counts,
    sizes: Counts,
    budget: Counts,
    distance: Floats | None = None,
    temperature: float | None = None,
) -> npt.NDArray[np.float64]:
    """Return budget / size of each row's concept, scaled to mean 1 over all rows of all concepts.

    concept : (n,) ids from 0, of all concepts or of some. sizes, budget : (k,), of all concepts. With
    `temperature` a row counts more the farther it is from its centroid: its weight is multiplied by
    softmax(distance / temperature) within the concept, scaled to mean 1 there, so that the concept as a
    whole keeps its weight; all rows of a concept must then be in one call.

    >>> concept_weights(np.array([0, 0, 0, 1]), np.array([3, 1]), np.array([1, 1]))
    array([0.66666667, 0.66666667, 0.66666667, 2.        ])
    """
    if (budget < 0).any() or (budget[sizes == 0] > 0).any():
        raise BudgetError("budgets must be at least 0, and 0 for concepts without rows")
    total = int(budget.sum())
    if total == 0 and int(sizes.sum()) > 0:
        raise BudgetError("concept weights need a budget for at least one concept")
    each = budget / np.maximum(sizes, 1) * (int(sizes.sum()) / max(1, total))
    weight: npt.NDArray[np.float64] = each[concept]
    if temperature is not None:
        if distance is None:
            raise RecipeError("weight.temperature needs the distances to the centroids")
        weight = weight * _within(concept, sizes, distance, temperature)
    return weight


def _within(concept: Counts, sizes: Counts, distance: Floats, temperature: float) -> npt.NDArray[np.float64]:
    """Return softmax(distance / temperature) within each concept times its size, (n,)."""
    if not temperature > 0:
        raise RecipeError(f"weight.temperature must be > 0, got {temperature}")
    if not np.isfinite(distance).all():
        raise CurateError("distances must be finite")
    found = np.bincount(concept, minlength=len(sizes))
    if (found[found > 0] != sizes[found > 0]).any():
        raise CurateError("weights within a concept need all of its rows in one call")
    order = np.argsort(concept, kind="stable")
    factor = np.empty(len(concept))
    for rows in np.split(order, np.cumsum(found)[:-1]):
        if len(rows):
            with np.errstate(over="ignore", under="ignore"):
                share = np.exp((distance[rows] - distance[rows].max()).astype(np.float64) / temperature)
            factor[rows] = share * (len(rows) / math.fsum(share.tolist()))
    return factor


def offset(seed: int) -> float:
    """Return the offset in (0, 1) of `repeats` that belongs to a run's seed.

    >>> 0 < offset(0) < 1, offset(0) == offset(0), offset(0) == offset(1)
    (True, True, False)
    """
    key = int.from_bytes(hashlib.blake2b(f"{seed}\x1fweight\x1frepeats".encode(), digest_size=16).digest())
    drawn = np.random.Generator(np.random.Philox(key=key)).integers(0, 1 << 52)
    return (float(drawn) + 0.5) * 2.0**-52


def repeats(weight: Floats, u: float, total: int | None = None) -> npt.NDArray[np.int64]:
    """Return how often each row is taken, `total` times together, with the weights as expected values.

    Systematic resampling: marks at u, u + 1, ... on a line along which each row covers its weight. So a
    row is taken floor(w) or ceil(w) times, and over uniform u its mean is w. weight : (n,) >= 0, in the
    order of uids (the result depends on it), scaled to sum `total` (default: the number of rows with a
    weight above 0). u : in (0, 1), see `offset`.

    >>> repeats(np.array([0.5, 2.0, 0.5]), 0.4), repeats(np.array([0.5, 2.0, 0.5]), 0.6)
    (array([1, 2, 0]), array([0, 2, 1]))
    """
    if not 0 < u < 1:
        raise RecipeError(f"the offset must be in (0, 1), got {u}")
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise CurateError("weights to repeat by must be finite and at least 0")
    some = np.flatnonzero(weight > 0)
    total = len(some) if total is None else total
    if total < 0 or (total > 0 and len(some) == 0):
        raise BudgetError(f"{total} rows asked for, {len(some)} have a weight above 0")
    if total == 0:
        return np.zeros(len(weight), np.int64)
    exact = weight.astype(np.float64)
    exact = exact * (total / math.fsum(exact.tolist()))
    passed = np.ceil(np.cumsum(exact) - u).astype(np.int64)  # marks before the end of each row
    passed = np.clip(passed, 0, total)
    passed[some[-1] :] = total
    times: npt.NDArray[np.int64] = passed - np.concatenate([[0], passed[:-1]])
    return times
