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

__all__ = ["grand_linear", "grand_mlp", "relu_deltas"]

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


def _squares(array: Array) -> Floats:
    """Return the squared norms of the rows, in float64."""
    values = array.astype(np.float64)
    squares: Floats = (values * values).sum(axis=-1)
    return squares
