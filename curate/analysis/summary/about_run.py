"""What the run says of itself: stages, warnings, reliability of scores, weights, groups, where it comes from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from curate.execution.context import Context
from curate.io import storage
from curate.report.formatting import cut as cut_text
from curate.report.groups import compared
from curate.report.model import BadShard, Groups, StageFacts
from curate.scores.registry import families_of
from curate.writers.dataset_card import published_path

__all__ = ["bad_shards", "groups", "origin", "reliability", "stages", "warnings", "weights"]

BINS = 40


def stages(context: Context) -> list[StageFacts]:
    """Return how long each stage took, and the memory of its largest process."""
    times = storage.read_json(context.run.work / "times.json") or {}
    return [
        StageFacts(
            name=stage, seconds=facts["seconds"], rows=facts["rows"],
            summary=f"{facts['rows_per_s']:,.0f} rows/s, peak {facts['peak_memory'] / 1e9:.1f} GB a process",
        )
        for stage, facts in times.items()
    ]  # fmt: skip


def bad_shards(context: Context) -> list[BadShard]:
    """Return the input files that could not be read."""
    found = context.facts(context.run.work / "keys").get("bad_shards", [])
    return [BadShard(shard=one["name"], rows=one["rows"], message=one["error"]) for one in found]


def reliability(context: Context) -> list[dict[str, object]]:
    """Return how far the seeds of each trained family agree."""
    names = ("classes", "seeds", "accuracy_mean", "reliability", "reliability_of_mean", "grand_el2n")
    found: list[dict[str, object]] = []
    for family in families_of(context.recipe):
        facts = context.facts(context.run.scores(family.folder))
        if "reliability_of_mean" in facts:
            seeds = len(facts.get("seeds") or ())
            found.append({"family": family.folder, **{n: facts.get(n) for n in names}, "seeds": seeds})
    return found


def weights(context: Context, sample: pl.DataFrame, step: int) -> dict[str, object]:
    """Return what is known of the weights, with a histogram over the kept rows of the sample; or nothing."""
    noted = context.facts(context.run.decisions).get("weights")
    if not noted:
        return {}
    kept = sample.filter("keep")["weight"].drop_nulls().to_numpy().astype(np.float64)
    counts, edges = np.histogram(kept, BINS) if len(kept) else (np.empty(0, int), np.empty(0))
    return {**noted, "edges": edges.tolist(), "counts": (counts * step).tolist()}


def groups(counts: pl.DataFrame, concepts: pl.DataFrame, *, cut: bool) -> list[Groups]:
    """Return the groups that are told apart: classes, concepts, and sources or splits where there are several.

    counts : by, group, rows, kept, as `look` counted them.
    """
    found = []
    for by, name in (("label", "class"), ("source", "source"), ("split", "split")):
        frame = counts.filter(pl.col("by") == by).select("group", "rows", "kept")
        if frame.height > 1 or (by == "label" and frame.height):
            found.append(Groups(by=name, frame=frame, cut=cut and by == "label"))
    if concepts.height:
        sizes = concepts.select(
            pl.col("concept").cast(pl.String).alias("group"), rows="n_assigned", kept="kept"
        )
        found.insert(min(1, len(found)), Groups(by="concept", frame=sizes.fill_null(0)))
    return found


def warnings(context: Context, counts: Mapping[str, Any], told: Sequence[Groups]) -> list[str]:
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
    found += context.facts(context.run.concepts).get("warnings", ())
    if context.recipe.dedup.epsilon is None:
        found.append("near-duplicates were not looked for (dedup.epsilon is none)")
    for family in families_of(context.recipe):
        said = context.facts(context.run.scores(family.folder)).get("warnings", ())
        found += [f"{family.folder}: {warning}" for warning in said]
    return found + _about_selection(context) + _about_groups(told)


def _about_selection(context: Context) -> list[str]:
    """Return what is to be known about the decisions: rows without a score, and uneven weights."""
    facts, found = context.facts(context.run.decisions), []
    without, noted = facts.get("without_score"), facts.get("weights")
    if without:
        statuses = ", ".join(f"{name}: {rows:,}" for name, rows in without["statuses"].items())
        found.append(
            f"{without['rows']:,} samples have no {context.recipe.select.score_column} ({statuses}); "
            f"{without['kept']:,} of them are kept (on_null: {context.recipe.select.null_policy})"
        )
    if noted and noted["effective"] < noted["rows"] / 2:
        found.append(
            f"the weights ({noted['method']}) make {noted['rows']:,} kept samples worth "
            f"{noted['effective']:,.0f}: the effective sample size"
        )
    return found


def _about_groups(told: Sequence[Groups]) -> list[str]:
    """Name the classes, sources and splits that shrink much more than the rest; concepts do so by design."""
    found = []
    for one in told:
        rows = compared(one.frame).filter("shrunk")
        if one.by == "concept" or rows.is_empty():
            continue
        first = rows.row(0, named=True)
        more = f" (and {rows.height - 1:,} more)" if rows.height > 1 else ""
        name = cut_text(first["group"], 60)
        found.append(
            f"{one.by} {name!r} keeps {first['share']:.1%} where the rest keeps {first['rest']:.1%}{more}"
        )
    return found


def origin(context: Context) -> dict[str, str]:
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
