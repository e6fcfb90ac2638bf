"""What the report shows of a run: its summary, with samples, pictures, figures and what its budgets come from."""

import datetime
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from curate.analysis.plan import rates_of
from curate.analysis.summary import galleries, groups, score_stats
from curate.analysis.summary.concepts import concept_table, layout
from curate.analysis.summary.counts import check_counts, versions
from curate.analysis.summary.covered_objects import covered_objects
from curate.analysis.summary.matters import evaluation_of, what_matters
from curate.analysis.summary.picks import LIMITS, ReportRequest
from curate.analysis.summary.said import said_of_heads, say_doubtful
from curate.analysis.summary.scan import Scan
from curate.analysis.summary.summary import RunSummary, summarize
from curate.analysis.summary.what_if import what_if
from curate.deduplication.findings import in_words, of_sample
from curate.execution.context import Context
from curate.ordering.keys import score_of
from curate.progress import bytes_text
from curate.recipe import Recipe
from curate.report import page
from curate.report.model import BadShard, EpsilonRate, Pair, ReportData, StageStats
from curate.report.notable import notable_concepts
from curate.scores.columns import hardest_is_largest
from curate.scores.registry import score_columns
from curate.selection.spread import said_of
from curate.writers.dataset_card import published_path

__all__ = ["report_data", "report_request", "summarize_for_report"]

#: Steps of the histogram of weights.
BINS = 40
#: Scores that say how doubtful a label is, the first that there is, and what makes larger ones more doubtful.
_DOUBT = {"noise_prob": 1, "neg_aum": 1, "pixels_neg_aum": 1, "p_label": -1, "pixels_p_label": -1}


def report_request(
    context: Context,
    listed: tuple[int, ...],
    notable: tuple[int, ...],
    limits: Mapping[str, int] = LIMITS,
) -> ReportRequest:
    """Return what to look for in the parts: samples of the listed and of the notable concepts, where rules cut."""
    return ReportRequest(
        listed=listed, notable=notable, hardness=_hardness(context.recipe), doubt=_doubt(context),
        ends=score_stats.cut_rules(context.recipe), seed=context.recipe.seed, limits=limits,
        drawn=context.recipe.select.drawn, lowest=_fit(context.recipe),
    )  # fmt: skip


def _fit(recipe: Recipe) -> str | None:
    """Return the first score that says how well a caption fits its image."""
    return next((name for name in score_columns(recipe) if name.startswith("clip_score")), None)


def _hardness(recipe: Recipe) -> tuple[str, int]:
    """Return the score that the run itself goes by, else the distance, and the factor that makes it hardness."""
    known, select = score_columns(recipe), recipe.select
    by = next(iter(score_of(select.preference)), select.score_column)
    found = known.get(by or "")
    if by is None or found is None or found.higher_is is None:
        return "distance", 1
    return by, 1 if hardest_is_largest(found.higher_is) else -1


def _doubt(context: Context) -> tuple[str, str, int] | None:
    """Return which column has the predicted label, and which score says how doubtful the label is."""
    known = score_columns(context.recipe)
    noted = {name: context.facts(context.run.scores(known[name].folder)) for name in _DOUBT if name in known}
    predicted = next((name for name in ("pred_label", "pixels_pred_label") if name in known), None)
    errors = noted.get("neg_aum", {}).get("label_errors") or {}
    if errors.get("unseen") and context.recipe.select.takes_what_is_there:  # it took none for wrong
        noted = {name: stats for name, stats in noted.items() if known[name].folder != "heads"}
    # The noise model gives no sample a score where it finds no two groups.
    score = next((name for name, stats in noted.items() if stats.get("scored") != 0), None)
    return None if predicted is None or score is None else (predicted, score, _DOUBT[score])


