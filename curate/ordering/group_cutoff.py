"""The n-th smallest row of every group at once, in a few passes and a bounded amount of memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import BudgetError, RunError

__all__ = ["GroupCuts", "GroupedPairs", "nth_smallest_by_group"]

Hashes = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]
#: (group, key, tie): group ids from 0 and two uint64 arrays, all (m,), the rows of one shard or block.
GroupedPairs = tuple[npt.NDArray[np.integer[Any]], Hashes, Hashes]

_COUNTERS = 1 << 20  # counters of a pass, shared by all groups: 8 MB
_GATHER = 1 << 20  # so few candidates are collected and sorted instead of counted


@dataclass(frozen=True)
class GroupCuts:
    """The last (key, tie) pair that each group keeps, all (k,); where `some` is False it keeps nothing."""

    key: Hashes
    tie: Hashes
    some: npt.NDArray[np.bool_]

    def holds(self, group: npt.NDArray[np.integer[Any]], key: Hashes, tie: Hashes) -> npt.NDArray[np.bool_]:
        """Return which rows are at or before the cut of their group, (n,)."""
        last_key, last_tie = self.key[group], self.tie[group]
        held: npt.NDArray[np.bool_] = (key < last_key) | ((key == last_key) & (tie <= last_tie))
        held &= self.some[group]
        return held


def nth_smallest_by_group(
    read: Callable[[], Iterator[GroupedPairs]],
    n: Counts,
    *,
    counters: int = _COUNTERS,
    gather: int = _GATHER,
) -> GroupCuts:
    """Return the n[g]-th smallest (key, tie) pair, from 1, of the rows of each group g.

    read : called once per pass, yields the same rows each time. n : (k,); 0 keeps nothing of a group. Many
    groups share the counters of a pass, so that more of them mean more passes, not more memory: two
    passes for uniform keys and few groups. `counters` and `gather` never change the result.
    Raises BudgetError if a group has fewer than n[g] rows, RunError if two passes disagree.

    >>> rows = np.array([0, 1, 0]), np.array([7, 5, 9], np.uint64), np.zeros(3, np.uint64)
    >>> nth_smallest_by_group(lambda: iter([rows]), np.array([2, 1])).key
    array([9, 5], dtype=uint64)
    """
    if (n < 0).any():
        raise BudgetError(f"rows to keep must be at least 0, got {int(n.min())}")
    cuts = GroupCuts(np.zeros(len(n), np.uint64), np.zeros(len(n), np.uint64), n > 0)
    if not cuts.some.any():
        return cuts
    digit_bits = max(1, (counters // len(n)).bit_length() - 1)
    known, wanted, left = 0, n.astype(np.int64), np.full(len(n), -1)
    while known == 0 or (int(left.sum()) > gather and known < 128):
        width = min(digit_bits, 64 - known % 64)
        counts = _histogram(read, cuts, known, width)
        _check(counts.sum(axis=1), n if known == 0 else left, exact=known > 0, some=cuts.some)
        running = counts.cumsum(axis=1)
        digit = (running < wanted[:, None]).sum(axis=1)
        digit[~cuts.some] = 0
        left = np.where(cuts.some, counts[np.arange(len(n)), digit], 0)
        wanted = wanted - running[np.arange(len(n)), digit] + left
        part = cuts.key if known < 64 else cuts.tie
        part |= digit.astype(np.uint64) << np.uint64(64 - known % 64 - width)
        known += width
    if known < 128:
        _finish(read, cuts, known, wanted, left)
    return cuts


def _histogram(read: Callable[[], Iterator[GroupedPairs]], cuts: GroupCuts, known: int, width: int) -> Counts:
    """Count the next `width` bits of the rows that agree with their group's cut in `known` bits, (k, 2^width)."""
    counts = np.zeros((len(cuts.key), 1 << width), np.int64)
    shift, mask = np.uint64(64 - known % 64 - width), np.uint64((1 << width) - 1)
    for rows in read():
        group, key, tie = _candidates(rows, cuts, known)
        digits = (key if known < 64 else tie) >> shift & mask
        np.add.at(counts, (group, digits.astype(np.int64)), 1)
    return counts


def _candidates(rows: GroupedPairs, cuts: GroupCuts, known: int) -> GroupedPairs:
    group, key, tie = rows
    mine = cuts.some[group]
    if known > 0:
        mine &= (key ^ cuts.key[group]) & _leading(min(known, 64)) == 0
    if known > 64:
        mine &= (tie ^ cuts.tie[group]) & _leading(known - 64) == 0
    return group[mine], key[mine], tie[mine]


def _leading(bits: int) -> np.uint64:
    """Return a mask of the `bits` highest of 64 bits."""
    return np.uint64((1 << 64) - (1 << (64 - bits)))


def _check(found: Counts, expected: Counts, *, exact: bool, some: npt.NDArray[np.bool_]) -> None:
    wrong = np.flatnonzero(some & ((found != expected) if exact else (found < expected)))
    if len(wrong) == 0:
        return
    g = int(wrong[0])
    if exact:
        raise RunError(
            f"rows changed between two passes: {expected[g]} candidates of group {g}, then {found[g]}"
        )
    raise BudgetError(f"{expected[g]} rows of group {g} asked for, there are {found[g]}")


def _finish(
    read: Callable[[], Iterator[GroupedPairs]], cuts: GroupCuts, known: int, wanted: Counts, left: Counts
) -> None:
    """Sort the few candidates that are left and write the cuts."""
    parts = [_candidates(rows, cuts, known) for rows in read()]
    group, key, tie = (np.concatenate([part[column] for part in parts]) for column in range(3))
    _check(np.bincount(group, minlength=len(left)), left, exact=True, some=cuts.some)
    order = np.lexsort((tie, key, group))
    rows = order[(np.cumsum(left) - left + wanted - 1)[cuts.some]]
    cuts.key[cuts.some], cuts.tie[cuts.some] = key[rows], tie[rows]
