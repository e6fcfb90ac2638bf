"""Where one row stands in selections that divide the rows to keep over groups, for every number of rows.

`flip.nearest_flip` searches them. Counts are of rows that compete: pinned rows are kept besides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.selection.counterfactual import Stretch
from curate.selection.prototypes import floors
from curate.selection.quotas import quotas
from curate.selection.whatif import Density, floor_sums

__all__ = ["InDensity", "InPrototypes", "InQuotas"]

#: Rounding of a target and its shift, per row to keep.
_ERROR = 1e-12

Counts = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class InDensity:
    """A row of density pruning. place : from 1, among the rows of its concept that compete.

    Before rounding, what a concept gets only rises with the count while the floor is the same; rounding
    gives it the whole part, or one more. Only where that one decides must budgets be computed.
    """

    density: Density
    concept: int
    place: int

    @cached_property
    def stretches(self) -> Sequence[Stretch]:
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


@dataclass(frozen=True)
class InQuotas:
    """A row of a selection by quotas: a floor per group, the rest in proportion to what is left.

    sizes : (k,) rows that compete, by group. place : from 1, within its group. relax : whether a floor
    that is too much is lowered (otherwise nothing can be selected there).
    """

    sizes: Counts
    group: int
    place: int
    floor: int
    relax: bool = False

    @cached_property
    def _paid(self) -> int:
        """The rows that the whole floor takes."""
        return int(np.minimum(self.sizes, self.floor).sum())

    @cached_property
    def _groups(self) -> int:
        return max(1, int((self.sizes > 0).sum()))

    @cached_property
    def stretches(self) -> Sequence[Stretch]:
        """The counts with the same floor."""
        total, below = int(self.sizes.sum()), [(0, 0)]
        if self.relax:
            starts = range(0, self._paid, self._groups)
            below = [(start, min(start + self._groups, self._paid) - 1) for start in starts]
        return (*(below if self._paid else []), (self._paid, total))

    def _floor(self, count: int) -> int:
        if count == 0:
            return 0
        return count // self._groups if self.relax and count < self._paid else self.floor

    def keeps(self, count: int) -> bool:
        """Return whether the group's quota reaches the row."""
        return bool(self.place <= quotas(self.sizes, count, self._floor(count))[self.group])

    def side(self, count: int) -> int:
        """Return 1 or -1 where the rounding of shares cannot decide, else 0."""
        floor = np.minimum(self.sizes, self._floor(count)).astype(np.int64)
        room = self.sizes - floor
        share = (count - int(floor.sum())) * int(room[self.group])
        wanted, whole = self.place - int(floor[self.group]), int(room.sum())
        if wanted <= 0 or (whole and share >= wanted * whole):
            return 1
        return -1 if share <= (wanted - 1) * whole else 0


@dataclass(frozen=True)
class InPrototypes:
    """A row of a selection of the first rows over all concepts, with a floor per concept (`prototypes.floors`).

    sizes : (k,) rows that compete. rank : of the row in its concept, from 1. better : (r,) how many rows of
    all concepts come before it and have rank 0, 1, 2, ... in their own.
    """

    sizes: Counts
    concept: int
    rank: int
    better: Counts
    balance: float

    @cached_property
    def _behind(self) -> npt.NDArray[np.int64]:
        """How many better rows are above a floor of 0, 1, 2, ..."""
        counts = self.better.astype(np.int64)
        result: npt.NDArray[np.int64] = int(counts.sum()) - np.cumsum(counts)
        return result

    @cached_property
    def stretches(self) -> Sequence[Stretch]:
        """The counts with the same floor."""
        total, share = int(self.sizes.sum()), Fraction(str(self.balance))
        groups = max(1, int((self.sizes > 0).sum()))
        if not share:
            return ((0, total),)
        edges = [-(-each * groups // share) for each in range(int(share * total / groups) + 1)]
        ends = [*(edge - 1 for edge in edges[1:]), total]
        return tuple((first, last) for first, last in zip(edges, ends, strict=True) if first <= last)

    def keeps(self, count: int) -> bool:
        """Return whether the row is within the floor of its concept, or first enough of all above the floors."""
        floor = floors(self.sizes, count, self.balance)
        each = int(floor.max(initial=0))
        if self.rank <= floor[self.concept]:
            return True
        before = int(self._behind[each]) if each < len(self._behind) else 0
        return before < count - int(floor.sum())

    def side(self, count: int) -> int:
        """Return 1 or -1: with the same floor, selections are nested."""
        return 1 if self.keeps(count) else -1
