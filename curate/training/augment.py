"""Pictures altered a little, as copies found in the wild are: cut, mirrored, recoloured, with noise."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from curate.training.filter_recipe import Augment

__all__ = ["augmented"]


def augmented(pictures: torch.Tensor, how: Sequence[Augment], draw: np.random.Generator) -> torch.Tensor:
    """Return pictures cut, flipped and recoloured.

    pictures : (n, 3, h, w) in 0 to 1. how : (n,) settings, each row by its own. Colours are changed, and noise added, in the
    measure of `colour`; with the settings all neutral the pictures come back as they are.
    """
    n = len(pictures)
    scale, flip, colour = (
        torch.tensor([getattr(one, name) for one in how], dtype=torch.float32)
        for name in ("scale", "flip", "colour")
    )
    d = torch.from_numpy(draw.uniform(-1, 1, (n, 11)).astype(np.float32))
    noise = torch.from_numpy(draw.standard_normal(pictures.shape, dtype=np.float32))
    side = 1 - (1 - scale) * (d[:, 0] + 1) / 2
    aspect = torch.exp(d[:, 1] * 0.25 * (1 - scale))
    sx, sy = (side * aspect).clamp(max=1.0), (side / aspect).clamp(max=1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = torch.where((d[:, 2] > 0) | (flip == 0), sx, -sx)
    theta[:, 1, 1] = sy
    theta[:, 0, 2], theta[:, 1, 2] = d[:, 3] * (1 - sx), d[:, 4] * (1 - sy)
    x = pictures
    if bool((scale < 1).any() or flip.any()):
        grid = functional.affine_grid(theta, list(x.shape), align_corners=False).to(x.device)
        x = functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    if bool((colour > 0).any()):
        d, wide, noise = d.to(x.device), colour.view(-1, 1, 1, 1).to(x.device), noise.to(x.device)
        gain = 1 + wide * d[:, 5, None, None, None] + 0.4 * wide * d[:, 6:9, None, None]
        middle = x.mean((1, 2, 3), keepdim=True)
        x = ((x - middle) * (1 + wide * d[:, 9, None, None, None]) + middle) * gain
        x = x + noise * (0.02 * d[:, 10].clamp(min=0)).view(-1, 1, 1, 1) * (wide > 0)
    return x.clamp(0, 1)
