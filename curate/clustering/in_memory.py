"""Concepts of vectors in memory: no files, no run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from curate.clustering.hierarchy import Resampling, ancestors, fit_levels
from curate.clustering.kmeans import Precision, assign, auto_concepts
from curate.clustering.levels import checked_levels
from curate.errors import EmbeddingError, UsageError
from curate.linalg import joined, load_unit, unit_rows

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
    parents : tuple of (k,) int32
        Of each level above, the concept there that each concept is in; empty where there is one level.
    """

    concept: npt.NDArray[np.int32]
    distance: npt.NDArray[np.float32]
    centroids: npt.NDArray[np.float32]
    parents: tuple[npt.NDArray[np.int32], ...] = ()

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """The number of vectors of each concept, (k,)."""
        return np.bincount(self.concept, minlength=len(self.centroids))


def cluster(
    vectors: npt.ArrayLike,
    k: int | None = None,
    *,
    text: npt.ArrayLike | None = None,
    levels: Sequence[int] | None = None,
    resamples: int = 10,
    resample_members: int | None = None,
    seed: int = 0,
    precision: Precision = "auto",
) -> Groups:
    """Group vectors into concepts by spherical k-means.

    Parameters
    ----------
    vectors : (n, d) floats
        Any lengths; only directions count. The result depends on the order of the rows.
    k : int, optional
        The number of concepts; by default the square root of n.
    text : (n, d) floats, optional
        Vectors of the captions: concepts are then of both (`cluster.on: both`), and centroids have 2 d numbers.
    levels : sequence of int, optional
        In the place of `k`, concepts in levels: so many of the vectors, so many of their centroids, and so on
        (Vo et al. 2024, arXiv:2405.15613), each fewer than the one before.
    resamples, resample_members : int
        With levels: how often each one is clustered anew, from how many members nearest to each centroid; by default
        half of their mean number.
    seed : int
        The start of k-means. Same vectors, k and seed: same concepts, on any number of threads.
    precision : {'auto', 'float32', 'int8'}
        What k-means is trained in, as `cluster.precision`: float32 is FAISS, int8 takes about a tenth of its time for large
        sets, and is the same on every processor; auto takes it for these.

    Returns
    -------
    Groups
        The concept of each vector, its distance to the centroid, the centroids, and the levels above.

    Raises
    ------
    EmbeddingError
        For vectors that are not (n, d), not finite, or zero.
    UsageError
        For numbers of concepts below 1, for both `k` and `levels`, and for levels that do not get fewer.

    Examples
    --------
    >>> groups = cluster([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [1.0, 0.1]], 2)
    >>> groups.concept, groups.sizes
    (array([0, 0, 1, 0], dtype=int32), array([3, 1]))
    """
    unit = unit_vectors(vectors)
    if text is not None:
        words = unit_vectors(text)
        if len(words) != len(unit):
            raise UsageError(f"text must have one row for each of {len(unit):,} vectors, got {len(words):,}")
        unit = load_unit(joined(unit, words))
    if k is not None and k < 1:
        raise UsageError(f"k must be at least 1, got {k}")
    if precision not in get_args(Precision):
        raise UsageError(f"precision must be auto, float32 or int8, got {precision!r}")
    wanted: tuple[int, ...] = (auto_concepts(len(unit)) if k is None else k,)
    how = Resampling(steps=0)
    if levels is not None:
        wanted, how = (
            _checked(k, levels, resamples, resample_members),
            Resampling(resamples, resample_members),
        )
    tree = fit_levels(unit, wanted, seed=seed, resampling=how, precision=precision)
    concept, distance = assign(unit, tree.finest.centroids)
    return Groups(concept, distance, tree.finest.centroids, ancestors(tree.parents))


def _checked(k: int | None, levels: Sequence[int], resamples: int, members: int | None) -> tuple[int, ...]:
    """Return the levels; raises UsageError for settings that a recipe would refuse too."""
    if k is not None:
        raise UsageError("takes one of k and levels: the first of levels is the number of concepts")
    if resamples < 0 or (members is not None and members < 1):
        raise UsageError(
            f"resamples must be at least 0 and resample_members at least 1, got {resamples} and {members}"
        )
    try:
        return checked_levels(levels)
    except ValueError as error:
        raise UsageError(f"levels {error}") from None


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
