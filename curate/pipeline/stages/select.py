"""Stage `select`: how many samples each concept may keep, which ones, and one decision per row read.

Rows are ranked per bucket of concepts (`ranks`), a rule is found over all of them (`choice`), and the decision
of a row then follows from its own numbers (`decide`). Weights come last (`stage_weights`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from curate import schema
from curate.analysis.summary.said import say_concepts, say_first
from curate.errors import BudgetError, UsageError
from curate.execution.context import Context, log, reuse_or_remove
from curate.execution.stage import Stage
from curate.filtering.column_tables import OWN, check_column, say_missing
from curate.io import storage
from curate.ordering.span import rows_of
from curate.overrides.store import Overrides
from curate.pipeline.auto_recipe import explain_auto
from curate.pipeline.stages import refit
from curate.pipeline.stages import representatives as stand_ins
from curate.pipeline.stages.decide import DecideTask, decide_part
from curate.pipeline.stages.funnel import Funnel, count_rows, wanted_rows
from curate.pipeline.stages.read import find_shards
from curate.recipe import Recipe, canonical
from curate.runs.folder import BUDGETS, COVERED
from curate.scores.heads.label_errors import estimated_errors
from curate.scores.registry import folders_for, require_score, score_columns
from curate.selection.base import Selector
from curate.selection.quotas import Quotas
from curate.selection.rows import choose as choice
from curate.selection.rows import previous, ranks, unscored
from curate.selection.rows.first import First, find_first
from curate.selection.rows.objects_in import in_words
from curate.selection.rows.objects_in import noted as objects_noted
from curate.selection.rows.order import Order, noise_column, order_of, read_columns
from curate.selection.rows.overridden import OVERRIDDEN, Overridden, goes_by_labels, read_overrides
from curate.selection.rows.run_rows import RunRows, classes_of, columns_of, floor_classes_of, labels_of
from curate.selection.spread import DECIDES_NOTHING, Solved, Spread, effective_number, said_of
from curate.weighting import stage_weights

__all__ = ["VERSION", "Selection", "check_recipe", "run"]

VERSION = 2

#: The share of pairs that go as noise where `drop_noise` is auto: how many captions are wrong is not known.
PAIRS_SHARE = 0.3


class Selection(Stage):
    """Decides about every row read; decisions take the place of those before all at once."""

    name = "select"

    def run(self) -> bool:
        """Decide anew where anything changed; return whether anything was to do."""
        refitted = refit.run(self.context)
        return run(self.context) or refitted


def run(context: Context) -> bool:
    """Allocate, rank, decide and weigh; return whether anything was to do.

    Raises BudgetError if fewer rows are eligible than asked for.
    """
    folder, journal = context.run.decisions, Overrides(context.run)
    people = read_overrides(journal, labels=goes_by_labels(noise_column(context.recipe, context)))
    fingerprint, before = previous.for_stage(context, folder, _fingerprint(context, people))
    if context.run.is_done(folder, fingerprint):
        return False
    scratch = context.run.work / "select"
    work = _Work(context, fingerprint, before, scratch, scratch / "decisions")
    overrides, said_by_people = _snapshot(work, people)
    ranking = _rank(work, overrides)
    chosen = _choose(work, ranking)
    written = _write(work, ranking.funnel, chosen)
    facts = _facts(work, ranking, chosen, written, said_by_people)
    context.run.mark(work.new, fingerprint, facts)
    journal.write_table()
    context.run.publish(work.new, folder)  # the decisions before are there until these are, whatever fails
    storage.remove(scratch)
    _say(context.recipe, facts, (written.kept > 0).sum(), len(written.kept))
    return True


@dataclass(frozen=True)
class _Work:
    """What all steps go by. before : what was shipped. new : the decisions, until they take the place of those before."""

    context: Context
    fingerprint: str
    before: previous.Shipped | None
    scratch: Path
    new: Path


@dataclass(frozen=True)
class _Ranking:
    """The eligible rows in their ranks. wanted : how many to keep. nulls : how many lack the score, by why."""

    rows: RunRows
    funnel: Funnel
    first: First
    n_pinned: int
    wanted: int
    nulls: Mapping[str, int]


@dataclass(frozen=True)
class _Written:
    """What the decisions in `new` come to. concepts : all of them. kept : rows of each."""

    concepts: pl.DataFrame
    kept: npt.NDArray[np.int64]
    weights: stage_weights.Weights | None


def _snapshot(work: _Work, people: Overridden | None) -> tuple[Path | None, dict[str, Any]]:
    """Write what people decided below the decisions; return where, and what is noted of it."""
    path = work.new / OVERRIDDEN
    if people is None:
        storage.remove(path)
        return None, {}
    return path, people.write(work.context, path, work.fingerprint)


def _rank(work: _Work, overrides: Path | None) -> _Ranking:
    """Rank the eligible rows, once it is settled what goes as noise, and what a floor keeps."""
    context, select = work.context, work.context.recipe.select
    order = _order(context, work.before, overrides)
    spread = ranks.spread_rows(context, order, work.fingerprint, work.scratch)
    n_eligible, n_pinned = spread.counts
    funnel = count_rows(context, n_eligible, overrides)
    wanted = wanted_rows(context, funnel, n_pinned)
    first = _first(context, order, spread, wanted)
    wanted -= first.n_cut if select.keeps_all else 0
    rows = RunRows(context, order, ranks.rank_rows(context, spread, first, work.scratch), work.scratch)
    return _Ranking(rows, funnel, first, n_pinned, wanted, unscored.statuses(context, rows))


def _choose(work: _Work, ranking: _Ranking) -> choice.Chosen[RunRows]:
    """Return what the method keeps; no row has a known probability where others went ahead of a draw."""
    select = work.context.recipe.select
    chosen = choice.choose(ranking.rows, select, ranking.wanted, ranking.nulls)
    ahead = work.before is not None or ranking.first.n_floor > 0
    if ahead and (select.drawn or chosen.n_null):
        return replace(chosen, choice=replace(chosen.choice, known=False))
    return chosen


def _write(work: _Work, funnel: Funnel, chosen: choice.Chosen[RunRows]) -> _Written:
    """Write the decisions with their weights, and the table of concepts; raises BudgetError if they are not those wanted."""
    context, new = work.context, work.new
    concepts = _as_read(context.recipe.select.concept_table(chosen.rows, chosen.choice.rule))
    tables, weights = _decide_all(work, chosen, funnel), None
    if (weigher := context.recipe.weight) is not None:
        weights = stage_weights.run(context, weigher, tables, concepts, chosen.kept, work.fingerprint, new)
    context.run.keep_only(new, [part.name for part in context.parts])
    kept = _kept(context, new, len(concepts))
    if kept.sum() != chosen.kept:
        raise BudgetError(
            f"select: {kept.sum():,} rows kept where {chosen.kept:,} were asked for; please report this"
        )
    effective = kept.astype(np.float64) if weights is None else weights.effective_by_concept
    table = concepts.with_columns(pl.Series("effective", effective))
    _write_concepts(new / BUDGETS, table, kept, work.fingerprint)
    return _Written(concepts, kept, weights)


def _facts(
    work: _Work,
    ranking: _Ranking,
    chosen: choice.Chosen[RunRows],
    written: _Written,
    said_by_people: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what the mark of the decisions notes."""
    context, funnel = work.context, ranking.funnel
    facts: dict[str, Any] = {
        "kept": chosen.kept,
        "of_usable": chosen.kept / max(funnel.usable, 1),
        "concepts_kept": int((written.kept > 0).sum()),
        **funnel.facts,
        "pinned": ranking.n_pinned,
        "weights": written.weights and written.weights.facts,
    }
    facts |= {"overrides": said_by_people} if said_by_people else {}
    facts |= _method_facts(context, ranking.rows.order, chosen, ranking.first, written.concepts, written.kept)
    if chosen.rows.covered is not None:
        facts["objects"] = objects_noted(
            context, chosen.rows, chosen.rows.covered, work.new / COVERED, work.fingerprint
        )
    if context.recipe.select.takes_what_is_there:
        facts["auto"] = explain_auto(context, ranking.first, funnel.eligible, len(labels_of(context)))
    if chosen.n_null:
        facts["without_score"] = {
            "rows": chosen.n_null,
            "kept": chosen.kept_null,
            "statuses": ranking.nulls,
        }
    if work.before is not None:
        facts |= {
            "shipped_before": work.before.before,
            "shipped": previous.flips(context, work.new, work.before),
        }
    return facts


