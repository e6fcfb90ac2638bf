"""Coverage-centric selection: equal numbers from every stretch of the score (Zheng et al. 2023, CCS).

The hardest `beta` by a column of its own (noise, AUM) go first; what is left is cut into strata of equal
width, and every stratum gives the same number of rows, drawn by hash, as far as it has them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from curate.errors import BudgetError, CurateError, RecipeError
from curate.ordering.cutoff import Pairs, nth_smallest
from curate.ordering.group_cutoff import GroupCuts, GroupedPairs, nth_smallest_by_group
from curate.ordering.keys import priority_key
from curate.ordering.shares import exact_share
from curate.ordering.span import Cuts, key_value, rows_of
from curate.selection import rules
from curate.selection.base import Arrays, ByScore, RowSource, comes_before, free_rows
from curate.selection.rules import Mask, Rows, group_inclusion
from curate.settings import Count, Share

if TYPE_CHECKING:
    from curate.selection.rows.counterfactual import Standing
    from curate.selection.rows.finished import Finished

__all__ = ["Layers", "Strata", "Stratified", "find_strata", "strata_budgets"]

ENDS = (0.01, 0.99)

Floats = npt.NDArray[np.floating[Any]]
Counts = npt.NDArray[np.int64]


class Stratified(ByScore):
    """Equal numbers from all stretches of a score, after the noisiest rows are gone.

    ends : the quantiles between which strata are cut, so that outliers do not stretch them. Rows beyond belong to the
    first and the last one; (0, 1) is the whole range, as in the paper.
    """

    keeps = "equal numbers from all stretches of a score, after the noisiest `beta` (by `cutoff`) are gone"
    direction = "none within a stratum: rows are drawn"
    paper = "Zheng et al. 2023, arXiv:2210.15809"
    cost = "some passes over the scores"
    avoid = "when most is kept: it differs little from a random sample then"
    place = 8
    later = ("ends",)

    method: Literal["stratified"] = "stratified"
    beta: Share = 0.0
    cutoff: str = "neg_aum"
    strata: Annotated[Count, Field(ge=1)] = 50
    ends: tuple[Share, Share] = ENDS

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.ends[0] < self.ends[1]:
            raise ValueError(
                f"needs ends that are two quantiles, the lower first, got {self.ends[0]:g} and {self.ends[1]:g}"
            )
        return self

    @property
    def cut_by(self) -> str | None:
        """The score that takes the noisiest rows out first."""
        return self.cutoff if self.beta > 0 else None

    @property
    def drawn(self) -> bool:
        """Rows of a stratum are drawn."""
        return True

    def key(self, score: rules.Floats, draw: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Return the draws: within a stratum they decide."""
        return draw

    def room(self, n_scored: int) -> int:
        """Return how many rows are left without the noisiest."""
        return max(0, n_scored - rows_of(self.beta, n_scored, "select.beta"))

    def fit(self, rows: RowSource, n_keep: int, total: int) -> "Layers":
        """Cut off the noisiest rows, find the strata of the others, and draw from each."""
        noisiest, n_cut = None, rows_of(self.beta, total, "select.beta")
        if n_cut:
            noisiest = Cuts(None, nth_smallest(lambda: _cutoff_pairs(rows), n_cut))
        if n_keep > total - n_cut:
            raise BudgetError(
                f"{n_keep:,} rows asked for, {total - n_cut:,} of {total:,} are left after select.beta "
                f"{self.beta:g}; ask for fewer or lower beta"
            )

        def left(*columns: str) -> Iterator[Arrays]:
            extra = ("cutoff",) if noisiest is not None else ()
            for block in free_rows(rows, "score", "tie", *columns, *extra):
                stays = ~noisiest_rows(noisiest, block)
                yield {name: values[stays] for name, values in block.items()}

        strata = find_strata(
            lambda: ((priority_key(block["score"], "easiest"), block["tie"]) for block in left()),
            total - n_cut,
            self.strata,
            self.ends,
        )

        def grouped() -> Iterator[GroupedPairs]:
            return ((strata.of(block["score"]), block["draw"], block["tie"]) for block in left("draw"))

        sizes = np.zeros(self.strata, np.int64)
        for block in left():
            sizes += np.bincount(strata.of(block["score"]), minlength=self.strata)
        budget = strata_budgets(n_keep, sizes)
        return Layers(
            strata, nth_smallest_by_group(grouped, budget), group_inclusion(budget, sizes), noisiest
        )

    def scored_standing(self, run: "Finished", own: Mapping[str, Any]) -> "Standing | str":
        """Return the row's place in its stratum, or that `beta` leaves it out."""
        from curate.selection.rows.counterfactual import Nested

        shares = run.shares
        rule = self.fit(run.rows, shares.of(shares.range[1])[0], shares.scored)
        one = {name: np.array([value]) for name, value in own.items()}
        if noisiest_rows(rule.noisiest, one)[0]:
            return "select.beta leaves it out as one of the noisiest, at any number of rows"
        (stratum,) = rule.strata.of(one["score"]).tolist()
        sizes = np.zeros(self.strata, np.int64)
        place = 1
        for block in free_rows(run.rows, "tie", *self.extras):
            inside = ~noisiest_rows(rule.noisiest, block)
            layer = rule.strata.of(block["score"])
            sizes += np.bincount(layer[inside], minlength=len(sizes))
            place += int((comes_before(block, own, "draw", "tie") & inside & (layer == stratum)).sum())

        def room(count: int) -> tuple[int, int]:
            return 0, int(strata_budgets(shares.of(count)[0], sizes)[stratum])

        return Nested(place, room, *shares.range)


