"""Keep rows that are far from each other: farthest-point selection inside one concept (Alvar et al. 2025).

Each step takes the row whose nearest kept row is farthest away. Distances to a new row are proposed by a
float32 product; among rows near the maximum, float64 row products decide.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field

from curate.errors import BudgetError, RecipeError
from curate.linalg import margin, row_dots
from curate.ordering.keys import rank_within
from curate.selection import rules
from curate.selection.base import DensitySettings, RowSource, Selector, Source, free_sizes
from curate.selection.quotas import InQuotas, concept_quotas
from curate.selection.rules import Budgets
from curate.settings import Preference

if TYPE_CHECKING:
    import polars as pl

    from curate.selection.rows.counterfactual import Standing
    from curate.selection.rows.finished import Finished, Row

__all__ = [
    "Cosine",
    "Diversity",
    "FarApart",
    "Metric",
    "farthest_first",
    "isolated",
    "medoid",
    "select_diverse",
]

Floats = npt.NDArray[np.floating[Any]]
Rows = npt.NDArray[np.int64]


class Diversity(Selector):
    """Inside every concept the rows farthest from each other, in proportion to its size."""

    keeps = "inside every concept the rows farthest from each other"
    needs = "concepts and vectors"
    direction = "the row whose nearest kept row is farthest away comes next"
    paper = "Alvar et al. 2025, arXiv:2503.02175"
    cost = "rows kept of a concept x its rows x dimensions; a concept is in memory at once"
    avoid = "when outliers are noise: they are far from everything, and kept first"
    compares_vectors = True
    place = 11

    method: Literal["diversity"] = "diversity"
    prefer: Preference = "hardest"
    min_per_concept: Annotated[int, Field(ge=0)] = 1
    start: Literal["medoid", "isolated"] = "medoid"

    @property
    def density(self) -> DensitySettings:
        """Density pruning with the same floor."""
        return DensitySettings(min_per_concept=self.min_per_concept)

    @property
    def by_sizes(self) -> bool:
        """Budgets are in proportion to sizes."""
        return True

    def concept_budgets(
        self, sizes: rules.Counts, n_keep: int, parents: Sequence[npt.NDArray[Any]] = ()
    ) -> rules.Counts:
        """Return what each concept keeps, (k,); a floor that is too much is lowered."""
        return concept_quotas(sizes, n_keep, self.min_per_concept, relax=True)

    def arranged(self, rows: Source, n_keep: int) -> Source:
        """Return the rows with those first, in each concept, that are to be kept."""
        return rows.rearranged(FarApart(self.concept_budgets(free_sizes(rows.concepts), n_keep), self.start))

    def fit(self, rows: RowSource, n_keep: int, total: int) -> Budgets:
        """Return the first rows of each concept, as they were arranged."""
        budget = self.concept_budgets(free_sizes(rows.concepts), n_keep)
        return Budgets(rows.concepts["n_pinned"].to_numpy() + budget)

    def standing(self, run: "Finished", row: "Row") -> "Standing | str":
        """Return the row's place in the order in which its concept's rows are taken."""
        if run.shipped_first is not None:
            return run.shipped_first
        place = run.place(row) if row.kept else run.taken_at(row, self.start)
        return InQuotas(run.found.density.free, row.concept, place, self.min_per_concept, relax=True)


@dataclass(frozen=True)
class FarApart:
    """Puts first, in each concept, the rows that are far from each other. budget : (k,) rows of each concept."""

    budget: rules.Counts
    start: Literal["medoid", "isolated"]

    def identity(self) -> list[object]:
        """Return what the order depends on besides the rows."""
        return ["diverse", self.budget.tolist()]

    def taken(
        self, rows: "pl.DataFrame", vectors: npt.NDArray[np.float32], first: rules.Mask
    ) -> tuple[npt.NDArray[np.int64], None]:
        """Return when each row is taken, from 1; 0 for pinned rows, and beyond the budget."""
        free = np.flatnonzero(~rows["pinned"].to_numpy())
        budget = int(self.budget[rows["concept"][0]]) if len(rows) else 0
        taken = np.zeros(len(rows), np.int64)
        if budget:
            unit = vectors if len(free) == len(rows) else vectors[free]
            tie, uid = rows["tie"].to_numpy()[free], rows["uid"].to_numpy()[free]
            taken[free] = select_diverse(unit, tie, uid, budget, self.start, first=first[free])
        if int((taken > 0).sum()) != budget:
            raise BudgetError(f"select: {int((taken > 0).sum()):,} rows taken of a concept's {budget:,}")
        return taken, None


class Metric(Protocol):
    """Distances among n rows: `propose` is within `error` of `exact`, which is symmetric and decides."""

    @property
    def n(self) -> int:
        """The number of rows."""

    @property
    def error(self) -> float:
        """The largest difference between a proposed and an exact distance."""

    def propose(self, row: int) -> Floats:
        """Return the distances from `row` to all rows, (n,)."""

    def exact(self, row: int, others: Rows) -> npt.NDArray[np.float64]:
        """Return the distances from `row` to `others`."""

    def sums(self) -> npt.NDArray[np.float64]:
        """Return the sum of the distances from each row to all rows, (n,)."""


@dataclass(frozen=True)
class Cosine:
    """1 - inner product of unit vectors (n, d), in [0, 2]."""

    vectors: npt.NDArray[np.float32]

    @property
    def n(self) -> int:
        """The number of rows."""
        return len(self.vectors)

    @property
    def error(self) -> float:
        """The largest difference between a float32 and a float64 distance."""
        return margin(self.vectors.shape[1]) / 2

    def propose(self, row: int) -> Floats:
        """Return the distances from `row` to all rows by a float32 product."""
        proposed: Floats = np.float32(1) - self.vectors @ self.vectors[row]
        return proposed

    def exact(self, row: int, others: Rows) -> npt.NDArray[np.float64]:
        """Return the distances from `row` to `others` by float64 row products."""
        if len(others) == 0:
            return np.empty(0)
        return np.clip(1.0 - row_dots(self.vectors[others], self.vectors[row : row + 1]), 0.0, 2.0)

    def sums(self) -> npt.NDArray[np.float64]:
        """Return the sums of distances, from one product with the sum of all rows (in row order)."""
        total = self.vectors.sum(axis=0, dtype=np.float64, keepdims=True)
        return self.n - row_dots(self.vectors, total)


def medoid(metric: Metric) -> int:
    """Return the row with the smallest sum of distances to all rows; the first of equal ones."""
    return int(np.argmin(metric.sums()))


def isolated(metric: Metric) -> int:
    """Return the row farthest from its nearest neighbour, as the paper starts: usually an outlier.

    The first of equal ones. O(n^2 d) time, O(n) memory.
    """
    if metric.n == 1:
        return 0
    rows = range(metric.n)
    nearest = np.array([np.delete(metric.propose(row), row).min() for row in rows])
    candidates = np.flatnonzero(nearest >= nearest.max() - 2 * metric.error)
    exact = [metric.exact(row, np.delete(np.arange(metric.n), row)).min() for row in candidates.tolist()]
    return int(candidates[int(np.argmax(exact))])


def farthest_first(metric: Metric, n_keep: int, start: int | Rows) -> Rows:
    """Return `n_keep` different rows in the order in which they are taken, beginning with `start` (one or several).

    Each is the row with the largest distance to its nearest taken row, the first of equal ones; exact
    copies are taken last, never twice. O(n_keep n d) time and O(n) memory: what is exact of a row is
    computed once it comes near the maximum, and each pair of rows at most once.
    """
    if not 0 <= n_keep <= metric.n:
        raise BudgetError(f"{n_keep:,} rows asked for, there are {metric.n:,}")
    given = np.atleast_1d(np.asarray(start, np.int64))[:n_keep]
    taken = np.zeros(n_keep, np.int64)
    taken[: len(given)] = given
    proposed = np.full(metric.n, np.inf)
    exact = np.full(metric.n, np.inf)
    seen = np.zeros(metric.n, np.int64)  # taken rows that `exact` accounts for
    for step in range(1, n_keep):
        last = int(taken[step - 1])
        np.minimum(proposed, metric.propose(last), out=proposed)
        proposed[last] = -np.inf  # never again
        if step < len(given):
            continue
        candidates = np.flatnonzero(proposed >= proposed.max() - 2 * metric.error)
        if len(candidates) > 1:
            _catch_up(metric, taken[:step], candidates, exact, seen)
        taken[step] = candidates[int(np.argmax(exact[candidates]))]
    return taken


def _catch_up(
    metric: Metric, taken: Rows, candidates: Rows, exact: npt.NDArray[np.float64], seen: Rows
) -> None:
    """Bring `exact` of the candidates up to date with all taken rows."""
    late = candidates[seen[candidates] == len(taken) - 1]
    exact[late] = np.minimum(exact[late], metric.exact(int(taken[-1]), late))
    for row in candidates[seen[candidates] < len(taken) - 1].tolist():
        exact[row] = min(exact[row], metric.exact(row, taken[seen[row] :]).min())
    seen[candidates] = len(taken)


_STARTS: dict[str, Callable[[Metric], int]] = {"medoid": medoid, "isolated": isolated}


def select_diverse(
    vectors: npt.NDArray[np.float32],
    tie: npt.NDArray[np.uint64],
    uid: npt.NDArray[Any],
    n_keep: int,
    start: Literal["medoid", "isolated"] = "medoid",
    *,
    first: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.int32]:
    """Return the order in which rows of one concept are taken: 1, 2, ... for `n_keep` of them, 0 for others.

    vectors : (n, d) unit rows (`load_unit`). tie, uid : (n,), order equal distances. A larger `n_keep` adds
    rows and changes none. The rows are put in order first, so that the order they come in has no effect.
    first : (n,) rows that are taken before all others: by the same rule among themselves, if they are more than
    `n_keep`, else all of them, in order.

    >>> vectors = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    >>> select_diverse(vectors, np.arange(3, dtype=np.uint64), np.array(list("abc")), 2)
    array([2, 1, 0], dtype=int32)
    """
    if start not in _STARTS:
        raise RecipeError(f"select.start must be medoid or isolated, got {start!r}")
    if not 0 <= n_keep <= len(vectors):
        raise BudgetError(f"{n_keep:,} rows asked for, there are {len(vectors):,}")
    order = np.argsort(rank_within(np.zeros(len(tie), np.int8), tie, tie, uid))
    place = np.zeros(len(vectors), np.int32)
    if n_keep:
        taken = _take(
            vectors,
            order,
            n_keep,
            start,
            np.empty(0, np.int64) if first is None else np.flatnonzero(first[order]),
        )
        place[taken] = np.arange(1, n_keep + 1)
    return place


def _take(vectors: npt.NDArray[np.float32], order: Rows, n_keep: int, start: str, given: Rows) -> Rows:
    """Return `n_keep` rows in the order in which they are taken; given : places in `order` that go first."""
    if len(given) > n_keep:
        order, given = order[given], given[:0]
    metric = Cosine(np.ascontiguousarray(vectors[order]))
    taken: Rows = order[farthest_first(metric, n_keep, given if len(given) else _STARTS[start](metric))]
    return taken