def _order(context: Context, before: previous.Shipped | None, overrides: Path | None) -> Order:
    """Return how rows are ordered, and what else the selection reads of each."""
    order = order_of(context.recipe, classes_of(context), context=context)
    return replace(
        order,
        shipped=before,
        floor_classes=floor_classes_of(context),
        columns=columns_of(context),
        overrides=overrides,
    )


def _method_facts(
    context: Context,
    order: Order,
    chosen: choice.Chosen[RunRows],
    first: First,
    concepts: pl.DataFrame,
    kept: npt.NDArray[np.int64],
) -> dict[str, Any]:
    """Return what the method notes of its choice, and what is warned about."""
    recipe = context.recipe
    facts: dict[str, Any] = {}
    divided = recipe.select.divides(chosen.choice.rule, chosen.rows.concepts)
    if divided is not None:
        facts |= {"complexity": divided.facts, "warnings": _even(recipe.select, divided)}
    noted = recipe.select.noted(chosen.rows, chosen.choice.rule, _score_facts(context))
    notes = noted.pop("notes", None)
    said = [
        *noted.pop("warnings", ()),
        *(one for name in order.columns for one in say_missing(context, name)),
    ]
    facts |= noted | ({"warnings": [*facts.get("warnings", ()), *said]} if said else {})
    if recipe.select.balances:
        some = int((concepts["n_eligible"] > 0).sum())
        facts["balance"] = {"effective": effective_number(kept), "concepts": some}
    if recipe.select.composed:
        facts["first"] = _first_facts(context, first)
    if notes:
        facts["first"] = {**facts.get("first", {}), "notes": notes}
    return facts


