"""For PyTorch training loops: weights per batch from the losses, and a sampler from a finished run.

Not imported by `import curate`, so that torch is loaded only where it is used.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import WeightedRandomSampler

from curate.errors import UsageError
from curate.weighting.loss import Method, check_settings

if TYPE_CHECKING:
    from curate.runs.run import StoredRun

__all__ = ["LossReweighter", "RunSampler", "sampler"]


class LossReweighter:
    """Weigh the samples of each batch by their losses; uniform for the first `burn_in` batches.

    The same numbers as `curate.weighting.loss.loss_weights` on the batch: mean 1 over its finite losses, NaN
    for a loss that is not finite, no gradient. Device and type are those of the losses; half precision
    is computed in float32.

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
    ) -> None:
        check_settings(method, r, delta, gamma, clip, max_weight)
        if burn_in < 0:
            raise UsageError(f"burn_in must be at least 0, got {burn_in}")
        self.method, self.r, self.delta, self.burn_in = method, r, delta, burn_in
        self.gamma, self.clip, self.max_weight = gamma, clip, max_weight
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
        self.steps += 1
        with torch.no_grad():
            loss = losses.detach()
            loss = loss if loss.dtype == torch.float64 else loss.float()
            known = torch.isfinite(loss)
            if self.steps <= self.burn_in or len(loss) == 0:
                weight = torch.ones_like(loss)
            else:
                weight = self._to_mean_one(self._raw(loss, known), known)
            return torch.where(known, weight, torch.nan).to(losses.dtype)

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
        else:
            value = h.abs() if self.method == "extremes" else 1 - (h / self.delta) ** 2
        value = torch.where(known, value / self.r, -torch.inf)
        return torch.where(known, torch.exp(value - value.max()), 0)

    def _to_mean_one(self, raw: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        n, total = known.sum(), raw.sum()
        weight = torch.where(total > 0, raw * (n / total), known.to(raw.dtype))
        return weight if self.max_weight is None else self._capped(weight, n, self.max_weight)

    @staticmethod
    def _capped(weight: torch.Tensor, n: torch.Tensor, cap: float) -> torch.Tensor:
        """Return `cap_weights` of the rows that have a weight; the others, with 0, stay below the cap."""
        descending = weight.sort(descending=True).values
        place = torch.arange(len(weight), device=weight.device)
        rest, left = descending.flip(0).cumsum(0).flip(0), n - cap * place
        scale = left / rest
        fits = (rest == 0) | (descending * scale <= cap)
        first = fits.to(torch.uint8).argmax(0, keepdim=True)
        shared = torch.where(weight > 0, cap, left.gather(0, first) / (n - first))
        capped = (weight * scale.gather(0, first)).clamp(max=cap)
        capped = torch.where(rest.gather(0, first) == 0, shared, capped)
        return torch.where(fits.any(), capped, torch.ones_like(weight))


class RunSampler(WeightedRandomSampler):
    """A `WeightedRandomSampler` with replacement for data sets of any size (torch stops at 2^24 rows)."""

    def __iter__(self) -> Iterator[int]:
        """Yield `num_samples` indices; rows of weight 0 never come up."""
        ends = self.weights.cumsum(0)
        marks = torch.rand(self.num_samples, dtype=torch.float64, generator=self.generator) * ends[-1]
        last = int(self.weights.nonzero()[-1])
        yield from torch.searchsorted(ends, marks, right=True).clamp(max=last).tolist()


def sampler(
    run: "str | Path | StoredRun",
    dataset_uids: Sequence[str] | None = None,
    num_samples: int | None = None,
    seed: int = 0,
) -> RunSampler:
    """Return a sampler of dataset indices that draws samples by the weights a run decided on.

    run : the folder, or what `curate.open_run` returns. dataset_uids : the uid of each item of the data set,
    in its order; without it, the data set is every row read, by shard and row. What was dropped has
    weight 0; of copies with one uid the first counts. num_samples : indices per epoch, by default the
    number of items with a weight. Raises UsageError for uids the run does not know.
    """
    weights = _weights(run, dataset_uids)
    n_some = int((weights > 0).sum())
    if n_some == 0:
        raise UsageError(f"the run gives a weight to none of the {len(weights):,} items")
    generator = torch.Generator().manual_seed(seed)
    wanted = n_some if num_samples is None else num_samples
    shares = cast(Sequence[float], torch.from_numpy(weights))
    return RunSampler(shares, wanted, replacement=True, generator=generator)


def _weights(run: "str | Path | StoredRun", dataset_uids: Sequence[str] | None) -> npt.NDArray[np.float64]:
    """Return the weight of each item of the data set, (n,) float64, 0 where it is not kept."""
    import polars as pl

    from curate.runs.run import StoredRun, open_run

    opened = run if isinstance(run, StoredRun) else open_run(run)
    decisions = opened.decisions().with_columns(
        pl.when("keep").then(pl.col("weight")).otherwise(0).fill_null(0).cast(pl.Float64).alias("weight")
    )
    if dataset_uids is None:
        return np.array(decisions.sort("shard", "row")["weight"])
    items = pl.DataFrame({"uid": pl.Series(dataset_uids, dtype=pl.String)})
    totals = decisions.group_by("uid").agg(pl.col("weight").sum())
    found = items.join(totals, on="uid", how="left", maintain_order="left", validate="m:1")
    unknown = found.filter(pl.col("weight").is_null())
    if len(unknown):
        raise UsageError(
            f"{len(unknown):,} of {len(items):,} items of the data set are not in the run, "
            f"such as {unknown['uid'][0]!r}"
        )
    first = pl.when(pl.col("uid").is_first_distinct()).then("weight").otherwise(0.0)
    return np.array(found.select(first.alias("weight"))["weight"])
