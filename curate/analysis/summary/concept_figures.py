"""The table of concepts, where they stand on the map, which are telling, and what budgets are computed from."""

import polars as pl

from curate.clustering.store import load_centroids
from curate.execution.context import Context
from curate.io import storage
from curate.recipe import Recipe
from curate.report.map import flat
from curate.report.model import WhatIf
from curate.runs.folder import RunFolder

__all__ = ["MAX_WHAT_IF", "concept_table", "layout", "what_if"]

#: Of more concepts the page computes no budgets: their numbers alone would fill it.
MAX_WHAT_IF = 50_000
#: Concepts with fewer rows are uneven by chance.
_FEW = 10


def concept_table(run: RunFolder) -> pl.DataFrame:
    """Return the concepts as decided, with `n_assigned` and `unevenness`.

    unevenness : how far the farthest hundredth of a concept lies from its centre, in mean distances.
    """
    decided = pl.DataFrame(storage.read_table(run.decisions / "concepts.parquet"))
    fitted = pl.DataFrame(storage.read_table(run.concepts / "concepts.parquet"))
    frame = decided.join(
        fitted.select("concept", "n_assigned", "p99_distance"),
        on="concept",
        how="left",
        maintain_order="left",
    )
    enough = (pl.col("n_eligible") >= _FEW) & (pl.col("d_intra") > 0)
    uneven = pl.when(enough).then(pl.col("p99_distance").cast(pl.Float64) / pl.col("d_intra"))
    return frame.with_columns(unevenness=uneven).drop("p99_distance")


def layout(run: RunFolder, shown: tuple[int, ...]) -> pl.DataFrame:
    """Return where the shown concepts stand on the map: concept, x, y."""
    if not shown:
        return pl.DataFrame()
    places = flat(load_centroids(run.concepts / "centroids.parquet")[list(shown)])
    return pl.DataFrame({"concept": shown, "x": places[:, 0], "y": places[:, 1]})


def what_if(context: Context, concepts: pl.DataFrame, first: pl.DataFrame) -> WhatIf | None:
    """Return what budgets are computed from; None where there is nothing to choose from, or too much.

    first : per concept the smallest uid among the rows that compete, and how many of them are pinned.
    """
    recipe, facts = context.recipe, context.facts(context.run.decisions)
    if concepts.is_empty() or concepts.height > MAX_WHAT_IF or not facts.get("eligible"):
        return None
    frame = concepts.join(first, on="concept", how="left", maintain_order="left")
    table = frame.select(
        "concept",
        (pl.col("n_eligible") - pl.col("pinned").fill_null(0)).alias("free"),
        pl.col("pinned").fill_null(0),
        "complexity",
        pl.col("smallest_uid").rank("ordinal").fill_null(len(frame) + 1).cast(pl.Int64).alias("rank"),
        "kept",
    )
    if table["complexity"].null_count() or not table["complexity"].is_finite().all():
        return None
    select = recipe.select
    of = {
        "usable": facts["input"] - facts["unusable"],
        "input": facts["input"],
        "eligible": facts["eligible"],
    }
    return WhatIf(
        concepts=table, base=of[select.of], eligible=facts["eligible"], of=select.of, keep=select.keep,
        temperature=select.temperature, min_per_concept=select.min_per_concept, method=select.method,
        command=_command(recipe),
    )  # fmt: skip


def _command(recipe: Recipe) -> str:
    more = "" if recipe.select.method == "density" else " --method density"
    return f"curate select {recipe.run}{more}"
