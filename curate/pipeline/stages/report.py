"""Stage `report`: the page and the summary, from the tables of the run."""

import datetime
import platform
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import polars as pl

from curate import schema
from curate.analysis.summary import about_run, concept_figures, galleries, score_figures
from curate.analysis.summary.pass_over_parts import LIMITS, Seen, Wanted, look_at_all
from curate.errors import RunError
from curate.execution.context import Context, log
from curate.io import storage
from curate.ordering.keys import score_of
from curate.recipe import Recipe
from curate.report import page
from curate.report.model import Facts, Pair
from curate.report.notable import telling
from curate.scores.columns import hardest_is_largest
from curate.scores.registry import families_of, score_columns

__all__ = ["PACKAGES", "VERSION", "count_reasons", "grouped", "run", "versions", "wanted"]

VERSION = 2
PACKAGES = ("curate", "numpy", "polars", "pyarrow", "faiss-cpu", "torch", "open_clip_torch", "pillow")
#: Scores are drawn from at most about this many samples, spread evenly over the parts.
SCORE_SAMPLE = 200_000
#: Scores that say how doubtful a label is, the first that there is, and what makes larger ones more doubtful.
_DOUBT = {"noise_prob": 1, "neg_aum": 1, "pixels_neg_aum": 1, "p_label": -1, "pixels_p_label": -1}


def run(context: Context) -> bool:
    """Write `report.html` and `summary.json`; return whether anything was to do."""
    folder = context.run.report
    families = [
        context.run.fingerprint(context.run.scores(one.folder)) for one in families_of(context.recipe)
    ]
    fingerprint = storage.fingerprint(
        "report", VERSION, context.run.fingerprint(context.run.filtered), families
    )
    if context.run.is_done(folder, fingerprint):
        return False
    context.run.unmark(folder)
    for old in folder.glob("_concept-*.html"):  # of decisions before
        storage.remove(old)
    counts = count_reasons(context)
    storage.write_json(folder / "summary.json", counts)
    with storage.atomic(folder / "report.html") as partial:
        partial.write_text(page.render(_facts(context, counts)), encoding="utf-8")
    context.run.mark(folder, fingerprint, {})
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


def wanted(
    context: Context, shown: tuple[int, ...], told: tuple[int, ...], limits: Mapping[str, int] = LIMITS
) -> Wanted:
    """Return what to look for in the parts: samples of the shown and of the telling concepts, scores, groups."""
    recipe = context.recipe
    total = sum(part.rows for part in context.parts)
    return Wanted(
        families=tuple(one.folder for one in families_of(recipe)), shown=shown, telling=told,
        hardness=_hardness(recipe), doubt=_doubt(context), ends=score_figures.cut_rules(recipe),
        step=max(1, -(-total // SCORE_SAMPLE)), seed=recipe.seed, limits=limits,
    )  # fmt: skip


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
    facts = {name: context.facts(context.run.scores(known[name].folder)) for name in _DOUBT if name in known}
    predicted = next((name for name in ("pred_label", "pixels_pred_label") if name in known), None)
    # The noise model gives no sample a score where it finds no two groups.
    score = next((name for name, said in facts.items() if said.get("scored") != 0), None)
    return None if predicted is None or score is None else (predicted, score, _DOUBT[score])


def _facts(context: Context, counts: Mapping[str, Any]) -> Facts:
    recipe, run = context.recipe, context.run
    table = concept_figures.concept_table(run)
    shown = tuple(page.largest(table)["concept"].to_list()) if table.height else ()
    told = telling(table)
    asked = wanted(context, shown, tuple(told))
    seen = look_at_all(context, asked)
    shelf = galleries.shelve(context, seen.picks)
    typical = galleries.typical(seen.picks, shelf)
    groups = about_run.groups(seen.groups, table, cut=seen.cut)
    means = {name: one.higher_is for name, one in score_columns(recipe).items()}
    examples = pl.DataFrame(
        [(concept, shelf.samples[places[0]].caption) for concept, places in typical.items()],
        schema={"concept": pl.Int32, "example": pl.String}, orient="row",
    )  # fmt: skip
    if examples["example"].null_count() < len(examples):
        table = table.join(examples, on="concept", how="left", maintain_order="left")
    return Facts(
        name=recipe.run, rows_in=counts["rows"], kept=counts["kept"], reasons=_reasons(recipe, counts),
        concepts=table, layout=concept_figures.layout(run, shown), samples=shelf.samples, typical=typical,
        galleries=galleries.galleries(seen.picks, shelf, told, asked.hardness[0]), hardness=asked.hardness[0],
        duplicates=_pairs(seen, shelf), groups=groups,
        mislabelled=galleries.mislabelled(seen.picks, shelf, asked.doubt[1] if asked.doubt else ""),
        what_if=concept_figures.what_if(context, table, seen.first), sampled=asked.step,
        scores=score_figures.scores(seen.sample, asked.step, recipe, seen.ends, means) if seen.sample.width else (),
        correlation=score_figures.correlation(seen.sample) if len(seen.sample) else ((), ()),
        weights=about_run.weights(context, seen.sample, asked.step), reliability=about_run.reliability(context),
        stages=about_run.stages(context), warnings=about_run.warnings(context, counts, groups),
        bad_shards=about_run.bad_shards(context), recipe=recipe.to_yaml(), versions=about_run.origin(context) | versions(),
        pictures=any(part.columns.image for part in context.parts), created=_now(),
    )  # fmt: skip


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _pairs(seen: Seen, shelf: galleries.Shelf) -> list[Pair]:
    """Return the pairs of the gallery: those nearest to the threshold, then some drawn at random."""
    order = pl.col("list").replace_strict({"near_cut": 0, "drawn": 1})
    rows = seen.picks.filter(pl.col("list").is_in(["near_cut", "drawn"])).sort(order, "order", "uid")
    return galleries.pairs(rows, shelf)


def _reasons(recipe: Recipe, counts: Mapping[str, Any]) -> dict[str, int]:
    """Return rows by reason; filters in the order of the recipe, which the page keeps."""
    conditions = [f"filter:{one}" for one in recipe.filter]
    place = {name: index for index, name in enumerate(conditions)}
    dropped = sorted(counts["dropped"].items(), key=lambda item: place.get(item[0], len(place)))
    unusable = {f"unusable:{name}": n for name, n in counts["unusable"].items()}
    return {**unusable, **dict(dropped), "kept": counts["kept"]}
