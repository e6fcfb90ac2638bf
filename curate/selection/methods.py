"""Which rows a method keeps: a rule is found by looking at all ranked rows, in a few passes over them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.clustering.complexity import complexity, inter_distance
from curate.clustering.store import load_centroids
from curate.errors import BudgetError
from curate.execution.context import Context, log
from curate.recipe import BY_SCORE, Select
from curate.selection import density, prototypes
from curate.selection import span as score
from curate.selection.cutoff import Pairs, nth_smallest
from curate.selection.diversity_stage import diversified
from curate.selection.group_cutoff import GroupedPairs, nth_smallest_by_group
from curate.selection.keys import priority_key
from curate.selection.nulls import null_plan
from curate.selection.order import Order
from curate.selection.quotas import quotas
from curate.selection.ranks import Ranked
from curate.selection.rules import Budgets, Choice, Counts, Groups, Layers, Rule, Stretch, noisiest_rows
from curate.selection.span import Cuts, rows_of
from curate.selection.stratified import find_strata, strata_budgets
from curate.weighting.inverse import group_inclusion

__all__ = ["Chosen", "choose", "random_control", "room_for", "with_density"]


@dataclass(frozen=True)
class Chosen:
    """What was found: the ranks (anew for diversity), the rule, the table of concepts, rows without a score.

    kept : rows that are kept, pinned ones included. n_null, kept_null : rows that lack the score the method
    goes by, and how many of them are kept.
    """

    ranked: Ranked
    choice: Choice
    concepts: pl.DataFrame
    kept: int
    n_null: int = 0
    kept_null: int = 0


def choose(context: Context, ranked: Ranked, order: Order, wanted: int, scratch: Path) -> Chosen:
    """Return which of the ranked rows are kept, `wanted` together; fewer where `select.at_most` allows it.

    Raises BudgetError if that cannot be.
    """
    select, concepts = context.recipe.select, ranked.concepts
    pinned = concepts["n_pinned"].to_numpy()
    free = concepts["n_eligible"].to_numpy() - pinned
    n_keep = wanted - int(pinned.sum())
    if select.method == "density":
        table, plan = with_density(context, concepts, free, n_keep)
        shares = group_inclusion(plan.budget, free) if order.prefer == "random" else None
        return Chosen(ranked, Choice(Budgets(pinned + plan.budget, None, shares)), table, wanted)
    table = _with_complexity(context, concepts, free)
    if select.method in BY_SCORE:
        return _chosen_by_score(ranked, select, table, n_keep)
    if select.method == "diversity":
        budget = concept_quotas(free, n_keep, select.min_per_concept, relax=True)
        ranked = diversified(context, ranked, budget, scratch)
        return Chosen(ranked, Choice(Budgets(pinned + budget)), table, wanted)
    rule = _grouped(ranked, select, order, pinned, free, n_keep)
    return Chosen(ranked, Choice(rule), table, wanted)


def _grouped(ranked: Ranked, select: Select, order: Order, pinned: Counts, free: Counts, n_keep: int) -> Rule:
    """Return the rule of a method that goes by the ranks in groups, or over all rows."""
    drawn = order.prefer == "random"
    if select.method == "quotas" and select.per == "label":
        return class_quotas(ranked, select, n_keep, order.classes, drawn=drawn)
    if select.method == "quotas":
        budget = concept_quotas(free, n_keep, select.min_per_group, relax=False)
        return Budgets(pinned + budget, None, group_inclusion(budget, free) if drawn else None)
    floors = np.zeros_like(free)
    if select.method == "prototypes":
        floors = prototypes.floors(free, n_keep, select.balance)
    return _pooled(ranked, pinned, free, floors, n_keep, drawn=drawn)


def _pooled(
    ranked: Ranked, pinned: Counts, free: Counts, floors: Counts, n_keep: int, *, drawn: bool
) -> Budgets:
    """Return the rule that keeps the floor of each concept, and then the first of all rows above it."""
    cuts = pooled(ranked, pinned + floors, n_keep - int(floors.sum()))
    shares = None
    if drawn:  # one draw over all rows has a known probability; floors and then a draw have none
        one = n_keep / max(1, int(free.sum())) if not floors.any() else np.nan
        shares = np.full(len(free), one)
    return Budgets(pinned + floors, cuts, shares)


def _chosen_by_score(ranked: Ranked, select: Select, table: pl.DataFrame, n_keep: int) -> Chosen:
    """Divide the rows to keep between those with a score and those without, and find the cuts of both."""
    scored = sum(len(rows["tie"]) for rows in free_rows(ranked, "tie"))
    null = sum(len(rows["tie"]) for rows in free_rows(ranked, "tie", scored=False))
    plan = null_plan(select.on_null, scored, null, count=n_keep)
    n_scored = min(plan.n_scored, room_for(select, scored)) if select.at_most else plan.n_scored
    if n_scored < plan.n_scored:
        log.warning(
            "select: %s rows with a score asked for, all %s that method %s leaves are kept",
            f"{plan.n_scored:,}", f"{n_scored:,}", select.method,
        )  # fmt: skip
    nulls = Cuts(None, nth_smallest(pairs(ranked, "draw", scored=False), plan.n_null)) if null else None
    rule = by_score(ranked, select, n_scored, scored)
    choice = Choice(rule, nulls, plan.n_null / null if null else 0.0)
    kept = int(table["n_pinned"].sum()) + n_scored + plan.n_null
    return Chosen(ranked, choice, table, kept, null, plan.n_null)


def room_for(select: Select, n_scored: int) -> int:
    """Return how many of `n_scored` rows are left after those that the method skips."""
    skipped = 0
    if select.method == "stratified":
        skipped = rows_of(select.beta, n_scored, "select.beta")
    elif select.method == "window" and select.offset is not None:
        skipped = select.offset
    elif select.method == "window":
        skipped = rows_of(select.drop_hardest or 0, n_scored, "select.drop_hardest")
    return max(0, n_scored - skipped)


def _with_complexity(context: Context, concepts: pl.DataFrame, sizes: Counts) -> pl.DataFrame:
    """Return the concepts with `d_inter` and `complexity`, which say the same whatever the method."""
    settings = context.recipe.select
    inter = _inter(context)
    value = complexity(inter, concepts["d_intra"].to_numpy(), settings.complexity, sizes=sizes)
    return concepts.with_columns(pl.Series("d_inter", inter), pl.Series("complexity", value))


def _inter(context: Context) -> npt.NDArray[np.float64]:
    centroids = load_centroids(context.run.concepts / "centroids.parquet")
    return inter_distance(centroids, neighbours=context.recipe.select.neighbours)


def with_density(
    context: Context, concepts: pl.DataFrame, sizes: Counts, n_keep: int
) -> tuple[pl.DataFrame, density.DensityBudgets]:
    """Return the concepts with what density pruning makes of `sizes` rows each, and its budgets."""
    settings, inter = context.recipe.select, _inter(context)
    order = concepts["smallest_uid"].rank("ordinal").fill_null(len(concepts) + 1).to_numpy().astype(np.int64)
    plan = density.density_budgets(
        sizes, concepts["d_intra"].to_numpy(), inter, n_keep=n_keep, temperature=settings.temperature,
        min_per_concept=settings.min_per_concept, kind=settings.complexity, smallest_uid_rank=order,
    )  # fmt: skip
    pinned = concepts["n_pinned"].to_numpy()
    table = concepts.with_columns(
        pl.Series("d_inter", inter), pl.Series("complexity", plan.complexity),
        pl.Series("probability", plan.probability), pl.Series("target", plan.target),
        pl.Series("budget", pinned + plan.budget), pl.Series("at_cap", plan.at_cap),
        pl.Series("at_floor", plan.at_floor),
    )  # fmt: skip
    return table, plan


def random_control(ranked: Ranked, wanted: int) -> Cuts:
    """Return the cut of a random selection of the same size among all eligible rows."""

    def read() -> Iterator[Pairs]:
        return ((rows["control"], rows["tie"]) for rows in ranked.blocks("control", "tie"))

    return Cuts(None, nth_smallest(read, wanted))


def free_rows(ranked: Ranked, *columns: str, scored: bool = True) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield columns of the rows that are not pinned and have (scored) or lack a score."""
    for rows in ranked.blocks("pinned", "score", *columns):
        chosen = ~rows["pinned"] & (~np.isnan(rows["score"]) == scored)
        yield {name: rows[name][chosen] for name in columns}


