"""What one look at a batch of logits says of each sample, without a probability matrix that outlives the batch."""

from dataclasses import dataclass, fields

import torch

__all__ = ["Observed", "error_vectors", "observe"]


@dataclass(frozen=True)
class Observed:
    """One value per row, float64 (pred: int64); rows whose logits are not finite have NaN in some field.

    loss : -log p_label. margin : z_label minus the largest other logit. el2n : ||p - y||_2 in [0, sqrt 2].
    pred : the code of the largest logit, the smaller code at a tie; right : is it the label (bool)?
    """

    loss: torch.Tensor
    p_label: torch.Tensor
    margin: torch.Tensor
    el2n: torch.Tensor
    entropy: torch.Tensor
    pred: torch.Tensor
    right: torch.Tensor
    finite: torch.Tensor

    _others: torch.Tensor  # exp(z - largest), 0 at the label
    _own: torch.Tensor
    _total: torch.Tensor

    def taken(self, places: torch.Tensor) -> "Observed":
        """Return the values of the rows at `places`, without the scratch."""
        named = {one.name: getattr(self, one.name) for one in fields(self)}
        return Observed(**{k: v if k == "_others" else v[places] for k, v in named.items()})


def observe(logits: torch.Tensor, label: torch.Tensor, *, brief: bool = False) -> Observed:
    """Return the observation of each row; `logits` (n, C), C >= 2, is used as scratch.

    brief : el2n, entropy (NaN) and pred (-1) are not asked for.

    The label is taken out of every sum and its probability written as what the others leave, so that nothing
    cancels as p_label goes to 1; sums over classes are float64.
    """
    row = torch.arange(len(label), device=label.device)
    own = logits[row, label].double()
    logits[row, label] = -torch.inf
    best = logits.amax(dim=1)
    margin = own - best.double()
    largest = torch.maximum(own, best.double())
    right = margin > 0
    tied = (margin == 0).nonzero().flatten()
    if len(tied):
        right[tied] = label[tied] < logits[tied].argmax(dim=1)
    pred = torch.full_like(label, -1) if brief else torch.where(right, label, logits.argmax(dim=1))
    shifted = logits.sub_(largest.to(logits.dtype)[:, None])
    others = shifted.exp_() if brief else shifted.exp()
    own_part = (own - largest).exp()
    rest = others.sum(dim=1, dtype=torch.float64)
    total = rest + own_part
    loss = torch.where(margin >= 0, torch.log1p(rest), total.log() - (own - largest))
    el2n = entropy = torch.full_like(total, torch.nan)
    if not brief:
        shifted[row, label] = 0.0
        squares = torch.linalg.vector_norm(others, dim=1, dtype=torch.float64).square()
        el2n = (rest.square() + squares).sqrt() / total
        weighted = shifted.mul_(others).sum(dim=1, dtype=torch.float64) + own_part * (own - largest)
        entropy = (total.log() - weighted / total).clamp_min(0.0)
    return Observed(
        loss=loss,
        p_label=own_part / total,
        margin=margin,
        el2n=el2n,
        entropy=entropy,
        pred=pred,
        right=right,
        finite=torch.isfinite(loss) & torch.isfinite(margin),
        _others=others,
        _own=own_part,
        _total=total,
    )


def error_vectors(seen: Observed, label: torch.Tensor) -> torch.Tensor:
    """Return p - y of each row, (n, C): the gradient of the loss in the logits. Takes over the scratch of `seen`."""
    row = torch.arange(len(label), device=label.device)
    errors = seen._others
    rest = errors.sum(dim=1, dtype=torch.float64)
    errors.div_(seen._total.to(errors.dtype)[:, None])
    errors[row, label] = (-rest / seen._total).to(errors.dtype)
    return errors
