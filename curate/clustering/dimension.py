"""The intrinsic dimension of a concept, from how far each member's second neighbour lies beyond its first.

After Facco et al. 2017, "Estimating the intrinsic dimension of datasets by a minimal neighborhood information"
(TwoNN), in the unbiased maximum-likelihood form of Denti et al. 2022: (n - 1) / sum of log(r2 / r1).
"""

import math

import numpy as np
import numpy.typing as npt

from curate.linalg import row_dots

__all__ = ["MOST_ROWS", "intrinsic_dimension", "neighbour_ratios"]

#: Rows of a concept that are looked at; of more, these many with the smallest hashes.
MOST_ROWS = 1000
#: With fewer ratios an estimate is worth nothing.
_FEW = 10
_TILE = 256
#: How far a squared distance from a product can be off, per squared length.
_ERROR = 1e-9

Floats = npt.NDArray[np.float64]


def neighbour_ratios(vectors: npt.NDArray[np.float64]) -> Floats:
    """Return r2 / r1 of the rows, in order: the distances to their second and first neighbour, at least 1.

    vectors : (n, d). Distances are Euclidean. A row that equals another one has no ratio and is left out, so there are
    at most n. Matrix products only propose the nearest; what is returned comes from differences, in float64.

    >>> neighbour_ratios(np.array([[0.0], [1.0], [3.0]]))
    array([3. , 2. , 1.5])
    """
    n = len(vectors)
    if n < 3:
        return np.empty(0)
    squares = row_dots(vectors, vectors)
    found = []
    for start in range(0, n, _TILE):
        block = vectors[start : start + _TILE]
        rough = squares[start : start + _TILE, None] + squares - 2 * (block @ vectors.T)
        rough[np.arange(len(block)), start + np.arange(len(block))] = np.inf
        bound = np.partition(rough, 1, axis=1)[:, 1] + _ERROR * (1 + squares.max())
        for i in range(len(block)):
            gaps = vectors[rough[i] <= bound[i]] - block[i]
            first, second = np.sort(np.sqrt(row_dots(gaps, gaps)))[:2]
            if first > 0:
                found.append(second / first)
    return np.array(found)


def intrinsic_dimension(vectors: npt.NDArray[np.float64]) -> float:
    """Return the estimated intrinsic dimension of a cloud of points, (n, d); NaN where there is too little to say.

    At least 10 different rows are asked for. Rows that are copies of each other are left out.

    >>> points = np.random.default_rng(0).random((1000, 2)) @ np.ones((2, 9))
    >>> intrinsic_dimension(points).__round__(), math.isnan(intrinsic_dimension(points[:5]))
    (1, True)
    """
    ratios = neighbour_ratios(vectors)
    total = math.fsum(np.log(ratios).tolist())
    if len(ratios) < _FEW or total <= 0:
        return math.nan
    return (len(ratios) - 1) / total