def pairs(
    ranked: Ranked, key: str = "key", ties: str = "tie", *, scored: bool = True
) -> Callable[[], Iterator[Pairs]]:
    """Return how to read (key, tie) of the rows that compete, as `nth_smallest` wants it."""
    return lambda: ((rows[key], rows[ties]) for rows in free_rows(ranked, key, ties, scored=scored))


# --- methods that go by one score over all rows -------------------------------------------------------------


def by_score(ranked: Ranked, select: Select, n_keep: int, n_scored: int) -> Rule:
    """Return the rule of a method that goes by `select.by`; keeps `n_keep` of `n_scored` rows."""
    if select.method == "stratified":
        return _layers(ranked, select, n_keep, n_scored)
    if select.method == "weighted":
        return Stretch(Cuts(None, nth_smallest(pairs(ranked, ties="draw"), n_keep)), "draw", known=False)
    span = _span(select, n_keep, n_scored)
    return Stretch(score.span_cuts(pairs(ranked), span))


def _span(select: Select, n_keep: int, total: int) -> score.Span:
    if n_keep == 0:  # wherever it begins, even behind the last row
        return score.Span("hardest", 0, 0)
    if select.method == "window":
        return score.window(n_keep, total, drop_hardest=select.drop_hardest, offset=select.offset)
    if select.method == "middle":
        return score.middle(n_keep, total, select.center)
    if select.method == "top":
        return score.Span("hardest", 0, n_keep)
    return (score.easiest if select.method == "easiest" else score.hardest)(n_keep, total)


