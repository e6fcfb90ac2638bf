"""A sampler that draws items by their score again and again, with less odds for those drawn before."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from curate.errors import UsageError
from curate.hashing import nth_hash
from curate.torch.epoch_sampler import EpochSampler, item_hashes, whole
from curate.weighting.soft_cap import soft_cap_draws

__all__ = ["SoftCapSampler"]


class SoftCapSampler(EpochSampler):
    """Draws items with odds softmax(score / temperature); each draw of an item lowers its score by `penalty`.

    Soft Cap Sampling (Shechter and Carmon 2025, arXiv:2503.08805), as `curate.weighting.soft_cap.soft_cap_draws` does it. Each
    epoch begins anew, with the scores as given; its draws come in a random order, or those of high scores would come first.

    scores : (n,), of all items, larger is better; an item whose score is not finite never comes. num_samples : indices per
    epoch, of all processes; by default as many as items with a score. temperature : what scores are divided by to be
    logits. uids : of all items, n different ones; what an item's random numbers depend on, with seed and epoch, by default
    its place.

    >>> draws = SoftCapSampler([2.0, 0.0, float("nan")], num_samples=9, penalty=1.0)
    >>> sorted(draws)
    [0, 0, 0, 0, 0, 0, 1, 1, 1]
    """

    def __init__(
        self,
        scores: "torch.Tensor | npt.ArrayLike",
        num_samples: int | None = None,
        *,
        penalty: float = 0.15,
        temperature: float = 1.0,
        uids: Sequence[str] | None = None,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
        drop_last: bool = False,
    ) -> None:
        super().__init__(seed, num_replicas, rank, drop_last=drop_last)
        known = scores.detach().cpu().numpy() if isinstance(scores, torch.Tensor) else scores
        values = np.array(known, np.float64)
        if values.ndim != 1:
            raise UsageError(f"scores must be one number per item, got {values.shape}")
        if not temperature > 0:
            raise UsageError(f"temperature must be above 0, got {temperature}")
        with np.errstate(over="ignore"):
            logit = values / temperature
        n_some = int(np.isfinite(logit).sum())
        if n_some == 0:
            raise UsageError(f"none of the {len(values):,} items has a finite score (over temperature)")
        wanted = whole("num_samples", n_some if num_samples is None else num_samples)
        soft_cap_draws(values[:0], 0, penalty, np.empty(0, np.uint64))  # checks the penalty
        self.penalty, self._logit, self._wanted = penalty, logit, wanted
        self._hashes = item_hashes(uids, len(values), "soft cap", seed)

    def _n_indices(self) -> int:
        return self._wanted

    def _draw(self, epoch: int, size: int) -> torch.Tensor:
        drawn = soft_cap_draws(self._logit, size, self.penalty, nth_hash(self._hashes, 2 * epoch)).row
        again = _earlier(drawn).astype(np.uint64)
        order = np.argsort(nth_hash(nth_hash(self._hashes[drawn], 2 * epoch + 1), again), kind="stable")
        return torch.from_numpy(drawn[order])


def _earlier(drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return how often the item of each draw was drawn before it, (n,).

    >>> _earlier(np.array([4, 2, 4, 4]))
    array([0, 0, 1, 2])
    """
    order = np.argsort(drawn, kind="stable")
    place = np.arange(len(drawn))
    first = np.diff(drawn[order], prepend=-1) != 0
    counts = np.empty(len(drawn), np.int64)
    counts[order] = place - np.maximum.accumulate(np.where(first, place, 0))
    return counts
