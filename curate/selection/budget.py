"""How many rows each concept may keep: targets from complexity, fitted to what the concepts hold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import BudgetError, RecipeError

__all__ = ["Allocation", "allocate", "allocate_grid", "softmax"]

_TIE = 1e-9  # fractional parts that near are equal

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Allocation:
    """Whole rows per concept, all (k,), and the shift `lam` that was added to every target.

    at_cap, at_floor : where the budget is the upper or the lower bound.
    """

    budget: npt.NDArray[np.int64]
    at_cap: npt.NDArray[np.bool_]
    at_floor: npt.NDArray[np.bool_]
    lam: float


def softmax(complexity: Floats, temperature: float) -> Floats:
    """Return exp(complexity / temperature), scaled to sum 1: the share of the rows each concept aims at.

    complexity : (k,) finite. temperature : > 0; infinite makes all shares equal, towards 0 the most
    complex concept gets everything. Returns (k,) float64.

    >>> softmax(np.array([0.1, 0.2]), 0.1).round(3), softmax(np.array([1.0, 3.0]), np.inf)
    (array([0.269, 0.731]), array([0.5, 0.5]))
    """
    if not temperature > 0:
        raise RecipeError(f"select.temperature must be > 0, got {temperature}")
    if not np.isfinite(complexity).all():
        raise BudgetError("complexity must be finite for every concept")
    if len(complexity) == 0:
        return np.empty(0)
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp((complexity - complexity.max()) / temperature)
        shares: Floats = weights / math.fsum(weights.tolist())
    return shares


def allocate(
    target: Floats,
    lower: Counts,
    upper: Counts,
    total: int,
    *,
    complexity: Floats,
    smallest_uid_rank: Counts,
) -> Allocation:
    """Return whole budgets that add up to `total`, nearest to `target` within the bounds.

    All arrays (k,); 0 <= lower <= upper. The least-squares projection x = clip(target + lam, lower,
    upper) with sum x = total, exact by sorted breakpoints (O(k log k)); then whole numbers: the floor of
    x, and what is left over goes to the largest fractional parts among concepts below their upper bound.
    Equal parts (within 1e-9): the larger complexity first, then the concept with the smallest uid,
    given as any integers in that order. Raises BudgetError where the bounds do not admit `total`.

    >>> bounds = {"lower": np.array([1, 1, 1]), "upper": np.array([2, 9, 9])}
    >>> ties = {"complexity": np.zeros(3), "smallest_uid_rank": np.arange(3)}
    >>> allocate(np.array([6.0, 3.0, 1.0]), total=10, **bounds, **ties).budget
    array([2, 5, 3])
    """
    _check_bounds(target, lower, upper, total)
    if len(target) == 0:
        return Allocation(np.empty(0, np.int64), np.empty(0, np.bool_), np.empty(0, np.bool_), 0.0)
    lam = _shift(target, lower, upper, total)
    exact = np.clip(target + lam, lower, upper)
    budget = np.floor(exact).astype(np.int64)
    left = total - int(budget.sum())
    if left:
        order = _remainder_order(exact - budget, complexity, smallest_uid_rank)
        open_concepts = order[budget[order] < upper[order]]
        budget[open_concepts[: max(0, left)]] += 1
    if budget.sum() != total or (budget < lower).any() or (budget > upper).any():
        raise BudgetError(f"budgets must add up to {total} within their bounds, got {budget.sum()}")
    return Allocation(budget, budget == upper, budget == lower, lam)


def allocate_grid(
    complexity: Floats,
    sizes: Counts,
    plans: Sequence[tuple[int, int]],
    temperatures: Sequence[float],
    rank: Counts,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the budgets of many numbers of rows and temperatures, and how many concepts are at a bound in each.

    complexity, sizes, rank : (k,), of concepts with rows. plans : (rows, floor per concept) of each number of rows.
    Returns (plans, temperatures, k) whole rows, and (plans, temperatures, 2) concepts at their cap and their floor.
    """
    shares = [softmax(complexity, temperature) for temperature in temperatures]
    budgets = np.empty((len(plans), len(shares), len(sizes)), np.int64)
    at_bound = np.empty((len(plans), len(shares), 2), np.int64)
    for i, (total, floor) in enumerate(plans):
        lower = np.minimum(floor, sizes)
        for j, share in enumerate(shares):
            found = allocate(
                share * total, lower, sizes, total, complexity=complexity, smallest_uid_rank=rank
            )
            budgets[i, j] = found.budget
            at_bound[i, j] = found.at_cap.sum(), found.at_floor.sum()
    return budgets, at_bound


def _check_bounds(target: Floats, lower: Counts, upper: Counts, total: int) -> None:
    """Raise BudgetError unless some budgets within the bounds add up to `total`."""
    if not np.isfinite(target).all():
        raise BudgetError("targets must be finite for every concept")
    if (lower < 0).any() or (lower > upper).any():
        raise BudgetError("bounds must satisfy 0 <= lower <= upper for every concept")
    if not int(lower.sum()) <= total <= int(upper.sum()):
        raise BudgetError(f"{total} rows do not fit between the bounds' sums {lower.sum()} and {upper.sum()}")


def _shift(target: Floats, lower: Counts, upper: Counts, total: int) -> float:
    """Return lam for which clip(target + lam, lower, upper) sums to `total`.

    The sum grows with lam in straight lines that bend where a concept leaves its lower bound
    or reaches its upper one.
    """
    leaves, reaches = lower - target, upper - target
    bends = np.concatenate([leaves, reaches])
    order = np.argsort(bends)  # the order of equal bends makes no difference
    bends = bends[order]
    slope = np.cumsum(np.repeat([1, -1], len(target))[order])
    sums = int(lower.sum()) + np.concatenate([[0.0], np.cumsum(slope[:-1] * np.diff(bends))])
    place = max(0, int(np.searchsorted(sums, total, side="left")) - 1)
    inside = (leaves <= bends[place]) & (reaches > bends[place])
    if not inside.any():
        return float(bends[place])
    fixed = int(upper[reaches <= bends[place]].sum()) + int(lower[leaves > bends[place]].sum())
    return (total - fixed - math.fsum(target[inside].tolist())) / int(inside.sum())


def _remainder_order(part: Floats, complexity: Floats, rank: Counts) -> npt.NDArray[np.int64]:
    """Return the concepts by fractional part desc; within a run of equal parts by complexity desc, rank."""
    order = np.argsort(-part)  # equal parts fall into one group, whatever their order
    steps = -np.diff(part[order]) > _TIE
    group = np.empty(len(part), np.int64)
    group[order] = np.concatenate([[0], np.cumsum(steps)])
    return np.lexsort((rank, -complexity, group))
