"""Why rows lack the score that a method goes by: how many per status, or an error where that is asked for."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from curate.errors import CurateError
from curate.execution.context import Context
from curate.runs.folder import RunFolder
from curate.scores.registry import score_columns
from curate.selection.base import free_rows
from curate.selection.rows.ranks import Ranked, candidates
from curate.selection.rows.run_rows import RunRows

__all__ = ["statuses"]


@dataclass(frozen=True)
class NullTask:
    """One part whose rows without a score are counted. needed : the columns, and where each says why.

    ranked : where rows went as noise or are kept by a floor, and do not compete. overrides : where the decisions of people are.
    """

    run: RunFolder
    part: str
    folders: tuple[str, ...]
    needed: Mapping[str, str]
    index: int
    ranked: Ranked | None
    overrides: Path | None


def statuses(context: Context, rows: RunRows) -> dict[str, int]:
    """Return how many rows lack the score they are to be selected by, per status of that score.

    Raises CurateError where on_null says that this is an error.
    """
    order, select = rows.order, rows.order.select
    if order.by is None or not any(len(block["tie"]) for block in free_rows(rows, "tie", scored=False)):
        return {}
    known = score_columns(context.recipe)
    needed = {name: known[name].status for name in (order.by[0], *(order.cutoff or ())[:1])}
    ranked = rows.ranked if select.composed else None
    tasks = [
        NullTask(context.run, part.name, order.folders, needed, part.index, ranked, order.overrides)
        for part in context.parts
    ]
    total: Counter[str] = Counter()
    for found in context.map("select", "parts", _nulls_of_part, tasks):
        total.update(found)
    counts = dict(sorted(total.items()))
    if select.null_policy == "error":
        listed = ", ".join(f"{name}: {count:,}" for name, count in counts.items())
        raise CurateError(
            f"select: {total.total():,} rows have no {' or '.join(needed)} ({listed}), and select.on_null is error"
        )
    return counts


def _nulls_of_part(task: NullTask) -> dict[str, int]:
    frame = candidates(task.run, task.part, task.folders, overrides=task.overrides)[0]
    if task.ranked is not None:
        found = task.ranked.part(task.index)
        settled = found["pinned"] | found.get("cut", np.zeros(len(frame), np.bool_))
        frame = frame.with_columns(pinned=pl.Series(settled))
    frame = frame.filter(~pl.col("pinned"))
    counts: Counter[str] = Counter()
    for column, status in task.needed.items():
        lacks = frame.filter(pl.col(column).is_null())
        names = lacks[status] if status else pl.repeat("null", len(lacks), eager=True)
        counts.update(dict(names.value_counts().iter_rows()))
        frame = frame.filter(pl.col(column).is_not_null())
    return dict(counts)
