"""Wrong labels on web data: two detectors that miss different samples.

Albert et al. 2024, "An accurate detection is not all you need to combat label noise in web-noisy
datasets" (arXiv:2407.05528): samples with a large loss (a mixture of two normal distributions, Arazo et
al. 2019, arXiv:1904.11238), and samples that a linear classifier tells from the clean ones. All columns
are probabilities in [0, 1]; higher is noisier.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError
from curate.linalg import row_dots
from curate.scores.status import NONFINITE, OK, UNIMODAL, Codes

__all__ = [
    "LinearDetector",
    "Mixture",
    "NoiseScores",
    "fit_linear",
    "fit_mixture",
    "linear_noise",
    "noise_scores",
    "small_loss_noise",
]

#: A sample is called noisy where its posterior is above this.
NOISY = 0.95

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


class LinearDetector(NamedTuple):
    """A logistic regression on features as they are: weight (d,), and bias."""

    weight: Floats
    bias: float

    def posterior(self, features: npt.NDArray[np.floating[Any]]) -> Floats:
        """Return the probability of being noisy, (n,); each row depends on its features (n, d) alone."""
        logits = row_dots(features, self.weight[None]) + self.bias
        posterior: Floats = np.exp(-np.logaddexp(0.0, -logits))
        return posterior


class NoiseScores(NamedTuple):
    """Columns (n,) float64, NaN where the status is not ok; noise_linear is None where not asked for.

    noise_prob : mean of the two posteriors, or noise_small_loss alone where there is no other.
    status : `ok`, `nonfinite`, or `unimodal` for all rows: there are no two groups of losses.
    """

    noise_small_loss: Floats
    noise_linear: Floats | None
    noise_prob: Floats
    status: Codes


def noise_scores(
    loss: npt.NDArray[np.floating[Any]],
    features: npt.NDArray[np.floating[Any]] | None = None,
    *,
    fit: npt.NDArray[np.bool_] | None = None,
) -> NoiseScores:
    """Return how probable it is that each label is wrong.

    loss : (n,) out-of-fold losses. features : (n, d) unit rows; None leaves out the linear detector.
    fit : (n,) rows the linear detector is fitted on (a hash sample, say); all by default. The mixture
    does not depend on the order of rows; the linear fit does in its last bits, so pass rows by uid.

    >>> loss = np.concatenate([np.linspace(0, 0.1, 90), np.linspace(2, 2.1, 10)])
    >>> noise_scores(loss).noise_prob.round(3)[[0, 89, 90]]
    array([0., 0., 1.])
    """
    small, status = small_loss_noise(loss)
    if features is None:
        return NoiseScores(small, None, small.copy(), status)
    linear = linear_noise(features, small, fit=fit)
    both = np.where(np.isfinite(linear), (small + linear) / 2, small)
    return NoiseScores(small, linear, both, status)


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


def linear_noise(
    features: npt.NDArray[np.floating[Any]],
    noise: Floats,
    *,
    fit: npt.NDArray[np.bool_] | None = None,
) -> Floats:
    """Return the probability of being noisy by a linear classifier of the features, (n,) in [0, 1].

    features : (n, d). noise : (n,) posterior of the first detector; above .95 is noisy, NaN takes no
    part. fit : (n,) rows that `fit_linear` is given. NaN where the features are not finite or `noise` is
    NaN, and for all where the rows hold one class only.
    """
    if features.ndim != 2 or noise.shape != (len(features),):
        raise CurateError(f"features (n, d) and noise (n,) must agree, got {features.shape}, {noise.shape}")
    posterior = np.full(len(noise), np.nan)
    usable = np.isfinite(noise) & np.isfinite(features).all(axis=1)
    chosen = usable if fit is None else usable & fit
    detector = fit_linear(features[chosen], noise[chosen])
    if detector is not None:
        posterior[usable] = detector.posterior(features[usable])
    return posterior


def fit_linear(features: npt.NDArray[np.floating[Any]], noise: Floats) -> LinearDetector | None:
    """Return the linear detector fitted to rows that are called noisy above .95; None where all are alike.

    features : (n, d), finite; noise : (n,) in [0, 1]. Standardised features, balanced logistic
    regression. Its last bits depend on the order of rows and on the number of BLAS threads.
    """
    # scikit-learn takes a second to load and is not needed for the first detector
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    noisy = noise > NOISY
    if not noisy.any() or noisy.all():
        return None
    scaler = StandardScaler(copy=False)
    model = LogisticRegression(class_weight="balanced", max_iter=1000)
    model.fit(scaler.fit_transform(features.astype(np.float64)), noisy)
    weight = model.coef_[0] / scaler.scale_
    return LinearDetector(weight, float(model.intercept_[0] - (scaler.mean_ * weight).sum()))


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
