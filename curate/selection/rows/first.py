"""What is settled before a method chooses: the noisiest rows go (`drop_noise`), and every group keeps some (`floor`).

Both are cuts in one order over all rows, so that the decision on a row follows from its own numbers. What a floor keeps
then counts as pinned rows do: it ranks first in its concept and is part of the budget.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.ordering.cutoff import nth_smallest
from curate.ordering.group_cutoff import GroupCuts, GroupedPairs, nth_smallest_by_group
from curate.ordering.keys import priority_key, rank_within
from curate.ordering.span import Cuts, rows_of
from curate.selection.base import Arrays, Selector
from curate.selection.rules import Counts, Mask

__all__ = ["NOTHING_FIRST", "First", "find_first", "floor_needs", "floor_of"]

log = logging.getLogger(__name__)

Pairs = tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]
#: Yields columns of all rows that reach the selection, block by block.
Read = Callable[..., Iterator[Arrays]]


@dataclass(frozen=True)
class First:
    """The cut of the noisiest rows, and those of the groups that have a floor; None where a method alone decides.

    by : the column that orders rows inside a group. n_cut, n_floor : rows that go, and rows that a floor keeps. n_held : rows
    that would go if they were not pinned, or their labels vouched for, where no others go for them; n_gone : that people dropped
    already. each : the rows that a group keeps
    for sure, as far as it has them. groups : how many have rows. sizes : rows of the smallest of them and of the largest.
    """

    noisiest: Cuts | None = None
    floors: GroupCuts | None = None
    by: str = "key"
    n_cut: int = 0
    n_floor: int = 0
    n_held: int = 0
    n_gone: int = 0
    each: int = 0
    groups: int = 0
    sizes: tuple[int, int] = (0, 0)

    def cut(self, rows: Arrays) -> Mask:
        """Return which rows are among the noisiest, (n,); those that are pinned or vouched for never are."""
        if self.noisiest is None:
            return np.zeros(len(rows["tie"]), np.bool_)
        return _noisy(self.noisiest, rows) & ~_stay(rows)

    def held(self, rows: Arrays) -> Mask:
        """Return which rows a floor keeps, (n,)."""
        if self.floors is None:
            return np.zeros(len(rows["tie"]), np.bool_)
        group = rows["floor_group"]
        found: Mask = (group >= 0) & ~rows["pinned"] & ~self.cut(rows)
        found[found] = self.floors.holds(group[found], rows[self.by][found], rows["tie"][found])
        return found

    def arranged(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, npt.NDArray[np.int32]]:
        """Return rows with `cut` and `floor`, and the rank of each in its concept, from 1.

        Rows of a floor count as pinned: first these, then the others, and what is cut off last. Where nothing comes before
        the method, the rows are returned as they are.
        """
        concept, key, tie, pinned = (rows[name].to_numpy() for name in ("concept", "key", "tie", "pinned"))
        uid = rows["uid"].to_numpy()
        if self.noisiest is None and self.floors is None:
            return rows, rank_within(concept, key, tie, uid)
        columns = {name: rows[name].to_numpy() for name in rows.columns if name != "uid"}
        cut, held = self.cut(columns), self.held(columns)
        step = np.where(cut, 2, np.where(pinned | held, 0, 1))
        inside = rank_within(concept.astype(np.int64) * 3 + step, key, tie, uid).astype(np.int64)
        sizes = np.zeros((int(concept.max(initial=-1)) + 1, 3), np.int64)
        np.add.at(sizes, (concept, step), 1)
        before = np.cumsum(sizes, axis=1) - sizes
        marks = pl.Series("cut", cut), pl.Series("floor", held), pl.Series("pinned", pinned | held)
        return rows.with_columns(*marks), (inside + before[concept, step]).astype(np.int32)


#: Where a method alone decides.
NOTHING_FIRST = First()


def find_first(
    read: Read,
    select: Selector,
    wanted: int,
    n_groups: int,
    *,
    noisy: int | None = None,
    gone: Arrays | None = None,
) -> First:
    """Return what goes and what stays before the method chooses `wanted` rows, pinned ones included.

    read : yields `pinned`, `tie`, and as the settings need them `noise`, `vouched`, `floor_group` (-1: no group) and what orders
    a group. n_groups : groups there can be. noisy : how many rows are noise where `drop_noise` is auto: these go, but those
    of them that are pinned or vouched for, and no others in their place; gone : `noise` and `tie` of rows that people dropped, which
    count among the noisiest too. Never so many rows go that fewer than `wanted`
    are left, unless the method keeps all that are.
    """
    if not select.composed:
        return NOTHING_FIRST
    first = First(by=select.floor_order)
    if select.drop_noise is not None:
        first = _with_noise(read, select, wanted, noisy or 0, gone, first)
    if select.floor is None or select.keeps_all:
        return first
    return _with_floors(read, select.floor, wanted, n_groups, first)


def _with_noise(
    read: Read, select: Selector, wanted: int, noisy: int, gone: Arrays | None, first: First
) -> First:
    """Return the cut of the noisiest rows, how many go, and how many do not or went before."""
    rows = scored = 0
    for block in read("pinned", "noise", "vouched"):
        rows += len(block["pinned"])
        scored += int((~_stay(block) & ~np.isnan(block["noise"])).sum())
    asked = noisy
    if select.drop_noise == "auto":
        n_held, n_gone = _settled_noise(read, noisy, gone)
        asked -= n_held + n_gone
        first = replace(first, n_held=n_held, n_gone=n_gone)
    else:
        asked = rows_of(str(select.drop_noise), rows)
    room = rows if select.keeps_all else rows - wanted
    n_cut = max(0, min(asked, scored, room))
    if n_cut < asked:
        log.info(
            "select: %s of the %s noisiest rows are dropped: more would leave too few",
            f"{n_cut:,}",
            f"{asked:,}",
        )
    cuts = Cuts(None, nth_smallest(_pairs(read, free=True), n_cut)) if n_cut else None
    return replace(first, noisiest=cuts, n_cut=n_cut)


def _settled_noise(read: Read, count: int, gone: Arrays | None) -> tuple[int, int]:
    """Return how many of the `count` noisiest of all rows are pinned or vouched for, and how many are gone."""
    lost: Arrays = {"noise": np.zeros(0), "tie": np.zeros(0, np.uint64)} if gone is None else gone
    lost = {name: values[~np.isnan(lost["noise"])] for name, values in lost.items()}
    scored, held = len(lost["tie"]), 0
    for block in read("pinned", "noise", "vouched"):
        there = ~np.isnan(block["noise"])
        scored, held = scored + int(there.sum()), held + int((there & _stay(block)).sum())
    if not count or not (held or len(lost["tie"])):
        return 0, 0
    every = _pairs(read, free=False)

    def pairs() -> Iterator[Pairs]:
        yield priority_key(lost["noise"], "hardest"), lost["tie"]
        yield from every()

    noisiest = Cuts(None, nth_smallest(pairs, min(count, scored)))
    blocks = read("pinned", "noise", "vouched", "tie")
    return sum(int((_noisy(noisiest, block) & _stay(block)).sum()) for block in blocks), int(
        _noisy(noisiest, lost).sum()
    )


def _pairs(read: Read, *, free: bool) -> Callable[[], Iterator[Pairs]]:
    """Return what yields the order of rows with a score by noise. free : of those alone that may go."""

    def pairs() -> Iterator[Pairs]:
        for block in read("pinned", "noise", "vouched", "tie"):
            there = ~np.isnan(block["noise"]) & ~(free & _stay(block))
            yield priority_key(block["noise"][there], "hardest"), block["tie"][there]

    return pairs


def _stay(rows: Arrays) -> Mask:
    """Return which rows are never noise, (n,)."""
    found: Mask = rows["pinned"] | rows["vouched"]
    return found


def _noisy(cuts: Cuts, rows: Arrays) -> Mask:
    there = ~np.isnan(rows["noise"])
    found = np.zeros(len(there), np.bool_)
    found[there] = cuts.holds(priority_key(rows["noise"][there], "hardest"), rows["tie"][there])
    return found


def _with_floors(read: Read, floor: int | Literal["half"], wanted: int, n_groups: int, first: First) -> First:
    """Return the floors of all groups added to the cut of the noisiest."""
    sizes, pinned, all_pinned = np.zeros(n_groups, np.int64), np.zeros(n_groups, np.int64), 0
    needed = ["pinned", "tie", "floor_group", *(["noise", "vouched"] if first.noisiest else [])]
    for block in read(*needed):
        there = (block["floor_group"] >= 0) & ~first.cut(block)
        sizes += np.bincount(block["floor_group"][there], minlength=n_groups)
        held = there & block["pinned"]
        pinned += np.bincount(block["floor_group"][held], minlength=n_groups)
        all_pinned += int(block["pinned"].sum())
    asked = floor_of(floor, wanted, int((sizes > 0).sum()))
    needs, each = floor_needs(sizes, pinned, wanted - all_pinned, asked)
    if each < asked:
        log.warning(
            "select.floor lowered from %s to %s: %s rows to keep, %s groups",
            f"{asked:,}", f"{each:,}", f"{wanted:,}", f"{(sizes > 0).sum():,}",
        )  # fmt: skip

    def grouped() -> Iterator[GroupedPairs]:
        for block in read(*needed, first.by):
            free = (block["floor_group"] >= 0) & ~block["pinned"] & ~first.cut(block)
            yield block["floor_group"][free], block[first.by][free], block["tie"][free]

    cuts = nth_smallest_by_group(grouped, needs) if len(needs) else None
    there_are = sizes[sizes > 0]
    span = (int(there_are.min()), int(there_are.max())) if len(there_are) else (0, 0)
    return replace(first, floors=cuts, n_floor=int(needs.sum()), each=each, groups=len(there_are), sizes=span)


def floor_of(floor: int | Literal["half"], wanted: int, groups: int) -> int:
    """Return the rows that each group keeps for sure: a number, or half of an equal share, rounded down.

    >>> floor_of("half", 100, 10), floor_of("half", 9, 10), floor_of(7, 100, 10)
    (5, 0, 7)
    """
    return wanted // (2 * max(1, groups)) if floor == "half" else floor


def floor_needs(sizes: Counts, pinned: Counts, free: int, floor: int) -> tuple[Counts, int]:
    """Return how many rows of each group a floor takes besides its pinned ones, (k,), and the floor that `free` rows can pay.

    sizes : (k,) rows of each group, pinned ones included. A group needs max(0, min(floor, size) - pinned) rows; where all
    together need more than `free`, the floor is the largest number that does not.

    >>> floor_needs(np.array([9, 2, 5]), np.array([0, 0, 4]), 20, 3)
    (array([3, 2, 0]), 3)
    >>> floor_needs(np.array([9, 9]), np.array([0, 0]), 5, 3)
    (array([2, 2]), 2)
    """

    def needs(each: int) -> Counts:
        found: Counts = np.maximum(np.minimum(sizes, each) - pinned, 0)
        return found

    low, high = 0, floor
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(needs(middle).sum()) <= free else (low, middle - 1)
    return needs(low), low
