"""Stage `filter`: which samples fail a condition, and which one first."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from curate import schema, storage
from curate.errors import RecipeError, UsageError
from curate.runs import RunFolder
from curate.settings import Recipe
from curate.stages.base import Context, eligible, log, made
from curate.stages.score import FAMILIES

__all__ = ["VERSION", "check_conditions", "check_recipe", "failed_condition", "run"]

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
    needed = needed_scores(recipe)
    stamp = storage.fingerprint("filter", VERSION, recipe.filter, needed, assigned, scored)
    if context.run.is_done(folder, stamp):
        return False
    context.run.unmark(folder)
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


def check_recipe(recipe: Recipe) -> None:
    """Raise UsageError or RecipeError for a condition or preference that the tables cannot answer."""
    tables = [schema.SAMPLES, schema.ASSIGNMENTS, *(FAMILIES[family] for family in recipe.score)]
    fields = {field.name: field for table in tables for field in table}
    frame = pl.DataFrame(pa.schema(list(fields.values())).empty_table())
    check_conditions(frame, recipe.filter)
    numbers = [name for name, kind in frame.schema.items() if kind.is_numeric()]
    for setting in ("select", "dedup"):
        prefer = str(getattr(recipe, setting).prefer)
        if prefer.startswith("score:") and prefer.removeprefix("score:") not in numbers:
            have = ", ".join(numbers)
            raise UsageError(f"{setting}.prefer: no column of numbers for {prefer!r}; there are {have}")


def needed_scores(recipe: Recipe) -> tuple[str, ...]:
    """Return the score columns without which a sample cannot be compared or ranked."""
    preferences = [recipe.select.prefer]
    if recipe.dedup.epsilon is not None:
        preferences.append(recipe.dedup.prefer)
    return tuple(sorted({p.removeprefix("score:") for p in preferences if p.startswith("score:")}))


def check_conditions(frame: pl.DataFrame, conditions: Sequence[str]) -> None:
    """Raise UsageError or RecipeError for a condition that cannot be evaluated on these columns."""
    for condition in conditions:
        try:
            passes = pl.sql_expr(condition)
            kind = frame.select(passes.alias("passes")).schema["passes"]
        except pl.exceptions.ColumnNotFoundError as error:
            missing = re.search(r'find column "(.*?)";', str(error))
            name = repr(missing[1]) if missing else "of a name in it"
            have = ", ".join(frame.columns)
            raise UsageError(f"filter {condition!r}: no column {name}; there are {have}") from None
        except pl.exceptions.PolarsError as error:
            said = str(error).partition(" This error occurred")[0]
            raise RecipeError(f"filter {condition!r}: {' '.join(said.split())[:200]}") from None
        if kind != pl.Boolean:
            raise RecipeError(f"filter {condition!r} must be true or false, it gives {kind}")
        if _joins_rows(json.loads(passes.meta.serialize(format="json"))):
            raise RecipeError(f"filter {condition!r} must look at one row alone, without totals or windows")


def _joins_rows(node: object, key: str = "") -> bool:
    """Whether an expression (as JSON) needs other rows: its result would depend on how shards are cut."""
    if isinstance(node, dict):
        return any(
            name in ("Agg", "Over", "Explode") or _joins_rows(inner, name) for name, inner in node.items()
        )
    if isinstance(node, list):
        return any(_joins_rows(inner, key) for inner in node)
    return node == "Len" and key in ("expr", "left", "right", "input")


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
