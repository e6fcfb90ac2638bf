"""Where concepts stand on the map: the two directions in which their centroids differ most."""

import numpy as np
import numpy.typing as npt

__all__ = ["flat"]


def flat(centroids: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the first two principal components of centroids, (k, d) -> (k, 2), the same for the same centroids.

    Near centroids lie near each other, but not every pair that lies near is near: two directions of many are left.

    >>> flat(np.eye(1, 3, dtype=np.float32))
    array([[0., 0.]])
    """
    k, dim = centroids.shape
    found = np.zeros((k, 2))
    directions = min(2, k - 1, dim)
    if directions < 1:
        return found
    from sklearn.decomposition import PCA

    # The covariance has a fixed size, and its solver draws nothing at random.
    solver = PCA(n_components=directions, svd_solver="covariance_eigh")
    found[:, :directions] = solver.fit_transform(centroids.astype(np.float64))
    return found
