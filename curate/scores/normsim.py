"""NormSim: how near a sample is to a set of target vectors (Wang et al. 2024, arXiv:2405.19547).

The target is a small set of good images, such as the training sets of the downstream tasks. Higher is
better: nearer to what is wanted.
"""

import numpy as np
import numpy.typing as npt

from curate.deduplication.similarity import most_similar
from curate.errors import EmbeddingError
from curate.linalg import row_dots

__all__ = ["normsim_2", "normsim_inf"]

_ROWS, _TARGETS = 1024, 2048  # a tile of products: 8 MB

Vectors = npt.NDArray[np.float32]


def normsim_inf(vectors: Vectors, target: Vectors) -> npt.NDArray[np.float32]:
    """Return the largest cosine of each row with a target, max_g <f_i, g>; (n,) in [-1, 1].

    vectors : (n, d), target : (m, d), m > 0, both unit rows of one model. Higher is better. The product
    proposes, float64 decides (`dedup.similarity.most_similar`): a value depends on its row and the set
    of targets alone. Memory does not grow with n x m. Raises EmbeddingError for shapes that do not fit.

    >>> normsim_inf(np.eye(2, dtype=np.float32), np.array([[0.6, 0.8]], np.float32))
    array([0.6, 0.8], dtype=float32)
    """
    _check(vectors, target)
    largest = np.full(len(vectors), -1.0, np.float32)
    for first in range(0, len(target), _TARGETS):
        part = target[first : first + _TARGETS]
        for start in range(0, len(vectors), _ROWS):
            block = vectors[start : start + _ROWS]
            of, against = np.arange(len(block)), len(block) + np.arange(len(part))
            rows = np.concatenate([block, part])
            found = most_similar(rows, of, against, block @ part.T)[1]
            np.maximum(largest[start : start + _ROWS], found, out=largest[start : start + _ROWS])
    return largest


def normsim_2(vectors: Vectors, target: Vectors) -> npt.NDArray[np.float64]:
    """Return the length of the vector of cosines of each row with the targets; (n,) in [0, sqrt m].

    vectors : (n, d), target : (m, d), m > 0, both unit rows of one model. Higher is better. ||F_i G^T||
    is the square root of F_i (G^T G) F_i^T, so that the cost is d x d per row however many targets there
    are; G^T G is added up in float64 over chunks of targets. Values below 1e-7 sqrt m are rounding.
    Raises EmbeddingError for shapes that do not fit.

    >>> normsim_2(np.eye(2, dtype=np.float32), np.array([[0.6, 0.8], [1.0, 0.0]], np.float32)).round(6)
    array([1.16619, 0.8    ])
    """
    _check(vectors, target)
    gram = np.zeros((vectors.shape[1],) * 2)
    for first in range(0, len(target), _TARGETS):
        part = target[first : first + _TARGETS].astype(np.float64)
        gram += part.T @ part
    squares = np.empty(len(vectors))
    for start in range(0, len(vectors), _ROWS):
        block = vectors[start : start + _ROWS].astype(np.float64)
        squares[start : start + _ROWS] = row_dots(block @ gram, block)
    return np.sqrt(np.maximum(squares, 0.0))


def _check(vectors: Vectors, target: Vectors) -> None:
    """Raise EmbeddingError unless there are targets and they have the width of the rows."""
    if vectors.ndim != 2 or target.ndim != 2 or vectors.shape[1] != target.shape[1] or len(target) == 0:
        raise EmbeddingError(
            f"NormSim needs rows (n, d) and at least one target (m, d), got {vectors.shape} and {target.shape}"
        )
