"""GraNd: the norm of the loss gradient by the weights (Paul et al. 2021, arXiv:2107.07075).

In closed form from what one forward and one backward pass hold anyway; no gradient of a sample is ever
stored. delta_l is the gradient of a sample's loss by the pre-activation of layer l: for the last layer
the error p - y (`el2n.errors`). Losses must not be averaged over the batch, which would divide them by its
size. Everything is float64, each row by itself; leading axes are seeds, and the caller averages norms.
Higher is harder.

With unit inputs and a linear head with bias GraNd is sqrt 2 times EL2N: the same ranking.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError

__all__ = ["grand_linear", "grand_mlp", "grand_sequence", "relu_deltas"]

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[np.floating[Any]]


def grand_linear(el2n: Array, features: Array, *, bias: bool = True) -> Floats:
    """Return the gradient norm of a linear head z = W x + b: ||p - y|| sqrt(||x||^2 + 1).

    el2n : (..., n) norms of p - y, one per seed, not their mean. features : (n, d) inputs of the head.
    bias : False leaves out the + 1. Returns (..., n) in [0, inf).

    >>> grand_linear(np.array([0.5**0.5]), np.array([[3.0, 4.0]])).round(6)
    array([3.605551])
    """
    if el2n.ndim < 1 or features.ndim != 2 or el2n.shape[-1] != len(features):
        raise CurateError(f"el2n (..., n) and features (n, d) must agree, got {el2n.shape}, {features.shape}")
    return el2n.astype(np.float64) * np.sqrt(_squares(features) + float(bias))


def grand_mlp(inputs: Sequence[Array], deltas: Sequence[Array], *, bias: bool = True) -> Floats:
    """Return the gradient norm of a network of linear layers: sqrt(sum_l ||delta_l||^2 (1 + ||h_l-1||^2)).

    inputs : of each layer what goes in, h_l-1, (n, w) or (R, n, w); the first is the features, and may be
    shared by all seeds. deltas : of each layer delta_l, (R, n, w) or (n, w). bias : whether layers have
    one. Returns (R, n) or (n,), in [0, inf).

    >>> x, error = np.array([[3.0, 4.0]]), np.array([[-0.5, 0.5]])
    >>> grand_mlp([x], [error]).round(6)
    array([3.605551])
    """
    if len(inputs) != len(deltas) or not inputs:
        raise CurateError(f"inputs and deltas must be one per layer, got {len(inputs)} and {len(deltas)}")
    rows = {array.shape[-2] if array.ndim > 1 else -1 for array in (*inputs, *deltas)}
    if len(rows) != 1 or -1 in rows:
        raise CurateError(f"inputs and deltas must be (..., n, w) with one n, got {sorted(rows)}")
    layers = (
        _squares(delta) * (_squares(entry) + float(bias)) for entry, delta in zip(inputs, deltas, strict=True)
    )
    return np.sqrt(np.asarray(sum(layers), np.float64))


def relu_deltas(error: Array, weights: Sequence[Array], hidden: Sequence[Array]) -> list[Floats]:
    """Return delta of every layer, first to last, of a network with ReLU between its layers.

    error : (..., n, C), p - y. weights : of the layers from the second on, (..., out, in) each. hidden :
    what goes into these layers, relu(a), (..., n, in). The slope of ReLU at 0 is 0.

    >>> relu_deltas(np.array([[-0.5, 0.5]]), [np.eye(2)], [np.array([[1.0, 0.0]])])
    [array([[-0.5,  0. ]]), array([[-0.5,  0.5]])]
    """
    deltas = [error.astype(np.float64)]
    for weight, active in zip(reversed(weights), reversed(hidden), strict=True):
        deltas.append((deltas[-1] @ weight.astype(np.float64)) * (active > 0))
    return deltas[::-1]


def grand_sequence(inputs: Array, deltas: Array, *, bias: bool = True) -> Floats:
    """Return the gradient norm of one linear layer that is applied at T positions (convolution, tokens).

    inputs : (n, T, w_in); deltas : (n, T, w_out), gradients by the pre-activation of each position.
    The squared norm by the weights is the product of the two Gram matrices (n, T, T), summed (ghost norm,
    Goodfellow 2015, arXiv:1510.01799; Li et al. 2021, arXiv:2110.05679), or of the gradient itself where
    T^2 is the larger; never below 0. Returns (n,) in [0, inf); square, add and take the root to join
    layers.

    >>> grand_sequence(np.ones((1, 2, 1)), np.array([[[1.0], [-1.0]]]))
    array([0.])
    """
    if inputs.ndim != 3 or deltas.ndim != 3 or inputs.shape[:2] != deltas.shape[:2]:
        raise CurateError(f"inputs and deltas must be (n, T, w), got {inputs.shape} and {deltas.shape}")
    norms = np.empty(len(inputs))
    for row in range(len(inputs)):  # a sample at a time, whose matrices are large enough
        entry, delta = inputs[row].astype(np.float64), deltas[row].astype(np.float64)
        if len(entry) ** 2 <= entry.shape[1] * delta.shape[1]:
            square = float(((delta @ delta.T) * (entry @ entry.T)).sum())
        else:
            square = float(((delta.T @ entry) ** 2).sum())
        total = delta.sum(axis=0)
        norms[row] = max(0.0, square) + float(bias) * float((total * total).sum())
    return np.sqrt(norms)


def _squares(array: Array) -> Floats:
    """Return the squared norms of the rows, in float64."""
    values = array.astype(np.float64)
    squares: Floats = (values * values).sum(axis=-1)
    return squares
