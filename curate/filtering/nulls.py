"""Rows that a condition drops because it is null for them: which column they lack, and why, counted for the user."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from curate.filtering.conditions import Rule, columns_of
from curate.filtering.expressions import expression

__all__ = ["count_nulls", "lacking", "say_nulls", "sum_nulls"]

#: Condition, column that is null, why (null where nothing says it).
_KEYS = ("condition", "column", "why")


def lacking(
    frame: pl.DataFrame, conditions: Sequence[str | Rule], reason: pl.Series, statuses: Mapping[str, str]
) -> pl.DataFrame:
    """Return for each row that its condition drops as null the condition, the first column it lacks, and why.

    reason : of `failed_condition`. statuses : the column that says why a column is null, for those that have one.
    All three are null for rows that pass, or that a value drops.
    """
    found = pl.lit(None, pl.Struct(dict.fromkeys(_KEYS, pl.String)))
    for condition in conditions:
        text = str(condition)
        null = (
            expression(condition).is_null() if isinstance(condition, str) else pl.lit(condition.nulls(frame))
        )
        columns = columns_of([condition if isinstance(condition, str) else condition.condition])
        if isinstance(condition, Rule) and condition.condition.per:
            columns.append(condition.condition.per)
        for column in reversed(dict.fromkeys(columns)):
            status = statuses.get(column, "")
            why = pl.col(status).cast(pl.String) if status in frame.columns else pl.lit(None, pl.String)
            one = pl.struct(condition=pl.lit(text), column=pl.lit(column), why=pl.when(why != "ok").then(why))
            mine = pl.lit(reason == f"filter:{text}") & null & pl.col(column).is_null()
            found = pl.when(mine).then(one).otherwise(found)
    return frame.select(frame.columns[0], lacks=found).select("lacks").unnest("lacks")


def count_nulls(lacks: pl.DataFrame) -> list[dict[str, Any]]:
    """Return how many rows lack what, and why: one entry per condition, column and reason."""
    named = lacks.filter(pl.col("condition").is_not_null())
    return named.group_by(_KEYS).agg(rows=pl.len()).sort(_KEYS).to_dicts()


def sum_nulls(counts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the counts of all parts added up, in an order that no number of workers changes."""
    total: dict[tuple[Any, ...], int] = {}
    for one in counts:
        key = tuple(one[name] for name in _KEYS)
        total[key] = total.get(key, 0) + one["rows"]
    ordered = sorted(total, key=lambda key: tuple(name or "" for name in key))
    return [dict(zip(_KEYS, key, strict=True)) | {"rows": total[key]} for key in ordered]


def say_nulls(facts: Mapping[str, Any]) -> list[str]:
    """Return a sentence per condition and column; facts : what the stage `filter` noted. Empty for older runs."""
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in facts.get("nulls", ()):
        grouped.setdefault((one["condition"], one["column"]), []).append(one)
    said = []
    for (condition, column), each in grouped.items():
        rows = sum(one["rows"] for one in each)
        why = ", ".join(f"{one['rows']:,} {one['why']}" for one in each if one["why"])
        said.append(
            f"filter: {condition}: {rows:,} of {facts['judged']:,} rows have no {column}{why and f' ({why})'} "
            f"and are dropped for it; OR {column} IS NULL in SQL, or on_null: keep, keeps them"
        )
    return said
