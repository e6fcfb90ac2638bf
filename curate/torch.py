"""For PyTorch training loops: weights per batch from the losses, and a sampler from a finished run.

Not imported by `import curate`, so that torch is loaded only where it is used.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed
from torch.utils.data import Sampler

from curate.errors import UsageError
from curate.training.jest import JointBatchSampler, sigmoid_losses
from curate.weighting.loss import Method, check_settings

if TYPE_CHECKING:
    from curate.runs.run import StoredRun

__all__ = ["JointBatchSampler", "LossReweighter", "RunSampler", "sampler", "sigmoid_losses"]

#: Indices that become Python numbers at a time.
_BLOCK = 65_536


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


class RunSampler(Sampler[int]):
    """Draws indices by their weights, for one process or for the processes of a distributed training.

    All processes draw the same indices for an epoch, from seed and epoch alone, and each takes every `num_replicas`-th of
    them, so that no two get the same place. `num_samples` is the number for one process, `total_size` that for all: the
    number asked for, padded so that all processes have as many.
    """

    def __init__(
        self,
        weights: torch.Tensor,
        num_samples: int,
        *,
        replacement: bool = True,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        n_some = int((weights > 0).sum())
        if num_samples < 1:
            raise UsageError(f"num_samples must be at least 1, got {num_samples}")
        if not replacement and num_samples > n_some:
            raise UsageError(
                f"num_samples must be at most {n_some:,}, the items with a weight, where replacement is False, got "
                f"{num_samples:,}"
            )
        if (num_replicas is None) != (rank is None):
            raise UsageError("num_replicas and rank must be given together, or neither")
        if num_replicas is not None and rank is not None and not 0 <= rank < num_replicas:
            raise UsageError(f"rank must be from 0 to num_replicas - 1, got {rank} of {num_replicas}")
        self.weights, self.replacement, self.seed = weights, replacement, seed
        self._wanted, self._place = num_samples, (num_replicas, rank)
        self.epoch, self._given, self._resumed = 0, 0, False

    @property
    def num_replicas(self) -> int:
        """The number of processes: as given, else as torch.distributed says when it is asked."""
        given = self._place[0]
        return _world()[0] if given is None else given

    @property
    def rank(self) -> int:
        """The number of this process."""
        given = self._place[1]
        return _world()[1] if given is None else given

    @property
    def num_samples(self) -> int:
        """The number of indices that this process gets per epoch."""
        return -(-self._wanted // self.num_replicas)

    @property
    def total_size(self) -> int:
        """The number of indices that all processes get per epoch."""
        return self.num_samples * self.num_replicas

    def __len__(self) -> int:
        """Return the number of indices that this process gets per epoch."""
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, in every process; without it, each iteration is of the epoch after the last one.

        After `load_state_dict`, the epoch of that state goes on where it stood.
        """
        if not (self._resumed and epoch == self.epoch):
            self.epoch, self._given, self._resumed = epoch, 0, False

    def state_dict(self, given: int | None = None) -> dict[str, int]:
        """Return what a checkpoint needs to go on in the middle of an epoch.

        given : how many indices of this epoch this process has used; by default all that were asked for, which is more
        where a loader with workers fetches ahead.
        """
        used = self._given if given is None else int(given)
        return {"seed": self.seed, "epoch": self.epoch, "given": used, "num_replicas": self.num_replicas}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a checkpoint; raises UsageError for that of another seed, or an epoch begun by other processes."""
        if int(state["seed"]) != self.seed:
            raise UsageError(f"the state is of a sampler with seed {state['seed']}, this one has {self.seed}")
        if state["given"] and int(state["num_replicas"]) != self.num_replicas:
            raise UsageError(
                f"the state is of an epoch begun by {state['num_replicas']} processes, and there are "
                f"{self.num_replicas}; go on with as many, or begin an epoch with set_epoch"
            )
        self.epoch, self._given, self._resumed = int(state["epoch"]), int(state["given"]), True

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of one epoch; rows of weight 0 never come up."""
        if self._given and not self._resumed:  # the iteration before was broken off
            self.epoch += 1
        start, epoch = self._given if self._resumed else 0, self.epoch
        self._given, self._resumed = start, False
        indices = self._draw(epoch, self.total_size)[self.rank :: self.num_replicas]
        for first in range(start, len(indices), _BLOCK):
            for index in indices[first : first + _BLOCK].tolist():
                self._given += 1
                yield index
        if self.epoch == epoch:
            self.epoch, self._given = epoch + 1, 0

    def _draw(self, epoch: int, size: int) -> torch.Tensor:
        """Return the indices that all processes get in an epoch, (size,)."""
        name = f"curate sampler {self.seed} {epoch}".encode()
        number = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1
        generator = torch.Generator().manual_seed(number)
        some = self.weights.nonzero().flatten()
        weights = self.weights[some]
        if self.replacement:
            ends = weights.cumsum(0)
            marks = torch.rand(size, dtype=torch.float64, generator=generator) * ends[-1]
            return some[torch.searchsorted(ends, marks, right=True).clamp(max=len(some) - 1)]
        # Keys of Efraimidis and Spirakis (2006): u^(1/w), largest first, in logarithms of -log(u), smallest first.
        keys = torch.empty(len(some), dtype=torch.float64).exponential_(generator=generator).log()
        chosen = (keys - weights.log()).argsort(stable=True)[:size]
        mixed = chosen[torch.randperm(len(chosen), generator=generator)]  # else the heavy ones come first
        return some[mixed.repeat(-(-size // len(mixed)))[:size]]


def _world() -> tuple[int, int]:
    """Return how many processes train together, and the number of this one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1, 0
    return distributed.get_world_size(), distributed.get_rank()


def sampler(
    run: "str | Path | StoredRun",
    dataset_uids: Sequence[str] | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    *,
    replacement: bool = True,
    num_replicas: int | None = None,
    rank: int | None = None,
) -> RunSampler:
    """Return a sampler of dataset indices that draws samples by the weights a run decided on.

    Under `torch.distributed` every process gets other indices, and as many; call `set_epoch` in each before each epoch,
    as with `DistributedSampler`. `state_dict` goes into a checkpoint.

    Parameters
    ----------
    run
        The folder, or what `curate.open_run` returns.
    dataset_uids
        The uid of each item of the data set, in its order; without it, the data set is every row read, by shard and row.
        What was dropped has weight 0; of copies with one uid the first counts.
    num_samples
        Indices per epoch, of all processes together (rounded up to a multiple of them); by default the number of items
        with a weight.
    seed
        What the draws depend on, with the epoch; the same in every process.
    replacement
        False: no item twice in an epoch (but for the few that pad it). A heavy item is then more likely to be among
        `num_samples`; where that is all items, weights change nothing.
    num_replicas, rank
        How many processes there are, and which this is; by default as `torch.distributed` says, once it is initialised.

    Returns
    -------
    RunSampler
        For the `sampler=` of a `DataLoader`.

    Raises
    ------
    UsageError
        For uids the run does not know, and for a run that gives a weight to no item.
    """
    weights = torch.from_numpy(_weights(run, dataset_uids))
    n_some = int((weights > 0).sum())
    if n_some == 0:
        raise UsageError(f"the run gives a weight to none of the {len(weights):,} items")
    return RunSampler(
        weights, n_some if num_samples is None else num_samples, replacement=replacement, seed=seed,
        num_replicas=num_replicas, rank=rank,
    )  # fmt: skip


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
