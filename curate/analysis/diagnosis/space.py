"""How vectors lie: the gap between images and texts, how near pairs are, how even all are spread."""

from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError
from curate.linalg import row_dots

__all__ = ["alignment", "modality_gap", "uniformity"]

#: What uniformity multiplies squared distances by (Wang and Isola).
T = 2.0
_ROWS = 512

Array = npt.NDArray[np.floating[Any]]


def modality_gap(image: Array, text: Array) -> float:
    """Return the distance between the mean image and the mean text vector (Liang et al. 2022, arXiv:2203.02053).

    Parameters
    ----------
    image, text : numpy.ndarray
        (n, d) and (m, d) unit rows.

    Returns
    -------
    float
        In [0, 2]; 0 where both kinds are around one centre. NaN where one of them has no rows.

    Examples
    --------
    >>> modality_gap(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])) == 2**0.5
    True
    """
    if not len(image) or not len(text):
        return float("nan")
    gap = image.mean(axis=0, dtype=np.float64) - text.mean(axis=0, dtype=np.float64)
    return float(np.sqrt((gap * gap).sum()))


def alignment(image: Array, text: Array) -> float:
    """Return the mean squared distance of an image and its text (Wang and Isola 2020, arXiv:2005.10242, alpha 2).

    Parameters
    ----------
    image, text : numpy.ndarray
        (n, d) unit rows, pairs in the same row.

    Returns
    -------
    float
        In [0, 4]; lower is better aligned, 2 is what vectors that know nothing of each other have. NaN without rows.

    Raises
    ------
    CurateError
        If there are not as many texts as images.

    Examples
    --------
    >>> alignment(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    1.0
    """
    if image.shape != text.shape:
        raise CurateError(f"pairs must be (n, d) alike, got {image.shape} and {text.shape}")
    if not len(image):
        return float("nan")
    return float(np.mean(2.0 - 2.0 * np.clip(row_dots(image, text), -1.0, 1.0)))


def uniformity(vectors: Array) -> float:
    """Return ln E exp(-2 x squared distance) over all pairs of different rows (Wang and Isola 2020, arXiv:2005.10242).

    Parameters
    ----------
    vectors : numpy.ndarray
        (n, d) unit rows; all pairs are compared, so a sample of some thousands is meant.

    Returns
    -------
    float
        In [-8, 0]; lower is more evenly spread over the sphere (about -4 at best in many dimensions), 0 is one point. NaN with
        fewer than two rows.

    Examples
    --------
    >>> uniformity(np.array([[1.0, 0.0], [-1.0, 0.0]]))
    -8.0
    """
    n, total = len(vectors), 0.0
    if n < 2:
        return float("nan")
    rows = vectors.astype(np.float64)
    for start in range(0, n, _ROWS):
        dots = np.clip(rows[start : start + _ROWS] @ rows.T, -1.0, 1.0)
        powers = np.exp(-T * (2.0 - 2.0 * dots))
        powers[np.arange(len(powers)), start + np.arange(len(powers))] = 0.0
        total += float(powers.sum())
    return float(np.log(total / (n * (n - 1))))
