"""Concepts of vectors in memory: no files, no run."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curate.clustering.kmeans import assign, auto_concepts, fit
from curate.errors import EmbeddingError, UsageError
from curate.linalg import unit_rows

__all__ = ["Groups", "cluster"]


@dataclass(frozen=True)
class Groups:
    """The concepts of some vectors.

    Attributes
    ----------
    concept : (n,) int32
        The concept of each vector, the largest concept first.
    distance : (n,) float32 in [0, 2]
        1 - cosine of each vector and the centroid of its concept.
    centroids : (k, d) float32
        Unit rows; there may be fewer than were asked for.
    """

    concept: npt.NDArray[np.int32]
    distance: npt.NDArray[np.float32]
    centroids: npt.NDArray[np.float32]

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """The number of vectors of each concept, (k,)."""
        return np.bincount(self.concept, minlength=len(self.centroids))


def cluster(vectors: npt.ArrayLike, k: int | None = None, *, seed: int = 0) -> Groups:
    """Group vectors into concepts by spherical k-means.

    Parameters
    ----------
    vectors : (n, d) floats
        Any lengths; only directions count. The result depends on the order of the rows.
    k : int, optional
        The number of concepts; by default the square root of n.
    seed : int
        The start of k-means. Same vectors, k and seed: same concepts, on any number of threads.

    Returns
    -------
    Groups
        The concept of each vector, its distance to the centroid, and the centroids.

    Raises
    ------
    EmbeddingError
        For vectors that are not (n, d), not finite, or zero.

    Examples
    --------
    >>> groups = cluster([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [1.0, 0.1]], 2)
    >>> groups.concept, groups.sizes
    (array([0, 0, 1, 0], dtype=int32), array([3, 1]))
    """
    unit = unit_vectors(vectors)
    if k is not None and k < 1:
        raise UsageError(f"k must be at least 1, got {k}")
    concepts = fit(unit, auto_concepts(len(unit)) if k is None else k, seed=seed)
    concept, distance = assign(unit, concepts.centroids)
    return Groups(concept, distance, concepts.centroids)


def unit_vectors(vectors: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return vectors as (n, d) float32 unit rows. Raises EmbeddingError where one has no direction."""
    array = np.asarray(vectors)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise EmbeddingError(
            f"vectors must be numbers of shape (n, d), got {array.dtype} of shape {array.shape}"
        )
    unit, valid = unit_rows(array if array.dtype.kind == "f" else array.astype(np.float64))
    if not valid.all():
        raise EmbeddingError(f"vectors must be finite and not zero, row {int(valid.argmin())} is not")
    return unit
