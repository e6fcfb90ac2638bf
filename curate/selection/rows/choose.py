"""Which rows are kept: the rows to keep are divided between those with a score and those without, and cut."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic

from curate.execution.context import log
from curate.ordering.cutoff import Pairs, nth_smallest
from curate.ordering.nulls import null_plan
from curate.ordering.span import Cuts
from curate.selection.base import ByScore, RowSource, Selector, Source, free_rows, free_sizes, pairs
from curate.selection.rules import Choice

__all__ = ["Chosen", "choose", "random_control"]


@dataclass(frozen=True)
class Chosen(Generic[Source]):
    """What was found: the rows as they are ranked, the rule, rows without a score.

    kept : rows that are kept, pinned ones included. n_null, kept_null : rows that lack the score the method
    goes by, and how many of them are kept.
    """

    rows: Source
    choice: Choice
    kept: int
    n_null: int = 0
    kept_null: int = 0


def choose(rows: Source, select: Selector, wanted: int) -> Chosen[Source]:
    """Return which of the ranked rows are kept, `wanted` together; fewer where `select.at_most` allows it.

    Raises BudgetError if that cannot be.
    """
    n_keep = wanted - int(rows.concepts["n_pinned"].sum())
    if isinstance(select, ByScore):
        return _by_score(rows, select, n_keep)
    rows = select.arranged(rows, n_keep)
    rule = select.fit(rows, n_keep, int(free_sizes(rows.concepts).sum()))
    return Chosen(rows, Choice(rule), wanted)


def _by_score(rows: Source, select: ByScore, n_keep: int) -> Chosen[Source]:
    """Divide the rows to keep between those with a score and those without, and find the cuts of both."""
    scored = sum(len(block["tie"]) for block in free_rows(rows, "tie"))
    null = sum(len(block["tie"]) for block in free_rows(rows, "tie", scored=False))
    plan = null_plan(select.on_null, scored, null, count=n_keep)
    n_scored = min(plan.n_scored, select.room(scored)) if select.at_most else plan.n_scored
    if n_scored < plan.n_scored:
        log.warning(
            "select: %s rows with a score asked for, all %s that method %s leaves are kept",
            f"{plan.n_scored:,}", f"{n_scored:,}", select.method,
        )  # fmt: skip
    nulls = Cuts(None, nth_smallest(pairs(rows, "draw", scored=False), plan.n_null)) if null else None
    rule = select.fit(rows, n_scored, scored)
    choice = Choice(rule, nulls, plan.n_null / null if null else 0.0)
    kept = int(rows.concepts["n_pinned"].sum()) + n_scored + plan.n_null
    return Chosen(rows, choice, kept, null, plan.n_null)


def random_control(rows: RowSource, wanted: int) -> Cuts:
    """Return the cut of a random selection of the same size among all eligible rows."""

    def read() -> Iterator[Pairs]:
        return ((block["control"], block["tie"]) for block in rows.blocks("control", "tie"))

    return Cuts(None, nth_smallest(read, wanted))
