"""The nearest number of rows to keep at which the decision on one row is another.

Budgets are not nested: with one row more to keep, a concept may get one fewer. So a row is asked about count
by count wherever its fate is open, and skipped over where it cannot be.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Flip", "Nested", "Standing", "Stretch", "nearest_flip"]

#: Counts from the first to the last, both included.
Stretch = tuple[int, int]


class Standing(Protocol):
    """Where one row stands: whether it is kept when `count` rows are, for every count.

    stretches : counts in order, without gaps but those where nothing can be selected; inside one, `side` only
    rises with the count.
    """

    @property
    def stretches(self) -> Sequence[Stretch]:
        """The counts that can be asked about."""

    def keeps(self, count: int) -> bool:
        """Return whether the row is kept when `count` rows are."""

    def side(self, count: int) -> int:
        """Return 1 where the row is surely kept, -1 where it is surely not, 0 where `keeps` must be asked."""


@dataclass(frozen=True)
class Nested:
    """A row of a method whose selections are nested: kept where its place is within the room there is.

    place : from 1. room : count -> (rows skipped, last place kept). `first` to `last`: counts there can be.
    """

    place: int
    room: Callable[[int], tuple[int, int]]
    first: int
    last: int

    @property
    def stretches(self) -> Sequence[Stretch]:
        """All counts are one stretch."""
        return ((self.first, self.last),)

    def keeps(self, count: int) -> bool:
        """Return whether the row is kept when `count` rows are."""
        skipped, upto = self.room(count)
        return skipped < self.place <= upto

    def side(self, count: int) -> int:
        """Return 1 or -1: nothing is open."""
        return 1 if self.keeps(count) else -1


@dataclass(frozen=True)
class Flip:
    """The count at which the decision is another. nearest : False where counts between were not all asked."""

    count: int
    nearest: bool = True


def nearest_flip(standing: Standing, now: int, *, tries: int = 10_000) -> Flip | None:
    """Return the count nearest to `now` at which the row is decided otherwise; None where there is none.

    Of two equally near, the one in the usual direction: more for a dropped row, fewer for a kept one. At most
    about `tries` open counts are asked in each direction; then the nearest certain count is returned.

    >>> tenth = Nested(10, lambda count: (0, count), 0, 50)
    >>> nearest_flip(tenth, 4), nearest_flip(tenth, 30)
    (Flip(count=10, nearest=True), Flip(count=9, nearest=True))
    """
    kept = standing.keeps(now)
    usual, unsure = _first(standing, now, kept, upward=not kept, tries=tries)
    reach = None if usual is None else abs(usual - now)
    other, unsure_too = _first(standing, now, kept, upward=kept, tries=tries, reach=reach)
    found = [count for count in (usual, other) if count is not None]
    if not found:
        return None
    return Flip(min(found, key=lambda count: abs(count - now)), nearest=not (unsure or unsure_too))


def _first(
    standing: Standing, now: int, kept: bool, *, upward: bool, tries: int, reach: int | None = None
) -> tuple[int | None, bool]:
    """Return the first count in one direction (nearer than `reach`) that decides otherwise; whether some were left out."""
    unsure = False
    for first, last in _beside(standing.stretches, now, upward, reach):
        left = tries
        for count in _open(standing, first, last, kept, upward):
            if standing.keeps(count) != kept:
                return count, unsure
            left -= 1
            if not left:
                unsure = True
                sure = _sure(standing, first, last, kept)
                if sure is not None:
                    return sure, unsure
                break
    return None, unsure


def _beside(stretches: Sequence[Stretch], now: int, upward: bool, reach: int | None) -> Iterator[Stretch]:
    """Yield the stretches on one side of `now`, nearest first, cut off at `now` and at `reach`."""
    for first, last in stretches if upward else reversed(stretches):
        if upward:
            first = max(first, now + 1)
            last = last if reach is None else min(last, now + reach - 1)
        else:
            last = min(last, now - 1)
            first = first if reach is None else max(first, now - reach + 1)
        if first <= last:
            yield first, last


def _open(standing: Standing, first: int, last: int, kept: bool, upward: bool) -> range:
    """Return the counts of a stretch at which the decision may be another, nearest to the present first."""
    if kept:  # surely kept from some count on
        last = _lowest(lambda count: standing.side(count) == 1, first, last) - 1
    else:  # surely dropped up to some count
        first = _lowest(lambda count: standing.side(count) != -1, first, last)
    return range(first, last + 1) if upward else range(last, first - 1, -1)


def _sure(standing: Standing, first: int, last: int, kept: bool) -> int | None:
    """Return the count of a stretch nearest to where the row is decided otherwise for sure, if there is one."""
    if kept:
        found = _lowest(lambda count: standing.side(count) != -1, first, last) - 1
        return found if found >= first else None
    found = _lowest(lambda count: standing.side(count) == 1, first, last)
    return found if found <= last else None


def _lowest(holds: Callable[[int], bool], first: int, last: int) -> int:
    """Return the lowest count in [first, last] for which `holds`, which stays so above; else last + 1."""
    low, high = first, last + 1
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
