"""Near-duplicates in a sample of a run's rows, where the run does not look for them: how many, and which pairs.

Whole concepts are drawn by the hash of their number until there are 2,000 rows that passed the filters; of a larger
concept, rows by hash.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.deduplication.semantic import find_duplicates, threshold_of
from curate.embedding.store import EmbeddingPart
from curate.execution.context import Context, eligible
from curate.hashing import hash_uids, tie
from curate.io import storage
from curate.linalg import load_unit

__all__ = ["NearPair", "look", "pairs_around", "rates"]

#: Rows looked at.
ROWS = 2_000
#: What is said of a sample: how many rows have an earlier one within these distances.
EPSILONS = (0.001, 0.01, 0.05)


@dataclass(frozen=True)
class _Group:
    """Sampled rows of one concept, in the order of their ties, with their vectors."""

    concept: int
    uids: list[str]
    vectors: npt.NDArray[np.float32]


@dataclass(frozen=True)
class NearPair:
    """A sampled row and the most similar one before it."""

    uid: str
    other: str
    similarity: float
    concept: int


def look(context: Context) -> Mapping[str, Any] | None:
    """Return the number of rows looked at, and the share with an earlier one within each epsilon; None without rows."""
    groups = list(_sampled(context))
    similarities = [pair.similarity for pair in _pairs(groups)]
    count = sum(len(group.uids) for group in groups)
    if not count:
        return None
    near = np.array(similarities)
    within = {f"{epsilon:g}": int((near > threshold_of(epsilon)).sum()) / count for epsilon in EPSILONS}
    return {"rows": count, "within": within}


def rates(context: Context, epsilons: Sequence[float]) -> tuple[int, list[int]]:
    """Return how many rows are looked at, and how many of them greedy dedup drops at each epsilon."""
    groups = list(_sampled(context))
    dropped = [
        sum(
            int((find_duplicates(group.vectors, threshold=threshold_of(epsilon)).duplicate_of >= 0).sum())
            for group in groups
        )
        for epsilon in epsilons
    ]
    return sum(len(group.uids) for group in groups), dropped


def pairs_around(context: Context, epsilon: float, count: int) -> list[NearPair]:
    """Return the `count` pairs whose similarity is nearest to 1 - epsilon, the most similar first."""
    threshold = threshold_of(epsilon)
    every = sorted(_pairs(_sampled(context)), key=lambda pair: (abs(pair.similarity - threshold), pair.uid))
    return sorted(every[:count], key=lambda pair: (-pair.similarity, pair.uid))


def _pairs(groups: Iterable[_Group]) -> Iterator[NearPair]:
    """Yield each sampled row with the most similar one before it."""
    for group in groups:
        found = find_duplicates(group.vectors, threshold=-2.0, mode="reference")
        for row in np.flatnonzero(found.duplicate_of >= 0).tolist():
            other, similarity = int(found.duplicate_of[row]), float(found.similarity[row])
            yield NearPair(group.uids[row], group.uids[other], similarity, group.concept)


def sampled_concepts(context: Context, rows: int) -> list[npt.NDArray[np.float32]]:
    """Return the vectors of about `rows` sampled rows, concept by concept, first to keep first."""
    return [group.vectors for group in _sampled(context, rows)]


def _sampled(context: Context, most: int | None = None) -> Iterator[_Group]:
    """Yield the sampled rows, concept by concept. most : how many, `ROWS` by default."""
    most = ROWS if most is None else most
    run, seed = context.run, context.recipe.seed
    sizes = storage.read_table(run.concepts / "concepts.parquet", ["n_assigned"])["n_assigned"].to_numpy()
    order = np.argsort(hash_uids(map(str, range(len(sizes))), seed, "near sample"))
    drawn = order[: int(np.searchsorted(np.cumsum(sizes[order]), most)) + 1]
    frames, halves = [], []
    for part in context.parts:
        rows = eligible(run, part.name, ("filter",)).with_row_index("position")
        rows = rows.filter(pl.col("filter_reason").is_null() & pl.col("concept").is_in(drawn.tolist()))
        stored = EmbeddingPart(run.part(run.embeddings, part.name))
        halves.append(
            stored.take(context.recipe.cluster.compared, rows["position"].cast(pl.Int64).to_numpy())
        )
        frames.append(rows.select("uid", "concept"))
    if not sum(map(len, frames)):
        return
    every = pl.concat(frames).with_row_index("at")
    every = every.with_columns(pl.Series("tie", tie(every["uid"].to_list(), seed)))
    every = every.sort("tie", "uid").head(most)
    half = np.concatenate(halves)
    for (concept,), group in every.group_by("concept", maintain_order=True):
        yield _Group(int(str(concept)), group["uid"].to_list(), load_unit(half[group["at"].to_numpy()]))
