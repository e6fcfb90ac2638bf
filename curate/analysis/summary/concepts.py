"""The concepts of a run: how large, complex, pruned and uneven they are, and a typical sample of each."""

from collections.abc import Iterable

import polars as pl

from curate.analysis.summary.tables import table
from curate.clustering.store import load_centroids
from curate.io import storage
from curate.report.map import flat
from curate.runs.folder import RunFolder

__all__ = ["TYPICAL_COLUMNS", "concept_table", "first_concepts", "layout", "stored_names", "typical_samples"]

#: What is known of a typical sample.
TYPICAL_COLUMNS = ("uid", "shard", "row", "caption", "label")
#: Concepts with fewer rows are uneven by chance.
_FEW = 10


def concept_table(run: RunFolder) -> pl.DataFrame | None:
    """Return one row per concept: what the decisions say, with `share`, `n_assigned` and `unevenness`.

    share : the part of the eligible that is kept. unevenness : how far the farthest hundredth of a concept lies from
    its centre, in mean distances. Before there are decisions: concept and `n_assigned`. None before there are
    concepts. Where concepts have names there is `name`.
    """
    found, names = _without_names(run), stored_names(run)
    if found is None or not names:
        return found
    told = pl.DataFrame(
        {"concept": list(names), "name": list(names.values())}, {"concept": pl.Int32, "name": pl.String}
    )
    return found.join(told, on="concept", how="left", maintain_order="left")


def stored_names(run: RunFolder) -> dict[int, str]:
    """Return what the present concepts of a run are called; none where they were not named, or are others by now."""
    noted, marker = storage.read_json(run.concept_names), run.marker(run.final_concepts)
    if not isinstance(noted, dict) or marker is None or noted.get("concepts") != marker["fingerprint"]:
        return {}
    return {int(concept): str(name) for concept, name in noted["names"].items()}


def _without_names(run: RunFolder) -> pl.DataFrame | None:
    fitted = None
    if run.marker(run.final_concepts) is not None:
        names = ["concept", "n_assigned", "p99_distance"]
        fitted = pl.DataFrame(storage.read_table(run.final_concepts / "concepts.parquet", names))
    if run.marker(run.decisions) is None:
        return None if fitted is None else fitted.drop("p99_distance")
    decided = pl.DataFrame(storage.read_table(run.budgets))
    if fitted is None:  # being made anew
        lacking = (pl.lit(None, pl.Int64).alias("n_assigned"), pl.lit(None, pl.Float32).alias("p99_distance"))
        fitted = decided.clear().select("concept", *lacking)
    frame = decided.join(fitted, on="concept", how="left", maintain_order="left")
    enough = (pl.col("n_eligible") >= _FEW) & (pl.col("d_intra") > 0)
    uneven = pl.when(enough).then(pl.col("p99_distance").cast(pl.Float64) / pl.col("d_intra"))
    share = pl.when(pl.col("n_eligible") > 0).then(pl.col("kept") / pl.col("n_eligible"))
    return frame.with_columns(unevenness=uneven, share=share).drop("p99_distance")


def first_concepts(concepts: pl.DataFrame, count: int) -> dict[str, pl.DataFrame]:
    """Return the first `count` concepts by size, by complexity and by how little of them is kept.

    Equal ones are in the order of their size, then of their number; those without samples are in the first list
    only.
    """
    size = "n_eligible" if "n_eligible" in concepts.columns else "n_assigned"
    found = {"largest": concepts.sort(size, "concept", descending=[True, False]).head(count)}
    if "share" not in concepts.columns:
        return found
    some = concepts.filter(pl.col(size) > 0)
    known = some.filter(pl.col("complexity").is_finite())
    if len(known):
        by = ["complexity", size, "concept"]
        found["most complex"] = known.sort(by, descending=[True, True, False]).head(count)
    pruned = some.filter(pl.col("share") < 1)
    if len(pruned):
        by = ["share", size, "concept"]
        found["most pruned"] = pruned.sort(by, descending=[False, True, False]).head(count)
    return found


def typical_samples(run: RunFolder, nearest: pl.DataFrame, concepts: Iterable[int]) -> pl.DataFrame:
    """Return the sample nearest to the centroid of each concept, as far as there is one.

    nearest : concept, part, distance, uid, as a scan found them. One row per concept: concept, part, distance, and
    `TYPICAL_COLUMNS`.
    """
    chosen = nearest.filter(
        pl.col("concept").is_in(pl.Series(sorted(set(concepts)), dtype=pl.Int32).implode())
    )
    found = [_samples(run, part, rows) for (part,), rows in chosen.group_by("part", maintain_order=True)]
    empty = nearest.clear().with_columns(
        pl.lit(None, pl.Int64 if name == "row" else pl.String).alias(name) for name in TYPICAL_COLUMNS[1:]
    )
    order = ["concept", "part", "distance", *TYPICAL_COLUMNS]
    return pl.concat([frame.select(order) for frame in [empty, *found]]).sort("concept")


def _samples(run: RunFolder, part: object, rows: pl.DataFrame) -> pl.DataFrame:
    """Add what 0_samples says of some samples of a part."""
    frame = table(run, run.samples, str(part), [*TYPICAL_COLUMNS, "outcome", "copy_of"])
    usable = frame.filter((pl.col("outcome") == "ok") & pl.col("copy_of").is_null())
    return storage.compact(rows.join(usable.select(TYPICAL_COLUMNS), on="uid", how="left", validate="m:1"))


def layout(run: RunFolder, listed: tuple[int, ...]) -> pl.DataFrame:
    """Return where some concepts stand on the map: concept, x, y."""
    if not listed:
        return pl.DataFrame()
    places = flat(load_centroids(run.final_concepts / "centroids.parquet")[list(listed)])
    return pl.DataFrame({"concept": listed, "x": places[:, 0], "y": places[:, 1]})
