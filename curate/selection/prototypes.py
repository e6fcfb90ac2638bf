"""Pruning by distance to the own prototype (Sorscher et al. 2022, arXiv:2206.14486), with a floor per concept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from curate.errors import RecipeError
from curate.ordering.cutoff import Pairs, nth_smallest
from curate.ordering.span import Cuts
from curate.selection import rules
from curate.selection.base import RowSource, Selector, comes_before, free_sizes
from curate.selection.rules import Budgets
from curate.settings import Preference

if TYPE_CHECKING:
    from curate.selection.rows.counterfactual import Standing, Stretch
    from curate.selection.rows.finished import Finished, Row

__all__ = ["InPrototypes", "Prototypes", "first_of_all", "floors", "standing_over_all"]

Counts = npt.NDArray[np.integer[Any]]


class Prototypes(Selector):
    """The rows farthest from (or nearest to) the centre of their concept, with a floor per concept."""

    keeps = "by distance to the concept's centre, over all concepts; `balance` gives each a floor"
    paper = "Sorscher et al. 2022, arXiv:2206.14486"
    cost = "one sort per concept and a pass over all rows"
    avoid = "when concepts differ in spread: the widest ones get most rows, unless `balance` is high"
    place = 2

    method: Literal["prototypes"] = "prototypes"
    prefer: Preference = "hardest"
    balance: Annotated[float, Field(ge=0, le=1)] = 0.0

    def fit(self, rows: RowSource, n_keep: int, total: int) -> Budgets:
        """Return the floor of each concept, and then the first of all rows above it."""
        floor = floors(free_sizes(rows.concepts), n_keep, self.balance)
        return first_of_all(rows, floor, n_keep, total, drawn=self.drawn)

    def standing(self, run: "Finished", row: "Row") -> "Standing | str":
        """Return the row's place among all rows and within its concept."""
        return standing_over_all(run, row, self.balance)


def floors(sizes: Counts, n_keep: int, balance: float | str) -> npt.NDArray[np.int64]:
    """Return how many rows each concept keeps for sure: min(size, floor(balance n_keep / k')).

    sizes : (k,); k' counts concepts with rows. balance : in [0, 1], in exact decimals; 0 keeps the
    best rows wherever they are, 1 starts with equal numbers for all. The floors add up to at most `n_keep`.

    >>> floors(np.array([5, 1, 0, 9]), 10, 0.9)
    array([3, 1, 0, 3])
    """
    try:
        exact = Fraction(str(balance))
    except (ValueError, ZeroDivisionError) as error:
        raise RecipeError(f"select.balance must be a number in [0, 1], got {balance!r}") from error
    if not 0 <= exact <= 1:
        raise RecipeError(f"select.balance must be in [0, 1], got {balance}")
    n_concepts = int((sizes > 0).sum())
    each = int(exact * n_keep / max(1, n_concepts))
    return np.minimum(sizes, each).astype(np.int64)


def first_of_all(rows: RowSource, floor: rules.Counts, n_keep: int, total: int, *, drawn: bool) -> Budgets:
    """Return the rule that keeps the floor of each concept, (k,), and then the first of all rows above it.

    n_keep : rows to keep of the `total` that compete. drawn : the order is by chance, not by score.
    """
    pinned = rows.concepts["n_pinned"].to_numpy()
    upto = pinned + floor

    def read() -> Iterator[Pairs]:
        for block in rows.blocks("rank", "concept", "key", "tie"):
            above = block["rank"] > upto[block["concept"]]
            yield block["key"][above], block["tie"][above]

    cuts = Cuts(None, nth_smallest(read, n_keep - int(floor.sum())))
    shares = None
    if drawn:  # one draw over all rows has a known probability; floors and then a draw have none
        shares = np.full(len(floor), n_keep / max(1, total) if not floor.any() else np.nan)
    return Budgets(upto, cuts, shares)


def standing_over_all(run: "Finished", row: "Row", balance: float) -> "Standing | str":
    """Return where a row stands among the first rows over all concepts, with a floor per concept."""
    if run.shipped_first is not None:
        return run.shipped_first
    own = run.own(row)
    better = np.zeros(int(run.found.density.free.max(initial=0)) + 1, np.int64)
    for block in run.rows.blocks():
        ranks = block["rank"] - run.found.pinned[block["concept"]]
        before = comes_before(block, own, "key", "tie") & ~block["pinned"]
        better += np.bincount(ranks[before], minlength=len(better))
    return InPrototypes(run.found.density.free, row.concept, run.place(row), better, balance)


@dataclass(frozen=True)
class InPrototypes:
    """A row of a selection of the first rows over all concepts, with a floor per concept (`prototypes.floors`).

    sizes : (k,) rows that compete. rank : of the row in its concept, from 1. better : (r,) how many rows of
    all concepts come before it and have rank 0, 1, 2, ... in their own.
    """

    sizes: Counts
    concept: int
    rank: int
    better: Counts
    balance: float

    @cached_property
    def _behind(self) -> npt.NDArray[np.int64]:
        """How many better rows are above a floor of 0, 1, 2, ..."""
        counts = self.better.astype(np.int64)
        result: npt.NDArray[np.int64] = int(counts.sum()) - np.cumsum(counts)
        return result

    @cached_property
    def stretches(self) -> "Sequence[Stretch]":
        """The counts with the same floor."""
        total, share = int(self.sizes.sum()), Fraction(str(self.balance))
        groups = max(1, int((self.sizes > 0).sum()))
        if not share:
            return ((0, total),)
        edges = [-(-each * groups // share) for each in range(int(share * total / groups) + 1)]
        ends = [*(edge - 1 for edge in edges[1:]), total]
        return tuple((first, last) for first, last in zip(edges, ends, strict=True) if first <= last)

    def keeps(self, count: int) -> bool:
        """Return whether the row is within the floor of its concept, or first enough of all above the floors."""
        floor = floors(self.sizes, count, self.balance)
        each = int(floor.max(initial=0))
        if self.rank <= floor[self.concept]:
            return True
        before = int(self._behind[each]) if each < len(self._behind) else 0
        return before < count - int(floor.sum())

    def side(self, count: int) -> int:
        """Return 1 or -1: with the same floor, selections are nested."""
        return 1 if self.keeps(count) else -1
