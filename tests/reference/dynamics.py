"""Scores from the course of training, written from their definitions: what the sums over epochs are compared with.

Columns over epochs are (E, n) for one run or (R, E, n) for R seeds. Epochs are in order, counted from 0,
and every epoch is an ordinary one. Higher is harder, unless said otherwise.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError

__all__ = ["early_agreement", "forgetting", "mdl_hardness", "neg_aum"]

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[np.floating[Any]]


def forgetting(correct: npt.NDArray[np.bool_]) -> Floats:
    """Return how often each sample was forgotten: right in one epoch and wrong in the next.

    correct : (E, n) or (R, E, n) of bool. Returns (n,) counts in [0, R E], summed over the seeds; a run
    that never learned the sample counts E. Toneva et al. 2019, arXiv:1812.05159.

    >>> forgetting(np.array([[0, 1, 0, 1, 1], [0, 0, 0, 0, 0]], bool).T)
    array([1., 5.])
    """
    runs = _runs("correct", correct)
    events = (runs[:, :-1] & ~runs[:, 1:]).sum(axis=1)
    never = ~runs.any(axis=1)
    total: Floats = np.where(never, runs.shape[1], events).sum(axis=0).astype(np.float64)
    return total


def neg_aum(margins: Array) -> Floats:
    """Return minus the area under the margin: the mean over epochs, then over seeds, in logits.

    margins : (E, n) or (R, E, n), z_y minus the largest other logit (`loss.margin_logit`). Returns (n,);
    values that are not finite are dropped, NaN where none is left. Pleiss et al. 2020, arXiv:2001.10528.

    >>> neg_aum(np.array([[1.26], [1.15]]))
    array([-1.205])
    """
    return -_mean(_mean(_runs("margins", margins), 1), 0)


def early_agreement(p_label: Array, decay: float = 0.7) -> Floats:
    """Return the moving average of the label's probability over the early epochs; lower is noisier.

    p_label : (E, n) or (R, E, n), the early epochs only. It begins with the first value; each later one
    enters with weight 1 - decay, 0 <= decay < 1. Values that are not finite are passed over. Returns
    (n,) in [0, 1], the mean over seeds, NaN where there is no value. Low: the network did not agree with
    the label before it could memorise it. After Liu et al. 2020, arXiv:2007.00151.

    >>> early_agreement(np.array([[0.5], [1.0]]))
    array([0.65])
    """
    if not 0 <= decay < 1:
        raise CurateError(f"decay must be in [0, 1), got {decay}")
    runs = _runs("p_label", p_label)
    average = np.full((runs.shape[0], runs.shape[2]), np.nan)
    for epoch in range(runs.shape[1]):
        value = runs[:, epoch].astype(np.float64)
        seen, begun = np.isfinite(value), np.isfinite(average)
        average = np.where(seen & begun, decay * average + (1 - decay) * value, average)
        average = np.where(seen & ~begun, value, average)
    return _mean(average, 0)


def mdl_hardness(p_label: Array) -> Floats:
    """Return 1 - the mean probability of the label over heads trained on growing subsets.

    p_label : (S, n), a row per head (trained on 5, 10, 20, ... per class). Returns (n,) in [0, 1];
    higher is harder: easy samples are predicted from few examples. Values that are not finite are
    dropped. Hase et al. 2024, arXiv:2401.06751.

    >>> mdl_hardness(np.array([[0.5, np.nan], [0.7, 1.0]])).round(6)
    array([0.4, 0. ])
    """
    if p_label.ndim != 2:
        raise CurateError(f"p_label must be (subsets, n), got {p_label.shape}")
    return 1.0 - _mean(p_label, 0)


def _runs(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return `values` as (R, E, n)."""
    if values.ndim not in (2, 3) or 0 in values.shape[:-1]:
        raise CurateError(f"{name} must be (epochs, n) or (seeds, epochs, n), got {values.shape}")
    return values if values.ndim == 3 else values[None]


def _mean(values: Array, axis: int) -> Floats:
    """Return the mean of the finite values along an axis, NaN where there is none."""
    seen = np.isfinite(values)
    total = np.where(seen, values, 0.0).sum(axis=axis, dtype=np.float64)
    mean: Floats = total / np.where(seen.any(axis=axis), seen.sum(axis=axis), np.nan)
    return mean
