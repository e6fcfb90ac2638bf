"""Whether two pictures are copies, by small grey versions of them: the correlation at the best small shift.

Vectors of a small model can be as near for two different shirts as for a shirt and its copy; small pictures tell them
apart. Pixels are whole numbers and their sums stay within 2^24, which float32 holds exactly in any order of adding, so
a correlation depends on its two pictures alone.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = ["MIN_CORRELATION", "SIDE", "best_correlations", "grey"]

#: Pixels on each side of a small picture; what is not square is squeezed.
SIDE = 32
#: How far one of two pictures may be shifted each way, in pixels: a tenth of the side.
MAX_SHIFT = 3
#: Two pictures are copies above this correlation.
MIN_CORRELATION = 0.99

_STEPS = 2 * MAX_SHIFT + 1

Pictures = npt.NDArray[np.uint8]


def grey(pixels: npt.NDArray[np.uint8]) -> Pictures:
    """Return a picture (side, side, 3) as a grey one (side * side,): the luma of BT.601, in whole numbers.

    >>> grey(np.array([[[255, 0, 0], [7, 7, 7]]], np.uint8))
    array([76,  7], dtype=uint8)
    """
    luma = (pixels.astype(np.uint32) @ np.array([299, 587, 114], np.uint32) + 500) // 1000
    return np.asarray(luma.astype(np.uint8).reshape(-1))


def best_correlations(picture: Pictures, others: Pictures) -> npt.NDArray[np.float64]:
    """Return the correlation of a picture with each of some others at the shift where it is largest, (m,) in [-1, 1].

    picture : (SIDE * SIDE,) uint8. others : (m, SIDE * SIDE). A shift moves one of the two by up to three pixels each
    way, and what then lies on both is compared (Pearson): brightness and contrast do not count. Where one of them is
    all of one grey there is no correlation at that shift, but for two of the same grey everywhere, where it is 1.

    >>> picture = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) ** 2 % 97).astype(np.uint8)
    >>> moved, turned = np.roll(picture, 2, 0), picture.T
    >>> best_correlations(picture, np.stack([moved, turned])).round(2) > MIN_CORRELATION
    array([ True, False])
    """
    one, many = picture.reshape(-1), others.reshape(-1, SIDE * SIDE)
    overlap = _overlap()
    count = overlap.sum(axis=1).astype(np.float64)[:, None]
    a, b = one.astype(np.float32) - 128, many.astype(np.float32) - 128
    shifted, shifted_square = _shifted(a), _shifted(a * a)
    sum_a, square_a = (x.sum(axis=1).astype(np.float64)[:, None] for x in (shifted, shifted_square))
    sum_b, square_b = (np.matmul(overlap, x.T).astype(np.float64) for x in (b, b * b))
    covariance = count * np.matmul(shifted, b.T).astype(np.float64) - sum_a * sum_b
    spread = np.sqrt((count * square_a - sum_a**2) * (count * square_b - sum_b**2))
    found = np.divide(covariance, spread, out=np.full(covariance.shape, -1.0), where=spread > 0)
    best = np.clip(found.max(axis=0, initial=-1.0), -1.0, 1.0)
    same = (one == one[0]).all() & (many == one[0]).all(axis=1)
    return np.where(same, 1.0, best)


def _shifted(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return values (SIDE * SIDE,) moved by every shift, with nothing where none of them came to lie; (shifts, SIDE * SIDE)."""
    padded = np.pad(values.reshape(SIDE, SIDE), MAX_SHIFT)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (SIDE, SIDE))
    return windows.reshape(_STEPS * _STEPS, SIDE * SIDE)


@cache
def _overlap() -> npt.NDArray[np.float32]:
    """Return 1 for the pixels on which another picture lies, for every shift of it; (shifts, SIDE * SIDE)."""
    return _shifted(np.ones(SIDE * SIDE, np.float32))
