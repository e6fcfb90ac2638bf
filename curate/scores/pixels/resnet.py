"""ResNet for small images: a 3 x 3 stem, no pooling before the last layer, ReLU that keeps its input."""

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["ResNet"]


class _Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU()
        same = stride == 1 and n_in == n_out
        short = [nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)]
        self.short = nn.Identity() if same else nn.Sequential(*short)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        return torch.as_tensor(self.relu(self.norm2(self.conv2(y)) + self.short(x)))


class ResNet(nn.Module):
    """(B, 3, H, W) -> (B, n_classes); width 64 and blocks (2, 2, 2, 2) is the ResNet-18 of Data Diet."""

    def __init__(self, n_classes: int, *, width: int = 64, blocks: Sequence[int] = (2, 2, 2, 2)) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        n_in = width
        for level, count in enumerate(blocks):
            n_out = width << level
            for number in range(count):
                layers.append(_Block(n_in, n_out, 2 if level and not number else 1))
                n_in = n_out
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(n_in, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return torch.as_tensor(self.head(self.body(x).mean(dim=(2, 3))))
