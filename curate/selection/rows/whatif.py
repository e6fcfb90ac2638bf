"""What other settings would keep, from the table of concepts alone: budgets, shares, temperatures, cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import BudgetError
from curate.ordering.shares import n_keep
from curate.selection.budget import allocate_grid
from curate.selection.density import DensityBudgets, density_budgets, floor_sums

__all__ = ["Density", "counts_of", "share_for"]

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Density:
    """What density pruning reads of the concepts, and its settings.

    free : (k,) rows that compete, pinned ones left out. complexity, uid_rank : (k,), as in `density_budgets`.
    """

    free: npt.NDArray[np.int64]
    complexity: Floats
    uid_rank: Counts
    temperature: float
    min_per_concept: int

    @property
    def total(self) -> int:
        """The number of rows that compete."""
        return int(self.free.sum())

    def floor(self, count: int) -> int:
        """Return the floor per concept that `count` rows can pay, as `density_budgets` lowers it."""
        return self.floors([count])[0]

    def floors(self, counts: Sequence[int]) -> list[int]:
        """Return the floor of each of many counts."""
        sums = floor_sums(self.free, self.min_per_concept)
        paid = np.searchsorted(sums, counts, side="right") - 1
        return [self.min_per_concept if one == len(sums) - 1 else int(one) for one in paid]

    def at(self, count: int, temperature: float | None = None) -> DensityBudgets:
        """Return the budgets of `count` rows, without the warning where the floor is lowered."""
        return density_budgets(
            self.free, self.complexity, n_keep=count,
            temperature=self.temperature if temperature is None else temperature,
            min_per_concept=self.floor(count), smallest_uid_rank=self.uid_rank,
        )  # fmt: skip

    def grid(
        self, counts: Sequence[int], temperatures: Sequence[float]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the budgets of every count at every temperature, and how many concepts are at a bound there.

        Returns (counts, temperatures, k), as `at` gives one by one, and (counts, temperatures, 2): concepts with
        rows whose budget is their size, and whose budget is the floor.
        """
        some = np.flatnonzero(self.free > 0)
        plans = list(zip(counts, self.floors(counts), strict=True))
        budgets = np.zeros((len(counts), len(temperatures), len(self.free)), np.int64)
        budgets[:, :, some], at_bound = allocate_grid(
            self.complexity[some], self.free[some], plans, temperatures, self.uid_rank[some]
        )
        return budgets, at_bound


def share_for(count: int, base: int) -> float:
    """Return the shortest share in (0, 1] that keeps exactly `count` of `base` rows, nearest to count / base.

    Raises BudgetError where there is none: more rows than the base, or a base of no rows.

    >>> share_for(3, 10), share_for(1234, 100_000), share_for(0, 10)
    (0.3, 0.01234, 0.02)
    """
    if base < 1 or not 0 <= count <= base:
        raise BudgetError(f"no share keeps {count:,} of {base:,} rows")
    low, high = Fraction(2 * count - 1, 2 * base), Fraction(2 * count + 1, 2 * base)
    middle = Fraction(count, base) if count else high / 2
    for digits in range(1, 40):
        share = round(middle, digits)
        if low <= share < high and 0 < share <= 1 and n_keep(float(share), base) == count:
            return float(share)
    raise BudgetError(f"no share keeps {count:,} of {base:,} rows")


def counts_of(
    shares: list[float], base: int, eligible: int, pinned: int, *, at_most: bool = False
) -> list[int | None]:
    """Return how many rows each share keeps; None where that is more than are eligible, or fewer than are pinned.

    at_most : where it is more than are eligible, all of them.

    >>> counts_of([0.1, 0.5, 1.0], 10, 8, 2)
    [None, 5, None]
    """
    wanted = [n_keep(share, base) for share in shares]
    wanted = [min(count, eligible) for count in wanted] if at_most else wanted
    return [count if pinned <= count <= eligible else None for count in wanted]
