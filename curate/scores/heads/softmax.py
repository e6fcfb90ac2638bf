"""The softmax of a batch of logits, summed up per row, without a probability matrix that outlives the batch.

The label is taken out of every sum and its probability written as what the others leave, so that nothing cancels as
p_label goes to 1. Sums over classes are float64, whatever the logits are.
"""

from dataclasses import dataclass

import torch

from curate.scores.heads.dynamics import margin_logit

__all__ = ["Softmax", "softmax_of", "squared_norms"]


@dataclass(frozen=True)
class Softmax:
    """Sums of n rows over C classes; z is a row of logits, m its largest one. All (n,) float64 unless said otherwise.

    label : (n,) codes. margin : z_label minus the largest other logit. own : z_label - m. own_power : exp(own).
    powers : (n, C) in the precision of the logits, exp(z - m), 0 at the label. rest : the sum of `powers`.
    total : rest + own_power. shifted : (n, C), z - m, -inf at the label; None where it was not kept.
    right : whether the label is the predicted class. pred : that class, int64; -1 where it was not asked for.
    """

    label: torch.Tensor
    margin: torch.Tensor
    own: torch.Tensor
    own_power: torch.Tensor
    powers: torch.Tensor
    rest: torch.Tensor
    total: torch.Tensor
    shifted: torch.Tensor | None
    right: torch.Tensor
    pred: torch.Tensor


def softmax_of(logits: torch.Tensor, label: torch.Tensor, *, brief: bool = False) -> Softmax:
    """Return the sums of each row; `logits` (n, C), C >= 2, is used as scratch. brief : no `shifted`, no `pred`.

    The predicted class is that of the largest logit, the smaller code at a tie.
    """
    row = torch.arange(len(label), device=label.device)
    own = logits[row, label].double()
    logits[row, label] = -torch.inf
    best = logits.amax(dim=1)
    margin = margin_logit(own, best.double())
    largest = torch.maximum(own, best.double())
    right = margin > 0
    tied = (margin == 0).nonzero().flatten()
    if len(tied):
        right[tied] = label[tied] < logits[tied].argmax(dim=1)
    pred = torch.full_like(label, -1) if brief else torch.where(right, label, logits.argmax(dim=1))
    shifted = logits.sub_(largest.to(logits.dtype)[:, None])
    powers = shifted.exp_() if brief else shifted.exp()
    own_shifted = own - largest
    own_power = own_shifted.exp()
    rest = powers.sum(dim=1, dtype=torch.float64)
    return Softmax(
        label=label,
        margin=margin,
        own=own_shifted,
        own_power=own_power,
        powers=powers,
        rest=rest,
        total=rest + own_power,
        shifted=None if brief else shifted,
        right=right,
        pred=pred,
    )


def squared_norms(rows: torch.Tensor) -> torch.Tensor:
    """Return the squared Euclidean norm of each row of an (n, d) matrix, (n,) float64."""
    squares: torch.Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square()
    return squares
