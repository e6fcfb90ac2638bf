"""Where one row of a finished run stands in its selection: enough to say at which budgets it would be kept.

The budgets come from the functions that `choice` calls, the order from `order`; nothing is written.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.embedding.store import EmbeddingPart
from curate.errors import BudgetError, RunError
from curate.execution.context import Context
from curate.io import storage
from curate.linalg import load_unit
from curate.ordering import span as score
from curate.ordering.nulls import null_plan
from curate.pipeline.stages.select import classes_of
from curate.recipe import BY_SCORE, Select
from curate.selection import methods
from curate.selection.budget_inputs import Divided
from curate.selection.counterfactual import Nested, Standing
from curate.selection.counterfactual_groups import InDensity, InPrototypes, InQuotas
from curate.selection.diversity import select_diverse
from curate.selection.order import Order, order_of, with_order
from curate.selection.ranks import VECTOR_BYTES, Ranked, candidates
from curate.selection.rules import Layers, noisiest_rows
from curate.selection.stratified import strata_budgets

__all__ = ["Again", "Row", "standing_of"]

#: What a row takes while the columns of all rows are held, so that they are made once.
_HELD_BYTES = 80

Arrays = dict[str, npt.NDArray[Any]]
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
class Again(Ranked):
    """The ranked rows once more, read from the tables of a finished run; held where they fit into memory."""

    context: Context
    order: Order
    held: dict[int, Arrays] = field(default_factory=dict)

    def blocks(self, *columns: str) -> Iterator[Arrays]:
        """Yield columns of all rows, part by part; null scores are NaN."""
        for part in self.context.parts:
            yield self.part(part.index)

    def part(self, index: int) -> Arrays:
        """Return all columns of the rows of one part."""
        if index in self.held:
            return self.held[index]
        run, name = self.context.run, self.context.parts[index].name
        frame = with_order(candidates(run, name, self.order.folders)[0], self.order)
        decisions = pl.DataFrame(storage.read_table(run.part(run.decisions, name), ["uid", "rank"]))
        decisions = decisions.filter(pl.col("rank").is_not_null())
        if not decisions["uid"].equals(frame["uid"]):
            raise RunError(f"{run.where}: 5_decisions is not of the rows that reach selection; run it again")
        names = ["concept", "key", "tie", "pinned", *self.order.extras]
        columns: Arrays = {name: frame[name].to_numpy() for name in names}
        columns["rank"] = decisions["rank"].to_numpy()
        if sum(part.rows for part in self.context.parts) * _HELD_BYTES < self.context.task_memory // 4:
            self.held[index] = columns
        return columns


def standing_of(context: Context, found: Divided, row: Row) -> Standing | str:
    """Return where a row that is not pinned stands, in counts without pinned rows; or why no count keeps it."""
    select = context.recipe.select
    free, place = found.density.free, row.rank - int(found.pinned[row.concept])
    if select.method == "density":
        return InDensity(found.density, row.concept, place)
    if select.method == "quotas" and select.per == "concept":
        return InQuotas(free, row.concept, place, select.min_per_group)
    if select.shipped is not False:  # the decisions they are known from may be replaced by now
        return f"rows shipped before go first, which method {select.method} cannot be asked about: no keep can be named"
    if select.method == "diversity":
        if not row.kept:
            place = _diverse_place(context, found, row)
        return InQuotas(free, row.concept, place, select.min_per_concept, relax=True)
    order = order_of(context.recipe, classes_of(context))
    again = Again((), found.concepts, "", context, order)
    own = _own(again, row)
    if select.method in BY_SCORE:
        return _by_score(again, select, own)
    if select.method == "quotas":
        return _by_class(again, select, own)
    better = np.zeros(int(found.density.free.max(initial=0)) + 1, np.int64)
    for rows in again.blocks():
        ranks = rows["rank"] - found.pinned[rows["concept"]]
        before = _before(rows, own, "key", "tie") & ~rows["pinned"]
        better += np.bincount(ranks[before], minlength=len(better))
    balance = select.balance if select.method == "prototypes" else 0.0
    return InPrototypes(free, row.concept, place, better, balance)


def _own(again: Again, row: Row) -> dict[str, Any]:
    """Return the columns of one row."""
    columns = again.part(row.part)
    inside = (columns["concept"] == row.concept) & (columns["rank"] == row.rank)
    (here,) = np.flatnonzero(inside).tolist()
    return {name: values[here] for name, values in columns.items()}


def _before(rows: Arrays, own: dict[str, Any], key: str, ties: str) -> Mask:
    """Return which rows come before one, by a key and a tie number."""
    before: Mask = (rows[key] < own[key]) | ((rows[key] == own[key]) & (rows[ties] < own[ties]))
    return before


def _place(again: Again, own: dict[str, Any], key: str, ties: str, chosen: Callable[[Arrays], Mask]) -> int:
    """Return the place of a row, from 1, among the chosen ones that are not pinned."""
    return 1 + sum(
        int((_before(rows, own, key, ties) & chosen(rows) & ~rows["pinned"]).sum()) for rows in again.blocks()
    )


def _by_class(again: Again, select: Select, own: dict[str, Any]) -> Standing:
    sizes = np.zeros(len(again.order.classes) + 1, np.int64)
    for rows in again.blocks():
        sizes += np.bincount(rows["group"][~rows["pinned"]], minlength=len(sizes))
    place = _place(again, own, "key", "tie", lambda rows: rows["group"] == own["group"])
    return InQuotas(sizes, int(own["group"]), place, select.min_per_group)


# --- methods that go by one score over all rows -------------------------------------------------------------


def _by_score(again: Again, select: Select, own: dict[str, Any]) -> Standing | str:
    free = [int((~rows["pinned"]).sum()) for rows in again.blocks()]
    scored = sum(int((~rows["pinned"] & ~np.isnan(rows["score"])).sum()) for rows in again.blocks())
    shares = _Shares(select, scored, sum(free) - scored)
    if np.isnan(own["score"]):
        place = _place(again, own, "draw", "tie", lambda rows: np.isnan(rows["score"]))
        return Nested(place, lambda count: (0, shares.of(count)[1]), *shares.range)
    if select.method == "stratified":
        return _in_layers(again, select, own, shares)
    ties = "draw" if select.method == "weighted" else "tie"
    place = _place(again, own, "key", ties, lambda rows: ~np.isnan(rows["score"]))
    standing = Nested(place, lambda count: _span(select, shares.of(count)[0], scored), *shares.range)
    if not standing.keeps(standing.last) and select.method == "window":
        what = "offset" if select.offset is not None else "drop_hardest"
        return f"select.{what} leaves it out, at any number of rows"
    return standing


@dataclass(frozen=True)
class _Shares:
    """How many of the rows with and without a score are kept when `count` rows are."""

    select: Select
    scored: int
    null: int

    def of(self, count: int) -> tuple[int, int]:
        """Return both numbers; BudgetError where there are not so many."""
        plan = null_plan(self.select.on_null, self.scored, self.null, count=count)
        room = methods.room_for(self.select, self.scored)
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


def _span(select: Select, n_keep: int, total: int) -> tuple[int, int]:
    """Return how many rows are skipped, and the last place kept; as `choice.by_score`, without its warning."""
    if n_keep and select.method == "window":
        span = score.window(n_keep, total, drop_hardest=select.drop_hardest, offset=select.offset)
    elif n_keep and select.method == "middle":
        span = score.middle(n_keep, total, select.center)
    else:
        return 0, n_keep
    return span.start, span.stop


def _in_layers(again: Again, select: Select, own: dict[str, Any], shares: _Shares) -> Standing | str:
    n_scored = shares.of(shares.range[1])[0]
    rule = methods.by_score(again, select, n_scored, shares.scored)
    if not isinstance(rule, Layers):
        raise RunError(f"select.method {select.method} has no strata")
    one = {name: np.array([value]) for name, value in own.items()}
    if noisiest_rows(rule.noisiest, one)[0]:
        return "select.beta leaves it out as one of the noisiest, at any number of rows"
    (stratum,) = rule.strata.of(one["score"]).tolist()
    sizes = np.zeros(select.strata, np.int64)
    place = 1
    for rows in methods.free_rows(again, "score", "draw", "tie", *again.order.extras):
        inside = ~noisiest_rows(rule.noisiest, rows)
        layer = rule.strata.of(rows["score"])
        sizes += np.bincount(layer[inside], minlength=len(sizes))
        place += int((_before(rows, own, "draw", "tie") & inside & (layer == stratum)).sum())

    def room(count: int) -> tuple[int, int]:
        return 0, int(strata_budgets(shares.of(count)[0], sizes)[stratum])

    return Nested(place, room, *shares.range)


# --- diversity: the order in which a concept's rows are taken --------------------------------------------------


def _diverse_place(context: Context, found: Divided, row: Row) -> int:
    """Return when a dropped row would be taken, by taking all rows of its concept."""
    from threadpoolctl import threadpool_limits

    run = context.run
    first = EmbeddingPart(run.part(run.embeddings, context.parts[0].name))
    size = int(found.density.free[row.concept])
    if size * VECTOR_BYTES * first.dim > context.task_memory:
        raise RunError(
            f"concept {row.concept} has {size:,} rows, which do not fit into memory to be ordered by diversity; "
            f"raise memory in {run.recipe}"
        )
    rows, vectors = [], []
    order = order_of(context.recipe)
    for part in context.parts:
        frame, positions = candidates(run, part.name, ())
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
        taken = select_diverse(
            unit, every["tie"].to_numpy(), every["uid"].to_numpy(), size, context.recipe.select.start
        )
    return int(taken[every["uid"].to_list().index(row.uid)])
