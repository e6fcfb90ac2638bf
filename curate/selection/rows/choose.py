"""Which rows are kept: the rows to keep are divided between those with a score and those without, and cut."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic

from curate.errors import CurateError
from curate.execution.context import log
from curate.ordering.cutoff import Pairs, nth_smallest
from curate.ordering.nulls import null_plan
from curate.ordering.span import Cuts
from curate.selection.base import ByScore, Selector, Source, free_rows, free_sizes, pairs
from curate.selection.rows.ranks import Ranked
from curate.selection.rules import Choice

__all__ = ["Chosen", "choose", "missing_scores", "random_control"]


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


def choose(
    rows: Source, select: Selector, wanted: int, statuses: Mapping[str, int] | None = None
) -> Chosen[Source]:
    """Return which of the ranked rows are kept, `wanted` together; fewer where `select.at_most` allows it.

    statuses : how many rows lack the score of the method, by why, where that is known. Raises BudgetError if that
    cannot be, CurateError where no row has the score: a draw in its place would look like a selection.
    """
    n_keep = wanted - int(rows.concepts["n_pinned"].sum())
    if isinstance(select, ByScore):
        return _by_score(rows, select, n_keep, statuses or {})
    rows = select.arranged(rows, n_keep)
    rule = select.fit(rows, n_keep, int(free_sizes(rows.concepts).sum()))
    return Chosen(rows, Choice(rule), wanted)


def _by_score(rows: Source, select: ByScore, n_keep: int, statuses: Mapping[str, int]) -> Chosen[Source]:
    """Divide the rows to keep between those with a score and those without, and find the cuts of both."""
    rows = select.arranged(rows, n_keep)
    scored = sum(len(block["tie"]) for block in free_rows(rows, "tie"))
    null = sum(len(block["tie"]) for block in free_rows(rows, "tie", scored=False))
    if null and not scored and select.on_null == "proportional":
        why = ", ".join(f"{status}: {count:,}" for status, count in statuses.items())
        raise CurateError(
            f"select: none of the {null:,} eligible rows has the score {select.score_column!r}{why and f' ({why})'}, by "
            f"which method {select.method} chooses; take another score or method (random draws; on_null: keep keeps them)"
        )
    plan = null_plan(select.on_null, scored, null, count=n_keep)
    n_scored = min(plan.n_scored, select.most(rows, scored)) if select.at_most else plan.n_scored
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


#: The share of eligible rows without the score of the method from which it is said.
MISSING_SHARE = 0.01


def missing_scores(
    select: Selector, missing: int, eligible: int, kept: int, statuses: Mapping[str, int] | None = None
) -> str | None:
    """Say that many rows lack the score a method goes by, and what became of them; None where few do."""
    if missing <= MISSING_SHARE * eligible:
        return None
    why = ", ".join(f"{status}: {count:,}" for status, count in (statuses or {}).items())
    return (
        f"{missing:,} of {eligible:,} eligible rows ({missing / eligible:.1%}) have no {select.score_column}"
        f"{why and f' ({why})'}; {kept:,} of them are kept, as select.on_null ({select.null_policy}) says"
    )


def random_control(rows: Ranked, wanted: int) -> Cuts:
    """Return the cut of a random selection of the same size among all eligible rows, noise included."""

    def read() -> Iterator[Pairs]:
        return ((block["control"], block["tie"]) for block in rows.blocks("control", "tie", cut=True))

    return Cuts(None, nth_smallest(read, wanted))
