"""Stage `filter`: which samples fail a condition, and which one first."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from curate import schema, storage
from curate.errors import RecipeError, UsageError
from curate.runs import RunFolder
from curate.stages.base import Context, eligible, log, made

__all__ = ["VERSION", "check_conditions", "failed_condition", "run"]

VERSION = 1


@dataclass(frozen=True)
class FilterTask:
    """One part to filter."""

    run: RunFolder
    part: str
    families: tuple[str, ...]
    conditions: tuple[str, ...]
    needed: tuple[str, ...]
    out: Path
    stamp: str


def run(context: Context) -> bool:
    """Evaluate the conditions on every usable sample; return whether anything was to do."""
    recipe, folder = context.recipe, context.run.scores("filter")
    assigned = context.run.stamp(context.run.concepts)
    scored = [context.run.stamp(context.run.scores(family)) for family in recipe.score]
    needed = needed_scores(context)
    stamp = storage.fingerprint("filter", VERSION, recipe.filter, needed, assigned, scored)
    if context.run.is_done(folder, stamp):
        return False
    context.run.unmark(folder)
    if context.parts:
        first = eligible(context.run, context.parts[0].name, recipe.score)
        check_conditions(first.clear(), recipe.filter, needed)
    tasks = [
        FilterTask(context.run, part.name, recipe.score, recipe.filter, needed, out, stamp)
        for part in context.parts
        if not made(out := context.run.part(folder, part.name), stamp)
    ]
    failed = context.map("filter", "parts", _filter_part, tasks)
    context.run.keep_only(folder, [part.name for part in context.parts])
    context.run.mark(folder, stamp, {"failed": sum(failed)})
    if recipe.filter or needed:
        log.info("filter: %s samples failed a condition", f"{sum(failed):,}")
    return True


def needed_scores(context: Context) -> tuple[str, ...]:
    """Return the score columns without which a sample cannot be compared or ranked."""
    preferences = [context.recipe.select.prefer]
    if context.recipe.dedup.epsilon is not None:
        preferences.append(context.recipe.dedup.prefer)
    return tuple(sorted({p.removeprefix("score:") for p in preferences if p.startswith("score:")}))


def check_conditions(frame: pl.DataFrame, conditions: Sequence[str], needed: Sequence[str]) -> None:
    """Raise UsageError or RecipeError for a condition that cannot be evaluated on these columns."""
    have = ", ".join(frame.columns)
    for column in needed:
        if column not in frame.columns or not frame.schema[column].is_numeric():
            raise UsageError(f"prefer: score:{column} needs a numeric column of that name; there are {have}")
    for condition in conditions:
        try:
            kind = frame.select(pl.sql_expr(condition).alias("passes")).schema["passes"]
        except pl.exceptions.ColumnNotFoundError as error:
            missing = str(error).splitlines()[0]
            raise UsageError(f"filter {condition!r}: no column {missing}; there are {have}") from None
        except pl.exceptions.PolarsError as error:
            raise RecipeError(f"filter {condition!r}: {' '.join(str(error).split())[:200]}") from None
        if kind != pl.Boolean:
            raise RecipeError(f"filter {condition!r} must be true or false, it gives {kind}")


def failed_condition(frame: pl.DataFrame, conditions: Sequence[str], needed: Sequence[str]) -> pl.Series:
    """Return the reason each row is out: the first condition it fails, or the score it lacks; else null.

    A condition that is null does not pass. A reason is ``filter:<condition>`` or ``no_score:<status>``.
    """
    reason = pl.lit(None, pl.String)
    for column in reversed(needed):
        status = pl.col(f"{column}_status") if f"{column}_status" in frame.columns else pl.lit("null")
        lacks = pl.format("no_score:{}", status)
        reason = pl.when(pl.col(column).is_null()).then(lacks).otherwise(reason)
    for condition in reversed(conditions):
        passes = pl.sql_expr(condition).fill_null(False)
        reason = pl.when(~passes).then(pl.lit(f"filter:{condition}")).otherwise(reason)
    return frame.select(reason.alias("filter_reason")).to_series()


def _filter_part(task: FilterTask) -> int:
    frame = eligible(task.run, task.part, task.families)
    reason = failed_condition(frame, task.conditions, task.needed)
    if len(reason) != len(frame):  # a literal condition such as "1 = 1" has one row
        reason = pl.Series("filter_reason", [reason[0]] * len(frame), pl.String)
    table = pl.DataFrame([frame["uid"], reason]).to_arrow().cast(schema.FILTER)
    storage.write_parquet(task.out, table, schema.FILTER, task.stamp)
    return int(reason.is_not_null().sum())
