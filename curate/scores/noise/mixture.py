"""Two groups of losses: a mixture of two normal distributions (Arazo et al. 2019, arXiv:1904.11238)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.scores.status import NONFINITE, OK, UNIMODAL, Codes

__all__ = ["Mixture", "fit_mixture", "small_loss_noise"]

_FEWEST = 50  # losses a mixture is fitted to
_LEAST_VARIANCE = 1e-6  # added to variances of losses scaled to [0, 1]
_ROUNDS, _TOLERANCE = 500, 1e-9

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mixture:
    """Two normal distributions, the one with the lower mean first; all (2,) of float64."""

    weight: Floats
    mean: Floats
    variance: Floats

    def bimodal(self) -> bool:
        """Return whether the means differ by more than 2 pooled sd and both weights reach 1 %.

        Pooled: the root of the mean variance, weighted by the sizes of the components.
        """
        gap = float(self.mean[1] - self.mean[0])
        pooled = float(np.sqrt((self.weight * self.variance).sum()))
        return gap > 2 * pooled and float(self.weight.min()) >= 0.01

    def posterior(self, values: Floats) -> Floats:
        """Return the probability of the second component, (n,), non-decreasing in `values`.

        Beyond the two means it stays what it is there: else the tail of the wider component would claim
        the other end too, and the smallest losses of all would be called noisy.
        """
        x = np.clip(values, *self.mean)
        densities = _log_densities(self, x)
        posterior: Floats = np.exp(-np.logaddexp(0.0, densities[0] - densities[1]))
        return posterior


def small_loss_noise(loss: npt.NDArray[np.floating[Any]]) -> tuple[Floats, Codes]:
    """Return the posterior of the component with the larger losses, and the status of each row.

    loss : (n,), higher is harder. Finite losses are clipped to their 0.1 % and 99.9 % quantiles and
    scaled to [0, 1]. NaN for all, and `unimodal`, where there are fewer than 50, all are equal, or the
    mixture is not bimodal: never "half of the data is noisy".
    """
    values = loss.astype(np.float64)
    finite = np.isfinite(values)
    status = np.where(finite, UNIMODAL, NONFINITE)
    posterior = np.full(len(values), np.nan)
    scaled = _scaled(values[finite])
    if scaled is None:
        return posterior, status
    mixture = fit_mixture(scaled)
    if mixture.bimodal():
        status[finite] = OK
        posterior[finite] = mixture.posterior(scaled)
    return posterior, status


def fit_mixture(values: npt.NDArray[np.floating[Any]]) -> Mixture:
    """Return the mixture of two normal distributions fitted to `values`, (n,) in [0, 1], n >= 2.

    Expectation maximisation on sorted values, from a cut at the middle of the range, until the mean log
    likelihood gains less than 1e-9: the same for any order of rows and any number of threads.
    """
    x = np.sort(values.astype(np.float64))
    second = (x > (x[0] + x[-1]) / 2).astype(np.float64)
    likelihood = -np.inf
    mixture = _maximised(x, second)
    for _ in range(_ROUNDS):
        densities = _log_densities(mixture, x)
        both = np.logaddexp(densities[0], densities[1])
        now = float(both.mean())
        if now - likelihood < _TOLERANCE:
            break
        likelihood = now
        mixture = _maximised(x, np.exp(densities[1] - both))
    order = np.argsort(mixture.mean, kind="stable")
    return Mixture(mixture.weight[order], mixture.mean[order], mixture.variance[order])


def _scaled(values: Floats) -> Floats | None:
    """Return values clipped to their quantiles and scaled to [0, 1]; None where that says nothing."""
    if len(values) < _FEWEST:
        return None
    low, high = np.quantile(values, [0.001, 0.999])
    if not high > low:
        return None
    scaled: Floats = (np.clip(values, low, high) - low) / (high - low)
    return scaled


def _maximised(x: Floats, second: Floats) -> Mixture:
    """Return the mixture that fits best where `second` is the share of each value in component two."""
    shares = np.stack([1.0 - second, second])
    sizes = shares.sum(axis=1) + 10 * np.finfo(np.float64).eps
    mean = (shares * x).sum(axis=1) / sizes
    variance = (shares * (x - mean[:, None]) ** 2).sum(axis=1) / sizes + _LEAST_VARIANCE
    return Mixture(sizes / len(x), mean, variance)


def _log_densities(mixture: Mixture, x: Floats) -> Floats:
    """Return ln of weight x density of both components, (2, n)."""
    variance = mixture.variance[:, None]
    squares = (x - mixture.mean[:, None]) ** 2 / variance
    densities: Floats = np.log(mixture.weight)[:, None] - 0.5 * (np.log(2 * np.pi * variance) + squares)
    return densities
