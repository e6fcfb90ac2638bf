"""Scores from the course of training, and the mean and spread of a score over seeds.

Columns over epochs are (E, n) for one run or (R, E, n) for R seeds. Epochs are in order, counted from 0,
and every epoch is an ordinary one. Higher is harder, unless said otherwise.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["Moments"]

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Moments:
    """Mean and spread of the observations of each row, by Welford's recurrence; all (n,).

    n_obs : finite observations, int64; others are dropped. mean : their mean, 0 where there is none.
    spread : the sum of their squared distances from the mean. Two parts add up (Chan et al. 1983), so
    that seeds can be scored apart; add them in one order, because the last bits depend on it.

    >>> seeds = Moments.of(np.array([0.1, 0.8])) + Moments.of(np.array([1.3, np.nan]))
    >>> seeds.means(), seeds.std().round(6), seeds.n_obs
    (array([0.7, 0.8]), array([0.848528, nan]), array([2, 1]))
    """

    n_obs: npt.NDArray[np.int64]
    mean: Floats
    spread: Floats

    @classmethod
    def zeros(cls, n: int) -> Self:
        """Return the moments of no observations."""
        return cls(np.zeros(n, np.int64), np.zeros(n), np.zeros(n))

    @classmethod
    def of(cls, values: Array) -> Self:
        """Return the moments of one observation per row, (n,); NaN and infinite ones do not count."""
        seen = np.isfinite(values)
        mean = np.where(seen, values, 0.0).astype(np.float64)
        return cls(seen.astype(np.int64), mean, np.zeros(len(values)))

    def __add__(self, other: Self) -> Self:
        n_obs = self.n_obs + other.n_obs
        step = other.mean - self.mean
        share = other.n_obs / np.maximum(n_obs, 1)
        mean = np.where(self.n_obs == 0, other.mean, self.mean + step * share)
        spread = self.spread + other.spread + step * step * share * self.n_obs
        return type(self)(n_obs, mean, spread)

    def means(self) -> Floats:
        """Return the mean of each row, NaN where there is no observation."""
        return np.where(self.n_obs > 0, self.mean, np.nan)

    def std(self) -> Floats:
        """Return the standard deviation (n - 1) of each row, NaN with fewer than two observations."""
        deviation: Floats = np.sqrt(self.spread / np.where(self.n_obs > 1, self.n_obs - 1, np.nan))
        return deviation
