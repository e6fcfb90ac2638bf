"""Scores of a classifier's output for one sample: loss, p_label, entropy, margin, correct.

All take logits (..., n, C): leading axes are seeds or epochs. All is float64 and each row by itself,
so that no batch size changes a value; the log-sum-exp is shifted by the maximum of the row. Labels are
(n,) codes in [0, C), negative where there is none. A row without label, with a logit that is not
finite, or of a single class has NaN, never a number.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError

__all__ = [
    "check_labels",
    "correct",
    "entropy",
    "loss",
    "margin_logit",
    "p_label",
    "pred_label",
    "softmax",
]

Floats = npt.NDArray[np.float64]
Outputs = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.integer[Any]]


def softmax(logits: Outputs) -> Floats:
    """Return the probabilities exp(z_k) / sum exp(z), (..., n, C); NaN where a logit is not finite.

    >>> softmax(np.array([[1e4, 1e4], [0.0, -1e4]]))
    array([[0.5, 0.5],
           [1. , 0. ]])
    """
    powers = np.exp(_shifted(logits))
    probs: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return probs


def loss(logits: Outputs, labels: Labels) -> Floats:
    """Return the cross-entropy lse(z) - z_y of each sample in nats, (..., n) in [0, inf); higher is harder.

    Finite where p_y is 0, and exact to the last digits where p_y is nearly 1: the label's own term is
    kept apart where it is the largest.

    >>> loss(np.array([[0.0, 0.0], [0.0, 1e4]]), np.array([0, 0])).round(6)
    array([6.93147e-01, 1.00000e+04])
    """
    shifted, own, others = _own_and_others(logits, labels)
    powers = np.exp(others).sum(axis=-1)
    with np.errstate(under="ignore"):
        value = np.where(own == 0.0, np.log1p(powers), np.log(powers + np.exp(own)) - own)
    return _known(value, shifted, labels)


def p_label(logits: Outputs, labels: Labels) -> Floats:
    """Return the probability of each sample's label, (..., n) in [0, 1]; higher is easier.

    >>> p_label(np.log(np.array([[0.7, 0.2, 0.1]])), np.array([1])).round(6)
    array([0.2])
    """
    return np.exp(-loss(logits, labels))


def margin_logit(logits: Outputs, labels: Labels) -> Floats:
    """Return z_y - max of the other logits, (..., n) in logits; higher is easier, below 0 is wrong.

    The term of AUM (Pleiss et al. 2020, arXiv:2001.10528).

    >>> margin_logit(np.array([[3.74, 2.48], [4.59, 3.44]]), np.array([0, 0])).round(6)
    array([1.26, 1.15])
    """
    shifted, own, others = _own_and_others(logits, labels)
    return _known(own - others.max(axis=-1, initial=-np.inf), shifted, labels)


def pred_label(logits: Outputs) -> npt.NDArray[np.int64]:
    """Return the class of the largest logit, the first where equal, (..., n); -1 where one is not finite.

    >>> pred_label(np.array([[0.0, 2.0], [1.0, 1.0], [np.nan, 0.0]]))
    array([ 1,  0, -1])
    """
    if logits.shape[-1] == 0:
        return np.full(logits.shape[:-1], -1, np.int64)
    return np.where(np.isfinite(logits).all(axis=-1), logits.argmax(axis=-1), -1)


def correct(logits: Outputs, labels: Labels) -> npt.NDArray[np.bool_]:
    """Return whether the predicted class is the label, (..., n); False where there is none.

    >>> correct(np.array([[0.0, 2.0], [0.0, 2.0]]), np.array([1, -1]))
    array([ True, False])
    """
    check_labels(logits, labels)
    right: npt.NDArray[np.bool_] = (pred_label(logits) == labels) & (labels >= 0)
    return right


def entropy(logits: Outputs, *, normalised: bool = False) -> Floats:
    """Return the entropy of the prediction, (..., n) in nats, in [0, ln C]; higher is less certain.

    normalised : divide by ln C, to [0, 1]. NaN for a single class.

    >>> z = np.log(np.array([[0.7, 0.2, 0.1]]))
    >>> entropy(z).round(6), entropy(z, normalised=True).round(6)
    (array([0.801819]), array([0.729847]))
    """
    shifted = _shifted(logits)
    powers = np.exp(shifted)
    total = powers.sum(axis=-1)
    n_classes = logits.shape[-1]
    if n_classes < 2:
        return np.full(logits.shape[:-1], np.nan)
    value: Floats = np.maximum(np.log(total) - (powers * shifted).sum(axis=-1) / total, 0.0)
    return value / np.log(n_classes) if normalised else value


def check_labels(outputs: Outputs, labels: Labels) -> None:
    """Raise CurateError unless outputs are (..., n, C) and labels (n,) codes below C."""
    if outputs.ndim < 2 or labels.shape != (outputs.shape[-2],):
        raise CurateError(f"labels must be (n,) for (..., n, C), got {labels.shape} and {outputs.shape}")
    largest = int(labels.max(initial=-1))
    if largest >= outputs.shape[-1]:
        raise CurateError(f"labels must be below the number of classes {outputs.shape[-1]}, got {largest}")


def _shifted(logits: Outputs) -> Floats:
    """Return logits minus the maximum of their row; NaN in all of a row that is not finite."""
    values = logits.astype(np.float64)
    values[~np.isfinite(values).all(axis=-1)] = np.nan
    values -= values.max(axis=-1, keepdims=True, initial=-np.inf) if values.shape[-1] else 0.0
    return values


def _own_and_others(logits: Outputs, labels: Labels) -> tuple[Floats, Floats, Floats]:
    """Return shifted logits, the label's one (..., n), and all with the label's one at -inf."""
    check_labels(logits, labels)
    shifted = _shifted(logits)
    rows, codes = np.arange(len(labels)), np.maximum(labels, 0)
    if shifted.shape[-1] == 0:
        return shifted, np.full(shifted.shape[:-1], np.nan), shifted
    own = shifted[..., rows, codes]
    others = shifted.copy()
    others[..., rows, codes] = -np.inf
    return shifted, own, others


def _known(value: Floats, shifted: Floats, labels: Labels) -> Floats:
    """Return `value` with NaN where there is no label, no finite logits or no second class."""
    known = (labels >= 0) & (shifted.shape[-1] > 1) & np.isfinite(shifted).all(axis=-1)
    return np.where(known, value, np.nan)
