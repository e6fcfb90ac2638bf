"""Stage `report`: the page and the summary, from the tables of the run."""

import platform
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np
import polars as pl

from curate import schema, storage
from curate.errors import RunError
from curate.report import page
from curate.stages.base import Context, eligible, log
from curate.stages.families import families_of

__all__ = ["PACKAGES", "VERSION", "count_reasons", "grouped", "run", "versions"]

VERSION = 1
PACKAGES = ("curate", "numpy", "polars", "pyarrow", "faiss-cpu", "torch", "open_clip_torch", "pillow")
#: Distances are counted in this many bins between 0 and the largest.
BINS = 40
#: Scores are read for quantiles from at most about this many samples, spread evenly over the parts.
SCORE_SAMPLE = 1_000_000
QUANTILES = {"min": 0.0, "p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}


def run(context: Context) -> bool:
    """Write `report.html` and `summary.json`; return whether anything was to do."""
    folder = context.run.report
    stamp = storage.fingerprint("report", VERSION, context.run.stamp(context.run.filtered))
    if context.run.is_done(folder, stamp):
        return False
    context.run.unmark(folder)
    counts = count_reasons(context)
    storage.write_json(folder / "summary.json", counts)
    with storage.atomic(folder / "report.html") as partial:
        partial.write_text(page.render(_facts(context, counts)), encoding="utf-8")
    context.run.mark(folder, stamp, {})
    log.info("report: %s", folder / "report.html")
    return True


def count_reasons(context: Context) -> dict[str, Any]:
    """Return rows in, kept, dropped by reason and unusable by outcome; raises RunError if they do not add up."""
    reasons: Counter[str] = Counter()
    kept = 0
    for part in context.parts:
        path = context.run.part(context.run.decisions, part.name)
        frame = pl.DataFrame(storage.read_table(path, ["reason", "keep"]))
        reasons.update(dict(frame["reason"].value_counts().iter_rows()))
        kept += int(frame["keep"].sum())
    rows = sum(part.rows for part in context.parts)
    counts = grouped(reasons)
    if kept != counts["kept"] or rows != counts["rows"]:
        raise RunError(f"{rows:,} rows in, {kept:,} kept, but by their reasons: {counts}; please report this")
    return counts


def grouped(reasons: Mapping[str, int]) -> dict[str, Any]:
    """Return how many rows there are, are kept (pinned: of these), dropped by reason, unusable by outcome.

    >>> grouped({"kept": 3, "pinned": 1, "over_budget": 2, "unusable:broken_image": 4})
    {'rows': 10, 'kept': 4, 'pinned': 1, 'dropped': {'over_budget': 2}, 'unusable': {'broken_image': 4}}
    """
    unusable = {name: n for name, n in sorted(reasons.items()) if name.startswith("unusable:")}
    kept = {name: n for name, n in reasons.items() if name in schema.KEPT_REASONS}
    return {
        "rows": sum(reasons.values()),
        "kept": sum(kept.values()),
        "pinned": kept.get("pinned", 0),
        "dropped": {name: n for name, n in sorted(reasons.items()) if name not in (*unusable, *kept)},
        "unusable": {name.removeprefix("unusable:"): n for name, n in unusable.items()},
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide a result."""
    return {name: metadata.version(name) for name in PACKAGES} | {"python": platform.python_version()}


def _facts(context: Context, counts: Mapping[str, Any]) -> page.Facts:
    recipe, run = context.recipe, context.run
    unusable = {f"unusable:{name}": n for name, n in counts["unusable"].items()}
    # The page keeps the order of filters: that of the recipe.
    dropped = sorted(
        counts["dropped"].items(), key=lambda item: _place(item[0], tuple(str(one) for one in recipe.filter))
    )
    concepts = pl.DataFrame(storage.read_table(run.decisions / "concepts.parquet"))
    bad = context.facts(run.work / "keys").get("bad_shards", [])
    return page.Facts(
        name=recipe.run,
        rows_in=counts["rows"],
        kept=counts["kept"],
        reasons={**unusable, **dict(dropped), "kept": counts["kept"]},
        concepts=_with_examples(context, concepts),
        scores=_quantiles(context),
        distances=_histogram(context),
        stages=_stages(context),
        warnings=_warnings(context, counts),
        bad_shards=[page.BadShard(shard=b["name"], rows=b["rows"], message=b["error"]) for b in bad],
        recipe=recipe.to_yaml(),
        versions=versions() | {"embedding space": str(context.facts(run.embeddings).get("space"))},
    )


def _place(reason: str, conditions: tuple[str, ...]) -> int:
    condition = reason.removeprefix("filter:")
    return conditions.index(condition) if condition in conditions else len(conditions)


def _with_examples(context: Context, concepts: pl.DataFrame) -> pl.DataFrame:
    """Add the caption of a typical sample: the nearest to its centroid, among those the page shows."""
    shown = concepts.sort("n_eligible", descending=True).head(page.MAX_CONCEPTS)["concept"]
    best = pl.DataFrame(
        schema={"concept": pl.Int32, "distance": pl.Float32, "uid": pl.String, "example": pl.String}
    )
    for part in context.parts:
        frame = eligible(context.run, part.name, ()).select(
            "concept", "distance", "uid", pl.col("caption").alias("example")
        )
        frame = frame.filter(pl.col("concept").is_in(shown.implode()) & pl.col("example").is_not_null())
        best = (
            pl.concat([best, frame])
            .sort("distance", "uid")
            .unique("concept", keep="first", maintain_order=True)
        )
    return concepts.join(best.select("concept", "example"), on="concept", how="left", maintain_order="left")


def _quantiles(context: Context) -> pl.DataFrame:
    """Return one row per score: its quantiles over the samples (of a large run, over an even sample of them)."""
    total = sum(part.rows for part in context.parts)
    step = max(1, total // SCORE_SAMPLE)
    names = ["distance"]
    folders = [family.folder for family in families_of(context.recipe)]
    frames = []
    for part in context.parts:
        frame = eligible(context.run, part.name, folders)
        names = [name for name in frame.columns if frame.schema[name].is_float()]
        frames.append(frame.select(names).gather_every(step))
    rows = []
    for name in names if frames else ():
        column = pl.concat(frames)[name]
        known = column.drop_nulls()
        values = {label: known.quantile(q, "nearest") for label, q in QUANTILES.items()}
        rows.append(
            {"score": name, **values, "n": len(known) * step, "missing": (len(column) - len(known)) * step}
        )
    return pl.DataFrame(rows)


def _histogram(context: Context) -> pl.DataFrame:
    """Return how many kept and dropped samples lie at which distance to their concept."""
    edges = np.linspace(0.0, 2.0, 50 * BINS + 1)
    counts = np.zeros((2, len(edges) - 1), np.int64)
    for part in context.parts:
        path = context.run.part(context.run.decisions, part.name)
        frame = pl.DataFrame(storage.read_table(path, ["keep", "distance"])).drop_nulls()
        for row, kept in enumerate((True, False)):
            distances = frame.filter(pl.col("keep") == kept)["distance"].to_numpy()
            counts[row] += np.histogram(distances, edges)[0]
    used = np.flatnonzero(counts.sum(axis=0))
    if len(used) == 0:
        return pl.DataFrame()
    width = int(used[-1]) // BINS + 1
    merged = counts[:, : BINS * width].reshape(2, BINS, width).sum(axis=2)
    starts = edges[: BINS * width : width]
    return pl.DataFrame(
        {"bin_start": starts, "bin_stop": starts + width * edges[1], "kept": merged[0], "dropped": merged[1]}
    )


def _stages(context: Context) -> list[page.StageFacts]:
    times = storage.read_json(context.run.work / "times.json") or {}
    return [
        page.StageFacts(
            name=stage, seconds=facts["seconds"], rows=facts["rows"],
            summary=f"{facts['rows_per_s']:,.0f} rows/s, peak {facts['peak_memory'] / 1e9:.1f} GB a process",
        )
        for stage, facts in times.items()
    ]  # fmt: skip


def _warnings(context: Context, counts: Mapping[str, Any]) -> list[str]:
    """Return what a reader should know before trusting the page."""
    found = []
    limit, unusable = context.recipe.limits.unusable, sum(counts["unusable"].values())
    if counts["rows"] and unusable / counts["rows"] > limit:
        found.append(
            f"{unusable / counts['rows']:.1%} of the rows are unusable; limits.unusable allows {limit:.1%}"
        )
    empty = context.facts(context.run.concepts).get("empty", 0)
    if empty:
        found.append(f"{empty:,} concepts have no sample")
    if context.recipe.dedup.epsilon is None:
        found.append("near-duplicates were not looked for (dedup.epsilon is none)")
    for family in families_of(context.recipe):
        said = context.facts(context.run.scores(family.folder)).get("warnings", ())
        found += [f"{family.folder}: {warning}" for warning in said]
    return found + _about_selection(context)


def _about_selection(context: Context) -> list[str]:
    """Return what is to be known about the decisions: rows without a score, and uneven weights."""
    facts, found = context.facts(context.run.decisions), []
    without, weights = facts.get("without_score"), facts.get("weights")
    if without:
        statuses = ", ".join(f"{name}: {rows:,}" for name, rows in without["statuses"].items())
        found.append(
            f"{without['rows']:,} samples have no {context.recipe.select.by} ({statuses}); "
            f"{without['kept']:,} of them are kept (on_null: {context.recipe.select.on_null})"
        )
    if weights and weights["effective"] < weights["rows"] / 2:
        found.append(
            f"the weights ({weights['method']}) make {weights['rows']:,} kept samples worth "
            f"{weights['effective']:,.0f}: the effective sample size"
        )
    return found
