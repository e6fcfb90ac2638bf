"""Scores from the course of training, and the mean and spread of a score over seeds.

Scores are computed from sums that are kept while training goes on: no column over epochs is ever stored. Epochs are
counted from 1.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = ["Moments", "early_agreement", "early_weight", "forgetting", "margin_logit", "neg_aum"]

#: What the moving average of p_label keeps of earlier epochs.
EARLY_MEMORY = 0.7

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


def margin_logit(own: "torch.Tensor", largest_other: "torch.Tensor") -> "torch.Tensor":
    """Return the margin z_y - max of the other logits: the term of AUM (Pleiss et al. 2020, arXiv:2001.10528).

    Parameters
    ----------
    own, largest_other : torch.Tensor
        (n,), the label's logit and the largest of the others.

    Returns
    -------
    torch.Tensor
        (n,) in logits; higher is easier, below 0 is wrong.
    """
    return own - largest_other


def neg_aum(margin_sum: Floats, n_margins: Floats) -> Floats:
    """Return minus the area under the margin (Pleiss et al. 2020, arXiv:2001.10528): the mean over epochs and seeds.

    Parameters
    ----------
    margin_sum : numpy.ndarray
        (n,), the sum of the finite margins of each sample.
    n_margins : numpy.ndarray
        (n,), how many there were.

    Returns
    -------
    numpy.ndarray
        (n,) in logits; higher is harder. 0 where there was no margin.

    Examples
    --------
    >>> neg_aum(np.array([1.26 + 1.15]), np.array([2.0]))
    array([-1.205])
    """
    area: Floats = -margin_sum / np.maximum(n_margins, 1)
    return area


def forgetting(
    n_forgotten: npt.NDArray[np.int64], ever_right: npt.NDArray[np.bool_], n_epochs: int
) -> Floats:
    """Return how often each sample was forgotten: right in one epoch and wrong in the next.

    A run that never learned the sample counts all its epochs (Toneva et al. 2019, arXiv:1812.05159).

    Parameters
    ----------
    n_forgotten : numpy.ndarray
        (n,), such events summed over seeds.
    ever_right : numpy.ndarray
        (n, n_seeds) of bool, whether a seed had the sample right in any epoch.
    n_epochs : int
        The epochs of a run.

    Returns
    -------
    numpy.ndarray
        (n,) counts in [0, n_seeds x n_epochs]; higher is harder.

    Examples
    --------
    >>> forgetting(np.array([1, 0]), np.array([[True], [False]]), 5)
    array([1., 5.])
    """
    never = (~ever_right).sum(axis=1)
    return np.asarray(n_forgotten + n_epochs * never, np.float64)


def early_weight(epoch: int, n_epochs: int) -> float:
    """Return the weight of an epoch's p_label in the moving average after the last epoch.

    The average begins with the first value; each later one enters with 1 - 0.7, and earlier ones keep 0.7 of theirs.

    >>> [round(early_weight(epoch, 3), 2) for epoch in (1, 2, 3)]
    [0.49, 0.21, 0.3]
    """
    return (1.0 if epoch == 1 else 1.0 - EARLY_MEMORY) * EARLY_MEMORY ** (n_epochs - epoch)


def early_agreement(weighted_sum: Floats, weight: Floats) -> Floats:
    """Return the moving average of the label's probability over epochs (after Liu et al. 2020, arXiv:2007.00151).

    Low: the network did not agree with the label before it could memorise it.

    Parameters
    ----------
    weighted_sum : numpy.ndarray
        (n,), the finite p_label of all epochs and seeds, each times `early_weight` of its epoch, summed.
    weight : numpy.ndarray
        (n,), the sum of these weights.

    Returns
    -------
    numpy.ndarray
        (n,) in [0, 1]; lower is noisier. 0 where there was no value.

    Examples
    --------
    >>> early_agreement(np.array([0.5 * 0.7 + 1.0 * 0.3]), np.array([1.0]))
    array([0.65])
    """
    average: Floats = weighted_sum / np.where(weight > 0, weight, 1)
    return average
