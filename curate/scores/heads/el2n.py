"""EL2N: how far the predicted probabilities are from the label (Paul et al. 2021, arXiv:2107.07075).

The L2 norm, not its square: with several seeds, the mean of norms and the mean of squares rank differently. For two
classes EL2N is sqrt 2 (1 - p_y), so it ranks as the loss does; unlike the loss it is bounded.
"""

import torch

from curate.scores.heads.softmax import Softmax, squared_norms

__all__ = ["el2n", "error_vectors"]


def el2n(softmax: Softmax) -> torch.Tensor:
    """Return the EL2N score ||p - y||_2 of each row under one model.

    With P_k = exp(z_k - m), T their sum, and S the sum without the label's: the error is -S / T at the label and
    P_k / T elsewhere, so that its digits are left where p_y is nearly 1.

    Parameters
    ----------
    softmax : Softmax
        The sums of n rows.

    Returns
    -------
    torch.Tensor
        (n,) float64 in [0, sqrt 2]; higher is harder. The score of a sample is the mean over seeds.
    """
    return (softmax.rest.square() + squared_norms(softmax.powers)).sqrt() / softmax.total


def error_vectors(softmax: Softmax) -> torch.Tensor:
    """Return p - y of each row, the gradient of the loss by the logits.

    Parameters
    ----------
    softmax : Softmax
        The sums of n rows. Their `powers` are overwritten by the result: nothing can be computed from them later.

    Returns
    -------
    torch.Tensor
        (n, C), in the precision of the logits.
    """
    row = torch.arange(len(softmax.label), device=softmax.label.device)
    errors = softmax.powers
    rest = errors.sum(dim=1, dtype=torch.float64)
    errors.div_(softmax.total.to(errors.dtype)[:, None])
    errors[row, softmax.label] = (-rest / softmax.total).to(errors.dtype)
    return errors
