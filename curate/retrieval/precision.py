"""Cuts for a wanted precision, where nothing is labelled."""

import numpy as np
import numpy.typing as npt

__all__ = ["cut_for"]

Floats = npt.NDArray[np.float64]


def cut_for(relevance: Floats, precision: float) -> float | None:
    """Return the least cut above which relevances have at least this mean; None where no cut has.

    A relevance is the probability that an image is of its name, so that the mean over what is taken estimates how much of
    it is right. relevance : (n,) in [0, 1].

    >>> cut_for(np.array([0.9, 0.8, 0.4, 0.1]), 0.7), cut_for(np.array([0.5]), 0.9)
    (0.4, None)
    """
    values = np.sort(relevance)[::-1]
    last = np.flatnonzero(np.append(values[1:] < values[:-1], len(values) > 0))  # where a cut can be
    means = np.cumsum(values)[last] / (last + 1)
    good = np.flatnonzero(means >= precision)
    return float(values[last[good[-1]]]) if len(good) else None