def _score_facts(context: Context) -> dict[str, Any]:
    """Return what the score that the method goes by noted; empty where it goes by none."""
    column = context.recipe.select.score_column
    found = score_columns(context.recipe).get(column or "")
    return context.facts(context.run.scores(found.folder)) if found is not None and found.folder else {}


def _even(select: Selector, divided: Spread) -> list[str]:
    """Return the warning that complexity decides nothing, where it was to decide and budgets are all but equal."""
    if select.density.complexity == "uniform" or divided.concepts < 2:
        return []
    if divided.effective_share <= DECIDES_NOTHING:
        return []
    solved = isinstance(select.density.temperature, Solved)
    cure = (
        "as select.temperature asks, or because all are as complex"
        if solved
        else "select.temperature: auto makes it count, select.subtract_mean: true too"
    )
    said = (
        f"complexity decides nothing here: all concepts get about the same share ({divided.effective:,.1f} effective "
        f"concepts of {divided.concepts:,}); {cure}"
    )
    return [said]


def _say(recipe: Recipe, facts: Mapping[str, Any], n_kept: int, n_concepts: int) -> None:
    """Log what was decided. n_kept : concepts of which some rows are."""
    log.info("select: %s eligible, %s kept (%.1f %% of usable), %s of %s concepts",
             f"{facts['eligible']:,}", f"{facts['kept']:,}", 100 * facts["of_usable"], n_kept, n_concepts)  # fmt: skip
    if "complexity" in facts:
        log.info("select: %s", said_of(facts["complexity"]))
    if "objects" in facts:
        log.info("select: %s", in_words(facts["objects"]))
    for text in say_concepts(None, facts.get("balance")):
        log.info(text)
    for warning in facts.get("warnings", ()):
        log.warning("select: %s", warning)
    for text in facts["auto"]["why"] if "auto" in facts else say_first(facts.get("first")):
        log.info("%s", text)
    if null := facts.get("without_score"):
        log.info("select: %s rows have no %s, %s of them are kept",
                 f"{null['rows']:,}", recipe.select.score_column, f"{null['kept']:,}")  # fmt: skip
    if "shipped" in facts and facts["shipped_before"] and facts["shipped"]["rows"]:
        log.info("select: of %s rows shipped before, %s are kept, %s dropped now (%s by the budget), %s gone",
                 *(f"{n:,}" for n in facts["shipped"].values()))  # fmt: skip


