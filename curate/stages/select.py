"""Stage `select`: how many samples each concept may keep, which ones, and one decision per row read.

Ranks are made per bucket of concepts; budgets need one small table of all concepts; the decision of a
row then follows from its own rank and its concept's budget.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from curate import schema, storage
from curate.cluster.complexity import inter_distance
from curate.errors import BudgetError
from curate.identity import hash_uids
from curate.runs import RunFolder
from curate.select import cutoff, density, prototypes
from curate.select.counts import n_keep
from curate.select.ranking import rank_within
from curate.settings import Select
from curate.stages import shuffle, stand_ins
from curate.stages.base import Context, eligible, log, made
from curate.stages.cluster import load_centroids
from curate.stages.priority import with_priority

__all__ = ["VERSION", "Funnel", "run"]

VERSION = 1
ROW_BYTES = 250

ROWS = pa.schema(
    [
        ("part", pa.int32()),
        ("position", pa.int32()),
        ("concept", pa.int32()),
        ("distance", pa.float32()),
        ("key", pa.uint64()),
        ("tie", pa.uint64()),
        ("control", pa.uint64()),
        ("uid", pa.string()),
    ]
)
#: What comes back to a part: the rank of each eligible row beside the numbers that order all rows.
RANKED = pa.schema(
    [(f.name, f.type) for f in ROWS if f.name not in ("distance", "uid")] + [("rank", pa.int32())]
)


@dataclass(frozen=True)
class Funnel:
    """How many rows each step took; `input` less all that was taken is `eligible`."""

    input: int
    unusable: int
    exact_duplicate: int
    filtered: int
    near_duplicate: int
    eligible: int

    @property
    def usable(self) -> int:
        """Rows that could be read and embedded, copies included."""
        return self.input - self.unusable

    def __str__(self) -> str:
        """Say what each step took."""
        return (
            f"{self.input:,} rows in, {self.unusable:,} unusable, {self.exact_duplicate:,} exact duplicates, "
            f"{self.filtered:,} filtered, {self.near_duplicate:,} near-duplicates"
        )


@dataclass(frozen=True)
class SpreadTask:
    """One part whose eligible rows go to buckets."""

    run: RunFolder
    part: str
    index: int
    families: tuple[str, ...]
    prefer: str
    seed: int
    bucket: npt.NDArray[np.int32]
    out: Path
    stamp: str


@dataclass(frozen=True)
class RankTask:
    """One bucket to rank."""

    bucket: int
    files: tuple[Path, ...]
    n_parts: int
    out: Path
    stats: Path
    stamp: str


@dataclass(frozen=True)
class Cut:
    """Rows up to this pair of numbers are in; None: no row is."""

    key: int
    tie: int

    def holds(self, key: pl.Expr, tie: pl.Expr) -> pl.Expr:
        """Return whether a row is at or before the cut."""
        return (key < self.key) | ((key == self.key) & (tie <= self.tie))


@dataclass(frozen=True)
class DecideTask:
    """One part to decide."""

    run: RunFolder
    part: str
    index: int
    families: tuple[str, ...]
    ranked: tuple[Path, ...]
    stand_ins: tuple[Path, ...]
    budget: npt.NDArray[np.int64]
    pooled: Cut | None
    control: Cut | None
    out: Path
    stamp: str


def run(context: Context) -> bool:
    """Allocate, rank and decide; return whether anything was to do.

    Raises BudgetError if fewer rows are eligible than asked for.
    """
    recipe, folder = context.recipe, context.run.decisions
    filtered = context.run.stamp(context.run.scores("filter"))
    compared = context.run.stamp(context.run.duplicates)
    stamp = storage.fingerprint(
        "select", VERSION, recipe.select.model_dump(), recipe.weight, recipe.seed, filtered, compared
    )
    if context.run.is_done(folder, stamp):
        return False
    context.run.unmark(folder)
    scratch = context.run.work / "select"
    ranked, concepts = _rank(context, stamp, scratch)
    funnel = _funnel(context, int(concepts["n_eligible"].sum()))
    wanted = _wanted(recipe.select, funnel)
    table, pooled = _allocate(context, concepts, ranked, wanted)
    control = _cut(ranked, wanted, "control")
    named = stand_ins.find(context, funnel.exact_duplicate, funnel.near_duplicate, scratch, stamp)
    template = DecideTask(
        context.run, "", 0, recipe.score, ranked, named, table["budget"].to_numpy(), pooled, control, folder,
        stamp,
    )  # fmt: skip
    tasks = [
        replace(template, part=part.name, index=part.index, out=out)
        for part in context.parts
        if not made(out := context.run.part(folder, part.name), stamp)
    ]
    context.map("select", "parts", _decide, tasks)
    context.run.keep_only(folder, [part.name for part in context.parts])
    kept = _kept(context, len(concepts))
    if kept.sum() != wanted:
        raise BudgetError(
            f"select: {kept.sum():,} rows kept where {wanted:,} were asked for; please report this"
        )
    _write_concepts(folder / "concepts.parquet", table, kept, recipe.select.method, stamp)
    share = wanted / max(funnel.usable, 1)
    facts = {"kept": wanted, "of_usable": share, "concepts_kept": int((kept > 0).sum()), **vars(funnel)}
    context.run.mark(folder, stamp, facts)
    storage.remove(scratch)
    log.info("select: %s eligible, %s kept (%.1f %% of usable), %s of %s concepts",
             f"{funnel.eligible:,}", f"{wanted:,}", 100 * share, (kept > 0).sum(), len(concepts))  # fmt: skip
    return True


def _funnel(context: Context, n_eligible: int) -> Funnel:
    run = context.run
    totals = np.zeros(5, np.int64)
    for part in context.parts:
        samples = pl.DataFrame(storage.read_table(run.part(run.samples, part.name), ["outcome", "copy_of"]))
        ok = samples["outcome"] == "ok"
        copies = ok & samples["copy_of"].is_not_null()
        reason = storage.read_table(run.part(run.scores("filter"), part.name))["filter_reason"]
        found = storage.read_table(run.part(run.duplicates, part.name))["duplicate_of"]
        failed = len(reason) - reason.null_count
        totals += [len(samples), (~ok).sum(), copies.sum(), failed, len(found) - found.null_count]
    n_input, unusable, copied, filtered, near = totals.tolist()
    funnel = Funnel(n_input, unusable, copied, filtered, near, n_eligible)
    if funnel.input - sum(totals[1:].tolist()) != n_eligible:
        raise BudgetError(
            f"select: rows do not add up: {funnel}, but {n_eligible:,} eligible; please report this"
        )
    return funnel


def _wanted(settings: Select, funnel: Funnel) -> int:
    """Return the exact number of rows to keep; raises BudgetError if fewer are eligible."""
    if settings.count is not None:
        wanted, asked = settings.count, f"select.count {settings.count:,}"
    else:
        base: int = getattr(funnel, settings.of)
        wanted = n_keep(settings.keep or 0, base)
        asked = f"select.keep {settings.keep:g} of {base:,} {settings.of} rows = {wanted:,}"
    if wanted <= funnel.eligible:
        return wanted
    if settings.at_most:
        log.warning("select: %s asked for, all %s eligible rows are kept", asked, f"{funnel.eligible:,}")
        return funnel.eligible
    raise BudgetError(
        f"{asked}, but only {funnel.eligible:,} rows are eligible ({funnel}); "
        "ask for fewer, or accept what there is with --at-most"
    )


def _rank(context: Context, stamp: str, scratch: Path) -> tuple[tuple[Path, ...], pl.DataFrame]:
    """Rank the eligible rows of every concept; return the ranks and one row of facts per concept."""
    recipe, run = context.recipe, context.run
    assigned = storage.read_table(run.concepts / "concepts.parquet", ["n_assigned"])["n_assigned"].to_numpy()
    bucket = shuffle.plan_buckets(assigned, max(1, context.task_memory // 3 // ROW_BYTES))
    n_buckets = int(bucket.max(initial=0)) + 1
    # What is scratch depends on the buckets, and they on `memory`, which may differ when a run goes on.
    stamp = storage.fingerprint(stamp, bucket.tolist())
    prefer = "random" if recipe.select.method == "random" else recipe.select.prefer
    spread = tuple(scratch / f"rows-{part.name}.arrow" for part in context.parts)
    tasks = [
        SpreadTask(run, part.name, part.index, recipe.score, prefer, recipe.seed, bucket, out, stamp)
        for part, out in zip(context.parts, spread, strict=True)
        if not made(out, stamp)
    ]
    context.map("select", "parts", _spread, tasks)
    ranks = [
        RankTask(b, spread, len(context.parts), scratch / f"ranks-{b}-of-{n_buckets}.arrow",
                 scratch / f"stats-{b}-of-{n_buckets}.parquet", stamp)
        for b in range(n_buckets)
    ]  # fmt: skip
    context.map("select", "buckets", _rank_bucket, [task for task in ranks if not made(task.out, stamp)])
    stats = pl.concat([pl.DataFrame(storage.read_table(task.stats)) for task in ranks])
    every = pl.DataFrame({"concept": np.arange(len(assigned), dtype=np.int32)})
    return tuple(task.out for task in ranks), every.join(stats, on="concept", how="left").sort(
        "concept"
    ).with_columns(pl.col("n_eligible", "d_intra").fill_null(0))


def _spread(task: SpreadTask) -> None:
    frame = eligible(task.run, task.part, (*task.families, "filter")).with_row_index("position")
    found = pl.DataFrame(
        storage.read_table(task.run.part(task.run.duplicates, task.part), ["uid", "duplicate_of"])
    )
    dropped = found.filter(pl.col("duplicate_of").is_not_null())
    frame = frame.filter(pl.col("filter_reason").is_null() & ~pl.col("uid").is_in(dropped["uid"].implode()))
    frame = with_priority(frame, task.prefer, task.seed, "select")
    control = hash_uids(frame["uid"].to_list(), task.seed, "select", "control")
    table = frame.with_columns(
        pl.lit(task.index, pl.Int32).alias("part"),
        pl.col("position").cast(pl.Int32),
        pl.Series("control", control, pl.UInt64),
    )
    rows = table.select(ROWS.names).to_arrow().cast(ROWS)
    groups = task.bucket[frame["concept"].to_numpy()]
    shuffle.scatter(task.out, groups, int(task.bucket.max(initial=0)) + 1, rows.take, ROWS, task.stamp)


def _rank_bucket(task: RankTask) -> None:
    rows = pl.DataFrame(shuffle.gather(task.files, task.bucket))
    rank = rank_within(
        rows["concept"].to_numpy(), rows["key"].to_numpy(), rows["tie"].to_numpy(), rows["uid"].to_numpy()
    )
    groups = rows.group_by("concept").agg(
        pl.len().alias("n_eligible"), pl.col("uid").min().alias("smallest_uid"), "distance"
    )
    exact = [math.fsum(values) / len(values) for values in groups["distance"].to_list()]
    stats = groups.drop("distance").with_columns(pl.Series("d_intra", exact, pl.Float64)).sort("concept")
    stats = stats.with_columns(pl.col("n_eligible").cast(pl.Int64))
    table = stats.select("concept", "n_eligible", "d_intra", "smallest_uid").to_arrow()
    storage.write_parquet(task.stats, table, table.schema, task.stamp)
    back = rows.with_columns(pl.Series("rank", rank)).sort("part", "position").select(RANKED.names)
    ranked = back.to_arrow().cast(RANKED)
    shuffle.scatter(task.out, back["part"].to_numpy(), task.n_parts, ranked.take, RANKED, task.stamp)


def _allocate(
    context: Context, concepts: pl.DataFrame, ranked: tuple[Path, ...], wanted: int
) -> tuple[pl.DataFrame, Cut | None]:
    """Return the concepts with their budgets, and the cut of what is taken from all concepts together."""
    settings = context.recipe.select
    sizes, intra = concepts["n_eligible"].to_numpy(), concepts["d_intra"].to_numpy()
    inter = inter_distance(
        load_centroids(context.run.concepts / "centroids.parquet"), neighbours=settings.neighbours
    )
    order = concepts["smallest_uid"].rank("ordinal").fill_null(len(concepts) + 1).to_numpy().astype(np.int64)
    plan = density.density_budgets(
        sizes, intra, inter, n_keep=wanted, temperature=settings.temperature,
        min_per_concept=settings.min_per_concept, kind=settings.complexity, smallest_uid_rank=order,
    )  # fmt: skip
    table = concepts.with_columns(
        pl.Series("d_inter", inter), pl.Series("complexity", plan.complexity),
        pl.Series("probability", plan.probability), pl.Series("target", plan.target),
        pl.Series("budget", plan.budget), pl.Series("at_cap", plan.at_cap), pl.Series("at_floor", plan.at_floor),
    )  # fmt: skip
    if settings.method == "density":
        return table, None
    if settings.method == "random":
        floors = np.zeros(len(sizes), np.int64)
    else:
        floors = prototypes.floors(sizes, wanted, settings.balance)
    pooled = _cut(ranked, wanted - int(floors.sum()), "key", floors)
    return table.with_columns(pl.Series("budget", floors)), pooled


def _cut(
    ranked: tuple[Path, ...], count: int, column: str, floors: npt.NDArray[np.int64] | None = None
) -> Cut | None:
    """Return the cut that takes the `count` first rows by `column`, of those above their concept's floor."""

    def read() -> Iterator[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]]:
        for path in ranked:
            reader = storage.map_ipc(path)
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                key, tie = batch.column(column).to_numpy(), batch.column("tie").to_numpy()
                if floors is not None:
                    above = batch.column("rank").to_numpy() > floors[batch.column("concept").to_numpy()]
                    key, tie = key[above], tie[above]
                yield key, tie

    pair = cutoff.nth_smallest(read, count)
    return None if pair is None else Cut(*pair)


