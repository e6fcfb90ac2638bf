"""The n-th smallest of any number of rows in a few passes and a fixed amount of memory."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from curate.errors import BudgetError, RunError

__all__ = ["Pairs", "nth_smallest"]

#: (key, tie): two (m,) uint64 arrays, the rows of one shard or block.
Pairs = tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]

_BITS = 20  # digit of a pass: 2^20 counters, 8 MB
_GATHER = 1 << 20  # so few candidates are collected and sorted instead of counted


def nth_smallest(
    read: Callable[[], Iterator[Pairs]], n: int, *, bits: int = _BITS, gather: int = _GATHER
) -> tuple[int, int] | None:
    """Return the n-th smallest (key, tie) pair, n from 1, of all rows that `read` yields.

    read : called once per pass (2 or 3 as a rule, at most 9), yields the rows in blocks, in any order,
    the same rows each time. Where all pairs differ, exactly n rows are <= the pair returned; rows equal
    to it may be more than n leaves room for, and the caller then decides among them by uid. None for
    n = 0: no row is kept. `bits` and `gather` bound the memory and never change the result.
    Raises BudgetError if there are fewer than n rows, RunError if two passes disagree.

    >>> rows = np.array([7, 5, 9], np.uint64), np.array([0, 4, 0], np.uint64)
    >>> nth_smallest(lambda: iter([rows]), 2)
    (7, 0)
    """
    if n < 0:
        raise BudgetError(f"the number of rows to keep must be at least 0, got {n}")
    if n == 0:
        return None
    prefix, known, wanted, left = 0, 0, n, -1
    while left < 0 or (left > gather and known < 128):
        width = min(bits, 64 - known % 64)
        counts = _histogram(read, prefix, known, width)
        total = int(counts.sum())
        if left < 0 and total < n:
            raise BudgetError(f"{n} rows asked for, there are {total}")
        if left >= 0 and total != left:
            raise RunError(f"rows changed between two passes: {left} candidates, then {total}")
        digit = int(np.searchsorted(counts.cumsum(), wanted))
        wanted -= int(counts[:digit].sum())
        left = int(counts[digit])
        prefix, known = prefix << width | digit, known + width
    if known == 128:
        return prefix >> 64, prefix & (1 << 64) - 1
    return _sorted_pair(read, prefix, known, wanted, left)


def _histogram(
    read: Callable[[], Iterator[Pairs]], prefix: int, known: int, width: int
) -> npt.NDArray[np.int64]:
    """Count the next `width` bits of the rows whose first `known` bits are `prefix`."""
    counts = np.zeros(1 << width, np.int64)
    shift, mask = np.uint64(64 - known % 64 - width), np.uint64((1 << width) - 1)
    for pairs in read():
        key, tie = _candidates(pairs, prefix, known)
        digits = (key if known < 64 else tie) >> shift & mask
        np.add.at(counts, digits.astype(np.int64), 1)
    return counts


def _candidates(pairs: Pairs, prefix: int, known: int) -> Pairs:
    """Return the rows whose first `known` of 128 bits (key, then tie) are `prefix`."""
    key, tie = pairs
    if known == 0:
        return pairs
    if known <= 64:
        chosen = key >> np.uint64(64 - known) == np.uint64(prefix)
    else:
        rest = known - 64
        chosen = key == np.uint64(prefix >> rest)
        chosen &= tie >> np.uint64(64 - rest) == np.uint64(prefix & (1 << rest) - 1)
    return key[chosen], tie[chosen]


def _sorted_pair(
    read: Callable[[], Iterator[Pairs]], prefix: int, known: int, wanted: int, left: int
) -> tuple[int, int]:
    """Return the `wanted`-th smallest of the few candidates, collected in one pass."""
    parts = [_candidates(pairs, prefix, known) for pairs in read()]
    key = np.concatenate([part[0] for part in parts])
    tie = np.concatenate([part[1] for part in parts])
    if len(key) != left:
        raise RunError(f"rows changed between two passes: {left} candidates, then {len(key)}")
    row = np.lexsort((tie, key))[wanted - 1]
    return int(key[row]), int(tie[row])