def _first(context: Context, order: Order, spread: ranks.Spread, wanted: int) -> First:
    """Return what goes as noise and what a floor keeps, before the method chooses."""
    select = context.recipe.select
    n_groups = len(spread.bucket) if select.floor_per == "concept" else len(order.floor_classes)
    if select.drop_noise != "auto":
        return find_first(spread.blocks, select, wanted, n_groups)
    noisy, gone = _estimated_noise(context, spread), ranks.noise_that_people_dropped(context, order)
    return find_first(spread.blocks, select, wanted, n_groups, noisy=noisy, gone=gone)


def _estimated_noise(context: Context, spread: ranks.Spread) -> int:
    """Return how many rows are to go as noise: the labels that heads count as wrong, or a share of the pairs.

    Raises UsageError where the number is not known, unless the method takes what is there.
    """
    column = noise_column(context.recipe, context)
    if column is None:
        if noise_column(context.recipe) is None:
            log.info(
                "select: no score says which labels or captions are wrong (add heads or pair to score): none are dropped"
            )
        return 0
    if score_columns(context.recipe)[column].folder == "pair":
        return rows_of(str(PAIRS_SHARE), spread.counts[0])
    try:
        return estimated_errors(context).to_drop
    except UsageError as error:
        if context.recipe.select.takes_what_is_there:
            log.info("%s; none are dropped", error)
            return 0
        raise


def _first_facts(context: Context, first: First) -> dict[str, object]:
    """Return what was settled before the method chose."""
    select = context.recipe.select
    facts: dict[str, object] = {}
    if select.drop_noise is not None:
        facts |= {"noise_by": noise_column(context.recipe, context), "noise": first.n_cut}
        settled = {"noise_held": first.n_held, "noise_gone": first.n_gone}
        facts |= {name: rows for name, rows in settled.items() if rows}
    if select.floor is not None:
        facts |= {
            "floor_per": select.floor_per,
            "floor": first.each,
            "groups": first.groups,
            "floor_rows": first.n_floor,
        }
    return facts


def _fingerprint(context: Context, people: Overridden | None) -> str:
    """Return what the decisions depend on: settings, filters, duplicates, the scores that are read, and people."""
    recipe, run = context.recipe, context.run
    weight = recipe.weight
    settings = {name: value for name, value in canonical(recipe.select).items() if name != "shipped"}
    noise, first = noise_column(recipe, context), noise_column(recipe)
    chosen = [] if noise == first else [noise or ""]  # of several that there are, or none
    columns = [*read_columns(recipe), *chosen, *([weight.column] if weight and weight.column else [])]
    scores = [run.fingerprint(run.scores(folder)) for folder in folders_for(recipe, columns)]
    refitted = [run.fingerprint(run.refitted)] if recipe.dedup.blocks is not None else []
    decided = [people.fingerprint] if people is not None else []
    held = recipe.select.drop_noise == "auto" and (people is not None or recipe.pin)
    decided += ["nothing else goes for noise that stays"] if held else []
    return storage.fingerprint(
        "select", VERSION, settings, weight and canonical(weight), recipe.seed,
        run.fingerprint(run.scores("filter")), run.fingerprint(run.duplicates), scores, *refitted, *decided, *chosen,
    )  # fmt: skip


def check_recipe(recipe: Recipe) -> None:
    """Raise UsageError for a method or weight that needs a score the recipe does not have."""
    order_of(recipe)
    previous.check_recipe(recipe)
    grouped = {name: "report.by" for name in recipe.counted_by} | recipe.select.grouped_by
    for name, setting in grouped.items():
        if name not in OWN:
            shards = (shard for source in recipe.source for shard in find_shards(source))
            check_column(recipe, name, setting, shards)
    _check_shares(recipe)
    if recipe.weight is not None and recipe.weight.column is not None:
        require_score(recipe, recipe.weight.column, "weight.by")
    if recipe.weight is not None and recipe.weight.needs_odds and not recipe.select.known_odds:
        raise UsageError(
            f"weight.method {recipe.weight.method} needs the probability of each row to be kept, which "
            f"select.method {recipe.select.method} does not have in closed form; use another of the two"
        )
    if recipe.weight is not None and recipe.weight.needs_odds and recipe.select.floor and recipe.select.drawn:
        raise UsageError(
            f"weight.method {recipe.weight.method} needs the probability of each row to be kept, which has no closed "
            "form where a floor goes ahead of a draw; leave out select.floor or take another weight"
        )


