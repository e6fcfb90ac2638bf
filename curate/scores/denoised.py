"""Vectors without what no concept near them explains, and their distance to the centre of their concept.

A vector is the sum of what lies in the space of its concept (its own centroid and those nearest to it) and of what lies
outside: details of the one picture, and noise. Looking at the first alone is what retrieval by centroids does to be less
disturbed by single vectors; no published code of this score is known. source: not checked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from curate.errors import EmbeddingError
from curate.linalg import margin, row_dots
from curate.scores.base import AtLeastOne, Score, ScoreColumn, Sources, embedding_parts
from curate.scores.columns import Column

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.scores.tables.output import Output

__all__ = ["Denoised", "concept_basis", "denoised", "nearest_centroids"]

#: What is left of a centroid, without those before it in a basis, is a direction of its own from this length on.
_DIRECTION = 1e-4
_TILE = 1 << 23  # inner products held at a time: 32 MB

Vectors = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


class Denoised(Score):
    """How far a sample is from the centre of its concept, without what lies outside the space of nearby concepts.

    centroids : how many make that space, the concept's own among them. strength : 1 takes all that lies outside away, less
    a part of it, so that the vector is only moved towards that space.
    """

    measures: ClassVar[str] = (
        "distance to the concept's centre without what no concept nearby explains; and how much that is"
    )
    paper: ClassVar[str] = "source: not checked"
    cost: ClassVar[str] = "samples x centroids x d, and concepts x concepts x d once"
    requires: ClassVar[str] = "concepts (of `dedup.blocks`, the blocks)"
    avoid: ClassVar[str] = "with few concepts: then almost all of an image lies outside of their space"
    place: ClassVar[int] = 8
    outputs: ClassVar[Mapping[str, Column]] = {
        "denoised_distance": Column("harder"), "outside_concepts": Column("noisier"),
    }  # fmt: skip

    family: Literal["denoised"] = "denoised"
    centroids: AtLeastOne = 8
    strength: Annotated[float, Field(gt=0, le=1)] = 1.0

    def inputs(
        self, context: "Context", columns: Mapping[str, ScoreColumn], sources: Sources
    ) -> list[object]:
        """Return which vectors are in concepts, and the fingerprint of these."""
        return [context.recipe.cluster.on, context.run.fingerprint(context.run.concepts)]

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts."""
        from threadpoolctl import threadpool_limits

        from curate.clustering.store import load_centroids

        path, run, parts = context.run.concepts / "centroids.parquet", context.run, output.todo()
        with threadpool_limits(1, user_api="blas"):
            near = nearest_centroids(load_centroids(path), self.centroids) if parts and context.rows else None
        tasks = [
            DenoiseTask(
                self, run.part(run.embeddings, part.name), run.part(run.assignments, part.name), path, near,
                context.recipe.cluster.on, output.path(part), output.fingerprint,
            )
            for part in parts
        ]  # fmt: skip
        context.map("score", "parts", _score_part, tasks)
        return {"scored": sum(map(len, embedding_parts(context)))}


@dataclass(frozen=True)
class DenoiseTask:
    """One part to score. near : (k, m) of each concept, those whose centroids make its space."""

    score: Denoised
    embeddings: Path
    assignments: Path
    centroids: Path
    near: npt.NDArray[np.int32] | None
    on: str
    out: Path
    fingerprint: str


def _score_part(task: DenoiseTask) -> None:
    """Write the table of a part, concept by concept within each block of its rows."""
    import pyarrow as pa
    from threadpoolctl import threadpool_limits

    from curate.clustering.store import load_centroids
    from curate.embedding.store import EmbeddingPart
    from curate.io import storage

    part = EmbeddingPart(task.embeddings)
    concept = storage.read_table(task.assignments, ["concept"])["concept"].to_numpy()
    distance, outside = np.empty(len(part)), np.empty(len(part))
    if task.near is not None and len(part):
        centroids = load_centroids(task.centroids)
        with threadpool_limits(1, user_api="blas"):
            for start, unit in part.blocks(task.on):
                here = slice(start, start + len(unit))
                distance[here], outside[here] = denoised(
                    unit, concept[here], centroids, task.near, task.score.strength
                )
    schema = task.score.table()
    columns = [distance.astype(np.float32), outside.astype(np.float32), ["ok"] * len(part)]
    table = pa.table([pa.array(part.uids(), pa.string()), *map(pa.array, columns)], schema=schema)
    storage.write_parquet(task.out, table, schema, task.fingerprint)


