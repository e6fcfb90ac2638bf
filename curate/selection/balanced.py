"""Balanced selection: equally many rows of every concept, from the top level of concepts down.

After Vo et al. 2024, "Automatic data curation for self-supervised learning: a clustering-based approach"
(arXiv:2405.15613), with every row kept at most once.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from curate.errors import BudgetError
from curate.selection.base import RowSource, Selector, free_sizes
from curate.selection.rules import Budgets, Counts, group_inclusion
from curate.settings import Preference

if TYPE_CHECKING:
    from curate.selection.rows.counterfactual import Standing
    from curate.selection.rows.finished import Finished, Row

__all__ = ["Balanced", "balanced_budgets", "water_fill"]


class Balanced(Selector):
    """Equally many rows of every concept, as far as it has them; where concepts are in levels, from the top level down.

    What a small concept cannot give goes to its neighbours in the same concept of the level above, so that each of these
    keeps its equal share where it can.
    """

    keeps = "equally many of every concept, as far as it has them; with `cluster.levels` of every branch, from the top down"
    paper = "Vo et al. 2024, arXiv:2405.15613"
    avoid = "when what is common is what counts: what is rare, junk too, weighs as much (in levels it lost 5 to 8 points on clothing photos)"
    balances = True
    place = 9

    method: Literal["balanced"] = "balanced"
    prefer: Preference = "random"

    @property
    def by_sizes(self) -> bool:
        """Budgets follow from sizes and levels."""
        return True

    def concept_budgets(self, sizes: Counts, n_keep: int, parents: Sequence[npt.NDArray[Any]] = ()) -> Counts:
        """Return what each concept keeps, (k,)."""
        return balanced_budgets(sizes, n_keep, parents)

    def fit(self, rows: RowSource, n_keep: int, total: int) -> Budgets:
        """Return the first rows of each concept."""
        sizes = free_sizes(rows.concepts)
        budget = balanced_budgets(sizes, n_keep, rows.parents)
        shares = group_inclusion(budget, sizes) if self.drawn else None
        return Budgets(rows.concepts["n_pinned"].to_numpy() + budget, None, shares)

    def standing(self, run: "Finished", row: "Row") -> "Standing | str":
        """Return the row's place in its concept, whose budget only grows with the number of rows."""
        from curate.selection.rows.counterfactual import Nested

        free = run.found.density.free
        steps = siblings(free, run.rows.parents, row.concept)

        def room(count: int) -> tuple[int, int]:
            for sizes, place in steps:
                count = int(water_fill(sizes, count)[place])
            return 0, count

        return Nested(run.place(row), room, 0, int(free.sum()))


def water_fill(sizes: Counts, total: int) -> Counts:
    """Return how many rows each group gives, `total` together: equally many, as far as it has them.

    sizes : (k,), at least 0. Every group gives min(c, size) for the largest whole c that `total` pays for; what is left
    over is less than there are groups with more, and gives one more row each to the largest of these (equal ones: the
    first). So no group gives less when `total` grows. Raises BudgetError where there are not so many rows.

    >>> water_fill(np.array([1, 9, 30]), 10), water_fill(np.array([4, 4, 4]), 10)
    (array([1, 4, 5]), array([4, 3, 3]))
    """
    sizes = np.asarray(sizes, np.int64)
    if total < 0 or (sizes < 0).any():
        raise BudgetError("rows to keep and sizes of groups must be at least 0")
    if total > int(sizes.sum()):
        raise BudgetError(f"{total:,} rows asked for, the groups have {int(sizes.sum()):,}")
    ordered = np.sort(sizes)
    taken = np.concatenate([[0], np.cumsum(ordered)])  # rows of the groups that are taken whole
    open_groups = len(sizes) - np.arange(len(sizes))
    sums = taken[:-1] + ordered * open_groups  # what the level of each size takes: it grows
    whole = int(np.searchsorted(sums, total, side="right"))
    budget = sizes.copy()
    if whole < len(sizes):
        level = (total - int(taken[whole])) // int(open_groups[whole])
        budget = np.minimum(level, sizes)
        more = np.flatnonzero(sizes > level)
        more = more[np.argsort(-sizes[more], kind="stable")]
        budget[more[: total - int(budget.sum())]] += 1
    if budget.sum() != total or (budget > sizes).any():
        raise BudgetError(f"budgets must add up to {total} within sizes, got {budget.sum()}")
    return budget


def siblings(sizes: Counts, parents: Sequence[npt.NDArray[Any]], concept: int) -> list[tuple[Counts, int]]:
    """Return what is divided on the way down to one concept: on each level the sizes of what shares, and its own place.

    sizes, parents : as for `balanced_budgets`, whose budget of the concept `water_fill` gives level by level.

    >>> siblings(np.array([9, 8, 7, 6]), [np.array([0, 0, 0, 1])], 1)
    [(array([24,  6]), 0), (array([9, 8, 7]), 1)]
    """
    inside, steps = np.arange(len(sizes)), []
    for level in [*(np.asarray(one, np.int64) for one in reversed(parents)), np.arange(len(sizes))]:
        names, code = np.unique(level[inside], return_inverse=True)
        shared = np.zeros(len(names), np.int64)
        np.add.at(shared, code, sizes[inside])
        steps.append((shared, int(np.searchsorted(names, level[concept]))))
        inside = inside[level[inside] == level[concept]]
    return steps


def balanced_budgets(sizes: Counts, total: int, parents: Sequence[npt.NDArray[Any]] = ()) -> Counts:
    """Return how many rows each of the finest concepts gives, (k,), `total` together.

    sizes : (k,) rows of each. parents : of each level above, from the lowest up, the concept there that each is in, (k,).
    The rows are divided over the concepts of the top level by `water_fill`, and what each of them gets over those in it.

    >>> balanced_budgets(np.array([9, 9, 9, 9]), 12, [np.array([0, 0, 0, 1])])
    array([2, 2, 2, 6])
    """
    sizes = np.asarray(sizes, np.int64)
    levels = [*(np.asarray(one, np.int64) for one in reversed(parents)), np.arange(len(sizes))]
    above, budget = np.zeros(len(sizes), np.int64), np.array([total], np.int64)
    for level in levels:
        n_here = int(level.max(initial=-1)) + 1
        here = np.zeros(n_here, np.int64)
        np.add.at(here, level, sizes)
        parent = np.zeros(n_here, np.int64)
        parent[level] = above
        given = np.zeros(n_here, np.int64)
        order = np.argsort(parent, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(parent[order])) + 1):
            if len(group):
                given[group] = water_fill(here[group], int(budget[parent[group[0]]]))
        above, budget = level, given
    if budget.sum() != total:
        raise BudgetError(f"{total:,} rows asked for, the concepts have {int(sizes.sum()):,}")
    return budget
