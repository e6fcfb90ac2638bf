"""Which epsilon fits a model: from the distances between samples and copies made of them.

What distance makes two pictures copies depends on the model. Copies that were made on purpose (compressed, cropped,
brighter or darker) say it for the pictures and the model at hand; how many other samples lie as near says whether the
model can tell copies from what is merely alike.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curate.deduplication.semantic import MIN_EPSILON

__all__ = ["BEYOND", "IMAGES", "MOST_NEAR", "Calibration", "calibrate", "epsilon_for"]

#: Images of which copies are made; fewer where there are not so many.
IMAGES = 250
#: How far beyond epsilon is looked, as a multiple of it.
BEYOND = 1.5
#: A model cannot tell copies if a larger share of the images has another sample within epsilon, and a larger share has
#: its nearest one just beyond, where copies are rare: unrelated pictures are then as near as copies.
MOST_NEAR = 0.05
#: Where small pictures decide because the model cannot, it proposes pairs up to this multiple of epsilon.
WIDER = 4

_DIGITS, _LARGEST = 3, 0.999

Similarities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Calibration:
    """What copies of some images say of a model.

    epsilon : the distance that `recall` of the copies are within, rounded up to three digits. near : the share of the
    images with another sample of their concept within epsilon; beyond : the share whose nearest one is between epsilon
    and one and a half times that.
    """

    epsilon: float
    images: int
    copies: int
    recall: float
    near: float
    beyond: float

    @property
    def tells_copies(self) -> bool:
        """Whether other samples are seldom as near as copies, or copies stand apart from what is alike."""
        return min(self.near, self.beyond) <= MOST_NEAR

    @property
    def proposing(self) -> float:
        """The epsilon up to which pairs are proposed where something else than the model decides about them."""
        return self.epsilon if self.tells_copies else min(WIDER * self.epsilon, _LARGEST)


def calibrate(to_copies: Similarities, to_nearest: Similarities, recall: float) -> Calibration:
    """Return what copies say: similarities of images to their copies (images, copies), and to their nearest other sample.

    to_nearest : (images,), NaN where the concept of an image has no other sample.

    >>> found = calibrate(np.array([[0.75, 0.5]], np.float32), np.array([0.25], np.float32), 0.9)
    >>> found.epsilon, found.near, found.beyond, found.tells_copies
    (0.475, 0.0, 0.0, True)
    """
    distances = 1 - to_copies.astype(np.float64)
    epsilon = epsilon_for(distances, recall)
    nearest = 1 - to_nearest.astype(np.float64)
    n_near = int((nearest < epsilon).sum())
    n_beyond = int(((nearest >= epsilon) & (nearest < BEYOND * epsilon)).sum())
    images = len(to_nearest)
    shares = [count / max(images, 1) for count in (n_near, n_beyond)]
    return Calibration(epsilon, images, to_copies.size, recall, *shares)


def epsilon_for(distances: npt.NDArray[np.float64], recall: float) -> float:
    """Return the epsilon that a share of some distances is within: their quantile, rounded up to three digits.

    Rounding keeps last bits, which differ between processors, out of what is written down. At least 1e-6, where
    rounding of the vectors begins to decide, and below 1.

    >>> epsilon_for(np.array([0.0, 0.01, 0.02]), 0.5), epsilon_for(np.zeros(0), 0.9)
    (0.01, 1e-06)
    """
    quantile = float(np.quantile(distances, recall)) if distances.size else 0.0
    if quantile <= MIN_EPSILON:
        return MIN_EPSILON
    scale: float = 10.0 ** (_DIGITS - 1 - math.floor(math.log10(quantile)))
    return min(math.ceil(round(quantile * scale, 6)) / scale, _LARGEST)
