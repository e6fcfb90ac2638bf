"""GraNd: the norm of the loss gradient by the weights (Paul et al. 2021, arXiv:2107.07075).

In closed form from what one forward and one backward pass hold anyway; no gradient of a sample is ever stored.
delta_l is the gradient of a sample's loss by the pre-activation of layer l, h_l-1 what goes into the layer; for the
last layer delta is the error p - y, whose norm is EL2N. Losses must not be averaged over the batch, which would divide
them by its size.

With inputs of unit length and a linear head with bias GraNd is sqrt 2 times EL2N: the same ranking.
"""

from collections.abc import Sequence

import torch

__all__ = ["grand", "relu_delta"]


def grand(
    delta_squares: Sequence[torch.Tensor], input_squares: Sequence[torch.Tensor], *, bias: bool = True
) -> torch.Tensor:
    """Return the gradient norm of a network of linear layers: sqrt(sum_l ||delta_l||^2 (1 + ||h_l-1||^2)).

    Parameters
    ----------
    delta_squares : Sequence[torch.Tensor]
        ||delta_l||^2 of each layer, (n,) float64.
    input_squares : Sequence[torch.Tensor]
        ||h_l-1||^2 of each layer, (n,) float64, in the same order; the sum is made in this order.
    bias : bool
        Whether the layers have a bias; False leaves out the 1.

    Returns
    -------
    torch.Tensor
        (n,) float64 in [0, inf); higher is harder. The score of a sample is the mean of norms over seeds.
    """
    layers = [
        delta * (1.0 + entry) if bias else delta * entry
        for delta, entry in zip(delta_squares, input_squares, strict=True)
    ]
    total = layers[0]
    for layer in layers[1:]:
        total = total + layer
    return total.sqrt()


def relu_delta(delta: torch.Tensor, weight: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Return delta of a layer with ReLU behind it, from delta of the next layer: (delta W^T) * (h > 0).

    Parameters
    ----------
    delta : torch.Tensor
        (n, out), of the next layer.
    weight : torch.Tensor
        (in, out), of the next layer, z = h W.
    hidden : torch.Tensor
        (n, in), what goes into the next layer, h = relu(a). The slope of ReLU at 0 is 0.

    Returns
    -------
    torch.Tensor
        (n, in).
    """
    return torch.mm(delta, weight.T).mul_(hidden > 0)
