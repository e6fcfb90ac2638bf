"""One look at every part of a run: samples to show, counts of groups, and an even sample of the scores.

Parts are looked at by workers, one by one, and what each found is joined with what was found before, so that
memory holds one part a worker and what the page shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from curate import schema
from curate.execution.context import Context, eligible
from curate.hashing import tie
from curate.io import storage
from curate.runs.folder import RunFolder

__all__ = ["LIMITS", "MAX_GROUPS", "NO_CONCEPT", "Seen", "Wanted", "look_at_all"]

#: How many samples of each list are looked for: per concept, or (the last ones) in the whole run.
LIMITS = {
    "typical": 3,
    "hardest_kept": 12,
    "easiest_dropped": 12,
    "most_typical": 12,
    "duplicates": 6,
    "near_cut": 12,
    "drawn": 12,
    "mislabelled": 48,
}
#: The concept of lists over the whole run.
NO_CONCEPT = -1
#: Of more classes the largest are told apart.
MAX_GROUPS = 10_000

PICKS = {
    "list": pl.String, "concept": pl.Int32, "order": pl.Float64, "value": pl.Float64, "uid": pl.String,
    "part": pl.Int32, "row": pl.Int64, "shard": pl.String, "caption": pl.String, "label": pl.String,
    "reason": pl.String, "other": pl.String,
}  # fmt: skip
_GROUPS = {"by": pl.String, "group": pl.String, "rows": pl.Int64, "kept": pl.Int64}
_FIRST = {"concept": pl.Int32, "smallest_uid": pl.String, "pinned": pl.Int64}
_ENDS = {
    "rule": pl.String, "column": pl.String, "passed_low": pl.Float64, "passed_high": pl.Float64,
    "failed_low": pl.Float64, "failed_high": pl.Float64,
}  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """What to look for.

    families : folders in 3_scores. shown : concepts of the table, telling : those with a gallery. limits : samples
    in each list, by its name. hardness : a score and the factor that makes larger values harder.
    doubt : the column of predicted labels, a score, and the factor that makes larger values more doubtful.
    ends : of each rule its reason ("" for the selection) and the score it cuts. step : one row of so many is in the
    sample of scores.
    """

    families: tuple[str, ...]
    shown: tuple[int, ...]
    telling: tuple[int, ...]
    hardness: tuple[str, int]
    doubt: tuple[str, str, int] | None
    ends: tuple[tuple[str, str], ...]
    step: int
    seed: int
    limits: Mapping[str, int]


@dataclass(frozen=True)
class Seen:
    """What was found; the frames are those of `Wanted` in the order in which the page shows them."""

    sample: pl.DataFrame
    groups: pl.DataFrame
    picks: pl.DataFrame
    first: pl.DataFrame
    ends: pl.DataFrame
    cut: bool = False


@dataclass(frozen=True)
class LookTask:
    """One part to look at."""

    run: RunFolder
    part: str
    index: int
    offset: int
    wanted: Wanted


def look_at_all(context: Context, wanted: Wanted) -> Seen:
    """Look at all parts and return what was found."""
    tasks = [LookTask(context.run, p.name, p.index, -p.first % wanted.step, wanted) for p in context.parts]
    groups, picks, first, ends = (pl.DataFrame(schema=kind) for kind in (_GROUPS, PICKS, _FIRST, _ENDS))
    seen = Seen(pl.DataFrame(), groups, picks, first, ends)
    context.progress("report", 0, len(tasks), "parts")
    for done, one in enumerate(context.engine.map(_look, tasks, parallel=len(tasks) > 1), start=1):
        seen = _joined(seen, one, wanted)
        context.progress("report", done, len(tasks), "parts")
    return seen


def _joined(seen: Seen, one: Seen, wanted: Wanted) -> Seen:
    groups = pl.concat([seen.groups, one.groups]).group_by("by", "group").agg(pl.col("rows", "kept").sum())
    groups = groups.sort("by", "rows", "group", descending=[False, True, False])
    largest = groups.group_by("by", maintain_order=True).head(MAX_GROUPS)
    first = pl.concat([seen.first, one.first]).group_by("concept")
    ends = pl.concat([seen.ends, one.ends]).group_by("rule", "column", maintain_order=True)
    lows, highs = ("passed_low", "failed_low"), ("passed_high", "failed_high")
    return Seen(
        pl.concat([frame for frame in (seen.sample, one.sample) if frame.width] or [pl.DataFrame()]),
        largest,
        _first_of(pl.concat([seen.picks, one.picks]), wanted),
        first.agg(pl.col("smallest_uid").min(), pl.col("pinned").sum()),
        ends.agg(*(pl.col(name).min() for name in lows), *(pl.col(name).max() for name in highs)).select(
            *_ENDS
        ),
        seen.cut or largest.height < groups.height,
    )


def _first_of(picks: pl.DataFrame, wanted: Wanted) -> pl.DataFrame:
    """Return the first samples of every list."""
    ordered = picks.sort("list", "concept", "order", "uid")
    limit = pl.col("list").replace_strict(dict(wanted.limits), return_dtype=pl.Int64)
    return ordered.filter(pl.int_range(pl.len()).over("list", "concept") < limit)


def _look(task: LookTask) -> Seen:
    run, wanted = task.run, task.wanted
    samples = pl.DataFrame(storage.read_table(run.part(run.samples, task.part)))
    said = pl.DataFrame(
        storage.read_table(run.part(run.decisions, task.part), ["keep", "weight", "reason", "duplicate_of"])
    )
    rows = samples.select("label", "source", "split", "outcome", "copy_of").hstack(said)
    usable = (rows["outcome"] == "ok") & rows["copy_of"].is_null()
    frame = eligible(run, task.part, wanted.families).drop("reason")  # of the outcome, which is ok
    frame = frame.hstack(said.filter(usable).get_columns())
    found = pl.DataFrame(storage.read_table(run.part(run.duplicates, task.part), ["uid", "similarity"]))
    frame = frame.join(found, on="uid", how="left", maintain_order="left", validate="m:1")
    competing = pl.col("reason").is_in([*schema.KEPT_REASONS, "over_budget"]) | pl.col(
        "reason"
    ).str.starts_with("cutoff:")
    frame = frame.with_columns(pl.lit(task.index, pl.Int32).alias("part"), competing.alias("competing"))
    floats = [name for name, kind in frame.schema.items() if kind.is_float() and name != "similarity"]
    return Seen(
        frame.select("keep", "competing", pl.col(floats).cast(pl.Float32)).gather_every(wanted.step, task.offset),
        _groups(rows),
        _first_of(_picks(frame, wanted), wanted),
        frame.filter("competing").group_by("concept").agg(
            pl.col("uid").min().alias("smallest_uid"), (pl.col("reason") == "pinned").sum().cast(pl.Int64).alias("pinned")
        ),
        _ends(frame, wanted),
    )  # fmt: skip


def _groups(rows: pl.DataFrame) -> pl.DataFrame:
    """Count usable and kept rows, copies included, by class, source and split."""
    read = rows.filter(pl.col("outcome") == "ok")
    counts = [
        read.filter(pl.col(by).is_not_null())
        .group_by(pl.col(by).alias("group"))
        .agg(pl.len().cast(pl.Int64).alias("rows"), pl.col("keep").sum().cast(pl.Int64).alias("kept"))
        .select(pl.lit(by).alias("by"), "group", "rows", "kept")
        for by in ("label", "source", "split")
    ]
    return pl.concat(counts)


def _picks(frame: pl.DataFrame, wanted: Wanted) -> pl.DataFrame:
    """Return the candidates of every list: `order` says which come first, `value` what is told of them."""
    column, factor = wanted.hardness
    hard = (pl.col(column) * factor).cast(pl.Float64)
    distance = pl.col("distance").cast(pl.Float64)
    duplicates = frame.filter(pl.col("reason") == "near_duplicate")
    shown = frame.filter(pl.col("competing") & pl.col("concept").is_in(wanted.shown))
    told = frame.filter(pl.col("concept").is_in(wanted.telling))
    chosen = [
        _candidates(shown, "typical", distance, distance),
        _candidates(told.filter("keep"), "hardest_kept", -hard, pl.col(column)),
        _candidates(told.filter(pl.col("competing") & ~pl.col("keep")), "easiest_dropped", hard, pl.col(column)),
        _candidates(told.filter("competing"), "most_typical", distance, distance),
    ]  # fmt: skip
    alike = pl.col("similarity").cast(pl.Float64)
    twins = duplicates.filter(pl.col("concept").is_in(wanted.telling))
    other = pl.col("duplicate_of")
    chosen.append(_candidates(twins, "duplicates", alike, alike, other))
    if "near_cut" in wanted.limits:
        drawn = pl.Series("tie", tie(duplicates["uid"].to_list(), wanted.seed).astype(float), pl.Float64)
        everywhere = duplicates.with_columns(pl.lit(NO_CONCEPT, pl.Int32).alias("concept"), drawn)
        chosen.append(_candidates(everywhere, "near_cut", alike, alike, other))
        chosen.append(_candidates(everywhere, "drawn", pl.col("tie"), alike, other))
        if wanted.doubt is not None:
            predicted, score, sign = wanted.doubt
            against = frame.filter(pl.col(predicted) != pl.col("label"))
            against = against.with_columns(pl.lit(NO_CONCEPT, pl.Int32).alias("concept"))
            order = -(pl.col(score) * sign).cast(pl.Float64)
            chosen.append(_candidates(against, "mislabelled", order, pl.col(score), pl.col(predicted)))
    return pl.concat(chosen)


def _candidates(
    frame: pl.DataFrame, name: str, order: pl.Expr, value: pl.Expr, other: pl.Expr | None = None
) -> pl.DataFrame:
    return frame.filter(order.is_not_null()).select(
        pl.lit(name).alias("list"), "concept", order.alias("order"), value.cast(pl.Float64).alias("value"),
        "uid", "part", "row", "shard", "caption", "label", "reason",
        (pl.lit(None, pl.String) if other is None else other).alias("other"),
    )  # fmt: skip


def _ends(frame: pl.DataFrame, wanted: Wanted) -> pl.DataFrame:
    """Return the ends of each score among the rows that a rule let pass and among those it dropped."""
    found = []
    for reason, column in wanted.ends:
        failed = frame.filter(pl.col("reason") == (reason or "over_budget"))[column]
        passes = pl.col("competing") if reason else pl.col("reason") == "kept"
        passed = frame.filter(passes)[column]
        ends = [passed.min(), passed.max(), failed.min(), failed.max()]
        found.append((reason, column, *ends))
    return pl.DataFrame(found, schema=_ENDS, orient="row")
