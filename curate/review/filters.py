"""What a view of rows shows, as SQL over the table of rows: made of checked names and parameters, and of one condition of the user's own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from curate.errors import UsageError
from curate.review.table import identifier

__all__ = ["CHOICES", "LIMIT", "RowFilter", "whole"]

#: The most rows of one page.
LIMIT = 200
#: Reasons that stand for many; any other text is one reason.
GROUPS = {
    "kept": "keep",
    "dropped": "not keep and outcome = 'ok'",
    "unusable": "outcome <> 'ok'",
}
#: What people decided, as a filter; any other text is one kind of decision.
CHOICES = ("any", "none")
#: Columns that a row must equal, by the name of the parameter.
EQUAL = ("concept", "label", "source", "split", "shard")


@dataclass(frozen=True)
class RowFilter:
    """Which rows, and in which order.

    Made of the parameters of an address by `of`; raises UsageError for names of columns that there are not.
    """

    where: str = "true"
    order: str = "n"
    parameters: tuple[object, ...] = field(default=())
    own: str = ""

    @classmethod
    def of(cls, given: Mapping[str, str], columns: Mapping[str, str]) -> "RowFilter":
        """Return the filter that the parameters of an address ask for. columns : the kind of each column, by its name."""
        terms: list[str] = []
        parameters: list[object] = []

        def add(term: str, *values: object) -> None:
            terms.append(term)
            parameters.extend(values)

        if reason := given.get("reason"):
            add(*((GROUPS[reason],) if reason in GROUPS else ("reason = ?", reason)))
        for name in EQUAL:
            if given.get(name):
                value = given[name]
                add(f"{name} = ?", whole(name, value) if name == "concept" else value)
        if text := given.get("text"):
            add(
                "(contains(lower(caption), lower(?)) or contains(lower(key), lower(?)) or starts_with(uid, ?))",
                text,
                text,
                text,
            )
        score = given.get("score")
        if score:
            for bound, sign in (("min", ">="), ("max", "<=")):
                if given.get(bound):
                    add(f"{_column(score, columns)} {sign} ?", _number(bound, given[bound]))
        if chosen := given.get("decided"):
            add(*_decided(chosen))
        own = given.get("where", "").strip()
        order = _order(given, columns)
        return cls(" and ".join(f"({one})" for one in terms) or "true", order, tuple(parameters), own)

    def sql(self, columns: str, *, ordered: bool = True) -> str:
        """Return the SELECT of some columns; the user's own condition cannot end it, which the table checks."""
        # Behind a line of its own, so that a comment in it ends there.
        own = f" and (\n{self.own}\n)" if self.own else ""
        return f"select {columns} from rows where {self.where}{own}" + (
            f" order by {self.order}" if ordered else ""
        )


def whole(name: str, value: str) -> int:
    """Return a parameter as a whole number; raises UsageError where it is none."""
    try:
        found = int(value)
    except ValueError:
        raise UsageError(f"{name} must be a whole number, got {value[:40]!r}") from None
    if abs(found) >= 2**62:
        raise UsageError(f"{name} must be smaller, got {value[:40]!r}")
    return found


def _number(name: str, value: str) -> float:
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise UsageError(f"{name} must be a number, got {value[:40]!r}")
    return found


def _column(name: str, columns: Mapping[str, str]) -> str:
    if name not in columns:
        raise UsageError(f"there is no column {name[:40]!r}; there are {', '.join(columns)}")
    return identifier(name)


def _decided(chosen: str) -> tuple[str, ...]:
    """Return the condition on what people decided, and its parameters."""
    if chosen in CHOICES:
        return (f"uid {'in' if chosen == 'any' else 'not in'} (select uid from decided)",)
    return "uid in (select uid from decided where what = ?)", chosen


def _order(given: Mapping[str, str], columns: Mapping[str, str]) -> str:
    """Return what rows are sorted by: a column, rows without it last, then their number."""
    name = given.get("order")
    if not name:
        return "n"
    direction = "desc" if given.get("down") else "asc"
    return f"{_column(name, columns)} {direction} nulls last, n"