def _layers(ranked: Ranked, select: Select, n_keep: int, n_scored: int) -> Layers:
    noisiest, n_cut = None, rows_of(select.beta, n_scored, "select.beta")
    if n_cut:
        noisiest = Cuts(None, nth_smallest(lambda: _cutoff_pairs(ranked), n_cut))
    if n_keep > n_scored - n_cut:
        raise BudgetError(
            f"{n_keep:,} rows asked for, {n_scored - n_cut:,} of {n_scored:,} are left after select.beta "
            f"{select.beta:g}; ask for fewer or lower beta"
        )

    def left(*columns: str) -> Iterator[dict[str, npt.NDArray[Any]]]:
        extra = ("cutoff",) if noisiest is not None else ()
        for rows in free_rows(ranked, "score", "tie", *columns, *extra):
            stays = ~noisiest_rows(noisiest, rows)
            yield {name: values[stays] for name, values in rows.items()}

    strata = find_strata(
        lambda: ((priority_key(rows["score"], "easiest"), rows["tie"]) for rows in left()),
        n_scored - n_cut,
        select.strata,
    )

    def grouped() -> Iterator[GroupedPairs]:
        return ((strata.of(rows["score"]), rows["draw"], rows["tie"]) for rows in left("draw"))

    sizes = np.zeros(select.strata, np.int64)
    for rows in left():
        sizes += np.bincount(strata.of(rows["score"]), minlength=select.strata)
    budget = strata_budgets(n_keep, sizes)
    return Layers(strata, nth_smallest_by_group(grouped, budget), group_inclusion(budget, sizes), noisiest)


def _cutoff_pairs(ranked: Ranked) -> Iterator[Pairs]:
    for rows in free_rows(ranked, "cutoff", "tie"):
        yield priority_key(rows["cutoff"], "hardest"), rows["tie"]


# --- methods that divide the budget over groups ---------------------------------------------------------------


def class_quotas(
    ranked: Ranked, select: Select, n_keep: int, classes: tuple[str, ...], *, drawn: bool
) -> Groups:
    """Return the rule that gives every class its quota; rows without a label are a class of their own."""
    sizes = np.zeros(len(classes) + 1, np.int64)
    for rows in ranked.blocks("pinned", "group"):
        sizes += np.bincount(rows["group"][~rows["pinned"]], minlength=len(sizes))
    floor = select.min_per_group if n_keep else 0  # none of nothing: that is no error
    quota = quotas(sizes, n_keep, floor, [*classes, "no label"])

    def grouped() -> Iterator[GroupedPairs]:
        for rows in ranked.blocks("pinned", "group", "key", "tie"):
            free = ~rows["pinned"]
            yield rows["group"][free], rows["key"][free], rows["tie"][free]

    shares = group_inclusion(quota, sizes) if drawn else None
    return Groups(nth_smallest_by_group(grouped, quota), shares)


def concept_quotas(free: Counts, n_keep: int, floor: int, *, relax: bool) -> Counts:
    """Return what each concept keeps, in proportion to its rows but for the floor.

    relax : lower the floor where it is more than there is to keep; otherwise that is a BudgetError (but
    keeping nothing is not).
    """
    if n_keep == 0 or (relax and int(np.minimum(free, floor).sum()) > n_keep):
        floor = n_keep // max(1, int((free > 0).sum()))
    return quotas(free, n_keep, floor, [f"concept {j}" for j in range(len(free))])


def pooled(ranked: Ranked, floors: Counts, n_keep: int) -> Cuts:
    """Return the cut that takes the `n_keep` first of the rows above their concept's floor."""

    def read() -> Iterator[Pairs]:
        for rows in ranked.blocks("rank", "concept", "key", "tie"):
            above = rows["rank"] > floors[rows["concept"]]
            yield rows["key"][above], rows["tie"][above]

    return Cuts(None, nth_smallest(read, n_keep))
