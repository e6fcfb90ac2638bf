"""Heads with one hidden layer."""

from collections.abc import Sequence

import torch

from curate.errors import RecipeError
from curate.scores.heads.grand import grand, relu_delta
from curate.scores.heads.model import Group, uniform
from curate.scores.heads.softmax import squared_norms

__all__ = ["MlpGroup"]


class _Net:
    """Weights of the models of one seed, or their velocities: w1 (K, d, h), b1 (K, 1, h), w2 (K, C, h), b2 (K, C, 1).

    They are views of one vector, `flat`, which is moved at once. The last layer is kept with its classes first.
    """

    def __init__(self, flat: torch.Tensor, models: int, dim: int, hidden: int, n_classes: int) -> None:
        self.flat = flat
        sizes = [models * dim * hidden, models * hidden, models * hidden * n_classes, models * n_classes]
        w1, b1, w2, b2 = torch.split(flat, sizes)
        self.w1, self.b1 = w1.view(models, dim, hidden), b1.view(models, 1, hidden)
        self.w2, self.b2 = w2.view(models, n_classes, hidden), b2.view(models, n_classes, 1)


class MlpGroup(Group):
    """z = relu(x W1 + b1) W2 + b2, the folds of a seed as one batched product.

    All models of a seed meet all rows, and errors in a model's own fold are set to zero: a K-th of the work is wasted, for
    wider products. Logits are held with the rows last, (K, C, n): sums over few classes then go over many rows at once.
    """

    needs_errors = True

    def __init__(
        self,
        seeds: Sequence[int],
        n_folds: int,
        dim: int,
        n_classes: int,
        *,
        hidden: int,
        seed: int,
        momentum: float,
        device: torch.device,
    ) -> None:
        super().__init__(seeds, n_folds, n_classes, momentum=momentum)
        self.hidden, self._nets, self._velocity = hidden, [], []
        self._rates = (1.0, 2.0 * dim / hidden)  # hidden values have half the mean square of the inputs
        shape = self.n_folds, dim, hidden, n_classes
        size = self.n_folds * (dim * hidden + hidden + hidden * n_classes + n_classes)
        for one in self.seeds:
            net, velocity = (_Net(torch.zeros(size, device=device), *shape) for _ in range(2))
            net.w1[:] = uniform((dim, hidden), (3.0 / dim) ** 0.5, seed, one, "hidden").to(device)
            net.w2[:] = uniform((hidden, n_classes), hidden**-0.5, seed, one, "output").T.to(device)
            self._nets.append(net)
            self._velocity.append(velocity)

    def step(self, x: torch.Tensor, label: torch.Tensor, fold: torch.Tensor, rate: float) -> None:
        """Take one step for each model of the group."""
        row = torch.arange(len(x), device=x.device)
        target = torch.zeros(self.n_classes, len(x), device=x.device)
        target[label, row] = 1.0
        for place, (net, velocity) in enumerate(zip(self._nets, self._velocity, strict=True)):
            hidden, errors = self._forward(x, net)
            errors.sub_(target)
            if self.crossed:
                errors[fold[:, place].long(), :, row] = 0.0
            self._backward(x, hidden, errors, net, velocity, rate)
            net.flat.sub_(velocity.flat)

    def _forward(self, x: torch.Tensor, net: _Net) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the hidden values (K, n, h) and the probabilities (K, C, n) of all models."""
        hidden = self._cube("hidden", len(x), self.hidden, x.device)
        torch.bmm(x.expand(self.n_folds, *x.shape), net.w1, out=hidden).add_(net.b1).relu_()
        powers = self._cube("errors", self.n_classes, len(x), x.device)
        torch.bmm(net.w2, hidden.transpose(1, 2), out=powers).add_(net.b2)
        powers.sub_(powers.amax(dim=1, keepdim=True)).exp_()
        return hidden, powers.div_(powers.sum(dim=1, keepdim=True))

    def _backward(
        self,
        x: torch.Tensor,
        hidden: torch.Tensor,
        errors: torch.Tensor,
        net: _Net,
        velocity: _Net,
        rate: float,
    ) -> None:
        """Add the gradients to the velocity; `hidden` is used as scratch."""
        lower, upper = rate * self._rates[0], rate * self._rates[1]
        keep = self.momentum
        velocity.w2.baddbmm_(errors, hidden, beta=keep, alpha=upper)
        velocity.b2.mul_(keep).add_(errors.sum(dim=2, keepdim=True), alpha=upper)
        back = self._cube("back", len(x), self.hidden, x.device)
        torch.bmm(errors.transpose(1, 2), net.w2, out=back).mul_(hidden.sign_())  # h >= 0: its sign is relu'
        rows = x.T.expand(self.n_folds, x.shape[1], len(x))
        velocity.w1.baddbmm_(rows, back, beta=keep, alpha=lower)
        velocity.b1.mul_(keep).add_(back.sum(dim=1, keepdim=True), alpha=lower)

    def _cube(self, name: str, rows: int, columns: int, device: torch.device) -> torch.Tensor:
        """Return a (K, rows, columns) array to write to."""
        return self.room(name, self.n_folds * rows, columns, device).view(self.n_folds, rows, columns)

    def held_out(self, x: torch.Tensor, bounds: Sequence[int], place: int, out: torch.Tensor) -> torch.Tensor:
        """Write the logits of rows sorted by fold; return the hidden values."""
        h = torch.empty(len(x), self.hidden, device=x.device)
        for rows, model in self.pieces(bounds, place):
            w1, b1, w2, b2 = self.model(model)
            torch.addmm(b1, x[rows], w1, out=h[rows])
            torch.addmm(b2, h[rows].relu_(), w2, out=out[rows])
        return h

    def gradient_norms(
        self,
        errors: torch.Tensor | None,
        el2n: torch.Tensor,
        squares: torch.Tensor,
        hidden: torch.Tensor,
        bounds: Sequence[int],
        place: int,
    ) -> torch.Tensor:
        """Return GraNd of two layers; the last one comes first."""
        if errors is None:
            raise RecipeError("an MLP head needs p - y for its gradients")
        below = torch.empty_like(el2n)
        for rows, model in self.pieces(bounds, place):
            below[rows] = squared_norms(relu_delta(errors[rows], self.model(model)[2], hidden[rows]))
        return grand([el2n.square(), below], [squared_norms(hidden), squares])

    def model(self, number: int) -> list[torch.Tensor]:
        """Return views of the weights of one model."""
        place, fold = divmod(number, self.n_folds)
        net = self._nets[place]
        return [net.w1[fold], net.b1[fold, 0], net.w2[fold].T, net.b2[fold, :, 0]]
