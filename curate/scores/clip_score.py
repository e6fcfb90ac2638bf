"""CLIP score: how well a caption fits its image, by the model's own measure."""

import numpy as np
import numpy.typing as npt

from curate.linalg import row_dots

__all__ = ["clip_score"]


def clip_score(image: npt.NDArray[np.float32], text: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the cosine of each image with its own caption (Hessel et al. 2021, arXiv:2104.08718).

    image, text : (n, d) unit rows of the same model. Returns (n,) in [-1, 1]; higher fits better.
    Computed in float64 and rounded once, so that it does not depend on the other rows.

    >>> clip_score(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)[[0, 0]])
    array([1., 0.], dtype=float32)
    """
    return np.clip(row_dots(image, text), -1.0, 1.0).astype(np.float32)
