"""What every sampler here does: epochs by number, shares of the processes, checkpoints in the middle of an epoch."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed
from torch.utils.data import Sampler

from curate.errors import UsageError
from curate.hashing import hash_uids
from curate.torch.ranks import world

__all__ = ["EpochSampler", "item_hashes", "whole"]

#: Indices that become Python numbers at a time.
_BLOCK = 65_536


class EpochSampler(Sampler[int], ABC):
    """Gives the indices of one epoch after the other, to one process or to those of a distributed training.

    All processes draw the same indices for an epoch, from seed and epoch alone, and each takes every `num_replicas`-th of
    them, so that no two get the same place. `num_samples` is the number for one process, `total_size` that for all.
    Where the indices of an epoch are no multiple of the processes, some more are drawn, so that all have as many;
    with `drop_last` some fewer.

    A subclass says how many indices an epoch has (`_n_indices`) and which they are (`_draw`).
    """

    def __init__(
        self,
        seed: int,
        num_replicas: int | None,
        rank: int | None,
        *,
        drop_last: bool,
        group: distributed.ProcessGroup | None = None,
    ) -> None:
        if (num_replicas is None) != (rank is None):
            raise UsageError("num_replicas and rank must be given together, or neither")
        if num_replicas is not None and rank is not None and not 0 <= rank < num_replicas:
            raise UsageError(f"rank must be from 0 to num_replicas - 1, got {rank} of {num_replicas}")
        self.seed, self.drop_last, self.group, self._place = seed, drop_last, group, (num_replicas, rank)
        #: The epoch that comes next (or goes on), the one that was begun last, and what was given of it.
        self.epoch, self._begun, self._given, self._resumed = 0, 0, 0, False

    @property
    def num_replicas(self) -> int:
        """The number of processes: as given, else as torch.distributed says when it is asked."""
        given = self._place[0]
        return world(self.group)[0] if given is None else given

    @property
    def rank(self) -> int:
        """The number of this process."""
        given = self._place[1]
        return world(self.group)[1] if given is None else given

    @property
    def num_samples(self) -> int:
        """The number of indices that this process gets per epoch."""
        n, n_ranks = self._n_indices(), self.num_replicas
        return n // n_ranks if self.drop_last else -(-n // n_ranks)

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
            self.epoch, self._begun, self._given, self._resumed = epoch, epoch, 0, False

    def state_dict(self, given: int | None = None) -> dict[str, Any]:
        """Return what a checkpoint needs to go on in the middle of an epoch.

        given : how many indices of the epoch begun last this process has used (batches times their size); by default all
        that were asked for, which is more where a loader with workers fetches ahead.
        """
        if given is not None and given < 0:
            raise UsageError(f"given must be at least 0, got {given}")
        size, epoch, used = self.total_size, self.epoch, self._given
        if given is not None:  # where all was used, the epoch is still this one, and goes on with nothing
            epoch, used = self._begun, min(int(given), self.num_samples)
        return {
            "seed": self.seed, "epoch": epoch, "given": used, "num_replicas": self.num_replicas, "total_size": size,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises UsageError for that of a sampler with another seed, and in the middle of an epoch for that of another length,
        or begun by another number of processes. At the end of an epoch, another number begins the next one.
        """
        epoch, given, n_ranks = (int(state[name]) for name in ("epoch", "given", "num_replicas"))
        size = int(state.get("total_size", self.total_size))
        if int(state["seed"]) != self.seed:
            raise UsageError(f"the state is of a sampler with seed {state['seed']}, this one has {self.seed}")
        if n_ranks != self.num_replicas and given * n_ranks >= size:
            epoch, given = epoch + 1, 0
        if given and n_ranks != self.num_replicas:
            raise UsageError(
                f"the state is of an epoch begun by {n_ranks} processes, and there are {self.num_replicas}; "
                "go on with as many, or load the state of the end of an epoch"
            )
        if given and size != self.total_size:
            raise UsageError(
                f"the state is of an epoch of {size:,} indices, and this one has {self.total_size:,}; "
                "go on with the same sampler, or load the state of the end of an epoch"
            )
        self.epoch, self._begun, self._given, self._resumed = epoch, epoch, given, True

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of one epoch; raises UsageError where `drop_last` leaves none."""
        if self._given and not self._resumed:  # the iteration before was broken off
            self.epoch += 1
        start, epoch = self._given if self._resumed else 0, self.epoch
        self._begun, self._given, self._resumed = epoch, start, False
        if not self.total_size:
            raise UsageError(
                f"an epoch has {self._n_indices():,} indices, and drop_last leaves none for {self.num_replicas:,} processes"
            )
        indices = self._draw(epoch, self.total_size)[self.rank :: self.num_replicas]
        for first in range(start, len(indices), _BLOCK):
            for index in indices[first : first + _BLOCK].tolist():
                self._given += 1
                yield index
        if self.epoch == epoch:
            self.epoch, self._given = epoch + 1, 0

    @abstractmethod
    def _n_indices(self) -> int:
        """Return how many indices the epoch begun last has, before they are shared out."""

    @abstractmethod
    def _draw(self, epoch: int, size: int) -> torch.Tensor:
        """Return the indices that all processes get in an epoch, (size,)."""


def whole(name: str, number: int) -> int:
    """Return a whole number of at least 1; raises UsageError for another."""
    if not isinstance(number, int | np.integer):
        raise UsageError(f"{name} must be a whole number, got {number!r}")
    if number < 1:
        raise UsageError(f"{name} must be at least 1, got {number}")
    return int(number)


def item_hashes(uids: Sequence[str] | None, n: int, purpose: str, seed: int) -> npt.NDArray[np.uint64]:
    """Return one uniform number per item, fixed by its uid (or its place) and the seed; (n,).

    Raises UsageError unless there are n different uids.
    """
    if uids is not None and (len(uids) != n or len(set(uids)) != n):
        raise UsageError(
            f"uids must be {n:,} different ones, one per item, got {len(uids):,} ({len(set(uids)):,} different)"
        )
    return hash_uids((str(place) for place in range(n)) if uids is None else uids, seed, purpose)
