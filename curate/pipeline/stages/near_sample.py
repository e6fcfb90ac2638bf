"""How many near-duplicates a sample has, where a run does not look for them: said, and noted beside the run's times."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from curate.deduplication.semantic import find_duplicates, threshold_of
from curate.embedding.store import EmbeddingPart
from curate.execution.context import Context, eligible
from curate.hashing import hash_uids, tie
from curate.io import storage
from curate.linalg import load_unit

__all__ = ["look"]

#: Rows looked at, of concepts that are drawn by hash.
ROWS = 2_000
#: What is said of a sample: how many rows have an earlier one within these distances.
EPSILONS = (0.001, 0.01, 0.05)


def look(context: Context) -> Mapping[str, Any] | None:
    """Return the number of rows looked at, and the share with an earlier one within each epsilon; None without rows.

    Whole concepts are drawn by the hash of their number until there are 2,000 rows; of a larger one, rows by hash.
    """
    run, seed = context.run, context.recipe.seed
    sizes = storage.read_table(run.concepts / "concepts.parquet", ["n_assigned"])["n_assigned"].to_numpy()
    order = np.argsort(hash_uids(map(str, range(len(sizes))), seed, "near sample"))
    drawn = order[: int(np.searchsorted(np.cumsum(sizes[order]), ROWS)) + 1]
    frames, halves = [], []
    for part in context.parts:
        rows = (
            eligible(run, part.name, ("filter",))
            .select("uid", "concept", "filter_reason")
            .with_row_index("position")
        )
        rows = rows.filter(pl.col("filter_reason").is_null() & pl.col("concept").is_in(drawn.tolist()))
        stored = EmbeddingPart(run.part(run.embeddings, part.name))
        halves.append(stored.take(context.recipe.cluster.on, rows["position"].cast(pl.Int64).to_numpy()))
        frames.append(rows.select("uid", "concept"))
    if not sum(map(len, frames)):
        return None
    every = pl.concat(frames).with_row_index("at")
    every = (
        every.with_columns(pl.Series("tie", tie(every["uid"].to_list(), seed))).sort("tie", "uid").head(ROWS)
    )
    vectors = load_unit(np.concatenate(halves)[every["at"].to_numpy()])
    nearest = np.full(len(every), np.nan, np.float32)
    for number in every["concept"].unique().to_list():
        here = (every["concept"] == number).arg_true().to_numpy()
        nearest[here] = find_duplicates(vectors[here], threshold=0.5, mode="reference").max_similarity_earlier
    shares = {f"{epsilon:g}": float((nearest > threshold_of(epsilon)).mean()) for epsilon in EPSILONS}
    return {"rows": len(every), "within": shares}
