"""The order in which rows are kept: a number per row, then the tie number, then the uid."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError, RecipeError
from curate.hashing import hash_uids, tie

if TYPE_CHECKING:
    import polars as pl

    from curate.selection.rows.previous import Shipped

__all__ = ["ahead", "priority_key", "rank_within", "score_of", "with_priority"]

_SIGN = np.uint64(1 << 63)


def priority_key(
    values: npt.NDArray[np.floating[Any]], prefer: Literal["hardest", "easiest"] = "hardest"
) -> npt.NDArray[np.uint64]:
    """Return unsigned keys in the order of keeping: the smallest key is kept first.

    values : (n,) of float16, float32 or float64, all finite, larger is harder. hardest: the largest
    value gets the smallest key; easiest: the smallest value does. Equal values (-0.0 and 0.0 too) get
    equal keys, and only they. Raises CurateError where a value is not finite.

    >>> priority_key(np.array([0.1, 0.9, 0.5])).argsort()
    array([1, 2, 0])
    """
    if prefer not in ("hardest", "easiest"):
        raise RecipeError(f"select.prefer must be hardest or easiest, got {prefer!r}")
    finite = np.isfinite(values)
    if not finite.all():
        row = int(finite.argmin())
        raise CurateError(f"values to rank must be finite, row {row} is {values[row]}")
    bits = (values.astype(np.float64) + 0.0).view(np.uint64)
    ascending = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    return ascending if prefer == "easiest" else ~ascending


def ahead(key: npt.NDArray[np.uint64], first: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Return keys by which the rows `first` come before all others, and each kind is in the order of `key`.

    The last bit of a key makes room for the first one: float64 values that differ in nothing else become equal.

    >>> ahead(np.array([4, 8, 6], np.uint64), np.array([False, False, True])).argsort()
    array([2, 0, 1])
    """
    behind = np.where(first, np.uint64(0), _SIGN)
    return (key >> np.uint64(1)) | behind


def rank_within(
    concept: npt.NDArray[np.integer[Any]],
    key: npt.NDArray[np.uint64],
    tie: npt.NDArray[np.uint64],
    uid: npt.NDArray[Any],
) -> npt.NDArray[np.int32]:
    """Return the rank of each row inside its concept, from 1, in the order of (key, tie, uid).

    All (n,). uid : strings or bytes (object, S or U), compared bytewise, and only where key and tie
    are equal. The rank belongs to the row, wherever it stands.

    >>> key, tie = np.array([5, 1, 5], np.uint64), np.array([2, 9, 1], np.uint64)
    >>> rank_within(np.array([0, 0, 0]), key, tie, np.array(["a", "b", "c"]))
    array([3, 1, 2], dtype=int32)
    """
    order = np.lexsort((tie, key, concept))
    ordered = [concept[order], key[order], tie[order]]
    same = np.ones(max(0, len(order) - 1), np.bool_)
    for column in ordered:
        same &= column[1:] == column[:-1]
    names: Sequence[str | bytes] = uid.tolist() if same.any() else ()
    for start, stop in _runs(same):
        order[start:stop] = sorted(order[start:stop], key=lambda row: _bytes(names[row]))
    starts = np.flatnonzero(np.concatenate([[True], ordered[0][1:] != ordered[0][:-1]])[: len(order)])
    sizes = np.diff(starts, append=len(order))
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(1, len(order) + 1) - np.repeat(starts, sizes)
    return ranks


def _runs(same: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return [start, stop) of each run of two or more places where `same[i]` joins i and i + 1."""
    edges = np.diff(np.concatenate([[False], same, [False]]).astype(np.int8))
    starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def _bytes(uid: str | bytes) -> bytes:
    return uid if isinstance(uid, bytes) else uid.encode("utf-8", "surrogatepass")


# --- by a preference: hardest, easiest, random, or a score --------------------------------------------------


def score_of(prefer: str) -> list[str]:
    """Return the score column that a preference reads, if it reads one.

    >>> score_of("score:el2n"), score_of("hardest")
    (['el2n'], [])
    """
    return [prefer.removeprefix("score:")] if prefer.startswith("score:") else []


def with_priority(
    frame: "pl.DataFrame", prefer: str, seed: int, purpose: str, shipped: "Shipped | None" = None
) -> "pl.DataFrame":
    """Return `frame` with columns `key` and `tie` (uint64, smaller is kept first).

    prefer : hardest (farthest from the own concept), easiest, random, or score:<column> (highest first).
    Rows whose score is null get the largest key: they come last. shipped : rows that go ahead of all others.
    """
    import polars as pl  # settings are read without it

    uids = frame["uid"].to_list()
    key = _key(frame, uids, prefer, seed, purpose)
    if shipped is not None:
        key = ahead(key, shipped.ahead(uids))
    return frame.with_columns(pl.Series("key", key, pl.UInt64), pl.Series("tie", tie(uids, seed), pl.UInt64))


def _key(
    frame: "pl.DataFrame", uids: list[str], prefer: str, seed: int, purpose: str
) -> npt.NDArray[np.uint64]:
    if prefer == "random":
        return hash_uids(uids, seed, purpose, "random")
    if prefer in ("hardest", "easiest"):
        return priority_key(frame["distance"].to_numpy(), "hardest" if prefer == "hardest" else "easiest")
    column = frame[prefer.removeprefix("score:")].cast(float)
    known = column.is_not_null().to_numpy()
    key = np.full(len(frame), np.iinfo(np.uint64).max, np.uint64)
    key[known] = priority_key(column.drop_nulls().to_numpy(), "hardest")
    return key
