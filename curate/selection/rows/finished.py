"""A finished run, so that one row can be asked about: at which numbers of rows its method keeps it.

The budgets come from the methods, the order from `order`; nothing is written.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.clustering.geometry import Geometry
from curate.clustering.store import load_parents
from curate.embedding.store import EmbeddingPart
from curate.errors import BudgetError, RunError
from curate.execution.context import Context
from curate.io import storage
from curate.linalg import load_unit
from curate.ordering.nulls import null_plan
from curate.selection.base import Arranger, Arrays, ByScore, DensitySettings, comes_before
from curate.selection.coverage import Covered, Objects
from curate.selection.diversity import select_diverse
from curate.selection.rows.budget_inputs import Divided
from curate.selection.rows.counterfactual import Nested, Standing
from curate.selection.rows.objects_in import objects_in
from curate.selection.rows.order import Order, order_of, with_order
from curate.selection.rows.overridden import overridden_of
from curate.selection.rows.ranks import VECTOR_BYTES, candidates
from curate.selection.rows.run_rows import columns_of

__all__ = ["Again", "Finished", "Row", "Shares"]

#: What a row takes while the columns of all rows are held, so that they are made once.
_HELD_BYTES = 80

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Row:
    """A row that reached selection. part : its index. rank : in its concept, pinned rows first."""

    uid: str
    part: int
    concept: int
    rank: int
    kept: bool


@dataclass(frozen=True)
class Again:
    """The ranked rows once more, read from the tables of a finished run; held where they fit into memory."""

    context: Context
    order: Order
    concepts: pl.DataFrame
    held: dict[int, Arrays] = field(default_factory=dict)

    @property
    def parents(self) -> tuple[npt.NDArray[np.int32], ...]:
        """The levels of concepts above the finest."""
        return load_parents(self.context.run.final_concepts)

    @property
    def classes(self) -> tuple[str, ...]:
        """All labels in order, where they have quotas."""
        return self.order.classes

    def geometry(self, settings: DensitySettings) -> Geometry:
        """Return how the concepts lie, as the decisions say."""
        return Geometry(self.concepts["d_intra"].to_numpy(), self.concepts["d_inter"].to_numpy())

    def rearranged(self, arranger: Arranger) -> Self:
        """Raise RunError: vectors are not compared again."""
        raise RunError(f"{self.context.run.where}: rows of a finished run are not ranked anew")

    @property
    def has_shipped(self) -> bool:
        """Whether keys say which rows go ahead because they were kept before."""
        return False

    def objects(self) -> Objects:
        """Return the objects in the rows, in the order of their blocks."""
        run, parts = self.context.run, self.context.parts
        found = (
            candidates(run, part.name, self.order.folders, overrides=self.order.overrides)[1]
            for part in parts
        )
        blocks = zip(parts, found, strict=True)
        return objects_in(
            self.context,
            ({"part": np.full(len(at), part.index), "position": at} for part, at in blocks),
        )

    def placed(self, key: npt.NDArray[np.uint64], covered: Covered) -> Self:
        """Raise RunError: they are ranked already."""
        raise RunError(f"{self.context.run.where}: rows of a finished run are not ranked anew")

    def blocks(self, *columns: str) -> Iterator[Arrays]:
        """Yield columns of all rows, part by part; null scores are NaN."""
        for part in self.context.parts:
            yield self.part(part.index)

    def part(self, index: int) -> Arrays:
        """Return all columns of the rows of one part."""
        if index in self.held:
            return self.held[index]
        run, name = self.context.run, self.context.parts[index].name
        order = self.order
        found, _ = candidates(run, name, order.folders, columns=order.columns, overrides=order.overrides)
        frame = with_order(found, self.order)
        decisions = pl.DataFrame(storage.read_table(run.part(run.decisions, name), ["uid", "rank"]))
        decisions = decisions.filter(pl.col("rank").is_not_null())
        if not decisions["uid"].equals(frame["uid"]):
            raise RunError(f"{run.where}: 5_decisions is not of the rows that reach selection; run it again")
        names = ["concept", "key", "tie", "pinned", *self.order.select.extras]
        columns: Arrays = {name: frame[name].to_numpy() for name in names}
        columns["rank"] = decisions["rank"].to_numpy()
        if self.context.rows * _HELD_BYTES < self.context.task_memory // 4:
            self.held[index] = columns
        return columns


@dataclass(frozen=True)
class Finished:
    """A finished run, what its decisions divided, and the labels that have quotas."""

    context: Context
    found: Divided
    classes: tuple[str, ...] = ()

    @cached_property
    def rows(self) -> Again:
        """The rows that reached selection."""
        order = replace(
            order_of(self.context.recipe, self.classes, context=self.context),
            columns=columns_of(self.context),
            overrides=overridden_of(self.context.run),
        )
        return Again(self.context, order, self.found.concepts)

    @property
    def shipped_first(self) -> str | None:
        """Why nothing can be said where shipped rows went first: the decisions they are known from may be replaced."""
        select = self.context.recipe.select
        if select.shipped is False:
            return None
        return f"rows shipped before go first, which method {select.method} cannot be asked about: no keep can be named"

    def place(self, row: Row) -> int:
        """Return the place of a row in its concept, from 1, among those that are not pinned."""
        return row.rank - int(self.found.pinned[row.concept])

    def own(self, row: Row) -> dict[str, Any]:
        """Return the columns of one row."""
        columns = self.rows.part(row.part)
        inside = (columns["concept"] == row.concept) & (columns["rank"] == row.rank)
        (here,) = np.flatnonzero(inside).tolist()
        return {name: values[here] for name, values in columns.items()}

    def number(self, row: Row) -> int:
        """Return which of all rows, in the order of their blocks, a row is."""
        before = sum(len(self.rows.part(index)["rank"]) for index in range(row.part))
        columns = self.rows.part(row.part)
        inside = (columns["concept"] == row.concept) & (columns["rank"] == row.rank)
        return before + int(np.flatnonzero(inside)[0])

    def place_among(
        self, own: Mapping[str, Any], key: str, ties: str, chosen: Callable[[Arrays], Mask]
    ) -> int:
        """Return the place of a row, from 1, among the chosen ones that are not pinned."""
        return 1 + sum(
            int((comes_before(block, own, key, ties) & chosen(block) & ~block["pinned"]).sum())
            for block in self.rows.blocks()
        )

    @cached_property
    def shares(self) -> "Shares":
        """How the rows to keep are divided between those with a score and those without."""
        select = self.context.recipe.select
        if not isinstance(select, ByScore):
            raise RunError(f"select.method {select.method} goes by no score over all rows")
        free = sum(int((~block["pinned"]).sum()) for block in self.rows.blocks())
        scored = sum(
            int((~block["pinned"] & ~np.isnan(block["score"])).sum()) for block in self.rows.blocks()
        )
        return Shares(select, scored, free - scored)

    def by_score(self, select: ByScore, row: Row) -> Standing | str:
        """Return where a row of a method that goes by one score stands, among rows with a score or without."""
        if self.shipped_first is not None:
            return self.shipped_first
        own = self.own(row)
        if not np.isnan(own["score"]):
            return select.scored_standing(self, own)
        place = self.place_among(own, "draw", "tie", lambda block: np.isnan(block["score"]))
        return Nested(place, lambda count: (0, self.shares.of(count)[1]), *self.shares.range)

    def nested(self, select: ByScore, own: Mapping[str, Any]) -> Standing:
        """Return where a row stands in one order of all rows with a score."""
        shares = self.shares
        place = self.place_among(own, "key", select.ties, lambda block: ~np.isnan(block["score"]))
        return Nested(place, lambda count: select.places(shares.of(count)[0], shares.scored), *shares.range)

    def taken_at(self, row: Row, start: Literal["medoid", "isolated"]) -> int:
        """Return when a dropped row would be taken, by taking all rows of its concept."""
        return _taken_at(self.context, self.found, row, start)


# --- methods that go by one score over all rows -------------------------------------------------------------


@dataclass(frozen=True)
class Shares:
    """How many of the rows with and without a score are kept when `count` rows are."""

    select: ByScore
    scored: int
    null: int

    def of(self, count: int) -> tuple[int, int]:
        """Return both numbers; BudgetError where there are not so many."""
        plan = null_plan(self.select.on_null, self.scored, self.null, count=count)
        room = self.select.room(self.scored)
        if plan.n_scored > room and not self.select.at_most:
            raise BudgetError(f"{plan.n_scored:,} rows asked for, there are {room:,}")
        return min(plan.n_scored, room), plan.n_null

    @property
    def range(self) -> tuple[int, int]:
        """The fewest and the most rows that can be asked for."""
        low = first = self.null if self.select.on_null == "keep" else 0
        high = self.scored + self.null
        while low < high:
            middle = (low + high + 1) // 2
            try:
                self.of(middle)
            except BudgetError:
                high = middle - 1
            else:
                low = middle
        return first, low


# --- diversity: the order in which a concept's rows are taken --------------------------------------------------


def _taken_at(context: Context, found: Divided, row: Row, start: Literal["medoid", "isolated"]) -> int:
    """Return when a dropped row would be taken, by taking all rows of its concept."""
    from threadpoolctl import threadpool_limits

    run = context.run
    first = EmbeddingPart(run.part(run.embeddings, context.parts[0].name))
    size = int(found.density.free[row.concept])
    if size * VECTOR_BYTES * first.width(context.recipe.cluster.on) > context.task_memory:
        raise RunError(
            f"concept {row.concept} has {size:,} rows, which do not fit into memory to be ordered by diversity; "
            f"raise memory in {run.recipe}"
        )
    rows, vectors = [], []
    order = order_of(context.recipe, context=context)
    for part in context.parts:
        frame, positions = candidates(run, part.name, (), overrides=overridden_of(run))
        frame = with_order(frame, order).with_columns(pl.Series("position", positions))
        frame = frame.filter((pl.col("concept") == row.concept) & ~pl.col("pinned")).select(
            "uid", "tie", "position"
        )
        rows.append(frame)
        stored = EmbeddingPart(run.part(run.embeddings, part.name))
        vectors.append(stored.take(context.recipe.cluster.on, frame["position"].cast(pl.Int64).to_numpy()))
    every = pl.concat(rows)
    with threadpool_limits(1):
        unit = load_unit(np.concatenate(vectors))
        taken = select_diverse(unit, every["tie"].to_numpy(), every["uid"].to_numpy(), size, start)
    return int(taken[every["uid"].to_list().index(row.uid)])
