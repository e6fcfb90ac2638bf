"""The loss that filters are trained with, and the layout of what the optimiser does over the steps."""

import math

import torch
from torch.nn import functional

from curate.scores.dfn.formula import MOST_SCALE

__all__ = ["best_scale_loss", "clamp_scale", "info_nce", "parameter_groups", "schedule"]


def info_nce(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    """Return the symmetric contrastive loss of a batch (Radford et al. 2021, arXiv:2103.00020).

    image, text : (n, d) unit rows, row i of one belonging to row i of the other. scale : what cosines are multiplied by.
    The mean cross entropy of matching each picture to its caption and each caption to its picture.

    >>> round(float(info_nce(torch.eye(2), torch.eye(2), 1.0)), 4)
    0.3133
    """
    logits = scale * image @ text.T
    target = torch.arange(len(logits), device=logits.device)
    both = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    return both / 2


def best_scale_loss(image: torch.Tensor, text: torch.Tensor) -> float:
    """Return the least symmetric contrastive loss of a batch over a grid of scales from 1 to 100.

    image, text : (n, d) unit rows, as for `info_nce`.

    Held-out rows are judged so: a model that grows too sure of itself loses by its scale although its order still gets
    better, and order is what a filter is for.
    """
    scales = [10 ** (step / 10) for step in range(21)]
    return min(float(info_nce(image.double(), text.double(), scale)) for scale in scales)


def clamp_scale(log_scale: torch.Tensor) -> None:
    """Keep the logarithm of the scale, one number, between 0 and ln 100, in place."""
    with torch.no_grad():
        log_scale.clamp_(0, math.log(MOST_SCALE))


def schedule(step: int, steps: int, warmup: int) -> float:
    """Return the part of the learning rate at a step: a straight rise over `warmup` steps, then half a cosine to 0.

    >>> [round(schedule(step, 6, 2), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def parameter_groups(model: torch.nn.Module, decay: float) -> list[dict[str, object]]:
    """Return the groups of AdamW: matrices decay; gains, biases and tables do not.

    Most rows of a table of tokens are never used, and would shrink to nothing.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decays = [p for name, p in named if p.ndim >= 2 and "embedding" not in name]
    rest = [p for name, p in named if p.ndim < 2 or "embedding" in name]
    return [{"params": decays, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