def _decide(task: DecideTask) -> None:
    samples = pl.DataFrame(storage.read_table(task.run.part(task.run.samples, task.part)))
    verdict = _verdicts(task)
    final = pl.DataFrame(
        storage.read_table(task.run.part(task.run.duplicates, task.part), ["uid", "duplicate_of"])
    )
    named = stand_ins.of_part(task.stand_ins, task.index)
    copied = pl.col("copy_of").is_not_null()
    broken = pl.col("outcome") != "ok"
    frame = (
        samples.select("uid", "occurrence", "shard", "row", "outcome", "copy_of")
        .with_columns(joined=pl.when(~broken & ~copied).then(pl.col("uid")))
        .join(verdict, left_on="joined", right_on="uid", how="left", maintain_order="left", validate="m:1")
        .join(final, left_on="joined", right_on="uid", how="left", maintain_order="left", validate="m:1")
        .with_columns(position=pl.int_range(pl.len(), dtype=pl.Int32))
        .join(named, on="position", how="left", maintain_order="left", validate="1:1")
        .with_columns(
            reason=pl.when(broken).then(pl.format("unusable:{}", pl.col("outcome")))
            .when(copied).then(pl.lit("exact_duplicate"))
            .when(pl.col("filter_reason").is_not_null()).then(pl.col("filter_reason"))
            .when(pl.col("duplicate_of").is_not_null()).then(pl.lit("near_duplicate"))
            .when(pl.col("chosen")).then(pl.lit("kept"))
            .otherwise(pl.lit("over_budget")),
            duplicate_of=pl.when(~broken & copied).then(pl.coalesce("stand_in", "copy_of"))
            .otherwise(pl.col("duplicate_of")),
        )
        .with_columns(keep=pl.col("reason") == "kept")
        .with_columns(weight=pl.col("keep").cast(pl.Float32), random_control=pl.col("random_control").fill_null(False))
    )  # fmt: skip
    table = frame.select(schema.DECISIONS.names).to_arrow().cast(schema.DECISIONS)
    storage.write_parquet(task.out, table, schema.DECISIONS, task.stamp)


