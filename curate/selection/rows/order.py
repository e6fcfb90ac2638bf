"""What a selection method orders rows by: the key of each row, and the numbers its rule needs besides."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from curate.errors import UsageError
from curate.hashing import hash_uids, tie
from curate.ordering.keys import ahead, with_priority
from curate.scores.columns import hardest_is_largest
from curate.scores.registry import folders_for, require_score, score_columns
from curate.selection.base import ByScore, Selector
from curate.selection.rows.overridden import VOUCHED
from curate.selection.rows.previous import Shipped

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.recipe import Recipe

__all__ = ["Order", "noise_column", "order_of", "read_columns", "with_order"]

#: What says that a label, or a caption, is wrong: the first of these that a recipe has.
NOISE_SCORES = ("neg_aum", "nce")


@dataclass(frozen=True)
class Order:
    """The order of one selection.

    by, cutoff, noise : score columns with the factor (1 or -1) that makes larger values harder. classes : labels in
    order, where they have quotas. floor_classes : the groups in order that have a floor, where they are not concepts. folders : of the scores it reads. shipped : rows that go ahead of others. columns : where the values of columns of the source are, by name.
    overrides : where the decisions of people are.
    """

    select: Selector
    seed: int
    folders: tuple[str, ...] = ()
    by: tuple[str, int] | None = None
    cutoff: tuple[str, int] | None = None
    classes: tuple[str, ...] = ()
    shipped: Shipped | None = None
    noise: tuple[str, int] | None = None
    floor_classes: tuple[str, ...] = ()
    columns: Mapping[str, Path] = field(default_factory=dict)
    overrides: Path | None = None


def order_of(recipe: "Recipe", classes: tuple[str, ...] = (), *, context: "Context | None" = None) -> Order:
    """Return the order a recipe selects by. context : of the run, where its scores are there.

    Raises UsageError for a column that is no score.
    """
    select, by, cutoff, noise = recipe.select, None, None, None
    folders = folders_for(recipe, read_columns(recipe, context))
    for name in select.reads_tables:
        require_score(recipe, name, f"select.method {select.method}")
    if isinstance(select, ByScore):
        factor = _factor(recipe, select.score_column, "select.by")
        by = select.score_column, 1 if select.as_it_is else factor
        if select.cut_by is not None:
            cutoff = select.cut_by, _factor(recipe, select.cut_by, f"select.{select.cut_setting}")
    if (column := noise_column(recipe, context)) is not None:
        noise = column, _factor(recipe, column, "select.noise_by")
    return Order(select, recipe.seed, folders, by, cutoff, classes, noise=noise)


def read_columns(recipe: "Recipe", context: "Context | None" = None) -> list[str]:
    """Return the score columns that a selection reads. context : of the run, where its scores are there."""
    noise = noise_column(recipe, context)
    tables = recipe.select.reads_tables
    return [*recipe.select.columns, *tables, *([noise] if noise is not None else [])]


def noise_column(recipe: "Recipe", context: "Context | None" = None) -> str | None:
    """Return the score by which the noisiest rows are dropped; None where none are.

    context : of the run, where its scores are there: a method that takes what is there goes by the first that says something.
    Raises UsageError where the recipe has no score that says how likely a label or a caption is wrong.
    """
    select = recipe.select
    if select.drop_noise is None:
        return None
    if select.noise_by is not None:
        return select.noise_by
    known = score_columns(recipe)
    there = [name for name in NOISE_SCORES if name in known]
    if context is not None and select.takes_what_is_there:
        there = [name for name in there if _tells(context, known[name].folder)]
    found = next(iter(there), None)
    if found is None and not select.takes_what_is_there:
        raise UsageError(
            "select.drop_noise needs a score of how likely a label or a caption is wrong: add heads (labels) or pair "
            "(captions) to score, or name one with select.noise_by"
        )
    return found


def _tells(context: "Context", folder: str) -> bool:
    """Return True if rows have scores of a family, and these say how many labels are wrong where that is asked."""
    facts = context.facts(context.run.scores(folder))
    if folder != "heads" or context.recipe.select.drop_noise != "auto":
        return bool(facts.get("scored"))
    errors = facts.get("label_errors") or {}
    return bool(errors.get("rows")) and not errors.get("unseen")


def _factor(recipe: "Recipe", column: str, setting: str) -> int:
    higher_is = require_score(recipe, column, setting).higher_is
    return 1 if higher_is is None or hardest_is_largest(higher_is) else -1


def with_order(frame: pl.DataFrame, order: Order) -> pl.DataFrame:
    """Return `frame` with `key` and `tie` (uint64, smaller is kept first) and the extra columns.

    Pinned rows get the smallest key, rows without a score the largest. Where shipped rows go ahead, it is the first
    bit of the key that says so.
    """
    given = frame  # scores and columns of the source may have the names of what is added
    if isinstance(order.select, ByScore) and order.by is not None:
        frame = _by_score(frame, order, order.select, order.by)
    else:
        frame = with_priority(frame, order.select.preference, order.seed, "select")
    if order.select.drop_noise is not None:
        noise = pl.repeat(None, len(frame), dtype=pl.Float64, eager=True)
        if order.noise is not None:
            noise = given[order.noise[0]].cast(pl.Float64) * order.noise[1]
        said = order.overrides is not None and VOUCHED in given.columns
        vouched = given[VOUCHED] if said else pl.repeat(False, len(frame), eager=True)
        frame = frame.with_columns(noise.alias("noise"), vouched.alias("vouched"))
    if order.select.floor is not None:
        frame = frame.with_columns(_floor_groups(given, order))
    if order.select.group_column is not None:
        code = {name: index for index, name in enumerate(order.classes)}
        groups = [code.get(value, len(code)) for value in given[order.select.group_column].to_list()]
        frame = frame.with_columns(pl.Series("group", groups, pl.Int32))
    if order.shipped is not None:
        first = order.shipped.ahead(frame["uid"].to_list())
        ranked = [name for name in ("key", "draw") if name in frame.columns]
        frame = frame.with_columns(pl.Series(name, ahead(frame[name].to_numpy(), first)) for name in ranked)
    return frame.with_columns(key=pl.when("pinned").then(pl.lit(0, pl.UInt64)).otherwise(pl.col("key")))


def _floor_groups(frame: pl.DataFrame, order: Order) -> pl.Series:
    """Return the group of each row that has a floor, by its concept or a column; -1 for a row without one."""
    column = order.select.floor_column
    if column is None:
        return frame["concept"].cast(pl.Int32).alias("floor_group")
    code = {name: index for index, name in enumerate(order.floor_classes)}
    return pl.Series("floor_group", [code.get(name, -1) for name in frame[column].to_list()], pl.Int32)


def _by_score(frame: pl.DataFrame, order: Order, select: ByScore, by: tuple[str, int]) -> pl.DataFrame:
    uids = frame["uid"].to_list()
    draw = hash_uids(uids, order.seed, "select", "draw")
    score = frame[by[0]].cast(pl.Float64) * by[1]
    if order.cutoff is not None:
        cutoff = frame[order.cutoff[0]].cast(pl.Float64) * order.cutoff[1]
        score = pl.select(pl.when(cutoff.is_not_null()).then(score)).to_series()
        frame = frame.with_columns(cutoff.alias("cutoff"))
    free = (score.is_not_null() & ~frame["pinned"]).to_numpy()
    key = np.full(len(frame), np.iinfo(np.uint64).max, np.uint64)
    key[free] = select.key(score.to_numpy()[free], draw[free])
    return frame.with_columns(
        score.alias("score"), pl.Series("key", key, pl.UInt64), pl.Series("draw", draw, pl.UInt64),
        pl.Series("tie", tie(uids, order.seed), pl.UInt64),
    )  # fmt: skip
