"""The two detectors of wrong labels on whole arrays: what the noise scores of a run are compared with."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError
from curate.scores.noise import fit_linear, small_loss_noise
from curate.scores.status import Codes

__all__ = ["NoiseScores", "linear_noise", "noise_scores"]

Floats = npt.NDArray[np.float64]


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
