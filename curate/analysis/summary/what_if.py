"""What the budgets of the page are computed from."""

import polars as pl

from curate.execution.context import Context
from curate.recipe import Recipe
from curate.report.model import WhatIf

__all__ = ["MAX_WHAT_IF", "what_if"]

#: Of more concepts the page computes no budgets: their numbers alone would fill it.
MAX_WHAT_IF = 50_000


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
