"""Density budgets at other shares and temperatures, for the sliders of the page."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from curate.errors import BudgetError
from curate.execution.context import Context
from curate.ordering.shares import n_keep
from curate.recipe import Recipe
from curate.report.model import WhatIf
from curate.selection.rows.whatif import Density, share_for

__all__ = ["MAX_NUMBERS", "MAX_WHAT_IF", "SHARES", "TEMPERATURES", "what_if"]

#: Of more concepts the page has no budgets: their numbers alone would fill it.
MAX_WHAT_IF = 50_000
#: Budgets on the page, over the whole grid. Of many concepts the grid is coarser.
MAX_NUMBERS = 800_000
SHARES = tuple(round(0.05 * step, 2) for step in range(1, 21))
TEMPERATURES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def what_if(context: Context, concepts: pl.DataFrame, first: pl.DataFrame) -> WhatIf | None:
    """Return budgets over a grid; None where there is nothing to choose from, or too much.

    first : per concept the smallest uid among the rows that compete, and how many of them are pinned. What the run
    has is on the grid besides `SHARES` and `TEMPERATURES`.
    """
    stats, select = context.facts(context.run.decisions), context.recipe.select
    if concepts.is_empty() or concepts.height > MAX_WHAT_IF or not stats.get("eligible"):
        return None
    frame = concepts.join(first, on="concept", how="left", maintain_order="left")
    if frame["complexity"].null_count() or not frame["complexity"].is_finite().all():
        return None
    own = select.density
    pinned = frame["pinned"].fill_null(0).cast(pl.Int64).to_numpy()
    order = frame["smallest_uid"].rank("ordinal").fill_null(len(frame) + 1).to_numpy().astype(np.int64)
    free, value = frame["n_eligible"].to_numpy() - pinned, frame["complexity"].to_numpy()
    temperature = own.temperature_of(value, free)
    density = Density(free, value, order, temperature, own.min_per_concept)
    usable = stats["input"] - stats["unusable"]
    base = {"usable": usable, "input": stats["input"], "eligible": stats["eligible"]}[select.of]
    share = _own_share(select.keep, stats["kept"], base)
    cells = max(4, MAX_NUMBERS // len(frame))
    wide = min(len(TEMPERATURES) + 1, max(2, int((cells * 2 / 3) ** 0.5)))
    shares = _grid(SHARES, share, max(2, min(cells // wide, len(SHARES) + 1)))
    temperatures = _grid(TEMPERATURES, temperature, wide)
    asked = np.array([n_keep(one, base) for one in shares])
    counts = np.clip(asked - pinned.sum(), 0, density.total).tolist()
    budgets, at_bound = density.grid(counts, temperatures)
    limits = np.dstack([np.broadcast_to(asked[:, None], at_bound.shape[:2]), at_bound])
    return WhatIf(
        concepts=frame.select("concept", pl.col("n_eligible").alias("size"), "complexity", pl.col("kept").alias("now")),
        shares=shares, temperatures=temperatures, budgets=budgets + pinned, cells=limits,
        own=(shares.index(share), temperatures.index(temperature)), eligible=stats["eligible"],
        of=select.of, method=select.method, command=_command(context.recipe),
    )  # fmt: skip


def _own_share(keep: float | None, kept: int, base: int) -> float:
    """Return the share that the run keeps; for a count the shortest that keeps as many."""
    if keep is not None:
        return keep
    try:
        return share_for(kept, base)
    except BudgetError:  # more rows are kept than a share is of
        return 1.0


def _grid(usual: Sequence[float], own: float, size: int) -> list[float]:
    """Return `own` among at most `size` values, the others spread evenly over the usual ones.

    >>> _grid((0.1, 0.2, 0.3, 0.4), 0.25, 3)
    [0.1, 0.25, 0.4]
    """
    others = [value for value in usual if value != own]
    places = np.linspace(0, len(others) - 1, min(size - 1, len(others))).round().astype(int)
    return sorted({own, *(others[place] for place in places)})


def _command(recipe: Recipe) -> str:
    more = "" if recipe.select.by_complexity else " --method density"
    return f"curate select {recipe.run}{more}"
