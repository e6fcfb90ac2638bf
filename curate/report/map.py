"""Where concepts stand on the map: the two directions in which their centroids differ most."""

import numpy as np
import numpy.typing as npt

from curate.products import for_rows

__all__ = ["flat"]


def flat(centroids: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the first two principal components of centroids, (k, d) -> (k, 2), the same for the same centroids.

    Near centroids lie near each other, but not every pair that lies near is near: two directions of many are left.
    A direction is told from its opposite by its largest entry, which is positive.

    >>> flat(np.eye(1, 3, dtype=np.float32))
    array([[0., 0.]])
    """
    k, dim = centroids.shape
    found = np.zeros((k, 2))
    directions = min(2, k - 1, dim)
    if directions < 1:
        return found
    # The eigenvectors of the covariance; scikit-learn has the same, and takes longer to import than they take to find.
    rows = centroids.astype(np.float64)
    centred = rows - rows.mean(axis=0)
    with for_rows(dim):
        axes = np.linalg.eigh(centred.T @ centred)[1][:, : -directions - 1 : -1]
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.where(axes[largest, np.arange(directions)] < 0, -1.0, 1.0)
    found[:, :directions] = centred @ axes
    return found