def summarize_for_report(context: Context) -> tuple[RunSummary, ReportRequest]:
    """Return the summary of a decided run, with what a report shows besides; RunError if its rows do not add up."""
    table = _concepts(concept_table(context.run))
    listed = tuple(page.largest(table)["concept"].to_list()) if table.height else ()
    asked = report_request(context, listed, tuple(notable_concepts(table)))
    engine = context.engine if context.in_processes(len(context.parts)) else None
    found = summarize(context.run, report=asked, engine=engine, progress=context.progress)
    check_counts(context, found.scan)
    return found, asked


def report_data(context: Context, summary: RunSummary, asked: ReportRequest) -> ReportData:
    """Return all the page says, of a summary and of what was asked for with it."""
    recipe, scan, counts = context.recipe, summary.scan, summary.counts or {}
    table = _concepts(summary.concepts)
    shelf = galleries.shelve(context, scan.picks, scan.shown)
    typical = galleries.typical(scan.picks, shelf)
    examples = pl.DataFrame(
        [(concept, shelf.samples[places[0]].caption) for concept, places in typical.items()],
        schema={"concept": pl.Int32, "example": pl.String}, orient="row",
    )  # fmt: skip
    if examples["example"].null_count() < len(examples):
        table = table.join(examples, on="concept", how="left", maintain_order="left")
    means = {name: one.higher_is for name, one in score_columns(recipe).items()}
    by, doubt = (asked.hardness[0], asked.drawn), asked.doubt
    return ReportData(
        name=recipe.run, rows_in=counts["rows"], kept=counts["kept"], reasons=_reasons(recipe, counts),
        concepts=table, layout=layout(context.run, asked.listed), samples=shelf.samples, typical=typical,
        galleries=galleries.galleries(scan.picks, shelf, notable_concepts(table), by), ordered_by=galleries.said_of_order(*by),
        copies=galleries.copies(scan.picks, shelf), unusable=galleries.unusable(scan.picks, shelf), lowest=galleries.lowest(scan.picks, shelf, asked.lowest),
        duplicates=_pairs(scan, shelf), dedup=_dedup(summary), epsilons=_epsilons(context, summary), groups=groups.shown_groups(scan.groups, table, cut=scan.cut),
        mislabelled=galleries.mislabelled(scan.picks, shelf, doubt[1] if doubt else ""),
        diagnosis=_diagnosis(summary), quadrants=summary.quadrants, of_quadrants=galleries.quadrants(scan.picks, shelf),
        what_if=what_if(context, table, scan.first), sampled=scan.step,
        scores=score_stats.shown_scores(summary.scores, scan.step, recipe, scan.ends, means),
        correlation=score_stats.correlation(scan.sample) if len(scan.sample) else ((), ()),
        complexity=said_of(summary.complexity) if summary.complexity else "",
        weights=_weights(summary), reliability=[_reliability(row) for row in summary.reliability],
        matters=what_matters(context.run, summary), said=summary.said, label_errors=_label_errors(summary), doubtful=say_doubtful(_label_errors(summary)), chosen=(summary.auto or {}).get("recipe", ""),
        stages=_stages(summary), warnings=summary.warnings,
        bad_shards=[BadShard(shard=one["name"], rows=one["rows"], message=one["error"]) for one in summary.bad_shards],
        recipe=recipe.to_yaml(), versions=_origin(context) | versions(),
        pictures=any(part.columns.image for part in context.parts), created=_now(), evaluation=evaluation_of(context.run), objects=covered_objects(context),
    )  # fmt: skip


def _label_errors(summary: RunSummary) -> Mapping[str, Any]:
    """Return what is shown of wrong labels; only that there are none where method auto took none for wrong."""
    errors = summary.label_errors or {}
    return {"none_wrong": True} if summary.auto and errors.get("unseen") else errors


def _diagnosis(summary: RunSummary) -> dict[str, Any]:
    """Return what looks wrong, with what is said of the heads in words."""
    found, heads = summary.diagnosis, summary.diagnosis.get("calibration")
    return {**found, "heads": said_of_heads(heads)} if heads else found


