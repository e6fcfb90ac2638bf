"""A mixture of groups: each gets a share of what is kept, as far as it has rows; what one lacks goes to the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate.errors import BudgetError, UsageError
from curate.ordering.shares import exact_share

if TYPE_CHECKING:
    from curate.selection.rows.counterfactual import Stretch

__all__ = ["InMixture", "mixture", "weights_of"]

Counts = npt.NDArray[np.integer[Any]]


def weights_of(shares: Mapping[str, float], names: Sequence[str], sizes: Counts) -> list[Fraction]:
    """Return the share of each group, (k,), which add up to 1 unless no group without a share has rows.

    shares : by name, together at most 1. What they leave goes to the groups not named, in proportion to their rows.
    names : of all groups. sizes : (k,) rows. Raises UsageError for a name that no group has.

    >>> weights_of({"web": 0.5}, ["books", "news", "web"], np.array([30, 10, 99]))
    [Fraction(3, 8), Fraction(1, 8), Fraction(1, 2)]
    """
    strange = [name for name in shares if name not in set(names)]
    if strange:
        raise UsageError(
            f"select.shares: no row is of {strange[0]!r}; there are {', '.join(names[:20])}"
            + (f" and {len(names) - 20:,} more" if len(names) > 20 else "")
        )
    given = {name: exact_share(share) for name, share in shares.items()}
    left = 1 - sum(given.values(), Fraction(0))
    others = sum(int(size) for name, size in zip(names, sizes, strict=True) if name not in given)
    return [
        given[name] if name in given else left * int(size) / max(1, others)
        for name, size in zip(names, sizes, strict=True)
    ]


def mixture(
    weights: Sequence[Fraction], lower: Counts, upper: Counts, total: int, names: Sequence[str]
) -> npt.NDArray[np.int64]:
    """Return how many rows each group keeps, (k,), `total` together, in proportion to `weights` within bounds.

    weights : (k,) at least 0. lower, upper : (k,) rows that a group keeps for sure, and that it has; a group without weight
    keeps `lower`. The rest follows one factor t: clip(t weight, lower, upper), in exact fractions, so that groups that have
    too few rows keep all, and what they lack goes to the others by their weights. Whole rows by largest remainder,
    equal ones to the first group. Raises BudgetError where the bounds do not admit `total`.

    >>> half = [Fraction(1, 2)] * 2
    >>> mixture(half, np.array([0, 0]), np.array([2, 90]), 10, ["a", "b"])
    array([2, 8])
    >>> mixture([Fraction(3, 4), Fraction(1, 4)], np.array([0, 0]), np.array([90, 90]), 10, ["a", "b"])
    array([8, 2])
    """
    exact = _exact(weights, lower, upper, total, names)
    kept: npt.NDArray[np.int64] = np.array([int(one) for one in exact], np.int64)
    left = total - int(kept.sum())
    order = sorted(range(len(exact)), key=lambda group: (int(exact[group]) - exact[group], group))
    for group in order[:left]:
        kept[group] += 1
    if kept.sum() != total or (kept < lower).any() or (kept > upper).any():
        raise BudgetError(f"a mixture must add up to {total} within sizes and floors, got {kept.sum()}")
    return kept


def _exact(
    weights: Sequence[Fraction], lower: Counts, upper: Counts, total: int, names: Sequence[str]
) -> list[Fraction]:
    """Return clip(t weight, lower, upper) with the t for which it adds up to `total`."""
    low, high = [int(one) for one in lower], [int(one) for one in upper]
    rising = [group for group, weight in enumerate(weights) if weight > 0]
    most = sum(low) + sum(high[group] - low[group] for group in rising)
    if not sum(low) <= total <= most:
        raise BudgetError(_refusal(sum(low), most, total, rising, names))
    result = [Fraction(one) for one in low]
    # The sum grows with t in straight lines that bend where a group leaves its lower bound or reaches its upper one.
    bends = sorted(
        [(Fraction(low[group]) / weights[group], 0, group) for group in rising]
        + [(Fraction(high[group]) / weights[group], 1, group) for group in rising]
    )
    reached, slope, t = Fraction(sum(low)), Fraction(0), Fraction(0)
    for bend, leaves, group in bends:
        if slope and reached + slope * (bend - t) >= total:
            break
        reached, t = reached + slope * (bend - t), bend
        slope += -weights[group] if leaves else weights[group]
    t += (total - reached) / slope if slope else 0
    for group in rising:
        result[group] = min(max(t * weights[group], Fraction(low[group])), Fraction(high[group]))
    return result


def _refusal(least: int, most: int, total: int, rising: Sequence[int], names: Sequence[str]) -> str:
    if total < least:
        return f"floors and pinned rows of the groups add up to {least:,}, more than the {total:,} rows to keep; lower min_per_group or keep more"
    listed = ", ".join(str(names[group]) for group in rising[:10])
    return (
        f"select.shares: {total:,} rows are to keep, the groups with a share ({listed}) have {most:,}: keep fewer, or leave a "
        "share to other groups"
    )


@dataclass(frozen=True)
class InMixture:
    """A row of a mixture, at every number of rows that are not pinned.

    weights, pinned, lower, upper : (k,) of groups. group : its own. place : from 1, among the rows of its group that are
    not pinned.
    """

    weights: tuple[Fraction, ...]
    pinned: Counts
    lower: Counts
    upper: Counts
    group: int
    place: int

    @cached_property
    def stretches(self) -> "Sequence[Stretch]":
        """All counts that the bounds admit are one stretch."""
        rising = np.array([weight > 0 for weight in self.weights], np.bool_)
        pinned, least = int(self.pinned.sum()), int(self.lower.sum())
        return ((least - pinned, least + int((self.upper - self.lower)[rising].sum()) - pinned),)

    def keeps(self, count: int) -> bool:
        """Return whether the group's part of the mixture reaches the row."""
        names = [""] * len(self.weights)
        kept = mixture(self.weights, self.lower, self.upper, count + int(self.pinned.sum()), names)
        return bool(self.place <= kept[self.group] - self.pinned[self.group])

    def side(self, count: int) -> int:
        """Return 1 or -1 where the rounding of shares cannot decide, else 0."""
        names = [""] * len(self.weights)
        total = count + int(self.pinned.sum())
        exact = _exact(self.weights, self.lower, self.upper, total, names)[self.group]
        wanted = self.place + int(self.pinned[self.group])
        if exact >= wanted:
            return 1
        return -1 if exact <= wanted - 1 else 0
