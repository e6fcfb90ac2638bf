"""Conditions in SQL: checked before any work, then asked of rows."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import NoReturn

import polars as pl

from curate.errors import CurateError, RecipeError, UsageError
from curate.filtering.conditions import Rule
from curate.filtering.expressions import expression, numbers_in

__all__ = ["MOST_OPERATORS", "can_fail", "check_conditions", "failed_condition", "parsed", "spared_by"]

#: Operators in one condition: a longer chain is too deep to be looked at, and takes minutes.
MOST_OPERATORS = 250
#: Columns of the source that an error lists.
_MOST_NAMED = 60
_CASTING = "; compare a column of text with a text in single quotes, or TRY_CAST(column AS DOUBLE)"
#: What errors of Polars say of dates and times, and what to write.
_WAYS = {
    "cannot compare 'date/datetime/time'": "; a date is written DATE '2024-01-31'",
    "could not evaluate": "; compare times as dates: CAST(column AS DATE) > DATE '2024-01-31'",
    "casting from string to date": "; DATE(column) makes a date of text (DATE(column, '%d.%m.%Y') of another form)",
}
_QUOTED = re.compile(r"'(?:[^']|'')*'")
_COMPARISON = re.compile(r"<=|>=|<>|!=|=+|<|>")
_OPERATOR = re.compile(r"\b(?:and|or)\b|[+*/%|]|(?<=[\w)\"])\s*-", re.IGNORECASE)


def parsed(condition: str) -> pl.Expr:
    """Return a condition as an expression. Raises RecipeError where it is no SQL, or too long."""
    plain = _QUOTED.sub("''", condition)
    joins = len(_OPERATOR.findall(plain))
    operators = joins + max(
        0, len(_COMPARISON.findall(plain)) - joins - 1
    )  # a = 1 OR b = 2 is no chain of three
    if operators > MOST_OPERATORS:
        raise RecipeError(
            f"filter {_short(condition)!r} has {operators:,} operators, at most {MOST_OPERATORS} can be in one condition; "
            "write several conditions, of which all must hold, or a list: column IN (...)"
        )
    try:
        return expression(condition)
    except pl.exceptions.PolarsError as error:
        raise RecipeError(f"filter {_short(condition)!r}: {_said(error)}") from None


def check_conditions(
    frame: pl.DataFrame, conditions: Sequence[str], *, source: Sequence[str] = (), where: str = ""
) -> None:
    """Raise UsageError or RecipeError for a condition that cannot be evaluated on these columns.

    source : which of them are columns of the source. where : the shard that has them, for messages.
    """
    for condition in conditions:
        asked, about = parsed(condition), f"filter {_short(condition)!r}{where and f' ({where})'}"
        try:
            kind = frame.select(asked.alias("passes")).schema["passes"]
            alone = not _joins_rows(json.loads(asked.meta.serialize(format="json")))
        except pl.exceptions.ColumnNotFoundError as error:
            missing = re.search(r'find column "(.*?)";', str(error))
            name = missing[1] if missing else ""
            raise UsageError(f"{about}: {_no_column(name, condition, frame.columns, source)}") from None
        except pl.exceptions.PolarsError as error:
            raise RecipeError(f"{about}: {_said(error)}{_hint(error, condition)}") from None
        except RecursionError:
            raise RecipeError(f"{about} is nested too deeply; write several conditions") from None
        texts = [name for name in sorted(numbers_in(condition)) if frame.schema.get(name) == pl.String]
        if texts:  # a text is compared with some numbers letter by letter
            raise RecipeError(
                f"{about}: cannot compare string with numeric type: column {texts[0]!r} is text{_CASTING}"
            )
        if kind != pl.Boolean:
            raise RecipeError(f"{about} must be true or false, it gives {kind}")
        if not alone:
            raise RecipeError(f"{about} must look at one row alone, without totals or windows")


def _no_column(name: str, condition: str, columns: Sequence[str], source: Sequence[str]) -> str:
    """Say that a column is not there, and which are."""
    said = f"no column {name!r}" if name else "no column of a name in it"
    if f'"{name}"' in condition:
        said += f" (a text stands in single quotes: '{name}')"
    near = {column.lower(): column for column in columns}
    close = difflib.get_close_matches(name.lower(), near, n=1, cutoff=0.8) or difflib.get_close_matches(
        name.lower().partition(".")[2], near, n=1, cutoff=0.8
    )
    inner = re.search(rf"\b{re.escape(name)}(?:\.\w+)+", condition)
    if inner is not None and f"json.{inner[0]}" in columns:
        said += f"; did you mean json.{inner[0]}?"
    elif close:
        said += f"; did you mean {near[close[0]]!r}?"
    elif inner is not None:
        said += f" (a field within a column of the source goes by source.{inner[0]})"
    have = ", ".join(column for column in columns if column not in source)
    there = ", ".join(source[:_MOST_NAMED]) + (
        f" and {len(source) - _MOST_NAMED:,} more" * (len(source) > _MOST_NAMED)
    )
    return f"{said}; there are {have}" + (f"; and in the source {there}" if source else "")


def _said(error: pl.exceptions.PolarsError) -> str:
    """Return the first sentence of an error of Polars."""
    said = re.sub(
        r" \(create native python .*?\)$|It was removed in Polars.*",
        "",
        str(error).partition("This error occurred")[0],
    )
    return " ".join(said.split())[:300]


def _hint(error: pl.exceptions.PolarsError, condition: str) -> str:
    text = str(error)
    if isinstance(error, pl.exceptions.StructFieldNotFoundError):
        dotted = re.search(r"\w+(?:\.\w+)+", condition)
        named = dotted[0] if dotted else condition
        return f" is no field here; one within a column of the source goes by source.{named}, one of JSON members by json.{named}"
    if "cannot compare string with numeric" in text or "cannot check for" in text:
        return _CASTING
    return next((way for said, way in _WAYS.items() if said in text), "")


def _short(condition: str) -> str:
    return condition if len(condition) <= 200 else f"{condition[:150]} ... {condition[-40:]}"


def _joins_rows(expression: object) -> bool:
    """Whether an expression (as JSON) needs other rows: its result would depend on how shards are cut."""
    waiting: list[tuple[object, str]] = [(expression, "")]
    while waiting:
        node, key = waiting.pop()
        if isinstance(node, dict):
            if not {"Agg", "Over", "Explode"}.isdisjoint(node):
                return True
            waiting += [(inner, name) for name, inner in node.items()]
        elif isinstance(node, list):
            waiting += [(inner, key) for inner in node]
        elif node == "Len" and key in ("expr", "left", "right", "input"):
            return True
    return False


def failed_condition(
    frame: pl.DataFrame, conditions: Sequence[str | Rule], needed: Mapping[str, str]
) -> pl.Series:
    """Return the reason each row is out: the first condition it fails, or the score it lacks; else null.

    needed : score columns, each with its column of statuses ("" for none). A condition that is null does not
    pass. A reason is ``filter:<condition>`` or ``no_score:<status>``. Returns (n,) strings. Raises CurateError
    where a condition cannot be evaluated on a value.
    """
    reason = pl.lit(None, pl.String)
    for column, status in reversed(list(needed.items())):
        why = pl.col(status) if status in frame.columns else pl.lit("null")
        lacks = pl.format("no_score:{}", why)
        reason = pl.when(pl.col(column).is_null()).then(lacks).otherwise(reason)
    for condition in reversed(conditions):
        passes = (
            expression(condition) if isinstance(condition, str) else pl.lit(_let_through(condition, frame))
        )
        reason = pl.when(~passes.fill_null(False)).then(pl.lit(f"filter:{condition}")).otherwise(reason)
    # The first column gives literal conditions such as "1 = 1", which have one row, the length of the frame.
    try:
        return frame.select(frame.columns[0], filter_reason=reason)["filter_reason"]
    except pl.exceptions.PolarsError as error:
        _explain(frame, [one for one in conditions if isinstance(one, str)], error)


def _let_through(rule: Rule, frame: pl.DataFrame) -> pl.Series:
    """Return which rows pass a condition on a score, or are spared by it."""
    passes = rule.passes(frame)
    return passes if rule.condition.spare is None else passes | rule.spared(frame)


def spared_by(frame: pl.DataFrame, conditions: Sequence[str | Rule], reason: pl.Series) -> pl.Series:
    """Return the first condition that each row failed and was spared by, (n,) texts; null for all others, and rows that are out."""
    found = pl.lit(None, pl.String)
    for rule in reversed(conditions):
        if isinstance(rule, Rule) and rule.condition.spare is not None:
            found = pl.when(pl.lit(rule.spared(frame))).then(pl.lit(str(rule))).otherwise(found)
    spared = pl.when(pl.lit(reason).is_null()).then(found)
    return frame.select(frame.columns[0], spared=spared)["spared"]


def _explain(frame: pl.DataFrame, conditions: Sequence[str], error: pl.exceptions.PolarsError) -> NoReturn:
    """Raise CurateError naming the condition that cannot be evaluated, and a value."""
    for condition in conditions:
        try:
            frame.select(expression(condition))
        except pl.exceptions.PolarsError:
            row = _first_failing(frame, expression(condition))
            try:
                row.select(expression(condition))
            except pl.exceptions.PolarsError as at_row:
                own = at_row
            said = re.sub(r" for \d+ out of \d+ values", "", _said(own))
            way = "; TRY_CAST in place of CAST makes such a value null, which does not pass"
            cast = "conversion from" in said
            raise CurateError(
                f"filter {_short(condition)!r}: {_place(row)}{said}{way if cast else _hint(own, condition)}"
            ) from None
    raise error


def _first_failing(frame: pl.DataFrame, expression: pl.Expr) -> pl.DataFrame:
    """Return the first row on which an expression cannot be evaluated; all rows if it is none by itself."""
    rows = frame
    while len(rows) > 1:
        first = rows.head(len(rows) // 2)
        try:
            first.select(expression)
            rows = rows.slice(len(first))
        except pl.exceptions.PolarsError:
            rows = first
    return rows


def _place(row: pl.DataFrame) -> str:
    """Say which row of which shard it is, where that is known."""
    if len(row) != 1 or not {"shard", "row"} <= set(row.columns):
        return ""
    key = f" ({row['key'][0]})" if "key" in row.columns and row["key"][0] else ""
    return f"row {row['row'][0]:,}{key} of {row['shard'][0]}: "


def can_fail(condition: str) -> bool:
    """Return True if a value may be one on which a condition cannot be evaluated: a cast that is no TRY_CAST.

    >>> can_fail("cast(width as int) > 3"), can_fail("try_cast(width as int) > 3 and label = 'Strict'")
    (True, False)
    """
    waiting: list[object] = [json.loads(parsed(condition).meta.serialize(format="json"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if node.get("options") == "Strict" or node.get("strict") is True:
                return True
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return False
