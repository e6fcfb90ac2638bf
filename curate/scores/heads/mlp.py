"""Heads with one hidden layer."""

from collections.abc import Sequence

import torch

from curate.errors import RecipeError
from curate.scores.heads.grand import grand, relu_delta
from curate.scores.heads.model import Group, uniform
from curate.scores.heads.softmax import squared_norms

__all__ = ["MlpGroup"]


class MlpGroup(Group):
    """z = relu(x W1 + b1) W2 + b2, model by model: the hidden layer alone is wide enough for a full product.

    A model is given only the rows it may learn from, so that folds cost nothing that is thrown away.
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
        self.parameters, self._velocity = [], []
        self._rates = (1.0, 2.0 * dim / hidden)  # hidden values have half the mean square of the inputs
        for one in self.seeds:
            first = uniform((dim, hidden), (3.0 / dim) ** 0.5, seed, one, "hidden")
            last = uniform((hidden, n_classes), hidden**-0.5, seed, one, "output")
            for _ in range(self.n_folds):
                made = [first.clone(), torch.zeros(hidden), last.clone(), torch.zeros(n_classes)]
                self.parameters.append([tensor.to(device) for tensor in made])
                self._velocity.append([torch.zeros_like(tensor, device=device) for tensor in made])

    def step(self, x: torch.Tensor, label: torch.Tensor, fold: torch.Tensor, rate: float) -> None:
        """Take one step for each model of the group."""
        lower, upper = rate * self._rates[0], rate * self._rates[1]
        for model, (parameters, velocity) in enumerate(zip(self.parameters, self._velocity, strict=True)):
            place, own = divmod(model, self.n_folds)
            rows, y = x, label
            if self.crossed:
                chosen = (fold[:, place] != own).nonzero().flatten()
                rows, y = x.index_select(0, chosen), label[chosen]
            w1, b1, w2, b2 = parameters
            v1, u1, v2, u2 = velocity
            h, back = (self.room(name, len(y), len(b1), x.device) for name in ("hidden", "back"))
            torch.mm(rows, w1, out=h).add_(b1).relu_()
            errors = torch.softmax(torch.addmm(b2, h, w2), dim=1)
            errors[torch.arange(len(y), device=y.device), y] -= 1.0
            v2.addmm_(h.T, errors, beta=self.momentum, alpha=upper)
            u2.mul_(self.momentum).add_(errors.sum(dim=0), alpha=upper)
            torch.mm(errors, w2.T, out=back).mul_(h.sign_())  # h is not negative: its sign is relu'
            v1.addmm_(rows.T, back, beta=self.momentum, alpha=lower)
            u1.mul_(self.momentum).add_(back.sum(dim=0), alpha=lower)
            for parameter, change in zip(parameters, velocity, strict=True):
                parameter -= change

    def held_out(self, x: torch.Tensor, bounds: Sequence[int], place: int, out: torch.Tensor) -> torch.Tensor:
        """Write the logits of rows sorted by fold; return the hidden values."""
        h = torch.empty(len(x), len(self.parameters[0][1]), device=x.device)
        for rows, model in self.pieces(bounds, place):
            w1, b1, w2, b2 = self.parameters[model]
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
            below[rows] = squared_norms(relu_delta(errors[rows], self.parameters[model][2], hidden[rows]))
        return grand([el2n.square(), below], [squared_norms(hidden), squares])

    def model(self, number: int) -> list[torch.Tensor]:
        """Return the weights of one model."""
        return self.parameters[number]
