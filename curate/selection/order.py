"""What a selection method orders rows by: the key of each row, and the numbers its rule needs besides."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.errors import CurateError
from curate.hashing import hash_uids, tie
from curate.ordering.keys import ahead, priority_key, with_priority
from curate.recipe import BY_SCORE, Recipe
from curate.scores.columns import hardest_is_largest
from curate.scores.registry import folders_for, require_score
from curate.selection.previous import Shipped
from curate.selection.weighted import race_keys

__all__ = ["Order", "order_of", "with_order"]

#: Methods whose first row is the easiest: the end from which their place is counted.
_FROM_EASIEST = ("easiest", "middle")


@dataclass(frozen=True)
class Order:
    """The order of one selection.

    by, cutoff : score columns with the factor (1 or -1) that makes larger values harder. from_easiest :
    whether rank 1 is the easiest row. classes : labels in order, where they have quotas.
    folders : of the scores it reads. extras : columns its rule needs (`ranks.EXTRAS`). shipped : rows that go
    ahead of others.
    """

    method: str
    prefer: str
    seed: int
    folders: tuple[str, ...]
    extras: tuple[str, ...]
    by: tuple[str, int] | None = None
    cutoff: tuple[str, int] | None = None
    from_easiest: bool = False
    gamma: float = 1.0
    classes: tuple[str, ...] = ()
    shipped: Shipped | None = None

    @property
    def drawn(self) -> bool:
        """Whether chance decides which rows are kept."""
        return self.prefer == "random" if self.by is None else self.method in ("stratified", "weighted")

    @property
    def diverse(self) -> bool:
        """Whether vectors are compared."""
        return self.method == "diversity"


def order_of(recipe: Recipe, classes: tuple[str, ...] = ()) -> Order:
    """Return the order a recipe selects by. Raises UsageError for a column that is no score."""
    select = recipe.select
    folders = folders_for(recipe, select.columns)
    if select.method not in BY_SCORE:
        prefer = "random" if select.method == "random" else select.prefer
        group = ("group",) if select.method == "quotas" and select.per == "label" else ()
        return Order(select.method, prefer, recipe.seed, folders, group, classes=classes)
    by, cutoff = select.by or "", None
    as_it_is = select.method in ("top", "weighted")
    factor = _factor(recipe, by, "select.by")
    factor = 1 if as_it_is else factor
    extras: tuple[str, ...] = ("score", "draw")
    if select.method == "stratified" and select.beta > 0:
        cutoff = select.cutoff, _factor(recipe, select.cutoff, "select.cutoff")
        extras = ("score", "cutoff", "draw")
    from_easiest = select.method in _FROM_EASIEST or select.offset is not None
    return Order(
        select.method, select.prefer, recipe.seed, folders, extras, (by, factor), cutoff, from_easiest, select.gamma
    )  # fmt: skip


def _factor(recipe: Recipe, column: str, setting: str) -> int:
    higher_is = require_score(recipe, column, setting).higher_is
    return 1 if higher_is is None or hardest_is_largest(higher_is) else -1


def with_order(frame: pl.DataFrame, order: Order) -> pl.DataFrame:
    """Return `frame` with `key` and `tie` (uint64, smaller is kept first) and the extra columns.

    Pinned rows get the smallest key, rows without a score the largest. Where shipped rows go ahead, it is the first
    bit of the key that says so.
    """
    if order.by is None:
        frame = with_priority(frame, order.prefer, order.seed, "select")
    else:
        frame = _by_score(frame, order, order.by)
    if "group" in order.extras:
        code = {name: index for index, name in enumerate(order.classes)}
        groups = [code.get(label, len(code)) for label in frame["label"].to_list()]
        frame = frame.with_columns(pl.Series("group", groups, pl.Int32))
    if order.shipped is not None:
        first = order.shipped.ahead(frame["uid"].to_list())
        ranked = [name for name in ("key", "draw") if name in frame.columns]
        frame = frame.with_columns(pl.Series(name, ahead(frame[name].to_numpy(), first)) for name in ranked)
    return frame.with_columns(key=pl.when("pinned").then(pl.lit(0, pl.UInt64)).otherwise(pl.col("key")))


def _by_score(frame: pl.DataFrame, order: Order, by: tuple[str, int]) -> pl.DataFrame:
    uids = frame["uid"].to_list()
    draw = hash_uids(uids, order.seed, "select", "draw")
    score = frame[by[0]].cast(pl.Float64) * by[1]
    if order.cutoff is not None:
        cutoff = frame[order.cutoff[0]].cast(pl.Float64) * order.cutoff[1]
        score = pl.select(pl.when(cutoff.is_not_null()).then(score)).to_series()
        frame = frame.with_columns(cutoff.alias("cutoff"))
    free = (score.is_not_null() & ~frame["pinned"]).to_numpy()
    key = np.full(len(frame), np.iinfo(np.uint64).max, np.uint64)
    key[free] = _keys(score.to_numpy()[free], draw[free], order)
    return frame.with_columns(
        score.alias("score"), pl.Series("key", key, pl.UInt64), pl.Series("draw", draw, pl.UInt64),
        pl.Series("tie", tie(uids, order.seed), pl.UInt64),
    )  # fmt: skip


def _keys(
    score: npt.NDArray[np.float64], draw: npt.NDArray[np.uint64], order: Order
) -> npt.NDArray[np.uint64]:
    if order.method == "stratified":
        return draw
    if order.method == "weighted":
        if (score < 0).any():
            name = order.by[0] if order.by else ""
            raise CurateError(
                f"select.method weighted draws in proportion to select.by {name!r}, which must be at least 0, "
                f"got {score.min():g}; use another column"
            )
        return race_keys(score, draw, order.gamma)
    return priority_key(score, "easiest" if order.from_easiest else "hardest")
