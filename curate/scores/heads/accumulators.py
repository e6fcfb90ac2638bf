"""Running sums over seeds and epochs, one row per sample: all that is kept of training."""

import numpy as np
import numpy.typing as npt

from curate.scores.heads.dynamics import Moments, early_weight, forgetting
from curate.scores.heads.logits import LogitStats

__all__ = ["SAMPLE_ROWS", "Accumulator"]

#: Rows whose value of each seed is kept, for the agreement between seeds: the first in hash order.
SAMPLE_ROWS = 100_000

Doubles = npt.NDArray[np.float64]
At = slice | npt.NDArray[np.int64]


class Accumulator:
    """The sums of n samples over n_seeds runs of n_epochs; rows are in training order.

    Values that are not finite are left out of every sum. The arrays are what a checkpoint holds.
    """

    def __init__(self, n: int, n_seeds: int, n_epochs: int) -> None:
        self.n_epochs = n_epochs
        self.el2n, self.grand, self.loss = (Moments.zeros(n) for _ in range(3))
        self.sums = {
            name: np.zeros(n) for name in ("entropy", "p_label", "margin", "looks", "early", "weight")
        }
        self.pred = np.full(n, -1, np.int64)
        self.confident = np.full(n, -1, np.int64)
        self.confidence = np.full(n, np.nan)
        self.right, self.ever = np.zeros((n, n_seeds), np.bool_), np.zeros((n, n_seeds), np.bool_)
        self.forgotten = np.zeros(n, np.int64)
        self.el2n_by_seed = np.full((n_seeds, min(n, SAMPLE_ROWS)), np.nan)
        self.n_bad = np.zeros(n_seeds, np.int64)

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return all sums by name: views, to be stored or filled."""
        moments = {
            f"{name}.{part}": getattr(getattr(self, name), part)
            for name in ("el2n", "grand", "loss")
            for part in ("n_obs", "mean", "spread")
        }
        plain = ("pred", "confident", "confidence", "right", "ever", "forgotten", "el2n_by_seed", "n_bad")
        return moments | self.sums | {name: getattr(self, name) for name in plain}

    def add_epoch(self, at: At, seed: int, epoch: int, seen: LogitStats) -> None:
        """Add what every epoch (1, 2, ...) gives: margin, p_label, and whether the sample is classified right."""
        fine = seen.finite.cpu().numpy()
        weight = early_weight(epoch, self.n_epochs)
        self.sums["looks"][at] += fine
        self.sums["margin"][at] += np.where(fine, seen.margin.cpu().numpy(), 0.0)
        self.sums["weight"][at] += weight * fine
        self.sums["early"][at] += weight * np.where(fine, seen.p_label.cpu().numpy(), 0.0)
        right = fine & seen.right.cpu().numpy()
        self.forgotten[at] += self.right[at, seed] & ~right
        self.right[at, seed] = right
        self.ever[at, seed] |= right

    def add_scores(self, at: At, seed: int, seen: LogitStats, grand: Doubles | None) -> None:
        """Add what a scored epoch gives."""
        fine = seen.finite.cpu().numpy()
        if grand is not None:
            fine = fine & np.isfinite(grand)
            _add(self.grand, at, np.where(fine, grand, np.nan))
        el2n = np.where(fine, seen.el2n.cpu().numpy(), np.nan)
        _add(self.el2n, at, el2n)
        _add(self.loss, at, np.where(fine, seen.loss.cpu().numpy(), np.nan))
        self.sums["entropy"][at] += np.where(fine, seen.entropy.cpu().numpy(), 0.0)
        self.sums["p_label"][at] += np.where(fine, seen.p_label.cpu().numpy(), 0.0)
        places = np.arange(at.start, at.stop) if isinstance(at, slice) else at
        kept = places < self.el2n_by_seed.shape[1]
        self.el2n_by_seed[seed, places[kept]] = el2n[kept]

    def forgetting(self) -> Doubles:
        """Return events summed over seeds; a run that never learned the sample counts all its epochs."""
        return forgetting(self.forgotten, self.ever, self.n_epochs)


def _add(whole: Moments, at: At, value: Doubles) -> None:
    part = Moments(whole.n_obs[at], whole.mean[at], whole.spread[at]) + Moments.of(value)
    whole.n_obs[at], whole.mean[at], whole.spread[at] = part.n_obs, part.mean, part.spread
