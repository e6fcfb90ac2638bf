"""Weights of the samples of a batch from their losses, over all processes that train together."""

import torch
from torch import distributed

from curate.errors import UsageError
from curate.torch.ranks import gather, world
from curate.weighting.loss import Method, check_settings

__all__ = ["LossReweighter"]


class LossReweighter:
    """Weigh the samples of each batch by their losses; uniform for the first `burn_in` batches (Sow et al. 2025, arXiv:2502.06733).

    The same numbers as `curate.weighting.loss.loss_weights`: mean 1 over the finite losses, NaN for a loss that is
    not finite, no gradient. Device and type are those of the losses; half precision is computed in float32.

    Under `torch.distributed` quantiles and softmax are over the losses of all processes, gathered at each call, so that a
    sample weighs the same wherever it stands (as in the authors' code). Every process must then call it as often. DDP
    averages gradients over processes, so the mean of `weights * losses` in each gives the gradient of the weighted mean
    over all samples. Where processes have batches of different sizes, weights of a process are multiplied by its number of
    finite losses, divided by the mean of these numbers, which makes that so there too.

    over_ranks : False weighs the batch of each process by itself, and nothing is gathered. group : the processes whose
    losses go together; by default all.

    >>> reweight = LossReweighter("linupper", r=1.0, burn_in=1)
    >>> losses = torch.tensor([0.0, 1.0, 2.0, 4.0], requires_grad=True)
    >>> reweight(losses)
    tensor([1., 1., 1., 1.])
    >>> (reweight(losses) * losses).mean().backward()
    """

    def __init__(
        self,
        method: Method = "linupper",
        r: float = 1.0,
        delta: float = 1.0,
        burn_in: int = 0,
        *,
        gamma: float = 2.0,
        clip: tuple[float, float] | None = (0.01, 0.99),
        max_weight: float | None = None,
        over_ranks: bool = True,
        group: distributed.ProcessGroup | None = None,
    ) -> None:
        check_settings(method, r, delta, gamma, clip, max_weight)
        if burn_in < 0:
            raise UsageError(f"burn_in must be at least 0, got {burn_in}")
        self.method, self.r, self.delta, self.burn_in = method, r, delta, burn_in
        self.gamma, self.clip, self.max_weight = gamma, clip, max_weight
        self.over_ranks, self.group = over_ranks, group
        self.steps = 0

    def state_dict(self) -> dict[str, int]:
        """Return what a checkpoint needs: the number of batches seen."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a checkpoint."""
        self.steps = int(state["steps"])

    def __call__(self, losses: torch.Tensor) -> torch.Tensor:
        """Return the weights of one batch, (n,), given its unreduced losses (n,)."""
        if losses.ndim != 1:
            raise UsageError(
                f"losses must be one number per sample (reduction='none'), got {tuple(losses.shape)}"
            )
        if not losses.is_floating_point():
            raise UsageError(f"losses must be floats, got {losses.dtype}")
        self.steps += 1
        with torch.no_grad():
            loss = losses.detach()
            loss = loss if loss.dtype == torch.float64 else loss.float()
            loss, mine = gather(loss, self.group) if self.over_ranks else (loss, slice(None))
            known = torch.isfinite(loss)
            if self.steps <= self.burn_in or len(loss) == 0:
                weight = torch.ones_like(loss)
            else:
                weight = self._to_mean_one(self._raw(loss, known), known)
            if self.over_ranks:  # exactly 1 where all processes have as many losses
                own, every = (one.sum(dtype=weight.dtype) for one in (known[mine], known))
                weight = weight * (own * world(self.group)[0] / every)
            return torch.where(known, weight, torch.nan)[mine].to(losses.dtype)

    def _raw(self, loss: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Return the weights before scaling; 0 where the loss is not finite."""
        if self.method == "focal":
            raw = (-torch.expm1(-loss.clamp(min=0))) ** self.gamma
            return torch.where(known, raw, 0)
        loss = torch.where(known, loss, torch.nan)
        lower, upper = (torch.nanquantile(loss, end) for end in self.clip or (0.0, 1.0))
        width = torch.where(upper > lower, upper - lower, torch.inf)
        h = 2 * self.delta * ((loss.clamp(lower, upper) - lower) / width) - self.delta
        if self.method == "linupper":
            value = (h + self.delta).clamp(max=self.delta)
        elif self.method == "upper":
            value = (h + self.delta) / 2
        else:
            value = h.abs() if self.method == "extremes" else 1 - (h / self.delta) ** 2
        value = torch.where(known, value / self.r, -torch.inf)
        return torch.where(known, torch.exp(value - value.max()), 0)

    def _to_mean_one(self, raw: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        n, total = known.sum(dtype=raw.dtype), raw.sum()
        weight = torch.where(total > 0, raw * (n / total), known.to(raw.dtype))
        return weight if self.max_weight is None else self._capped(weight, n, self.max_weight)

    @staticmethod
    def _capped(weight: torch.Tensor, n: torch.Tensor, cap: float) -> torch.Tensor:
        """Return `cap_weights` of the rows that have a weight; the others, with 0, stay below the cap."""
        descending = weight.sort(descending=True).values
        place = torch.arange(len(weight), device=weight.device, dtype=weight.dtype)
        rest, left = descending.flip(0).cumsum(0).flip(0), n - cap * place
        scale = left / rest
        fits = (rest == 0) | (descending * scale <= cap)
        first = fits.to(torch.uint8).argmax(0, keepdim=True)
        shared = torch.where(weight > 0, cap, left.gather(0, first) / (n - first))
        capped = (weight * scale.gather(0, first)).clamp(max=cap)
        capped = torch.where(rest.gather(0, first) == 0, shared, capped)
        return torch.where(fits.any(), capped, torch.ones_like(weight))
