"""The order in which samples of a concept are kept: by preference, then tie hash, then uid."""

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.hashing import hash_uids, tie
from curate.selection.keys import ahead, priority_key
from curate.selection.previous import Shipped

__all__ = ["score_of", "with_priority"]


def score_of(prefer: str) -> list[str]:
    """Return the score column that a preference reads, if it reads one.

    >>> score_of("score:el2n"), score_of("hardest")
    (['el2n'], [])
    """
    return [prefer.removeprefix("score:")] if prefer.startswith("score:") else []


def with_priority(
    frame: pl.DataFrame, prefer: str, seed: int, purpose: str, shipped: Shipped | None = None
) -> pl.DataFrame:
    """Return `frame` with columns `key` and `tie` (uint64, smaller is kept first).

    prefer : hardest (farthest from the own concept), easiest, random, or score:<column> (highest first).
    Rows whose score is null get the largest key: they come last. shipped : rows that go ahead of all others.
    """
    uids = frame["uid"].to_list()
    key = _key(frame, uids, prefer, seed, purpose)
    if shipped is not None:
        key = ahead(key, shipped.ahead(uids))
    return frame.with_columns(pl.Series("key", key, pl.UInt64), pl.Series("tie", tie(uids, seed), pl.UInt64))


def _key(
    frame: pl.DataFrame, uids: list[str], prefer: str, seed: int, purpose: str
) -> npt.NDArray[np.uint64]:
    if prefer == "random":
        return hash_uids(uids, seed, purpose, "random")
    if prefer in ("hardest", "easiest"):
        return priority_key(frame["distance"].to_numpy(), "hardest" if prefer == "hardest" else "easiest")
    column = frame[prefer.removeprefix("score:")].cast(pl.Float64)
    known = column.is_not_null().to_numpy()
    key = np.full(len(frame), np.iinfo(np.uint64).max, np.uint64)
    key[known] = priority_key(column.drop_nulls().to_numpy(), "hardest")
    return key
