"""Stage `select`: how many samples each concept may keep, which ones, and one decision per row read.

Rows are ranked per bucket of concepts (`ranks`), a rule is found over all of them (`choice`), and the decision
of a row then follows from its own numbers (`rules`). Weights come last (`weigh`).
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
from curate.execution.context import Context, eligible, log, reuse_or_remove
from curate.execution.stage import Stage
from curate.filtering.column_tables import OWN, check_column, say_missing
from curate.filtering.nulls import say_nulls
from curate.io import storage
from curate.ordering.shares import n_keep
from curate.ordering.span import Cuts, rows_of
from curate.overrides.store import Overrides
from curate.pipeline.auto_recipe import explain_auto
from curate.pipeline.stages import refit
from curate.pipeline.stages import representatives as stand_ins
from curate.pipeline.stages.read import find_shards
from curate.recipe import Recipe, canonical
from curate.runs.folder import BUDGETS, COVERED, RunFolder
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
from curate.selection.rows.overridden import OVERRIDDEN, Overridden, goes_by_labels, judged, read_overrides
from curate.selection.rows.ranks import Ranked
from curate.selection.rows.run_rows import RunRows, classes_of, columns_of, floor_classes_of, labels_of
from curate.selection.rules import Choice
from curate.selection.spread import DECIDES_NOTHING, Solved, Spread, effective_number, said_of
from curate.weighting import stage_weights

__all__ = ["VERSION", "Funnel", "Selection", "check_recipe", "run"]

VERSION = 2

#: The share of pairs that go as noise where `drop_noise` is auto: how many captions are wrong is not known.
PAIRS_SHARE = 0.3


@dataclass(frozen=True)
class Funnel:
    """How many rows each step took; `input` less all that was taken is `eligible`. overridden : dropped by people."""

    input: int
    unusable: int
    exact_duplicate: int
    filtered: int
    near_duplicate: int
    eligible: int
    overridden: int = 0

    @property
    def usable(self) -> int:
        """Rows that could be read and embedded, copies included."""
        return self.input - self.unusable

    def __str__(self) -> str:
        """Say what each step took."""
        people = f", {self.overridden:,} dropped by people" if self.overridden else ""
        return (
            f"{self.input:,} rows in, {self.unusable:,} unusable, {self.exact_duplicate:,} exact duplicates, "
            f"{self.filtered:,} filtered, {self.near_duplicate:,} near-duplicates{people}"
        )

    @property
    def facts(self) -> dict[str, int]:
        """The numbers as they are noted."""
        return {name: n for name, n in vars(self).items() if name != "overridden" or n}


@dataclass(frozen=True)
class DecideTask:
    """One part to decide."""

    run: RunFolder
    part: str
    index: int
    ranked: Ranked
    choice: Choice
    control: Cuts
    stand_ins: tuple[Path, ...]
    cutoff: tuple[str, str]
    overrides: Path | None
    out: Path
    fingerprint: str


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
    recipe, folder = context.recipe, context.run.decisions
    journal = Overrides(context.run)
    people = read_overrides(journal, labels=goes_by_labels(noise_column(recipe, context)))
    fingerprint, before = previous.for_stage(context, folder, _fingerprint(context, people))
    if context.run.is_done(folder, fingerprint):
        return False
    scratch = context.run.work / "select"
    new = scratch / "decisions"
    said_by_people = people.write(context, new / OVERRIDDEN, fingerprint) if people is not None else {}
    if people is None:
        storage.remove(new / OVERRIDDEN)
    overrides = new / OVERRIDDEN if people is not None else None
    order = _order(context, before, overrides)
    spread = ranks.spread_rows(context, order, fingerprint, scratch)
    n_eligible, n_pinned = spread.counts
    funnel = _funnel(context, n_eligible, overrides)
    wanted = _wanted(recipe.select, funnel, n_pinned, _nulls(context))
    first = _first(context, order, spread, wanted)
    wanted -= first.n_cut if recipe.select.keeps_all else 0
    ranked = ranks.rank_rows(context, spread, first, scratch)
    rows = RunRows(context, order, ranked, scratch)
    nulls = unscored.statuses(context, rows)
    chosen = choice.choose(rows, recipe.select, wanted, nulls)
    concepts = _as_read(recipe.select.concept_table(chosen.rows, chosen.choice.rule))
    ahead = before is not None or first.n_floor > 0
    if ahead and (recipe.select.drawn or chosen.n_null):
        chosen = replace(chosen, choice=replace(chosen.choice, known=False))
    wanted, weights = chosen.kept, None
    tables = _decide_all(context, chosen, funnel, fingerprint, scratch, new)
    if recipe.weight is not None:
        weights = stage_weights.run(context, recipe.weight, tables, concepts, wanted, fingerprint, new)
    context.run.keep_only(new, [part.name for part in context.parts])
    kept = _kept(context, new, len(concepts))
    if kept.sum() != wanted:
        raise BudgetError(
            f"select: {kept.sum():,} rows kept where {wanted:,} were asked for; please report this"
        )
    effective = kept.astype(np.float64) if weights is None else weights.effective_by_concept
    table = concepts.with_columns(pl.Series("effective", effective))
    _write_concepts(new / BUDGETS, table, kept, fingerprint)
    share = wanted / max(funnel.usable, 1)
    facts: dict[str, Any] = {
        "kept": wanted,
        "of_usable": share,
        "concepts_kept": int((kept > 0).sum()),
        **funnel.facts,
    }
    facts |= {"pinned": n_pinned, "weights": weights and weights.facts}
    facts |= {"overrides": said_by_people} if said_by_people else {}
    facts |= _method_facts(context, order, chosen, first, concepts, kept)
    if chosen.rows.covered is not None:
        facts["objects"] = objects_noted(
            context, chosen.rows, chosen.rows.covered, new / COVERED, fingerprint
        )
    if recipe.select.takes_what_is_there:
        facts["auto"] = explain_auto(context, first, n_eligible, len(labels_of(context)))
    if chosen.n_null:
        facts["without_score"] = {"rows": chosen.n_null, "kept": chosen.kept_null, "statuses": nulls}
    if before is not None:
        facts |= {"shipped_before": before.before, "shipped": previous.flips(context, new, before)}
    context.run.mark(new, fingerprint, facts)
    journal.write_table()
    context.run.publish(new, folder)  # the decisions before are there until these are, whatever fails
    storage.remove(scratch)
    _say(recipe, facts, (kept > 0).sum(), len(kept))
    return True


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


def _decide_all(
    context: Context,
    chosen: choice.Chosen[RunRows],
    funnel: Funnel,
    fingerprint: str,
    scratch: Path,
    new: Path,
) -> tuple[Path, ...]:
    """Write one decision per row read; return the tables: in `new`, or scratch ones where weights are still to come."""
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
        run.part(new, part.name) if final else scratch / f"decided-{part.name}.parquet"
        for part in context.parts
    )
    tasks = [
        replace(template, part=part.name, index=part.index, out=out)
        for part, out in zip(context.parts, tables, strict=True)
        if not reuse_or_remove(out, fingerprint)
    ]
    context.map("select", "parts", _decide, tasks)
    return tables


def _funnel(context: Context, n_eligible: int, overrides: Path | None) -> Funnel:
    run = context.run
    totals = np.zeros(6, np.int64)
    for part in context.parts:
        samples = pl.DataFrame(storage.read_table(run.part(run.samples, part.name), ["outcome", "copy_of"]))
        ok = samples["outcome"] == "ok"
        copies = ok & samples["copy_of"].is_not_null()
        rows = storage.read_table(
            run.part(run.scores("filter"), part.name), ["uid", "filter_reason", "pinned"]
        )
        rows_judged = judged(run, part.name, pl.DataFrame(rows), overrides)
        dropped = rows_judged["override"].eq_missing("drop")
        reason = rows_judged["filter_reason"].filter(~dropped)
        near = rows_judged["duplicate_of"]
        same = int((reason == "exact_duplicate").sum())
        failed = len(reason) - reason.null_count() - same
        lost = (copies.sum() + same, failed, len(near) - near.null_count(), dropped.sum())
        totals += np.array([len(samples), (~ok).sum(), *lost], np.int64)
    n_input, unusable, copied, filtered, n_near, overridden = totals.tolist()
    funnel = Funnel(n_input, unusable, copied, filtered, n_near, n_eligible, overridden)
    if funnel.input - sum(totals[1:].tolist()) != n_eligible:
        raise BudgetError(
            f"select: rows do not add up: {funnel}, but {n_eligible:,} eligible; please report this"
        )
    return funnel


def _wanted(settings: Selector, funnel: Funnel, n_pinned: int, nulls: str) -> int:
    """Return the exact number of rows to keep; raises BudgetError if fewer are eligible, or more are pinned."""
    if settings.keeps_all:
        return funnel.eligible
    if settings.count is not None:
        wanted, asked = settings.count, f"select.count {settings.count:,}"
    else:
        base: int = getattr(funnel, settings.of)
        wanted = n_keep(settings.keep or 0, base)
        asked = f"select.keep {settings.keep:g} of {base:,} {settings.of} rows = {wanted:,}"
    if n_pinned > wanted:
        raise BudgetError(
            f"{asked}, but {n_pinned:,} rows are pinned or kept by people; ask for more, or pin fewer"
        )
    if wanted <= funnel.eligible:
        return wanted
    if settings.at_most:
        log.warning(
            "select: %s asked for, all %s eligible rows are kept (%s)", asked, f"{funnel.eligible:,}", funnel
        )
        return funnel.eligible
    raise BudgetError(
        f"{asked}, but only {funnel.eligible:,} rows are eligible ({funnel}); "
        f"{nulls}ask for fewer, or accept what there is with --at-most"
    )


def _nulls(context: Context) -> str:
    """Say which conditions dropped rows for want of a value, for the error of too few rows."""
    return "".join(f"{said}; " for said in say_nulls(context.facts(context.run.scores("filter"))))


def _decide(task: DecideTask) -> None:
    samples = pl.DataFrame(storage.read_table(task.run.part(task.run.samples, task.part)))
    verdict = _verdicts(task)
    named = stand_ins.of_part(task.stand_ins, task.index)
    copied = pl.col("copy_of").is_not_null()
    broken = pl.col("outcome") != "ok"
    frame = (
        samples.select("uid", "occurrence", "shard", "row", "outcome", "copy_of")
        .with_columns(joined=pl.when(~broken & ~copied).then(pl.col("uid")))
        .join(verdict, left_on="joined", right_on="uid", how="left", maintain_order="left", validate="m:1")
        .with_columns(position=pl.int_range(pl.len(), dtype=pl.Int32))
        .join(named, on="position", how="left", maintain_order="left", validate="1:1")
        .with_columns(
            reason=pl.when(broken).then(pl.format("unusable:{}", pl.col("outcome")))
            .when(copied).then(pl.lit("exact_duplicate"))
            .when(pl.col("override") == "drop").then(pl.lit("dropped:override"))
            .when(pl.col("filter_reason").is_not_null()).then(pl.col("filter_reason"))
            .when(pl.col("duplicate_of").is_not_null()).then(pl.lit("near_duplicate"))
            .when(pl.col("chosen") & (pl.col("override") == "keep")).then(pl.lit("kept:override"))
            .when(pl.col("chosen") & pl.col("pinned")).then(pl.lit("pinned"))
            .when(pl.col("chosen") & pl.col("spared").is_not_null()).then(pl.lit("spared"))
            .when(pl.col("chosen")).then(pl.lit("kept"))
            .when(pl.col("cut_off")).then(pl.lit(f"cutoff:{task.cutoff[0]}"))
            .when(pl.col("noise")).then(pl.lit(f"cutoff:{task.cutoff[1]}"))
            .otherwise(pl.lit("over_budget")),
            duplicate_of=pl.when(~broken & copied).then(pl.coalesce("stand_in", "copy_of"))
            .when(pl.col("filter_reason") == "exact_duplicate").then(pl.coalesce("stand_in", "same_content_as"))
            .otherwise(pl.col("duplicate_of")),
        )
        .with_columns(keep=pl.col("reason").is_in(schema.KEPT_REASONS))
        .with_columns(weight=pl.col("keep").cast(pl.Float32), random_control=pl.col("random_control").fill_null(False))
    )  # fmt: skip
    table = frame.select(schema.DECISIONS.names).to_arrow().cast(schema.DECISIONS)
    storage.write_parquet(task.out, table, schema.DECISIONS, task.fingerprint)


def _verdicts(task: DecideTask) -> pl.DataFrame:
    """Return one row per usable sample of a part: concept, distance, rank, and what the rule says of it."""
    frame = eligible(task.run, task.part, ("filter",), final=True)
    frame = judged(task.run, task.part, frame, task.overrides).with_row_index("position")
    rows = task.ranked.part(task.index)
    noise = rows.get("cut", np.zeros(len(rows["key"]), np.bool_))
    chosen, probability, cut_off = (
        np.zeros(len(noise), np.bool_),
        np.zeros(len(noise)),
        np.zeros(len(noise), np.bool_),
    )
    competing = {name: values[~noise] for name, values in rows.items()}
    chosen[~noise], probability[~noise], cut_off[~noise] = task.choice.of(competing)
    said = pl.DataFrame(
        {
            "position": rows["position"],
            "rank": rows["rank"],
            "chosen": chosen,
            "cut_off": cut_off,
            "noise": noise,
            "inclusion_prob": probability.astype(np.float32),
            "random_control": task.control.holds(rows["control"], rows["tie"]),
        },
        schema_overrides={"position": pl.Int32, "rank": pl.Int32},
    ).with_columns(pl.col("inclusion_prob").fill_nan(None))
    return (
        frame.select(
            pl.col("uid", "concept", "distance", "filter_reason", "pinned", "same_content_as", "spared"),
            pl.col("duplicate_of", "override"),
            pl.col("position").cast(pl.Int32),
        )
        .join(said, on="position", how="left", maintain_order="left", validate="1:1")
        .with_columns(pl.col("chosen", "cut_off", "noise", "random_control").fill_null(False))
        .drop("position")
    )


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