def _verdicts(task: DecideTask) -> pl.DataFrame:
    """Return one row per usable sample of a part: concept, distance, rank, and whether it is chosen."""
    frame = eligible(task.run, task.part, (*task.families, "filter")).with_row_index("position")
    ranked = pl.DataFrame(shuffle.gather(task.ranked, task.index)).drop("part", "concept")
    budget = pl.Series("budget", task.budget)
    chosen = pl.col("rank") <= pl.col("budget")
    if task.pooled is not None:
        chosen = chosen | task.pooled.holds(pl.col("key"), pl.col("tie"))
    control = pl.lit(False) if task.control is None else task.control.holds(pl.col("control"), pl.col("tie"))
    return (
        frame.select("uid", "concept", "distance", "filter_reason", pl.col("position").cast(pl.Int32))
        .with_columns(budget.gather(frame["concept"].cast(pl.UInt32)))
        .join(ranked, on="position", how="left", maintain_order="left", validate="1:1")
        .with_columns(chosen=chosen.fill_null(False), random_control=control.fill_null(False))
        .select("uid", "concept", "distance", "filter_reason", "rank", "chosen", "random_control")
    )


def _kept(context: Context, n_concepts: int) -> npt.NDArray[np.int64]:
    """Return how many rows of each concept the written decisions keep."""
    kept = np.zeros(n_concepts, np.int64)
    for part in context.parts:
        path = context.run.part(context.run.decisions, part.name)
        frame = pl.DataFrame(storage.read_table(path, ["keep", "concept"])).filter("keep")
        kept += np.bincount(frame["concept"].to_numpy(), minlength=n_concepts)
    return kept


def _write_concepts(
    path: Path, table: pl.DataFrame, kept: npt.NDArray[np.int64], method: str, stamp: str
) -> None:
    """Write the table of concepts; without density budgets, a concept's budget is what it kept."""
    table = table.with_columns(pl.Series("kept", kept))
    if method != "density":
        unknown: Mapping[str, pl.DataType] = {"probability": pl.Float64(), "target": pl.Float64()}
        table = table.with_columns(pl.lit(None, kind).alias(name) for name, kind in unknown.items())
        table = table.with_columns(
            budget=pl.col("kept"), at_cap=pl.col("kept") == pl.col("n_eligible"), at_floor=pl.lit(False)
        )
    rows = table.select(schema.DECISION_CONCEPTS.names).to_arrow().cast(schema.DECISION_CONCEPTS)
    storage.write_parquet(path, rows, schema.DECISION_CONCEPTS, stamp)
