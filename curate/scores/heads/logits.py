"""What a batch of logits gives for each sample: the values that are added up over seeds and epochs."""

from dataclasses import dataclass, fields

import torch

from curate.scores.heads.el2n import el2n
from curate.scores.heads.losses import entropy, loss, p_label
from curate.scores.heads.softmax import Softmax

__all__ = ["LogitStats", "logit_stats"]


@dataclass(frozen=True)
class LogitStats:
    """One value per row, float64 (pred: int64); rows whose logits are not finite have NaN in some field.

    loss, p_label, entropy : see `losses`. el2n : see `el2n`. margin : z_label minus the largest other logit.
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

    def taken(self, places: torch.Tensor) -> "LogitStats":
        """Return the values of the rows at `places`."""
        return LogitStats(**{one.name: getattr(self, one.name)[places] for one in fields(self)})


def logit_stats(softmax: Softmax) -> LogitStats:
    """Return the values of each row; el2n and entropy are NaN, and pred -1, where the softmax was made `brief`."""
    losses = loss(softmax)
    brief = softmax.shifted is None
    return LogitStats(
        loss=losses,
        p_label=p_label(softmax),
        margin=softmax.margin,
        el2n=torch.full_like(softmax.total, torch.nan) if brief else el2n(softmax),
        entropy=entropy(softmax),
        pred=softmax.pred,
        right=softmax.right,
        finite=torch.isfinite(losses) & torch.isfinite(softmax.margin),
    )
