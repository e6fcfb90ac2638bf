"""Keep something of every group: a floor per class or concept, the rest in proportion to what is left."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import BudgetError
from curate.ordering.keys import rank_within

__all__ = ["quotas", "take_quotas"]

Counts = npt.NDArray[np.integer[Any]]


def quotas(
    sizes: Counts, n_keep: int, floor: int | Counts = 1, names: Sequence[str] | None = None
) -> npt.NDArray[np.int64]:
    """Return how many rows each group keeps, `n_keep` together, none above its size.

    sizes : (k,) rows per group, groups sorted by name. floor : rows that a group keeps for sure, one
    number or (k,), as far as it has them. The rest goes in proportion to size - floor by largest
    remainder, equal remainders to the first group, in exact integers. Raises BudgetError naming groups
    where the floors alone are too many.

    >>> quotas(np.array([1, 9, 90]), 10), quotas(np.array([5, 5]), 5)
    (array([1, 2, 7]), array([3, 2]))
    """
    floors = np.minimum(np.broadcast_to(np.asarray(floor), sizes.shape), sizes).astype(np.int64)
    _check(sizes, n_keep, floors, names)
    rest, room = n_keep - int(floors.sum()), sizes - floors
    fits = rest * int(room.max(initial=0)) < 1 << 63
    shares = rest * room.astype(np.int64 if fits else object)  # exact, however many rows
    whole = max(1, int(room.sum()))
    kept: npt.NDArray[np.int64] = floors + (shares // whole).astype(np.int64)
    by_remainder = np.argsort(-(shares % whole), kind="stable")
    kept[by_remainder[: n_keep - int(kept.sum())]] += 1
    if kept.sum() != n_keep or (kept > sizes).any() or (kept < floors).any():
        raise BudgetError(f"quotas must add up to {n_keep} within sizes and floors, got {kept.sum()}")
    return kept


def _check(sizes: Counts, n_keep: int, floors: npt.NDArray[np.int64], names: Sequence[str] | None) -> None:
    if (floors < 0).any() or n_keep < 0:
        raise BudgetError("sizes, floors and rows to keep must be at least 0")
    if n_keep > int(sizes.sum()):
        raise BudgetError(f"{n_keep:,} rows asked for, the groups have {int(sizes.sum()):,}")
    if int(floors.sum()) > n_keep:
        largest = np.argsort(-floors, kind="stable")[:10]
        listed = ", ".join(f"{names[i] if names else i}: {floors[i]} of {sizes[i]}" for i in largest.tolist())
        more = f" and {len(floors) - 10} more" if len(floors) > 10 else ""
        raise BudgetError(
            f"floors of {len(floors)} groups add up to {int(floors.sum()):,}, more than the {n_keep:,} rows to "
            f"keep ({listed}{more}); lower min_per_group or keep more"
        )


def take_quotas(
    group: Counts,
    key: npt.NDArray[np.uint64],
    tie: npt.NDArray[np.uint64],
    uid: npt.NDArray[Any],
    quota: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Return the first quota[g] rows of each group in the order of (key, tie, uid), as a mask (n,).

    group : (n,) ids from 0. From shards, `nth_smallest_by_group` finds the same rows.

    >>> group, key, tie = np.array([0, 0, 1]), np.array([3, 1, 2], np.uint64), np.zeros(3, np.uint64)
    >>> take_quotas(group, key, tie, np.array(list("abc")), np.array([1, 1]))
    array([False,  True,  True])
    """
    sizes = np.bincount(group, minlength=len(quota))
    if len(sizes) != len(quota) or (quota < 0).any() or (quota > sizes).any():
        raise BudgetError("a quota must be between 0 and the rows of its group, one per group")
    return rank_within(group, key, tie, uid) <= quota[group]
