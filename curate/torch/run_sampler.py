"""A sampler of dataset indices by the weights that a run decided on."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from curate.errors import UsageError
from curate.torch.epoch_sampler import EpochSampler, whole

if TYPE_CHECKING:
    from curate.runs.run import StoredRun

__all__ = ["RunSampler", "sampler"]


class RunSampler(EpochSampler):
    """Draws indices by their weights, for one process or for the processes of a distributed training.

    weights : (n,), of all items; rows of weight 0 never come up. num_samples : indices per epoch, of all processes. Where that
    is no multiple of the processes, some more are drawn, with `drop_last` some fewer; where all items are drawn already
    (without replacement), the first of the epoch come once more.
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
        drop_last: bool = False,
    ) -> None:
        super().__init__(seed, num_replicas, rank, drop_last=drop_last)
        n_some = int((weights > 0).sum())
        num_samples = whole("num_samples", num_samples)
        if not replacement and num_samples > n_some:
            raise UsageError(
                f"num_samples must be at most {n_some:,}, the items with a weight, where replacement is False, got "
                f"{num_samples:,}"
            )
        self.weights, self.replacement, self._wanted = weights, replacement, num_samples

    def _n_indices(self) -> int:
        return self._wanted

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


def sampler(
    run: "str | Path | StoredRun",
    dataset_uids: Sequence[str] | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    *,
    replacement: bool = True,
    num_replicas: int | None = None,
    rank: int | None = None,
    drop_last: bool = False,
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
    drop_last
        Where the processes cannot share `num_samples` evenly, draw fewer; by default some more are drawn.

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
        num_replicas=num_replicas, rank=rank, drop_last=drop_last,
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
    try:
        items = pl.DataFrame({"uid": pl.Series(dataset_uids, dtype=pl.String)})
    except TypeError:
        raise UsageError("dataset_uids must be texts, one for each item of the data set") from None
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
