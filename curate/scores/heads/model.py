"""What all groups of heads share. A group holds the models of some seeds, `n_folds` for each.

Model k of a seed learns from the rows outside fold k. Gradients of the softmax cross-entropy are written out, so that
a training step is its matrix products and little else: momentum is the `beta` of the product that makes the gradient.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import xxhash

__all__ = ["Group", "uniform"]


def uniform(shape: tuple[int, ...], bound: float, *key: str | int) -> torch.Tensor:
    """Return float32 numbers in [-bound, bound) of a shape, fixed by `key`."""
    number = xxhash.xxh3_128_intdigest("\x1f".join(str(part) for part in key).encode())
    draws = np.random.Generator(np.random.Philox(key=number)).random(shape, dtype=np.float32)
    return torch.from_numpy((2 * bound * draws - bound).astype(np.float32))


class Group(ABC):
    """What linear and MLP groups share: which rows a model learns from, and by how much."""

    def __init__(self, seeds: Sequence[int], n_folds: int, n_classes: int, *, momentum: float) -> None:
        self.seeds, self.n_folds, self.n_classes = list(seeds), max(1, n_folds), n_classes
        self.momentum, self.crossed = momentum, n_folds > 0
        self._space: dict[str, torch.Tensor] = {}

    def room(self, name: str, rows: int, columns: int, device: torch.device) -> torch.Tensor:
        """Return a (rows, columns) matrix to write to, the same memory in every step: new pages cost more than sums."""
        space = self._space.get(name)
        if space is None or space.numel() < rows * columns:
            space = self._space[name] = torch.empty(rows * columns, device=device)
        return space[: rows * columns].view(rows, columns)

    def forget_space(self) -> None:
        """Give back the memory that steps write to."""
        self._space.clear()

    def pieces(self, bounds: Sequence[int], place: int) -> Iterator[tuple[slice, int]]:
        """Yield (rows, model) of the rows sorted by the fold of the seed at `place`, ends at `bounds`."""
        start = 0
        for fold, end in enumerate(bounds):
            if end > start:
                yield slice(start, end), place * self.n_folds + fold
            start = end

    def step(self, x: torch.Tensor, label: torch.Tensor, fold: torch.Tensor, rate: float) -> None:
        """Take one step of momentum descent on a minibatch: x (B, d), label (B,), fold (B, seeds)."""
        raise TypeError(f"{type(self).__name__} is given, not trained")

    @abstractmethod
    def held_out(self, x: torch.Tensor, bounds: Sequence[int], place: int, out: torch.Tensor) -> torch.Tensor:
        """Write the logits of rows sorted by fold, each from the model that never saw it; return hidden values."""

    @abstractmethod
    def gradient_norms(
        self,
        errors: torch.Tensor | None,
        el2n: torch.Tensor,
        squares: torch.Tensor,
        hidden: torch.Tensor,
        bounds: Sequence[int],
        place: int,
    ) -> torch.Tensor:
        """Return the norm of each row's gradient by all weights and biases of its model (GraNd), float64."""

    needs_errors = False

    def model(self, number: int) -> list[torch.Tensor]:
        """Return the weights of one model: those of seed number // folds, fold number % folds."""
        raise TypeError(f"{type(self).__name__} is given, not trained")

    def finite(self) -> dict[int, bool]:
        """Return for each seed whether its weights are all finite."""
        n = self.n_folds
        return {
            seed: all(
                bool(torch.isfinite(p).all())
                for number in range(at * n, at * n + n)
                for p in self.model(number)
            )
            for at, seed in enumerate(self.seeds)
        }
