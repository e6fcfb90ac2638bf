"""Density-based pruning: complex concepts keep more rows (Abbas et al. 2024, arXiv:2401.04578)."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.clustering.complexity import Kind, complexity
from curate.errors import BudgetError
from curate.selection.budget import allocate, softmax

__all__ = ["DensityBudgets", "density_budgets"]

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class DensityBudgets:
    """What each concept may keep and why; all (k,).

    probability : share aimed at, sums to 1. target : probability x rows to keep. budget : whole rows.
    Concepts without rows have 0 in all three. min_per_concept_used : the floor after relaxing. shift : what
    was added to every target before the bounds (`allocate`).
    """

    complexity: Floats
    probability: Floats
    target: Floats
    budget: npt.NDArray[np.int64]
    at_cap: npt.NDArray[np.bool_]
    at_floor: npt.NDArray[np.bool_]
    min_per_concept_used: int
    shift: float


def density_budgets(
    sizes: Counts,
    d_intra: Floats,
    d_inter: Floats,
    *,
    n_keep: int,
    temperature: float,
    min_per_concept: int = 1,
    kind: Kind = "inter*intra",
    smallest_uid_rank: Counts,
) -> DensityBudgets:
    """Return how many of its rows each concept keeps, `n_keep` together (all rows, if there are fewer).

    sizes, d_intra, d_inter, smallest_uid_rank : (k,), of the rows that reach the selection. Targets are
    softmax(complexity / temperature) x n_keep over concepts with rows; a concept gets at most its size,
    at least min(min_per_concept, size), and what that moves is spread evenly (`allocate`). Where `n_keep`
    rows are too few for the floor, the floor is lowered as far as needed, with a warning.

    >>> got = density_budgets(np.array([10, 10, 0]), np.array([0.2, 0.4, 0.0]), np.ones(3), n_keep=6,
    ...     temperature=0.5, smallest_uid_rank=np.arange(3))
    >>> got.probability.round(3), got.budget
    (array([0.401, 0.599, 0.   ]), array([2, 4, 0]))
    """
    if n_keep < 0 or (sizes < 0).any() or min_per_concept < 0:
        raise BudgetError("sizes, rows to keep and rows per concept must be at least 0")
    some = np.flatnonzero(sizes > 0)
    n_keep = min(n_keep, int(sizes.sum()))
    value = complexity(d_inter, d_intra, kind, sizes=sizes)
    probability = np.zeros(len(sizes))
    probability[some] = softmax(value[some], temperature)
    target = probability * n_keep
    floor = _affordable(sizes[some], n_keep, min_per_concept)
    allocation = allocate(
        target[some],
        np.minimum(floor, sizes[some]),
        sizes[some],
        n_keep,
        complexity=value[some],
        smallest_uid_rank=smallest_uid_rank[some],
    )
    budget = np.zeros(len(sizes), np.int64)
    budget[some] = allocation.budget
    lower, shift = np.minimum(floor, sizes), allocation.lam
    return DensityBudgets(value, probability, target, budget, budget == sizes, budget == lower, floor, shift)


def _affordable(sizes: Counts, n_keep: int, wanted: int) -> int:
    """Return the largest floor up to `wanted` whose sum of min(floor, size) is at most `n_keep`."""
    if int(np.minimum(wanted, sizes).sum()) <= n_keep:
        return wanted
    low, high = 0, wanted
    while high - low > 1:
        middle = (low + high) // 2
        fits = int(np.minimum(middle, sizes).sum()) <= n_keep
        low, high = (middle, high) if fits else (low, middle)
    if n_keep == 0:
        return low
    log.warning(
        "select.min_per_concept lowered from %d to %d: %d rows to keep, %d concepts",
        wanted, low, n_keep, len(sizes),
    )  # fmt: skip
    return low
