"""What becomes of rows without a score: never ranked, but kept at the same rate, all, none, or refused."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from curate.errors import BudgetError, CurateError, RecipeError
from curate.ordering.shares import exact_share
from curate.ordering.span import rows_of

__all__ = ["NullPlan", "Policy", "null_plan"]

Policy = Literal["proportional", "keep", "drop", "error"]


@dataclass(frozen=True)
class NullPlan:
    """How many rows with a score and how many without one are kept."""

    n_scored: int
    n_null: int


def null_plan(
    policy: Policy,
    scored: int,
    null: int,
    *,
    share: float | str | None = None,
    count: int | None = None,
    statuses: dict[str, int] | None = None,
) -> NullPlan:
    """Divide the rows to keep between `scored` rows that can be ranked and `null` rows that cannot.

    share : of the rows with a score; null rows come on top, rounded by themselves: the same share of them
    (proportional), all (keep), none (drop). count : the rows kept altogether, null rows included, so that
    proportional gives them count x null / rows. error: raises CurateError with the counts per status
    if there is any null row. Raises BudgetError where a count cannot be met.

    >>> null_plan("proportional", 5, 3, share=0.5), null_plan("proportional", 6, 4, count=5)
    (NullPlan(n_scored=3, n_null=2), NullPlan(n_scored=3, n_null=2))
    """
    if policy not in ("proportional", "keep", "drop", "error"):
        raise RecipeError(f"on_null must be proportional, keep, drop or error, got {policy!r}")
    if policy == "error" and null:
        raise CurateError(f"{null:,} of {scored + null:,} rows have no score{_listed(statuses)}")
    if (share is None) == (count is None):
        raise RecipeError("select takes a share or a count, exactly one of them")
    rate = exact_share(share) if share is not None else Fraction(count or 0, max(1, scored + null))
    n_null = {"keep": null, "proportional": rows_of(min(rate, Fraction(1)), null)}.get(policy, 0)
    n_scored = rows_of(rate, scored, "select.keep") if count is None else count - n_null
    if not 0 <= n_scored <= scored:
        raise BudgetError(
            f"{count:,} rows asked for; {scored:,} have a score, {n_null:,} of {null:,} without one are kept"
        )
    return NullPlan(n_scored, n_null)


def _listed(statuses: dict[str, int] | None) -> str:
    return f" ({', '.join(f'{name}: {n:,}' for name, n in sorted(statuses.items()))})" if statuses else ""
