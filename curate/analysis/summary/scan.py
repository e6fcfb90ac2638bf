"""One pass over every part of a run: counts, an even sample of the scores, and samples to show.

Parts are read by workers, one by one, and what each found is joined with what was found before, so that memory holds
one part a worker and what is shown. Tables that are not finished are left out.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from curate import schema
from curate.analysis.diagnosis.sample import VectorSample, hash_limit, sample_of
from curate.analysis.summary.picks import (
    PICKS,
    ReportRequest,
    candidates,
    first_of,
    of_picks,
    while_joining,
    without_typical,
    without_vectors,
)
from curate.analysis.summary.tables import counted_by, part_names, shown_families
from curate.errors import RunError
from curate.execution.context import require_same, silent
from curate.execution.engines.base import Engine
from curate.filtering.column_tables import folder_of_column
from curate.io import storage
from curate.runs.folder import RunFolder

__all__ = [
    "GROUPED_BY",
    "MAX_GROUPS",
    "PLAIN",
    "SAMPLE",
    "Scan",
    "scan_parts",
]

#: What samples are grouped by. Of more groups of a kind the largest are told apart.
GROUPED_BY, MAX_GROUPS = ("label", "source", "split"), 10_000
#: Quantiles between the ends and histograms are over at most about this many samples, spread evenly over the parts.
SAMPLE = 200_000
#: What is read, each where it is finished.
TABLES = ("samples", "decisions", "assignments", "duplicates")
#: Columns of the sample that are no scores.
PLAIN = ("keep", "competing", "weight", "uid", "label")

_GROUPS = {"by": pl.String, "group": pl.String, "rows": pl.Int64, "kept": pl.Int64}
_QUADRANTS = {"quadrant": pl.String, "rows": pl.Int64, "kept": pl.Int64}
_SHOWN = {"uid": pl.String, "concept": pl.Int32}
_FIRST = {"concept": pl.Int32, "smallest_uid": pl.String, "pinned": pl.Int64}
_ENDS = {
    "rule": pl.String, "column": pl.String, "passed_low": pl.Float64, "passed_high": pl.Float64,
    "failed_low": pl.Float64, "failed_high": pl.Float64,
}  # fmt: skip
_TOTALS = {"score": pl.String, "n": pl.Int64, "missing": pl.Int64, "low": pl.Float64, "high": pl.Float64}
_NEAREST = {"concept": pl.Int32, "part": pl.String, "distance": pl.Float32, "uid": pl.String}
#: Sums over numbers: how many, their sum, the sum of their squares, the least and the most.
_SUMS = {"what": pl.String, "n": pl.Int64, "total": pl.Float64, "squares": pl.Float64, "least": pl.Float64, "most": pl.Float64}  # fmt: skip


@dataclass
class Scan:
    """What was found.

    reasons, outcomes : rows by value, kept : rows with `keep`. groups : by, group, rows (that could be read), kept;
    cut : whether groups were left out. totals : per score exact numbers of rows with and without it, and its ends.
    sample : one row of `step`: `PLAIN` columns and scores. nearest : per concept the sample nearest to its centroid
    (the first uid of equals). vectors : of some rows, by hash. quadrants : rows and kept rows of each (`scores/triage.py`), empty without them. sums : of weights of kept rows, and of the similarity of duplicates.
    picks, first, ends : for a report, in the order in which the page shows them; shown : uid, concept and scores of the picks.
    """

    reasons: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    step: int = 1
    cut: frozenset[str] = frozenset()
    groups: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_GROUPS))
    totals: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_TOTALS))
    sample: pl.DataFrame = field(default_factory=pl.DataFrame)
    nearest: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_NEAREST))
    vectors: VectorSample = field(default_factory=VectorSample)
    quadrants: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_QUADRANTS))
    sums: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_SUMS))
    picks: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=PICKS))
    first: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_FIRST))
    ends: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_ENDS))
    shown: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_SHOWN))


@dataclass(frozen=True)
class _Task:
    """One part. tables : those that have it. whole : False where only rows are counted and concepts are named.

    limit : rows whose hash is at most this are looked at with their vectors.
    """

    run: RunFolder
    part: str
    index: int
    offset: int
    step: int
    tables: frozenset[str]
    families: tuple[str, ...]
    columns: Mapping[str, Path]
    limit: int
    whole: bool
    report: ReportRequest | None

    def read(self, table: str, columns: list[str]) -> pl.DataFrame | None:
        """Return columns of a table of the part; None if it is not there."""
        if table not in self.tables:
            return None
        folder = getattr(self.run, table)
        return pl.DataFrame(storage.read_table(self.run.part(folder, self.part), columns))


def scan_parts(
    run: RunFolder,
    *,
    whole: bool = True,
    tables: Sequence[str] = TABLES,
    report: ReportRequest | None = None,
    engine: Engine | None = None,
    progress: Callable[[str, int, int, str], None] = silent,
) -> Scan:
    """Return what one pass over all parts finds.

    whole : False leaves out scores, groups, weights and duplicates. tables : which of `TABLES` are read. report : what a report shows besides; its tables
    must be there and be about the same rows, else RunError is raised.
    """
    tasks = _tasks(run, whole, tables, report)
    found = Scan(step=tasks[0].step if tasks else 1)
    limits = {} if report is None else while_joining(report.limits)
    progress("report", 0, len(tasks), "parts")
    results: Iterable[Scan] = map(_scan, tasks)
    if engine is not None:
        results = engine.map(_scan, tasks, parallel=len(tasks) > 1)
    for done, one in enumerate(results, start=1):
        _join(found, one, limits)
        progress("report", done, len(tasks), "parts")
    if report is not None:
        found.picks = first_of(without_typical(found.picks), report.limits)
        found.shown = of_picks(found.shown, found.picks)
    if names := run.class_names():
        _name_classes(found, names)
    return found


def _name_classes(found: Scan, names: Mapping[str, str]) -> None:
    """Put the names of classes in the place of their numbers, where people see them."""
    of_label, of_doubt = pl.col("by") == "label", pl.col("list") == "mislabelled"
    found.groups = found.groups.with_columns(
        pl.when(of_label).then(pl.col("group").replace(names)).otherwise("group").alias("group")
    )
    predicted = pl.when(of_doubt).then(pl.col("other").replace(names)).otherwise("other")
    found.picks = found.picks.with_columns(pl.col("label").replace(names), predicted.alias("other"))


def _tasks(run: RunFolder, whole: bool, tables: Sequence[str], report: ReportRequest | None) -> list[_Task]:
    """Return the parts that any table has, in the order of the source, and which tables have each."""
    marked = {
        "samples": run.samples, "decisions": run.decisions, "assignments": run.final_concepts, "duplicates": run.duplicates,
    }  # fmt: skip
    parts = {table: part_names(run, marked[table]) for table in tables}
    saved = storage.read_json(run.work / "parts.json")
    order = {row["name"]: (place, row) for place, row in enumerate(saved)} if isinstance(saved, list) else {}
    names = list(dict.fromkeys(name for found in parts.values() for name in found))
    names.sort(key=lambda name: (order[name][0] if name in order else len(order), name))
    total = sum(row["stop"] - row["start"] for _, row in order.values())
    step = max(1, -(-total // SAMPLE))
    families = tuple(shown_families(run)) if whole else ()
    columns = {name: folder_of_column(run, name) for name in counted_by(run)} if whole else {}
    return [
        _Task(
            run, name, order[name][0] if name in order else place,
            -(order[name][1]["first"] if name in order else 0) % step, step,
            frozenset(table for table, found in parts.items() if name in found), families, columns, hash_limit(total), whole, report,
        )
        for place, name in enumerate(names)
    ]  # fmt: skip


def _scan(task: _Task) -> Scan:
    """Return what one part holds."""
    found = Scan()
    decided = ["keep", "reason", *(("uid", "weight", "duplicate_of") if task.whole else ())]
    named = ["outcome", *(("uid", "copy_of", *GROUPED_BY) if task.whole else ())]
    pictured = ("shard", "row", "caption", "reason") if task.report is not None else ()
    samples, decisions = task.read("samples", [*named, *pictured]), task.read("decisions", decided)
    if samples is not None and task.report is not None:
        samples = samples.rename({"reason": "detail"})
    if samples is not None:
        found.outcomes.update(dict(samples["outcome"].value_counts().iter_rows()))
    if decisions is not None:
        found.reasons.update(dict(decisions["reason"].value_counts().iter_rows()))
        found.kept = int(decisions["keep"].sum())
        if task.whole:
            found.sums = _sums("weight", decisions.filter("keep")["weight"])
    if task.whole and (near := task.read("duplicates", ["duplicate_of", "similarity"])) is not None:
        similarity = near.filter(pl.col("duplicate_of").is_not_null())["similarity"]
        found.sums = pl.concat([found.sums, _sums("similarity", similarity)])
    rows = _beside(task, samples, decisions) if task.whole else None
    if rows is not None and decisions is not None:
        found.groups = _groups(_with_columns(task, rows), (*GROUPED_BY, *task.columns))
    _scan_usable(task, found, rows)
    if (
        rows is not None
        and decisions is not None
        and task.report is not None
        and "copies" in task.report.limits
    ):
        found.picks = pl.concat(
            [found.picks, first_of(without_vectors(rows, task.index, task.report), task.report.limits)]
        )
    for name in ("nearest", "picks", "sample", "shown", "first"):
        setattr(found, name, storage.compact(getattr(found, name)))
    return found


def _beside(task: _Task, samples: pl.DataFrame | None, decisions: pl.DataFrame | None) -> pl.DataFrame | None:
    """Return samples with their decisions beside, as far as there are any; RunError where the rows differ."""
    if samples is None or decisions is None:
        return samples
    if not samples["uid"].equals(decisions["uid"]):
        where = task.run.part(task.run.decisions, task.part)
        raise RunError(f"{where}: its rows are not those of 0_samples; run again")
    return samples.hstack(decisions.drop("uid").get_columns())


def _scan_usable(task: _Task, found: Scan, rows: pl.DataFrame | None) -> None:
    """Add what the samples with vectors say: the nearest of each concept, scores, and what a report shows."""
    assigned = task.read("assignments", ["uid", "concept", "distance"])
    if assigned is None:
        return
    near = assigned.sort("distance", "uid").unique("concept", keep="first", maintain_order=True)
    found.nearest = near.with_columns(part=pl.lit(task.part)).select(*_NEAREST)
    if not task.whole:
        return
    embedded = task.run.part(task.run.embeddings, task.part)
    found.vectors = sample_of(embedded, assigned["uid"].to_list(), task.limit)
    frame = assigned
    for family in task.families:
        frame = _with_family(task, frame, family)
    floats = [name for name, kind in frame.schema.items() if kind.is_float()]
    frame = frame.with_columns(pl.when(pl.col(floats).is_finite()).then(pl.col(floats)))
    found.totals = pl.DataFrame([_total(frame[name]) for name in floats], schema=_TOTALS, orient="row")
    if rows is not None:
        usable = rows.filter((pl.col("outcome") == "ok") & pl.col("copy_of").is_null())
        if usable["uid"].equals(frame["uid"]):
            frame = usable.hstack(frame.drop("uid").get_columns())
        elif task.report is not None:
            require_same(usable["uid"], frame["uid"], task.run.part(task.run.final_assignments, task.part))
    if "eu_quadrant" in frame.columns:
        kept = pl.col("keep") if "keep" in frame.columns else pl.lit(False)
        of_each = frame.filter(pl.col("eu_quadrant").is_not_null()).group_by(quadrant="eu_quadrant")
        found.quadrants = of_each.agg(rows=pl.len().cast(pl.Int64), kept=kept.sum().cast(pl.Int64))
    if "reason" in frame.columns:
        frame = frame.with_columns(_competing().alias("competing"))
    plain = [name for name in PLAIN if name in frame.columns]
    found.sample = frame.select(*plain, *floats).gather_every(task.step, task.offset)
    if task.report is not None:
        _scan_shown(task, task.report, found, frame, floats)


def _with_family(task: _Task, frame: pl.DataFrame, family: str) -> pl.DataFrame:
    """Return rows with the columns of a family of scores beside; without them if it is about an earlier source."""
    path = task.run.part(task.run.scores(family), task.part)
    if task.report is None and not path.exists():
        return frame
    scores = pl.DataFrame(storage.read_table(path))
    if task.report is not None:
        require_same(frame["uid"], scores["uid"], path)
    return frame.hstack(scores.drop("uid").get_columns()) if frame["uid"].equals(scores["uid"]) else frame


def _competing() -> pl.Expr:
    """Return whether a row reached the selection."""
    reason = pl.col("reason")
    return reason.is_in([*schema.KEPT_REASONS, "over_budget"]) | reason.str.starts_with("cutoff:")


def _scan_shown(
    task: _Task, shown: ReportRequest, found: Scan, frame: pl.DataFrame, scores: list[str]
) -> None:
    """Add what a report shows of the samples with vectors."""
    near = task.read("duplicates", ["uid", "similarity"])
    if near is None:
        where = task.run.part(task.run.duplicates, task.part)
        raise RunError(f"{where}: is not there; run again")
    frame = frame.join(near, on="uid", how="left", maintain_order="left", validate="m:1")
    frame = frame.with_columns(pl.lit(task.index, pl.Int32).alias("part"))
    found.picks = first_of(candidates(frame, shown), while_joining(shown.limits))
    found.shown = of_picks(frame.select("uid", "concept", *scores), found.picks)
    pinned = pl.col("reason").is_in(["pinned", "kept:override"]).sum().cast(pl.Int64)
    found.first = (
        frame.filter("competing").group_by("concept").agg(smallest_uid=pl.col("uid").min(), pinned=pinned)
    )
    found.ends = _ends(frame, shown)


def _join(all_: Scan, one: Scan, limits: Mapping[str, int]) -> None:
    """Add what was found in one part to what was found before."""
    all_.reasons.update(one.reasons)
    all_.outcomes.update(one.outcomes)
    all_.kept += one.kept
    groups = pl.concat([all_.groups, one.groups]).group_by("by", "group").agg(pl.col("rows", "kept").sum())
    groups = groups.sort("by", "rows", "group", descending=[False, True, False])
    all_.groups = groups.group_by("by", maintain_order=True).head(MAX_GROUPS).select(list(_GROUPS))
    sizes = groups.group_by("by").len().filter(pl.col("len") > MAX_GROUPS)
    all_.cut |= frozenset(sizes["by"].to_list())
    totals = pl.concat([all_.totals, one.totals]).group_by("score", maintain_order=True)
    ends_of = (pl.col("low").min(), pl.col("high").max())
    all_.totals = totals.agg(pl.col("n", "missing").sum(), *ends_of)
    frames = [frame for frame in (all_.sample, one.sample) if frame.width]
    all_.sample = pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame()
    nearest = pl.concat([all_.nearest, one.nearest]).sort("distance", "uid")
    all_.nearest = nearest.unique("concept", keep="first", maintain_order=True)
    sums = pl.concat([all_.sums, one.sums]).group_by("what", maintain_order=True)
    all_.sums = sums.agg(pl.col("n", "total", "squares").sum(), pl.col("least").min(), pl.col("most").max())
    all_.vectors += one.vectors
    of_each = pl.concat([all_.quadrants, one.quadrants]).group_by("quadrant")
    all_.quadrants = of_each.agg(pl.col("rows", "kept").sum()).sort("quadrant")
    all_.picks = first_of(pl.concat([all_.picks, one.picks]), limits)
    all_.shown = of_picks(pl.concat([all_.shown, one.shown], how="diagonal_relaxed"), all_.picks)
    first = pl.concat([all_.first, one.first]).group_by("concept")
    all_.first = first.agg(pl.col("smallest_uid").min(), pl.col("pinned").sum())
    ends = pl.concat([all_.ends, one.ends]).group_by("rule", "column", maintain_order=True)
    lows, highs = ("passed_low", "failed_low"), ("passed_high", "failed_high")
    extremes = ends.agg(*(pl.col(name).min() for name in lows), *(pl.col(name).max() for name in highs))
    all_.ends = extremes.select(*_ENDS)


def _sums(what: str, column: pl.Series) -> pl.DataFrame:
    """Return one row of sums over the numbers of a column."""
    values = column.cast(pl.Float64).drop_nulls()
    sums = (
        what,
        len(values),
        float(values.sum()),
        float((values * values).sum()),
        values.min(),
        values.max(),
    )
    return pl.DataFrame([sums], schema=_SUMS, orient="row")


def _total(column: pl.Series) -> tuple[object, ...]:
    """Return how many rows have a score and lack it, and its ends."""
    values = column.cast(pl.Float64).drop_nulls()
    return column.name, len(values), len(column) - len(values), values.min(), values.max()


def _with_columns(task: _Task, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that could be read with columns of the source beside; null where these are not there, or of other rows."""
    read = rows.filter(pl.col("outcome") == "ok")
    for name, folder in task.columns.items():
        path, value = task.run.part(folder, task.part), pl.lit(None, pl.String)
        if path.exists():
            table = pl.DataFrame(storage.read_table(path, ["uid", "value"]))
            value = pl.lit(table["value"]) if table["uid"].equals(read["uid"]) else value
        read = read.with_columns(value.alias(name))
    return read


def _groups(read: pl.DataFrame, kinds: Sequence[str]) -> pl.DataFrame:
    """Count rows that could be read and kept rows, copies included, by class, source, split, and columns of the source."""
    counts = [
        read.filter(pl.col(by).is_not_null())
        .group_by(pl.col(by).alias("group"))
        .agg(pl.len().cast(pl.Int64).alias("rows"), pl.col("keep").sum().cast(pl.Int64).alias("kept"))
        .select(pl.lit(by).alias("by"), pl.col("group").cast(pl.String), "rows", "kept")
        for by in kinds
    ]
    return pl.concat(counts)


def _ends(frame: pl.DataFrame, shown: ReportRequest) -> pl.DataFrame:
    """Return the ends of each score among the rows that a rule let pass and among those it dropped."""
    found = []
    for reason, column in shown.ends:
        failed = frame.filter(pl.col("reason") == (reason or "over_budget"))[column]
        passes = pl.col("competing") if reason else pl.col("reason").is_in(["kept", "spared"])
        passed = frame.filter(passes)[column]
        ends = [passed.min(), passed.max(), failed.min(), failed.max()]
        found.append((reason, column, *ends))
    return pl.DataFrame(found, schema=_ENDS, orient="row")
