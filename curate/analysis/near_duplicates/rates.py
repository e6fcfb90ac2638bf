"""How many rows other epsilons would drop as near-duplicates, read off what dedup found in a run; nothing is written."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.analysis.near_duplicates.explained import compared, over, run_epsilon
from curate.deduplication.semantic import threshold_of
from curate.execution.context import Context
from curate.io import storage

__all__ = ["Rate", "duplicate_rates", "least_dropped"]

#: What a dropped row takes while it is joined with the row that it duplicates.
_ROW_BYTES = 100


@dataclass(frozen=True)
class Rate:
    """What one epsilon drops of the rows compared: at least and at most; the same number where that is certain."""

    epsilon: float
    at_least: int
    at_most: int


def duplicate_rates(context: Context, epsilons: Sequence[float]) -> list[Rate]:
    """Return what each epsilon would drop.

    In reference mode that is certain: every row was compared with all earlier ones of its concept, whatever the
    epsilon. In greedy mode a row stays if all it resembles was dropped itself: the same number is the most that is
    dropped. The least is what the pairs that the run found tell: see `least_dropped`. At the epsilon of the run it is
    what the run dropped. The parts are read twice, or more often where the dropped rows do not fit into memory.
    """
    settings, own = context.recipe.dedup, run_epsilon(context)
    thresholds = [threshold_of(epsilon) for epsilon in epsilons]
    most = np.zeros(len(thresholds), np.int64)
    dropped = 0
    for rows in compared(context, ("max_similarity_earlier", "duplicate_of")):
        dropped += rows.height - rows["duplicate_of"].null_count()
        nearest = _numbers(rows.filter(~pl.col("pinned")), "max_similarity_earlier")
        most += [int(over(nearest, threshold, settings.inclusive).sum()) for threshold in thresholds]
    least = most if settings.mode == "reference" else _least(context, thresholds, dropped)
    return [
        Rate(epsilon, dropped, dropped) if epsilon == own else Rate(epsilon, int(low), int(high))
        for epsilon, low, high in zip(epsilons, least, most, strict=True)
    ]


def least_dropped(
    lost: pl.DataFrame, thresholds: Sequence[float], concepts: int, *, inclusive: bool
) -> npt.NDArray[np.int64]:
    """Return two bounds of what greedy comparison drops at each threshold in each concept, (2, thresholds, concepts).

    The first counts rows that resemble one that resembles none, the second pairs.

    A row that resembles a kept one is dropped, and a row that resembles none before it is kept. Of two that resemble
    each other one is dropped; pairs of different kept rows have no row in common. Both bounds hold in each concept, and
    so does the larger of them.

    lost : the rows that a run dropped, with `concept`, `other` (which row it resembles, a number), `similarity` to it
    and `partner`, the largest similarity of that row to one before it (-1 where there is none).
    """
    found = np.zeros((2, len(thresholds), concepts), np.int64)
    pairs = lost.group_by("concept", "other").agg(pl.col("similarity").max())
    similarity, partner = _numbers(lost, "similarity"), _numbers(lost, "partner")
    nearest = _numbers(pairs, "similarity")
    for place, threshold in enumerate(thresholds):
        sure = over(similarity, threshold, inclusive) & ~over(partner, threshold, inclusive)
        near = over(nearest, threshold, inclusive)
        for bound, concept in ((0, lost["concept"].to_numpy()[sure]), (1, pairs["concept"].to_numpy()[near])):
            found[bound, place] = np.bincount(concept, minlength=concepts)
    return found


def _least(context: Context, thresholds: Sequence[float], dropped: int) -> npt.NDArray[np.int64]:
    """Return the least that each threshold drops, with as many dropped rows in memory at a time as fit."""
    run = context.run
    if not dropped:
        return np.zeros(len(thresholds), np.int64)
    concepts = storage.read_table(run.concepts / "concepts.parquet", ["n_assigned"]).num_rows
    slices = max(1, -(-dropped * _ROW_BYTES // max(1, context.task_memory // 3)))
    found = np.zeros((2, len(thresholds), concepts), np.int64)
    for at in range(slices):
        here = pl.col("other") % slices == at
        lost = pl.concat(
            rows.filter(pl.col("duplicate_of").is_not_null())
            .select("concept", "similarity", other=pl.col("duplicate_of").hash())
            .filter(here)
            for rows in compared(context, ("concept", "similarity", "duplicate_of"))
        )
        wanted = lost.select("other").unique()
        partners = pl.concat(
            rows.filter(~pl.col("pinned"))
            .select(other=pl.col("uid").hash(), partner="max_similarity_earlier")
            .join(wanted, on="other", how="semi")
            for rows in compared(context, ("max_similarity_earlier",))
        )
        lost = lost.join(partners, on="other", how="left")
        found += least_dropped(lost, thresholds, concepts, inclusive=context.recipe.dedup.inclusive)
    least: npt.NDArray[np.int64] = found.max(axis=0).sum(axis=1)
    return least


def _numbers(frame: pl.DataFrame, name: str) -> npt.NDArray[np.float64]:
    """Return a column of similarities; -1 where there is none."""
    return frame[name].cast(pl.Float64).fill_null(-1).to_numpy()
