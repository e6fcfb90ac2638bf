"""Density-based pruning: complex concepts keep more rows (Abbas et al. 2024, arXiv:2401.04578)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from curate.clustering.complexity import Kind
from curate.clustering.geometry import Geometry
from curate.errors import BudgetError
from curate.selection import rules
from curate.selection.base import DensitySettings, RowSource, Selector, free_sizes
from curate.selection.budget import allocate, softmax
from curate.selection.rules import Budgets, Rule, group_inclusion
from curate.selection.spread import Solved, Spread, Temperature, spread
from curate.settings import Preference

if TYPE_CHECKING:
    import polars as pl

    from curate.selection.rows import whatif
    from curate.selection.rows.counterfactual import Standing, Stretch
    from curate.selection.rows.finished import Finished, Row

__all__ = [
    "Density",
    "DensityBudgets",
    "DensityRule",
    "InDensity",
    "budgets_of",
    "density_budgets",
    "floor_sums",
]

log = logging.getLogger(__name__)

#: Rounding of a target and its shift, per row to keep.
_ERROR = 1e-12

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.integer[Any]]


class Density(Selector):
    """Of every concept as many rows as its complexity deserves; the first ones by `prefer`.

    temperature : a number, or what it is solved for (`effective_share`); auto is an effective share of 0.9. subtract_mean :
    complexity is that of the vectors without their mean.
    """

    keeps = "of every concept what its complexity deserves; `prefer: score:<column>` ranks inside"
    paper = "Abbas et al. 2024, arXiv:2401.04578"
    avoid = "when there are no more than a few concepts; `prefer: hardest` (the paper's) at small shares: it loses to a draw"
    by_complexity = True
    place = 0
    later = ("subtract_mean",)

    method: Literal["density"] = "density"
    prefer: Preference = "random"
    temperature: Temperature = 0.1
    neighbours: Annotated[int, Field(ge=1)] = 20
    min_per_concept: Annotated[int, Field(ge=0)] = 1
    complexity: Kind = "inter*intra"
    subtract_mean: bool = False

    @property
    def density(self) -> DensitySettings:
        """Its own settings."""
        asked = Solved() if self.temperature == "auto" else self.temperature
        return DensitySettings(
            asked, self.neighbours, self.min_per_concept, self.complexity, self.subtract_mean
        )

    def fit(self, rows: RowSource, n_keep: int, total: int) -> "DensityRule":
        """Return the first rows of each concept, within its budget."""
        found, sizes = rows.geometry(self.density), free_sizes(rows.concepts)
        plan = budgets_of(rows.concepts, self.density.complexities(found, sizes), sizes, n_keep, self.density)
        shares = group_inclusion(plan.budget, sizes) if self.drawn else None
        pinned = rows.concepts["n_pinned"].to_numpy()
        return DensityRule(pinned + plan.budget, None, shares, plan=plan, geometry=found)

    def concept_table(self, rows: RowSource, rule: Rule) -> "pl.DataFrame":
        """Return the concepts with their budgets, and what these were made from."""
        import polars as pl

        if not isinstance(rule, DensityRule):
            return super().concept_table(rows, rule)
        plan = rule.plan
        return rows.concepts.with_columns(
            pl.Series("d_intra", rule.geometry.d_intra), pl.Series("d_inter", rule.geometry.d_inter),
            pl.Series("complexity", plan.complexity),
            pl.Series("probability", plan.probability), pl.Series("target", plan.target),
            pl.Series("budget", rule.budget), pl.Series("at_cap", plan.at_cap),
            pl.Series("at_floor", plan.at_floor),
        )  # fmt: skip

    def divides(self, rule: Rule, concepts: "pl.DataFrame") -> Spread | None:
        """Return how unevenly complexity divides the rows over the concepts that have some."""
        if not isinstance(rule, DensityRule):
            return None
        return spread(rule.plan.complexity[free_sizes(concepts) > 0], rule.plan.temperature)

    def standing(self, run: "Finished", row: "Row") -> "Standing | str":
        """Return the row's place in its concept."""
        return InDensity(run.found.density, row.concept, run.place(row))


@dataclass(frozen=True)
class DensityBudgets:
    """What each concept may keep and why; all (k,).

    probability : share aimed at, sums to 1. target : probability x rows to keep. budget : whole rows.
    Concepts without rows have 0 in all three. min_per_concept_used : the floor after relaxing. shift : what
    was added to every target before the bounds (`allocate`). temperature : as it was used.
    """

    complexity: Floats
    probability: Floats
    target: Floats
    budget: npt.NDArray[np.int64]
    at_cap: npt.NDArray[np.bool_]
    at_floor: npt.NDArray[np.bool_]
    min_per_concept_used: int
    shift: float
    temperature: float