def _check_shares(recipe: Recipe) -> None:
    """Raise UsageError for a share of a source or a split that there is not: these are known before any row is read."""
    select = recipe.select
    if not isinstance(select, Quotas) or select.shares is None or select.per not in ("source", "split"):
        return
    names = {source.name for source in recipe.source}
    if select.per == "split":
        names = {shard.split for source in recipe.source for shard in find_shards(source)}
    if strange := next((name for name in select.shares if name not in names), None):
        raise UsageError(
            f"select.shares: there is no {select.per} {strange!r}; there are {', '.join(sorted(names)) or 'none'}"
        )


def _decide_all(work: _Work, chosen: choice.Chosen[RunRows], funnel: Funnel) -> tuple[Path, ...]:
    """Write one decision per row read; return the tables: in `new`, or scratch ones where weights are still to come."""
    context, scratch, fingerprint = work.context, work.scratch, work.fingerprint
    run = context.run
    final = context.recipe.weight is None
    control = choice.random_control(chosen.rows.ranked, chosen.kept)
    overrides = chosen.rows.order.overrides
    named = stand_ins.find(
        context, funnel.exact_duplicate, funnel.near_duplicate, scratch, fingerprint, overrides
    )
    template = DecideTask(
        run,
        "",
        0,
        chosen.rows.ranked,
        chosen.choice,
        control,
        named,
        (context.recipe.select.cut_by or "", noise_column(context.recipe, context) or ""),
        overrides,
        scratch,
        fingerprint,
    )
    tables = tuple(
        run.part(work.new, part.name) if final else scratch / f"decided-{part.name}.parquet"
        for part in context.parts
    )
    tasks = [
        replace(template, part=part.name, index=part.index, out=out)
        for part, out in zip(context.parts, tables, strict=True)
        if not reuse_or_remove(out, fingerprint)
    ]
    context.map("select", "parts", decide_part, tasks)
    return tables


def _kept(context: Context, folder: Path, n_concepts: int) -> npt.NDArray[np.int64]:
    """Return how many rows of each concept the written decisions keep."""
    kept = np.zeros(n_concepts, np.int64)
    for part in context.parts:
        path = context.run.part(folder, part.name)
        frame = pl.DataFrame(storage.read_table(path, ["keep", "concept"])).filter("keep")
        kept += np.bincount(frame["concept"].to_numpy(), minlength=n_concepts)
    return kept


def _as_read(table: pl.DataFrame) -> pl.DataFrame:
    """Return the concepts with all eligible rows, those that went as noise too; what a floor keeps is not pinned."""
    return table.with_columns(
        n_eligible=pl.col("n_eligible") + pl.col("n_cut"), n_pinned=pl.col("n_pinned") - pl.col("n_floor")
    )


def _write_concepts(path: Path, table: pl.DataFrame, kept: npt.NDArray[np.int64], fingerprint: str) -> None:
    """Write the table of concepts; without density budgets, a concept's budget is what it kept."""
    table = table.with_columns(pl.Series("kept", kept))
    if "budget" not in table.columns:
        unknown: Mapping[str, pl.DataType] = {"probability": pl.Float64(), "target": pl.Float64()}
        table = table.with_columns(pl.lit(None, kind).alias(name) for name, kind in unknown.items())
        table = table.with_columns(
            budget=pl.col("kept"), at_cap=pl.col("kept") == pl.col("n_eligible"), at_floor=pl.lit(False)
        )
    rows = table.select(schema.DECISION_CONCEPTS.names).to_arrow().cast(schema.DECISION_CONCEPTS)
    storage.write_parquet(path, rows, schema.DECISION_CONCEPTS, fingerprint)
