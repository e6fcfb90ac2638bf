"""The concepts of a run: the largest, the most complex, the most pruned; and a typical sample of each."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from curate.analysis.summary.tables import part_names, table
from curate.io import storage
from curate.runs.folder import RunFolder

if TYPE_CHECKING:
    import polars as pl

__all__ = ["MEDOID_COLUMNS", "concept_table", "listed", "medoids"]

#: What is known of a typical sample.
MEDOID_COLUMNS = ("uid", "shard", "row", "caption", "label")


def concept_table(run: RunFolder) -> "pl.DataFrame | None":
    """Return one row per concept: what the decisions say, with `share`, the part of the eligible that is kept.

    Before there are decisions: concept and `n_assigned`. None before there are concepts.
    """
    import polars as pl

    if run.marker(run.decisions) is not None:
        frame = pl.DataFrame(storage.read_table(run.decisions / "concepts.parquet"))
        size = pl.col("n_eligible")
        return frame.with_columns(share=pl.when(size > 0).then(pl.col("kept") / size))
    if run.marker(run.concepts) is not None:
        return pl.DataFrame(storage.read_table(run.concepts / "concepts.parquet", ["concept", "n_assigned"]))
    return None


def listed(concepts: "pl.DataFrame", count: int) -> dict[str, "pl.DataFrame"]:
    """Return the first `count` concepts by size, by complexity and by how little of them is kept.

    Equal ones are in the order of their size, then of their number; those without samples are in the first list
    only.
    """
    import polars as pl

    size = "n_eligible" if "n_eligible" in concepts.columns else "n_assigned"
    found = {"largest": concepts.sort(size, "concept", descending=[True, False]).head(count)}
    if "share" not in concepts.columns:
        return found
    some = concepts.filter(pl.col(size) > 0)
    known = some.filter(pl.col("complexity").is_finite())
    if len(known):
        by = ["complexity", size, "concept"]
        found["most complex"] = known.sort(by, descending=[True, True, False]).head(count)
    if len(some):
        by = ["share", size, "concept"]
        found["most pruned"] = some.sort(by, descending=[False, True, False]).head(count)
    return found


def medoids(run: RunFolder, concepts: Iterable[int]) -> "pl.DataFrame":
    """Return the sample nearest to the centroid of each concept (the first uid of equals), as far as there is one.

    One row per concept: concept, part, distance, and `MEDOID_COLUMNS`. All assignments are read once, part by part.
    """
    import polars as pl

    wanted = pl.Series(sorted(set(concepts)), dtype=pl.Int32)
    kinds = {"uid": pl.String, "concept": pl.Int32, "distance": pl.Float32, "part": pl.String}
    best = pl.DataFrame(schema=kinds)
    for part in part_names(run, run.concepts):
        rows = table(run, run.assignments, part, ["uid", "concept", "distance"])
        rows = rows.filter(pl.col("concept").is_in(wanted.implode())).with_columns(part=pl.lit(part))
        best = pl.concat([best, rows.select(list(kinds))]).sort("distance", "uid")
        best = best.unique("concept", keep="first", maintain_order=True)
    found = [_samples(run, part, rows) for (part,), rows in best.group_by("part", maintain_order=True)]
    empty = pl.DataFrame(schema=kinds | dict.fromkeys(MEDOID_COLUMNS, pl.String) | {"row": pl.Int64})
    order = ["concept", "part", "distance", *MEDOID_COLUMNS]
    return pl.concat([frame.select(order) for frame in [empty, *found]]).sort("concept")


def _samples(run: RunFolder, part: object, rows: "pl.DataFrame") -> "pl.DataFrame":
    """Add what 0_samples says of some samples of a part."""
    import polars as pl

    frame = table(run, run.samples, str(part), [*MEDOID_COLUMNS, "outcome", "copy_of"])
    usable = frame.filter((pl.col("outcome") == "ok") & pl.col("copy_of").is_null())
    return rows.join(usable.select(MEDOID_COLUMNS), on="uid", how="left", validate="m:1")