def density_budgets(
    sizes: Counts,
    complexity: Floats,
    *,
    n_keep: int,
    temperature: float,
    min_per_concept: int = 1,
    smallest_uid_rank: Counts,
) -> DensityBudgets:
    """Return how many of its rows each concept keeps, `n_keep` together (all rows, if there are fewer).

    sizes, complexity, smallest_uid_rank : (k,), of the rows that reach the selection. Targets are
    softmax(complexity / temperature) x n_keep over concepts with rows; a concept gets at most its size,
    at least min(min_per_concept, size), and what that moves is spread evenly (`allocate`). Where `n_keep`
    rows are too few for the floor, the floor is lowered as far as needed, with a warning.

    >>> got = density_budgets(np.array([10, 10, 0]), np.array([0.2, 0.4, 0.0]), n_keep=6, temperature=0.5,
    ...     smallest_uid_rank=np.arange(3))
    >>> got.probability.round(3), got.budget
    (array([0.401, 0.599, 0.   ]), array([2, 4, 0]))
    """
    if n_keep < 0 or (sizes < 0).any() or min_per_concept < 0:
        raise BudgetError("sizes, rows to keep and rows per concept must be at least 0")
    some = np.flatnonzero(sizes > 0)
    n_keep = min(n_keep, int(sizes.sum()))
    probability = np.zeros(len(sizes))
    probability[some] = softmax(complexity[some], temperature)
    target = probability * n_keep
    floor = _affordable(sizes[some], n_keep, min_per_concept)
    allocation = allocate(
        target[some],
        np.minimum(floor, sizes[some]),
        sizes[some],
        n_keep,
        complexity=complexity[some],
        smallest_uid_rank=smallest_uid_rank[some],
    )
    budget = np.zeros(len(sizes), np.int64)
    budget[some] = allocation.budget
    lower, shift = np.minimum(floor, sizes), allocation.lam
    at_cap, at_floor = budget == sizes, budget == lower
    return DensityBudgets(
        complexity, probability, target, budget, at_cap, at_floor, floor, shift, temperature
    )


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


@dataclass(frozen=True, kw_only=True)
class DensityRule(Budgets):
    """The first rows of each concept, the plan their number follows from, and how the concepts lie."""

    plan: DensityBudgets
    geometry: Geometry


def budgets_of(
    concepts: "pl.DataFrame", value: Floats, sizes: rules.Counts, n_keep: int, settings: DensitySettings
) -> DensityBudgets:
    """Return the budgets of `sizes` rows per concept, from the table of concepts and their complexity, (k,)."""
    order = concepts["smallest_uid"].rank("ordinal").fill_null(len(concepts) + 1).to_numpy().astype(np.int64)
    return density_budgets(
        sizes, value, n_keep=n_keep, temperature=settings.temperature_of(value, sizes),
        min_per_concept=settings.min_per_concept, smallest_uid_rank=order,
    )  # fmt: skip


def floor_sums(sizes: Counts, highest: int) -> npt.NDArray[np.int64]:
    """Return the rows that floors of 0, 1, ... take: sum of min(floor, size), up to where all is taken.

    sizes : (k,). Returns (m + 1,) for floors 0..m, where m is the smaller of `highest` and the largest size.

    >>> floor_sums(np.array([3, 1, 0]), 9)
    array([0, 2, 3, 4])
    """
    floors = np.arange(min(highest, int(sizes.max(initial=0))) + 1)
    ordered = np.sort(sizes).astype(np.int64)
    below = np.searchsorted(ordered, floors, side="right")  # concepts that the floor takes whole
    taken = np.concatenate([[0], np.cumsum(ordered)])
    result: npt.NDArray[np.int64] = taken[below] + floors * (len(ordered) - below)
    return result


@dataclass(frozen=True)
class InDensity:
    """A row of density pruning. place : from 1, among the rows of its concept that compete.

    Before rounding, what a concept gets only rises with the count while the floor is the same; rounding
    gives it the whole part, or one more. Only where that one decides must budgets be computed.
    """

    density: "whatif.Density"
    concept: int
    place: int

    @cached_property
    def stretches(self) -> "Sequence[Stretch]":
        """The counts with the same floor."""
        starts = floor_sums(self.density.free, self.density.min_per_concept).tolist()
        ends = [*(start - 1 for start in starts[1:]), self.density.total]
        return tuple((start, end) for start, end in zip(starts, ends, strict=True) if start <= end)

    def keeps(self, count: int) -> bool:
        """Return whether the concept's budget reaches the row."""
        return bool(self.place <= self.density.at(count).budget[self.concept])

    def side(self, count: int) -> int:
        """Return 1 or -1 where rounding cannot decide, else 0."""
        plan = self.density.at(count)
        exact = float(plan.target[self.concept]) + plan.shift
        error = 1e-6 + _ERROR * count
        if self.place <= self.density.floor(count) or exact >= self.place + error:
            return 1
        return -1 if exact < self.place - 1 - error else 0
