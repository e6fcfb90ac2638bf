"""Epochs that leave out some of the samples with a low loss, and weigh up the others: InfoBatch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed
from torch.utils.data import Dataset

from curate.errors import UsageError
from curate.hashing import nth_hash
from curate.ordering.shares import exact_share
from curate.torch.epoch_sampler import EpochSampler, item_hashes, whole
from curate.torch.ranks import gather, world

__all__ = ["Indexed", "InfoBatch"]


class _Items(Protocol):
    def __getitem__(self, index: int, /) -> Any: ...  # noqa: ANN401  (what the user's data set gives)

    def __len__(self) -> int: ...


class Indexed(Dataset[tuple[int, Any]]):
    """A data set that gives (index, item) for each item of another.

    >>> Indexed(["a", "b"])[1]
    (1, 'b')
    """

    def __init__(self, dataset: _Items) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[int, Any]:
        """Return the index and the item."""
        return index, self.dataset[index]

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.dataset)


@dataclass(frozen=True)
class _Plan:
    """What an epoch has: weight : (n,), 0 where an item is left out."""

    epoch: int
    weight: npt.NDArray[np.float64]

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero(self.weight > 0)


class InfoBatch(EpochSampler):
    """Leaves out the share `r` of the samples whose last loss was below the mean, in another draw each epoch.

    Qin et al. 2024 (arXiv:2303.04947). Of the m samples whose last loss is below the mean of all known ones, k are kept
    (at least one, (1 - r) m rounded), each with the weight m / k, which is 1 / (1 - r) but for the rounding: so the weighted sum of
    gradients over an epoch has the expected value that it has without pruning. All others come with weight 1, also those
    that were never seen, so the first epoch has all. From epoch `delta * epochs` on nothing is left out.

    It is a sampler, and called with indices and losses of a batch it notes the losses and returns the weights:

    >>> data = Indexed([0.1, 0.2, 0.8, 0.9])
    >>> prune = InfoBatch(len(data), epochs=4, r=0.5, seed=1)
    >>> for epoch in range(2):
    ...     prune.set_epoch(epoch)
    ...     batches = torch.utils.data.DataLoader(data, batch_size=4, sampler=prune)
    ...     for index, losses in batches:
    ...         weights = prune(index, losses)
    ...         (weights * losses).mean()
    tensor(0.5000, dtype=torch.float64)
    tensor(0.6333, dtype=torch.float64)

    What is left out is fixed by uid (or place), seed, epoch and the losses noted. Under `torch.distributed` losses are
    gathered from all processes at each call, so that each knows all of them, makes the same epochs, and any one's
    checkpoint is good for all; every process must call it as often. All have as many samples per epoch: where they cannot,
    the first of the epoch come once more, or the last are left out with `drop_last`. `len` is that of the epoch which
    `set_epoch` named, or which was begun last.

    n : number of items. epochs : how many there are to be. uids : of all items, n different ones. group : the processes that
    train together; by default all. A loss that is not finite is not noted.
    """

    def __init__(
        self,
        n: int,
        epochs: int,
        r: float | str = 0.5,
        delta: float | str = 0.875,
        *,
        uids: Sequence[str] | None = None,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
        drop_last: bool = False,
        group: distributed.ProcessGroup | None = None,
    ) -> None:
        super().__init__(seed, num_replicas, rank, drop_last=drop_last, group=group)
        for name, number in (("n", n), ("epochs", epochs)):
            whole(name, number)
        self._r, self._delta = exact_share(r), exact_share(delta)
        for name, share, value in (("r", self._r, r), ("delta", self._delta, delta)):
            if not 0 <= share <= 1:
                raise UsageError(f"{name} must be in [0, 1], got {value}")
        self.epochs = epochs
        #: The last finite loss of each item, (n,); NaN where none was noted.
        self.scores = np.full(n, np.nan)
        self._hashes = item_hashes(uids, n, "infobatch", seed)
        self._plan: _Plan | None = None

    def __call__(self, index: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
        """Note the losses of a batch, and return the weights of its samples in this epoch, (n,), without gradient.

        index, losses : (n,). Raises UsageError for items that this epoch does not have, and where the losses of the other
        processes cannot be had.
        """
        if losses.ndim != 1 or index.shape != losses.shape:
            raise UsageError(
                "index and losses must have one number per sample (reduction='none'), got "
                f"{tuple(index.shape)} and {tuple(losses.shape)}"
            )
        if world(self.group)[0] != self.num_replicas:
            raise UsageError(
                f"an epoch is shared by {self.num_replicas} processes, and losses are gathered from "
                f"{world(self.group)[0]}; initialise torch.distributed first"
            )
        rows = index.cpu().numpy()
        weight = self._planned(self._begun).weight
        if len(rows) and not (0 <= rows.min() and rows.max() < len(weight) and (weight[rows] > 0).all()):
            raise UsageError(
                f"a batch has items that epoch {self._begun} does not have; is it of another loader?"
            )
        noted = torch.stack([index.to(losses.device, torch.float64), losses.detach().double()], dim=1)
        every = (
            gather(noted, self.group)[0].cpu().numpy() if world(self.group)[0] > 1 else noted.cpu().numpy()
        )
        every = every[np.isfinite(every[:, 1])]
        self.scores[every[:, 0].astype(np.int64)] = every[:, 1]  # of an item that came twice, the last counts
        return torch.from_numpy(weight[rows]).to(losses.device, losses.dtype)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, in every process; what it leaves out goes by the losses noted until now."""
        super().set_epoch(epoch)
        if self._plan is not None and self._plan.epoch != epoch:
            self._plan = None

    def state_dict(self, given: int | None = None) -> dict[str, Any]:
        """Return what a checkpoint needs to go on in the middle of an epoch; that of one process is good for all.

        given : how many indices of the epoch begun last this process has used (batches times their size); by default all
        that were asked for, which is more where a loader with workers fetches ahead.
        """
        state = super().state_dict(given)
        weight = torch.from_numpy(self._planned(self._begun).weight) if state["given"] else None
        return state | {"scores": torch.from_numpy(self.scores.copy()), "weight": weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; raises UsageError for that of another seed, data set, or an epoch begun by other processes."""
        if len(state["scores"]) != len(self.scores):
            raise UsageError(
                f"the state is of {len(state['scores']):,} items, and there are {len(self.scores):,}"
            )
        weight = state["weight"]
        self.scores = state["scores"].cpu().numpy().copy()  # before anything asks how long an epoch is
        self._plan = None if weight is None else _Plan(int(state["epoch"]), weight.cpu().numpy().copy())
        self._begun = int(state["epoch"])
        super().load_state_dict(state)

    def _planned(self, epoch: int) -> _Plan:
        """Return what an epoch has, made when it is first asked for."""
        if self._plan is None or self._plan.epoch != epoch:
            self._plan = _Plan(epoch, self._weights(epoch))
        return self._plan

    def _weights(self, epoch: int) -> npt.NDArray[np.float64]:
        """Return the weight of each item in an epoch, 0 where it is left out."""
        weight = np.ones(len(self.scores))
        known = self.scores[np.isfinite(self.scores)]
        if epoch >= self._delta * self.epochs or len(known) == 0:
            return weight
        # Exactly rounded, and never outside of the losses, so that no constant is below its own mean.
        mean = min(max(math.fsum(known.tolist()) / len(known), float(known.min())), float(known.max()))
        easy = np.flatnonzero(self.scores < mean)
        n_kept = min(len(easy), max(1, int((1 - self._r) * len(easy) + Fraction(1, 2))))
        order = np.argsort(nth_hash(self._hashes[easy], 2 * epoch), kind="stable")
        weight[easy] = 0
        weight[easy[order[:n_kept]]] = len(easy) / max(1, n_kept)
        return weight

    def _n_indices(self) -> int:
        return len(self._planned(self._begun).rows)

    def _draw(self, epoch: int, size: int) -> torch.Tensor:
        rows = self._planned(epoch).rows
        mixed = rows[np.argsort(nth_hash(self._hashes[rows], 2 * epoch + 1), kind="stable")]
        return torch.from_numpy(np.resize(mixed, size))
