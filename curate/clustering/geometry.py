"""How concepts lie: their spread, their distance to others, their dimension; as they are, or with the mean taken out.

Vectors of one encoder share a large common part (the "cone" of CLIP's space): all inner products are high, and all
concepts about as tight and as near to each other. Without the mean vector they differ by an order of magnitude.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.clustering.complexity import inter_distance
from curate.linalg import row_dots, unit_rows

__all__ = ["Geometry", "between", "centred", "centred_distances", "mean_vector", "with_known"]

#: A vector that is nearer to the mean has no direction from it.
_NOWHERE = 1e-6

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Geometry:
    """How the concepts lie; all (k,). d_intra : mean distance of members to the centroid. d_inter : to other concepts.

    dimension : intrinsic dimension of the members, where it was asked for.
    """

    d_intra: Floats
    d_inter: Floats
    dimension: Floats | None = None


def mean_vector(centroids: Vectors, sizes: npt.NDArray[np.integer[Any]], d_intra: Floats) -> Floats:
    """Return the mean of all members' unit vectors, (d,), as their concepts give it.

    The members of a concept add up to size x (1 - d_intra) along its centroid, exactly so where k-means has
    converged. centroids : (k, d) unit rows. sizes, d_intra : (k,). Each number is exactly rounded, so it depends on no order of rows.

    >>> mean_vector(np.eye(2, dtype=np.float32), np.array([3, 1]), np.array([0.0, 0.2]))
    array([0.75, 0.2 ])
    """
    total = int(sizes.sum())
    if total == 0:
        return np.zeros(centroids.shape[1])
    weighted = centroids.astype(np.float64) * (sizes * (1.0 - d_intra))[:, None]
    return np.array([math.fsum(column) / total for column in weighted.T.tolist()])


def centred(vectors: Vectors, mean: Floats) -> Floats:
    """Return what is left of unit rows without the mean, scaled to length 1, (n, d); zeros where nothing is.

    >>> centred(np.eye(2, dtype=np.float32), np.array([0.5, 0.5])).round(3)
    array([[ 0.707, -0.707],
           [-0.707,  0.707]])
    """
    rest = vectors.astype(np.float64) - mean
    length = np.sqrt(row_dots(rest, rest))
    there = length >= _NOWHERE
    rest[there] /= length[there, None]
    rest[~there] = 0.0
    return rest


def centred_distances(vectors: Vectors, centres: Floats, mean: Floats) -> Floats:
    """Return 1 - cosine of rows with centroids, the mean taken out of both, (n,) in [0, 2].

    vectors : (n, d) unit rows. centres : `centred` centroids, (n, d) of each row or (1, d) of all. What is the mean itself
    has no direction: its distance is 1.

    >>> rows, mean = np.eye(2, dtype=np.float32), np.array([0.5, 0.5])
    >>> centred_distances(rows, centred(rows[:1], mean), mean).round(6)
    array([0., 2.])
    """
    return 1.0 - np.clip(row_dots(centred(vectors, mean), centres), -1.0, 1.0)


def between(centroids: Vectors, neighbours: int, mean: Floats | None = None) -> Floats:
    """Return the mean distance of each concept to its nearest others, (k,), with the mean taken out if it is given.

    A concept that is the mean itself has no direction and counts as at distance 1.
    """
    if mean is None:
        return inter_distance(centroids, neighbours=neighbours)
    units, valid = unit_rows(centred(centroids, mean))
    found = np.ones(len(centroids))
    some = np.flatnonzero(valid)
    if len(some):
        found[some] = inter_distance(units[some], neighbours=neighbours)
    return found


def with_known(dimension: Floats, sizes: npt.NDArray[np.integer[Any]]) -> Floats:
    """Return dimensions with those that are not known (NaN) put at the median of the known ones; 1 where none is.

    Concepts without rows are 0.

    >>> with_known(np.array([2.0, np.nan, 4.0, np.nan]), np.array([5, 5, 5, 0]))
    array([2., 3., 4., 0.])
    """
    known = dimension[np.isfinite(dimension)]
    middle = float(np.median(known)) if len(known) else 1.0
    return np.where(sizes > 0, np.where(np.isfinite(dimension), dimension, middle), 0.0)
