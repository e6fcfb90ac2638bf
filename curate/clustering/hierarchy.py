"""Concepts in levels: k-means on the rows, then on its centroids, and so on, each with resampling.

After Vo et al. 2024, "Automatic data curation for self-supervised learning: a clustering-based approach"
(arXiv:2405.15613). k-means puts most centroids where most rows are. Clustering anew the few members that are nearest to
each centroid, and then centroids in place of rows, spreads them over all there is. Here all k-means are spherical.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curate.clustering.kmeans import Concepts, Precision, assign, described, fit
from curate.errors import EmbeddingError
from curate.hashing import hash_uids

__all__ = ["Hierarchy", "Resampling", "ancestors", "fit_levels", "members_to_take", "nearest_members"]

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Resampling:
    """How often each level is clustered anew from the nearest members of its clusters, and from how many of each.

    steps : 0 for plain k-means. members : None for half of the mean number of members of a cluster, rounded up. With
    one member of each cluster there is nothing to cluster anew, and no step is made.
    """

    steps: int = 10
    members: int | None = None


@dataclass(frozen=True)
class Hierarchy:
    """Concepts, and the concepts of their centroids above them.

    finest : the concepts of the rows. parents : one (k,) per level but the last, the concept of the level above that each
    one is in. They are in the order of (members desc, first member) on every level, where members are those of the level below.
    """

    finest: Concepts
    parents: tuple[Ids, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of concepts of each level, the finest first."""
        return (len(self.finest.centroids), *(int(parent.max()) + 1 for parent in self.parents))


def fit_levels(
    vectors: npt.NDArray[np.float32],
    levels: Sequence[int],
    *,
    seed: int,
    resampling: Resampling,
    precision: Precision = "float32",
) -> Hierarchy:
    """Return concepts in levels: `levels[0]` of the rows, `levels[1]` of their centroids, and so on.

    vectors : (n, d) float32, C-contiguous unit rows, sorted by uid by the caller. levels : numbers of concepts, from the
    finest up. precision : of each fit, as in `kmeans.fit`. Centroids count alike on the levels above, however many rows they stand for (as in the paper's code). A level has
    no more concepts than there are different vectors below it. The result depends on rows, their order, and settings only.
    Raises EmbeddingError as `kmeans.fit` does, and where there is no level.

    >>> rows = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 3]]
    >>> found = fit_levels(rows, [4, 2], seed=0, resampling=Resampling(steps=0))
    >>> found.sizes, len(found.parents[0])
    ((4, 2), 4)
    """
    if not levels:
        raise EmbeddingError("cluster.levels needs at least 1 level, got none")
    finest = below = _fit_level(vectors, levels[0], 1, seed, resampling, precision)
    parents = []
    for level, k in enumerate(levels[1:], 2):
        above = _fit_level(below.centroids, k, level, seed, resampling, precision)
        parents.append(assign(below.centroids, above.centroids)[0])
        below = above
    return Hierarchy(finest, tuple(parents))


def _fit_level(
    vectors: npt.NDArray[np.float32],
    k: int,
    level: int,
    seed: int,
    resampling: Resampling,
    precision: Precision,
) -> Concepts:
    """Return the concepts of one level, found by k-means and then `steps` times from the members nearest to centroids."""
    found = fit(vectors, k, seed=seed, precision=precision)
    count = members_to_take(len(vectors), len(found.centroids), resampling.members)
    for step in range(resampling.steps if count > 1 else 0):
        concept, distance = assign(vectors, found.centroids)
        picks = nearest_members(concept, distance, count)
        start = int(hash_uids([f"{level} {step}"], seed, "cluster", "resample")[0] >> np.uint64(33))
        again = fit(vectors[picks], k, seed=start, precision=precision)
        found = described(vectors, again.centroids, k)
    return found


def members_to_take(n: int, k: int, asked: int | None) -> int:
    """Return how many members of each of `k` clusters of `n` vectors are clustered anew.

    >>> members_to_take(500_000, 50_000, None), members_to_take(9, 4, None), members_to_take(9, 4, 7)
    (5, 2, 7)
    """
    return -(-n // (2 * k)) if asked is None else asked


def nearest_members(concept: Ids, distance: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int64]:
    """Return the rows that are among the `count` nearest to the centroid of their concept, ascending.

    concept, distance : (n,). Of equal distances the first row is nearer.

    >>> nearest_members(np.array([0, 1, 0, 0], np.int32), np.array([0.3, 0.9, 0.1, 0.1], np.float32), 2)
    array([1, 2, 3])
    """
    order = np.lexsort((distance, concept))
    _, starts, sizes = np.unique(concept[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(starts, sizes)
    return np.sort(order[place < count])


def ancestors(parents: Sequence[npt.NDArray[np.integer]]) -> tuple[Ids, ...]:
    """Return the concept of each level above that each finest concept is in, (k,) each.

    parents : as in `Hierarchy`. A concept of a level is the union of what is below it, so rows are in one of each level.

    >>> ancestors([np.array([0, 1, 1]), np.array([1, 0])])
    (array([0, 1, 1], dtype=int32), array([1, 0, 0], dtype=int32))
    """
    found: list[Ids] = []
    for parent in parents:
        above = np.asarray(parent, np.int32)
        found.append(above if not found else above[found[-1]])
    return tuple(found)
