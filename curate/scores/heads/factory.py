"""The kinds of heads, by name."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from curate.errors import RecipeError
from curate.scores.heads.linear import FoldedGroup, LinearGroup
from curate.scores.heads.mlp import MlpGroup
from curate.scores.heads.model import Group

__all__ = ["Kind", "blocks_are_wide", "make_group", "split_seeds"]

Kind = Literal["linear", "mlp"]


def blocks_are_wide(n_folds: int, n_classes: int) -> bool:
    """Return whether the models of one seed alone give products of the full speed, fold by fold."""
    return (n_folds - 1) * n_classes >= 256


def split_seeds(kind: Kind, n_seeds: int, n_folds: int, n_classes: int) -> list[list[int]]:
    """Return the places of the seeds of each group: products as wide as they need be, and enough of them to share.

    What is in a group hangs on these numbers alone, not on the processors.
    """
    n_groups = n_seeds
    if kind == "linear" and not blocks_are_wide(n_folds, n_classes):
        n_groups = min(n_seeds, max(2, n_seeds * max(1, n_folds) * n_classes // 512))
    return [places.tolist() for places in np.array_split(np.arange(n_seeds), n_groups)]


def make_group(
    kind: Kind,
    seeds: Sequence[int],
    n_folds: int,
    dim: int,
    n_classes: int,
    *,
    hidden: int,
    seed: int,
    momentum: float,
    device: torch.device,
) -> Group:
    """Return untrained heads; a seed starts all its folds from the same weights."""
    if kind == "linear":
        group = FoldedGroup if blocks_are_wide(n_folds, n_classes) else LinearGroup
        return group(seeds, n_folds, dim, n_classes, seed=seed, momentum=momentum, device=device)
    if kind == "mlp":
        return MlpGroup(
            seeds, n_folds, dim, n_classes, hidden=hidden, seed=seed, momentum=momentum, device=device
        )
    raise RecipeError(f"heads.kind must be linear or mlp, got {kind!r}")
