"""Whether probabilities mean what they say: the expected calibration error, and the temperature that mends it."""

from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError

__all__ = ["BINS", "ProbabilitySample", "calibration_error", "fit_temperature", "scaled"]

#: Bins of equal width over the probability of the predicted class.
BINS = 15
#: At most so many rows, and numbers, are looked at: the first in hash order.
ROWS, CELLS = 20_000, 1 << 22
#: Temperatures that are looked for.
ENDS = (0.05, 20.0)

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.integer[Any]]


class ProbabilitySample:
    """The mean probabilities of a sample of rows in training order, as logarithms. label : (n,) codes of all rows."""

    def __init__(self, label: Codes, n_classes: int) -> None:
        rows = min(len(label), ROWS, CELLS // max(1, n_classes))
        self._label, self._log_p = label[:rows], np.full((rows, n_classes), np.nan, np.float32)

    def add(self, at: slice, probs: npt.NDArray[np.float32]) -> None:
        """Take over the probabilities (m, C) of the rows at some places, as far as they are in the sample."""
        rows = min(at.stop, len(self._log_p)) - at.start
        if rows > 0:
            smallest = np.finfo(np.float32).tiny
            self._log_p[at.start : at.start + rows] = np.log(np.maximum(probs[:rows], smallest))

    def facts(self) -> dict[str, Any]:
        """Return rows, the temperature, and the calibration error before and after; empty without rows.

        temperature : of the mean probability of all seeds; above 1 it is too sure, below 1 not sure enough.
        """
        known = np.isfinite(self._log_p).all(axis=1)
        log_p, label = self._log_p[known].astype(np.float64), self._label[known]
        if not len(label):
            return {}
        temperature = fit_temperature(log_p, label)
        errors = [calibration_error(scaled(log_p, one), label) for one in (1.0, temperature)]
        return {
            "rows": len(label), "temperature": round(temperature, 4),
            "error": round(errors[0], 6), "error_scaled": round(errors[1], 6),
        }  # fmt: skip


def scaled(log_p: Array, temperature: float) -> Floats:
    """Return the probabilities softmax(log_p / temperature), (n, C).

    >>> scaled(np.log(np.array([[0.8, 0.2]])), 0.5).round(4)
    array([[0.9412, 0.0588]])
    """
    z = log_p.astype(np.float64) / temperature
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    probs: Floats = powers / powers.sum(axis=1, keepdims=True)
    return probs


def calibration_error(probs: Array, label: Codes, bins: int = BINS) -> float:
    """Return the expected calibration error: how far the probability of the predicted class is from how often it is right.

    Parameters
    ----------
    probs : numpy.ndarray
        (n, C), rows sum to 1.
    label : numpy.ndarray
        (n,) codes.
    bins : int
        Bins of equal width; a bin is closed on the right.

    Returns
    -------
    float
        In [0, 1], 0 is calibrated; the mean over bins of |share right - mean probability|, by their rows. NaN without rows.

    Raises
    ------
    CurateError
        If the labels are not (n,) codes below C.

    Notes
    -----
    Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599.

    Examples
    --------
    >>> round(calibration_error(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1])), 6)
    0.4
    """
    if probs.ndim != 2 or label.shape != probs.shape[:1] or (len(label) and label.max() >= probs.shape[1]):
        raise CurateError(f"labels must be (n,) codes below C for (n, C), got {label.shape}, {probs.shape}")
    if not len(label):
        return float("nan")
    sure = probs.max(axis=1).astype(np.float64)
    right = probs.argmax(axis=1) == label
    place = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(place, right, bins) - np.bincount(place, sure, bins)
    return float(np.abs(gap).sum() / len(label))


def fit_temperature(log_p: Array, label: Codes) -> float:
    """Return the temperature at which log-probabilities give the labels the most likelihood (Guo et al. 2017).

    Parameters
    ----------
    log_p : numpy.ndarray
        (n, C) logits, or logarithms of probabilities; finite.
    label : numpy.ndarray
        (n,) codes below C.

    Returns
    -------
    float
        In [0.05, 20]; an end where all rows are predicted right or the prediction says nothing.

    Notes
    -----
    The loss is convex in 1 / temperature, and its slope there is the mean of E[z] - z_label.

    Examples
    --------
    >>> log_p = np.log(np.array([[0.9, 0.1]] * 4))  # three of four are right: 3 to 1 is 9 to 1 at temperature 2
    >>> round(fit_temperature(log_p, np.array([0, 0, 0, 1])), 6)
    2.0
    """
    z = log_p.astype(np.float64)
    own = z[np.arange(len(z)), label].mean()
    low, high = (np.log(1 / one) for one in reversed(ENDS))
    for _ in range(50):
        middle = (low + high) / 2
        expected = (scaled(z, float(np.exp(-middle))) * z).sum(axis=1).mean()
        low, high = (middle, high) if expected < own else (low, middle)
    return float(np.exp(-(low + high) / 2))
