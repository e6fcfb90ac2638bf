"""Scores of a classifier's output for one sample: loss, p_label, entropy.

Each is computed from the sums of the row's softmax (`curate.scores.heads.softmax`), in float64. A row whose logits
are not finite has a value that is not finite.
"""

import torch

from curate.scores.heads.softmax import Softmax

__all__ = ["entropy", "loss", "p_label"]


def loss(softmax: Softmax) -> torch.Tensor:
    """Return the cross-entropy -ln p_y of each row.

    Finite where p_y is 0, and exact to the last digits where p_y is nearly 1: with S the sum of exp(z_k - m) over the
    classes other than y, it is ln(1 + S) where the label's logit is the largest, else ln(S + exp(z_y - m)) - (z_y - m).

    Parameters
    ----------
    softmax : Softmax
        The sums of n rows.

    Returns
    -------
    torch.Tensor
        (n,) in nats, in [0, inf); higher is harder.
    """
    return torch.where(softmax.margin >= 0, torch.log1p(softmax.rest), softmax.total.log() - softmax.own)


def p_label(softmax: Softmax) -> torch.Tensor:
    """Return the probability of each row's label.

    Parameters
    ----------
    softmax : Softmax
        The sums of n rows.

    Returns
    -------
    torch.Tensor
        (n,) in [0, 1]; higher is easier.
    """
    return softmax.own_power / softmax.total


def entropy(softmax: Softmax) -> torch.Tensor:
    """Return the entropy of each row's prediction, ln T - (sum_k exp(z_k - m) (z_k - m)) / T with T = sum_k exp(z_k - m).

    Parameters
    ----------
    softmax : Softmax
        The sums of n rows, made with `shifted`, which is used as scratch: it can be asked for once.

    Returns
    -------
    torch.Tensor
        (n,) in nats, in [0, ln C]; higher is less certain. NaN where `shifted` was not kept.
    """
    if softmax.shifted is None:
        return torch.full_like(softmax.total, torch.nan)
    row = torch.arange(len(softmax.label), device=softmax.label.device)
    softmax.shifted[row, softmax.label] = 0.0
    weighted = softmax.shifted.mul_(softmax.powers).sum(dim=1, dtype=torch.float64)
    weighted = weighted + softmax.own_power * softmax.own
    return (softmax.total.log() - weighted / softmax.total).clamp_min(0.0)