def nearest_centroids(centroids: Vectors, count: int) -> npt.NDArray[np.int32]:
    """Return of each centroid itself and those nearest to it, `count` together, (k, min(count, k)).

    centroids : (k, d) unit rows. The first column is 0 to k - 1; others by float64 inner product, largest first, the lowest
    id where equal. Products of matrices only propose.

    >>> nearest_centroids(np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32), 2)
    array([[0, 2],
           [1, 2],
           [2, 1]], dtype=int32)
    """
    k, count = len(centroids), min(count, len(centroids))
    found = np.empty((k, count), np.int32)
    found[:, 0] = np.arange(k)
    step = max(1, min(1024, _TILE // max(1, k)))
    for start in range(0, k, step) if count > 1 else ():
        products = centroids[start : start + step] @ centroids.T
        own = np.arange(len(products))
        products[own, start + own] = -np.inf
        bound = np.partition(products, k - count + 1, axis=1)[:, k - count + 1] - margin(centroids.shape[1])
        for row in own.tolist():
            candidates = np.flatnonzero(products[row] >= bound[row])
            dots = row_dots(centroids[candidates], centroids[start + row][None])
            found[start + row, 1:] = candidates[np.lexsort((candidates, -dots))[: count - 1]]
    return found


def concept_basis(centroids: Vectors) -> Floats:
    """Return directions at right angles, (r, d), that span the same space as some centroids, (m, d).

    One after the other, each without those before it (Gram-Schmidt, twice for precision); a centroid of which next to
    nothing is left adds none, so r is at most m.

    >>> concept_basis(np.array([[1, 0, 0], [0.6, 0.8, 0], [0, 1, 0]], np.float32)).round(6)
    array([[1., 0., 0.],
           [0., 1., 0.]])
    """
    basis = np.empty((0, centroids.shape[1]))
    for centroid in centroids.astype(np.float64):
        rest = centroid
        for _ in range(2):
            for direction in basis:
                rest = rest - float(row_dots(rest[None], direction[None])[0]) * direction
        length = float(np.sqrt(row_dots(rest[None], rest[None])[0]))
        if length >= _DIRECTION:
            basis = np.vstack([basis, rest / length])
    return basis


def denoised(
    vectors: Vectors,
    concept: npt.NDArray[np.integer[Any]],
    centroids: Vectors,
    near: npt.NDArray[np.int32],
    strength: float = 1.0,
) -> tuple[Floats, Floats]:
    """Return how far each vector is from its centroid without what lies outside, and how much that is; (n,) each.

    vectors : (n, d) unit rows. concept : (n,). centroids : (k, d) unit rows. near : (k, m), of each concept those that make
    its space, its own among them (`nearest_centroids`). strength : in (0, 1], the part of what lies outside that is taken away.
    Returns 1 - cosine of what is left with the centroid, in [0, 2] (1 where nothing is left), and the squared length of what
    lies outside, in [0, 1]. With strength 1 the cosine of the whole vector is the product of that of what is left and of
    sqrt(1 - outside). A value depends on its row and the centroids alone.
    Raises EmbeddingError where shapes do not fit.

    >>> rows = np.array([[0.6, 0.0, 0.8]], np.float32)
    >>> centre = np.eye(3, dtype=np.float32)[:2]
    >>> distance, outside = denoised(rows, np.array([0]), centre, nearest_centroids(centre, 2))
    >>> distance.round(6), outside.round(6)
    (array([0.]), array([0.64]))
    """
    if vectors.ndim != 2 or centroids.ndim != 2 or vectors.shape[1] != centroids.shape[1]:
        raise EmbeddingError(
            f"denoised needs rows (n, d) and centroids (k, d), got {vectors.shape} and {centroids.shape}"
        )
    distance, outside = np.empty(len(vectors)), np.empty(len(vectors))
    for one in np.unique(concept).tolist():
        here = np.flatnonzero(concept == one)
        rows = vectors[here]
        whole, inside = row_dots(rows, rows), np.zeros(len(here))
        for direction in concept_basis(centroids[near[one]]):
            inside += row_dots(rows, direction[None]) ** 2
        inside = np.minimum(inside, whole)
        # The length of (1 - s) v + s Pv, of which the part in the space is Pv whatever s is.
        length = np.sqrt((1 - strength) ** 2 * whole + strength * (2 - strength) * inside)
        dots = row_dots(rows, centroids[one][None])
        cosine = np.divide(dots, length, out=np.zeros(len(here)), where=length > 1e-6)
        distance[here] = 1.0 - np.clip(cosine, -1.0, 1.0)
        outside[here] = np.clip(1.0 - inside / whole, 0.0, 1.0)
    return distance, outside
