"""Linear heads, many at once: seeds and folds are column blocks of one matrix product."""

from collections.abc import Sequence

import torch

from curate.scores.heads.grand import grand
from curate.scores.heads.model import Group, uniform

__all__ = ["FoldedGroup", "LinearGroup"]


class LinearGroup(Group):
    """z = x W + b for all models of the group as one product with W (d, models x C).

    With folds, a model's errors in its own fold are set to zero: a K-th of the work is wasted, for fewer, wider
    products. Logits are held with the rows last, (models, C, n): sums over few classes then go over many rows at once.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        n_folds: int,
        dim: int,
        n_classes: int,
        *,
        seed: int,
        momentum: float,
        device: torch.device,
    ) -> None:
        super().__init__(seeds, n_folds, n_classes, momentum=momentum)
        start = [uniform((dim, n_classes), dim**-0.5, seed, one, "linear") for one in self.seeds]
        self.w = torch.cat([block for block in start for _ in range(self.n_folds)], dim=1).to(device)
        self.b = torch.zeros(self.w.shape[1], device=device)
        self._v, self._vb = torch.zeros_like(self.w), torch.zeros_like(self.b)

    def step(self, x: torch.Tensor, label: torch.Tensor, fold: torch.Tensor, rate: float) -> None:
        """Take one step for all models of the group."""
        row = torch.arange(len(x), device=x.device)
        z = self.room("z", self.w.shape[1], len(x), x.device)
        torch.mm(self.w.T, x.T, out=z).add_(self.b[:, None])
        errors = z.view(-1, self.n_classes, len(x))
        errors.sub_(errors.amax(dim=1, keepdim=True)).exp_()
        errors.div_(errors.sum(dim=1, keepdim=True))
        errors[:, label, row] -= 1.0
        if self.crossed:
            outside = fold.T[:, None, :] != torch.arange(self.n_folds, device=x.device)[None, :, None]
            errors *= outside.flatten(0, 1)[:, None, :]
        self._v.addmm_(x.T, z.T, beta=self.momentum, alpha=rate)
        self._vb.mul_(self.momentum).add_(z.sum(dim=1), alpha=rate)
        self.w -= self._v
        self.b -= self._vb

    def model(self, number: int) -> list[torch.Tensor]:
        """Return views of the weights of one model."""
        columns = slice(number * self.n_classes, (number + 1) * self.n_classes)
        return [self.w[:, columns], self.b[columns]]

    def held_out(self, x: torch.Tensor, bounds: Sequence[int], place: int, out: torch.Tensor) -> torch.Tensor:
        """Write the logits; a linear head has no hidden values."""
        for rows, number in self.pieces(bounds, place):
            w, b = self.model(number)
            torch.addmm(b, x[rows], w, out=out[rows])
        return out[:, :0]

    def gradient_norms(
        self,
        errors: torch.Tensor | None,
        el2n: torch.Tensor,
        squares: torch.Tensor,
        hidden: torch.Tensor,
        bounds: Sequence[int],
        place: int,
    ) -> torch.Tensor:
        """Return GraNd of one layer."""
        return grand([el2n.square()], [squares])


class FoldedGroup(LinearGroup):
    """z = x W + b with folds. No product is made with a model's own fold, nor a row copied for another model.

    Rows of a minibatch are sorted by fold. Those of fold j meet the models j + 1, ..., j + K - 1 (mod K), which are
    neighbours in W, because W (d, 2 K - 1 blocks of C columns) goes on with models 0, ..., K - 2 after K - 1. The
    velocity of such a model is the sum of its two places.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        n_folds: int,
        dim: int,
        n_classes: int,
        *,
        seed: int,
        momentum: float,
        device: torch.device,
    ) -> None:
        Group.__init__(self, seeds, n_folds, n_classes, momentum=momentum)
        self._round, width = n_folds * n_classes, (2 * n_folds - 1) * n_classes
        self._w: list[torch.Tensor] = []
        self._b: list[torch.Tensor] = []
        self._changes: list[tuple[torch.Tensor, torch.Tensor]] = []
        for one in self.seeds:
            start = uniform((dim, n_classes), dim**-0.5, seed, one, "linear")
            self._w.append(start.repeat(1, 2 * n_folds - 1).to(device))
            self._b.append(torch.zeros(1, width, device=device))
            self._changes.append((torch.zeros_like(self._w[-1]), torch.zeros_like(self._b[-1])))

    def step(self, x: torch.Tensor, label: torch.Tensor, fold: torch.Tensor, rate: float) -> None:
        """Take one step for all models of the group, seed by seed."""
        c, others = self.n_classes, (self.n_folds - 1) * self.n_classes
        row = torch.arange(len(x), device=x.device)
        z, errors = (self.room(name, len(x), others, x.device) for name in ("z", "errors"))
        cubes = [tensor.view(len(x), -1, c) for tensor in (z, errors)]
        for place, (w, b, (v, vb)) in enumerate(zip(self._w, self._b, self._changes, strict=True)):
            order = torch.argsort(fold[:, place], stable=True)
            ends = torch.bincount(fold[:, place], minlength=self.n_folds).cumsum(0).tolist()
            blocks = [
                (slice(start, end), slice((j + 1) * c, (j + 1) * c + others))
                for j, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
                if end > start
            ]
            mine = torch.index_select(x, 0, order, out=self.room("rows", len(x), x.shape[1], x.device))
            for rows, columns in blocks:
                torch.mm(mine[rows], w[:, columns], out=z[rows]).add_(b[:, columns])
            torch.softmax(cubes[0], dim=2, out=cubes[1])
            cubes[1][row, :, label[order]] -= 1.0
            v *= self.momentum
            vb *= self.momentum
            for rows, columns in blocks:
                v[:, columns].addmm_(mine[rows].T, errors[rows], alpha=rate)
                vb[:, columns].add_(errors[rows].sum(dim=0), alpha=rate)
            self._move(w, v)
            self._move(b, vb)

    def _move(self, weight: torch.Tensor, change: torch.Tensor) -> None:
        first, again = slice(0, self._round - self.n_classes), slice(self._round, None)
        weight[:, : self._round] -= change[:, : self._round]
        weight[:, first] -= change[:, again]
        weight[:, again] = weight[:, first]

    def model(self, number: int) -> list[torch.Tensor]:
        """Return views of the weights of one model."""
        place, fold = divmod(number, self.n_folds)
        columns = slice(fold * self.n_classes, (fold + 1) * self.n_classes)
        return [self._w[place][:, columns], self._b[place][0, columns]]