def _epsilons(context: Context, summary: RunSummary) -> list[EpsilonRate]:
    """Return what other epsilons drop; none where no rows were compared (`curate plan` looks at a sample)."""
    if summary.duplicates is None:
        return []
    names = ("epsilon", "compared", "at_least", "at_most")
    return [EpsilonRate(*(rate[name] for name in names)) for rate in rates_of(context) if rate["compared"]]


def _dedup(summary: RunSummary) -> str:
    """Say how near-duplicates were found, or how many a sample has where none were looked for."""
    if summary.duplicates is None and summary.near_sample is not None:
        said = of_sample(summary.near_sample)
        return f"{said[0].upper()}{said[1:]}."
    return in_words(summary.duplicates or {})


def _concepts(table: pl.DataFrame | None) -> pl.DataFrame:
    return pl.DataFrame() if table is None else table


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _pairs(scan: Scan, shelf: galleries.Shelf) -> list[Pair]:
    """Return the pairs of the gallery: those nearest to the threshold, then some drawn at random."""
    order = pl.col("list").replace_strict({"near_cut": 0, "drawn": 1})
    rows = scan.picks.filter(pl.col("list").is_in(["near_cut", "drawn"])).sort(order, "order", "uid")
    return galleries.pairs(rows, shelf)


def _reasons(recipe: Recipe, counts: Mapping[str, Any]) -> dict[str, int]:
    """Return rows by reason; filters in the order of the recipe, which the page keeps."""
    conditions = [f"filter:{one}" for one in recipe.filter]
    place = {name: index for index, name in enumerate(conditions)}
    dropped = sorted(counts["dropped"].items(), key=lambda item: place.get(item[0], len(place)))
    unusable = {f"unusable:{name}": n for name, n in counts["unusable"].items()}
    return {**unusable, **dict(dropped), "kept": counts["kept"]}


def _stages(summary: RunSummary) -> list[StageStats]:
    """Return how long each stage took, and the most memory that it held in all its processes."""
    return [
        StageStats(
            name=stage, seconds=times["seconds"], rows=times["rows"],
            summary=f"{times['rows_per_s']:,.0f} rows/s{_peak(times)}",
        )
        for stage, times in summary.times.items()
    ]  # fmt: skip


def _peak(times: Mapping[str, Any]) -> str:
    held = times.get("peak_memory")
    return "" if held is None else f", at most {bytes_text(held)} of memory"


def _reliability(row: Mapping[str, Any]) -> dict[str, object]:
    """Return how far the seeds of a trained family agree, every number by its name on the page."""
    names = ("family", "classes", "seeds", "reliability", "reliability_of_mean", "grand_el2n")
    return {**{name: row.get(name) for name in names}, "accuracy_mean": row.get("accuracy")}


def _weights(summary: RunSummary) -> dict[str, object]:
    """Return what is known of the weights, with a histogram over the kept rows of the sample; or nothing."""
    if not summary.weights:
        return {}
    sample, step = summary.scan.sample, summary.scan.step
    kept = sample.filter("keep")["weight"].drop_nulls().to_numpy().astype(np.float64)
    counts, edges = np.histogram(kept, BINS) if len(kept) else (np.empty(0, int), np.empty(0))
    return {**summary.weights, "edges": edges.tolist(), "counts": (counts * step).tolist()}


def _origin(context: Context) -> dict[str, str]:
    """Return where the numbers come from: source, vectors, decisions."""
    paths = ", ".join(published_path(path) for one in context.recipe.source for path in one.patterns)
    space = context.facts(context.run.embeddings).get("space") or {}
    shards = len({part.shard.name for part in context.parts})
    return {
        "source": paths,
        "shards read": f"{shards:,}",
        "embedding space": ", ".join(f"{name} {value}" for name, value in space.items()),
        "decisions": context.run.fingerprint(context.run.decisions),
    }