def _cutoff_pairs(rows: RowSource) -> Iterator[Pairs]:
    for block in free_rows(rows, "cutoff", "tie"):
        yield priority_key(block["cutoff"], "hardest"), block["tie"]


@dataclass(frozen=True)
class Strata:
    """`n_strata` stretches of equal width from `lower` to `upper`; the last one is closed on the right."""

    lower: float
    upper: float
    n_strata: int

    def of(self, score: Floats) -> Counts:
        """Return the stratum of each row, (n,) in [0, n_strata); scores beyond an end belong to the end.

        >>> Strata(0.0, 4.0, 4).of(np.array([-9.0, 0.0, 1.0, 3.9, 4.0]))
        array([0, 0, 1, 3, 3])
        """
        if not np.isfinite(score).all():
            raise CurateError("scores to divide into strata must be finite")
        scale = 1.0 if np.isfinite(self.upper - self.lower) else 0.5
        width = self.upper * scale - self.lower * scale
        if not width > 0:
            return np.zeros(len(score), np.int64)
        above = np.clip(score.astype(np.float64), self.lower, self.upper) * scale - self.lower * scale
        return np.minimum((above / width * self.n_strata).astype(np.int64), self.n_strata - 1)


@dataclass(frozen=True)
class Layers:
    """Rows drawn from strata of the score, after the noisiest were cut off. shares : (strata,)."""

    strata: Strata
    cuts: GroupCuts
    shares: rules.Floats
    noisiest: Cuts | None

    def cut_off(self, rows: Rows) -> Mask:
        """Return the noisiest rows."""
        return noisiest_rows(self.noisiest, rows)

    def keep(self, rows: Rows) -> Mask:
        """Return which rows are kept."""
        held = self.cuts.holds(self.strata.of(rows["score"]), rows["draw"], rows["tie"])
        return held & ~self.cut_off(rows)

    def probability(self, rows: Rows, keep: Mask) -> rules.Floats:
        """Return the share of the row's stratum, 0 where it was cut off."""
        return np.where(self.cut_off(rows), 0.0, self.shares[self.strata.of(rows["score"])])


def noisiest_rows(cuts: Cuts | None, rows: Rows) -> Mask:
    """Return which rows are at or before a cut over the cutoff score, largest first, (n,)."""
    if cuts is None:
        return np.zeros(len(rows["tie"]), np.bool_)
    return cuts.holds(priority_key(rows["cutoff"], "hardest"), rows["tie"])


def find_strata(
    read: Callable[[], Iterator[Pairs]],
    total: int,
    n_strata: int = 50,
    ends: tuple[float | str, float | str] = ENDS,
) -> Strata:
    """Return strata between two quantiles of the scores, so that outliers do not stretch them.

    read : yields (priority_key(score, "easiest"), tie) of all `total` rows, block by block. The ends are
    scores of rows: number floor(q (n - 1)) from 0 for the lower quantile, ceil(q (n - 1)) for the upper.
    Where both are the same score, the whole range is taken; where that is one score, all is one stratum.
    """
    low, high = (exact_share(q) for q in ends)
    if n_strata < 1:
        raise RecipeError(f"select.strata must be at least 1, got {n_strata}")
    if not 0 <= low < high <= 1:
        raise RecipeError(f"select.ends must be two quantiles in [0, 1], the lower first, got {ends}")
    if total == 0:
        return Strata(0.0, 0.0, n_strata)
    last = total - 1
    ends = (int(low * last), _ceil(high * last))
    lower, upper = (_nth_score(read, place) for place in ends)
    if lower == upper and ends != (0, last):
        lower, upper = _nth_score(read, 0), _nth_score(read, last)
    return Strata(lower, upper, n_strata)


def _ceil(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)


def _nth_score(read: Callable[[], Iterator[Pairs]], place: int) -> float:
    cut = nth_smallest(read, place + 1)
    if cut is None:
        raise BudgetError(f"no row at place {place}")
    return key_value(cut[0], "easiest")


def strata_budgets(n_keep: int, sizes: Counts) -> Counts:
    """Return how many rows each stratum gives: min(n_keep, sum of sizes) together, none above its size.

    sizes : (k,). From the smallest stratum up (equal sizes by index), each gives floor(rows left /
    strata left) as far as it has them; what a small stratum cannot give goes to the larger ones.

    >>> strata_budgets(10, np.array([1, 2, 20, 30])), strata_budgets(7, np.array([3, 3, 3]))
    (array([1, 2, 3, 4]), array([2, 2, 3]))
    """
    if n_keep < 0 or (sizes < 0).any():
        raise BudgetError("rows to keep and sizes of strata must be at least 0")
    budget = np.zeros(len(sizes), np.int64)
    left = n_keep
    for done, stratum in enumerate(np.argsort(sizes, kind="stable").tolist()):
        budget[stratum] = min(int(sizes[stratum]), left // (len(sizes) - done))
        left -= int(budget[stratum])
    if budget.sum() != min(n_keep, int(sizes.sum())):
        raise BudgetError(f"budgets of strata must add up to {n_keep}, got {budget.sum()}")
    return budget
