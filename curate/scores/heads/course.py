"""Columns more of held-out heads: how predictions move while they train (MDL hardness, TDDS, DUAL, ALDR-KL), and `p_label` calibrated.

All come from the looks that are taken anyway after each epoch (and, for MDL hardness, some within the first one): no head
is trained for them. Of earlier epochs a window is kept per row and seed, never all.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from curate.scores.columns import Column

if TYPE_CHECKING:
    import torch

__all__ = [
    "COURSE",
    "Course",
    "CourseName",
    "course_columns",
    "course_row_bytes",
    "dual_window",
    "kl_change",
    "ldr_temperature",
    "look_after",
    "mdl_hardness",
    "tdds_window",
]

CourseName = Literal["mdl", "tdds", "dual", "aldr", "calibrated"]

#: The column of each, by what it is called in the setting.
COURSE: Mapping[str, tuple[str, Column]] = {
    "mdl": ("mdl_hardness", Column("harder")),
    "tdds": ("tdds", Column("harder")),
    "dual": ("dual", Column("harder")),
    "aldr": ("aldr_lambda", Column("harder")),
    "calibrated": ("p_label_calibrated", Column("easier")),
}
#: What a newer window of TDDS counts against all before.
TDDS_DECAY = 0.9
#: ALDR-KL: the temperature of a row of which nothing is known, how much certainty takes off it, and the margin.
LAMBDA, ALPHA, MARGIN = 1.0, 2.0, 0.1

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[np.floating[Any]]


def course_columns(names: Sequence[str]) -> dict[str, Column]:
    """Return the columns of the scores that are asked for, in the order of `COURSE`."""
    return {column: what for name, (column, what) in COURSE.items() if name in names}


def course_row_bytes(names: Sequence[str], window: int, seeds: int) -> int:
    """Return the bytes per row that they take while heads train: a window of float32 per seed, and their sums."""
    kept = {"mdl": 0, "tdds": window - 1, "dual": window, "aldr": 1, "calibrated": 0}
    return sum(16 + 4 * kept[name] * seeds for name in names)


def look_after(step: int) -> bool:
    """Return whether a look follows this step of the first epoch: after 1, 2, 4, 8, ... of them.

    >>> [step for step in range(1, 20) if look_after(step)]
    [1, 2, 4, 8, 16]
    """
    return step & (step - 1) == 0


def kl_change(logits: "torch.Tensor", earlier: "torch.Tensor") -> "torch.Tensor":
    """Return how far each prediction moved since the epoch before: sum_k |p_k (ln p_k - ln q_k)|.

    Parameters
    ----------
    logits, earlier : torch.Tensor
        (n, C), of now (p) and of the epoch before (q).

    Returns
    -------
    torch.Tensor
        (n,) float64 in nats, >= 0: the change of the loss that TDDS takes for the projection of a row's gradient.

    Notes
    -----
    Zhang et al. 2024, arXiv:2311.13613, as its published code has it (with the absolute value inside the sum).

    Examples
    --------
    >>> import torch
    >>> now, before = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.25, 0.75]]))
    >>> round(float(kl_change(now, before)), 6)  # .5 ln 2 + .5 ln 1.5
    0.549306
    """
    import torch

    p, q = torch.log_softmax(logits, dim=1), torch.log_softmax(earlier, dim=1)
    return (p.exp() * (p - q)).abs().sum(dim=1, dtype=torch.float64)


def tdds_window(changes: Array) -> Floats:
    """Return the length of the changes of one window after their mean was taken out.

    Parameters
    ----------
    changes : numpy.ndarray
        (window - 1, n), of `kl_change`, one row per pair of epochs.

    Returns
    -------
    numpy.ndarray
        (n,), >= 0; higher: the row moves the model now and then, neither always nor never.

    Notes
    -----
    Zhang et al. 2024, arXiv:2311.13613. The score is the moving average over all windows, 0.9 of the newest and 0.1 of
    what was before.

    Examples
    --------
    >>> tdds_window(np.array([[1.0], [3.0]])).round(6)
    array([1.414214])
    """
    values = changes.astype(np.float64)
    length: Floats = np.sqrt(np.square(values - values.mean(axis=0)).sum(axis=0))
    return length


def dual_window(p_label: Array) -> Floats:
    """Return difficulty times uncertainty of one window: (1 - mean) x deviation of the label's probability.

    Parameters
    ----------
    p_label : numpy.ndarray
        (window, n), one row per epoch, window >= 2.

    Returns
    -------
    numpy.ndarray
        (n,), >= 0; higher is harder. Rows that are always right, and rows that are always wrong, have 0.

    Notes
    -----
    Cho et al. 2025, arXiv:2502.06905: the score is the mean over all windows. The deviation is that of a sample (window - 1).
    Its published code has ten times this.

    Examples
    --------
    >>> dual_window(np.array([[0.2], [0.6]])).round(6)  # (1 - 0.4) x 0.282843
    array([0.169706])
    """
    values = p_label.astype(np.float64)
    return np.asarray((1.0 - values.mean(axis=0)) * values.std(axis=0, ddof=1), np.float64)


def mdl_hardness(p_sum: Floats, n_looks: npt.NDArray[np.int64]) -> Floats:
    """Return one minus the mean probability of the label over heads that saw few rows, then more and more.

    A look follows 1, 2, 4, 8, ... steps of the first epoch, in which every row is met once: the heads of each look have
    learnt from twice the rows of the one before.

    Parameters
    ----------
    p_sum : numpy.ndarray
        (n,), the finite probabilities of the label of all looks and seeds, summed.
    n_looks : numpy.ndarray
        (n,), how many there were.

    Returns
    -------
    numpy.ndarray
        (n,) in [0, 1]; higher is harder: easy rows are predicted from few examples. NaN where there was no look.

    Notes
    -----
    After Hase et al. 2024, arXiv:2401.06751, who train heads to the end on each of some growing subsets; source: not checked.

    Examples
    --------
    >>> mdl_hardness(np.array([0.5 + 0.7, 0.0]), np.array([2, 0]))
    array([0.4, nan])
    """
    return 1.0 - np.where(n_looks > 0, p_sum / np.maximum(n_looks, 1), np.nan)


def ldr_temperature(logits: "torch.Tensor", label: "torch.Tensor", before: "torch.Tensor") -> "torch.Tensor":
    """Return the temperature that ALDR-KL gives each row: the less certain its prediction, the larger.

    With p = softmax((z_k + margin [k is not the label]) / before) it is lambda_0 (1 - KL(p, uniform) / (alpha ln C)).

    Parameters
    ----------
    logits : torch.Tensor
        (n, C), C >= 2.
    label : torch.Tensor
        (n,) codes.
    before : torch.Tensor
        (n,) temperatures of the epoch before, > 0; `LAMBDA` at first.

    Returns
    -------
    torch.Tensor
        (n,) float64 in [LAMBDA / 2, LAMBDA]; higher is less certain.

    Notes
    -----
    After Zhu, Ying and Yang 2023, "Label distributionally robust losses"; source: not checked. There networks learn by
    this loss, and rows with wrong labels get large temperatures. Of heads that learn by cross-entropy and never saw the
    row it says how unsure they are, and nothing of its label: AUROC .48 on flipped labels (`neg_aum`: .99).

    Examples
    --------
    >>> import torch
    >>> one = torch.zeros(1, dtype=torch.int64)
    >>> float(ldr_temperature(torch.tensor([[50.0, 0.0]]), one, torch.ones(1, dtype=torch.float64)))
    0.5
    """
    import torch

    row = torch.arange(len(label), device=label.device)
    z = logits + MARGIN
    z[row, label] -= MARGIN
    log_p = torch.log_softmax(z / before[:, None].to(z.dtype), dim=1)
    certain = (log_p.exp() * log_p).sum(dim=1, dtype=torch.float64) / np.log(logits.shape[1]) + 1.0
    temperature: torch.Tensor = LAMBDA * (1.0 - certain.clamp(0.0, 1.0) / ALPHA)
    return temperature


class Course:
    """What is kept of the course of training, for n rows in training order and `n_seeds` seeds.

    A value that is not finite leaves its row and seed out of the score from then on.
    """

    def __init__(self, names: Sequence[str], n: int, n_seeds: int, window: int) -> None:
        self.names, self.window = tuple(names), window
        shapes = {"dual": (window, n_seeds, n), "tdds": (window - 1, n_seeds, n), "aldr": (1, n_seeds, n)}
        self._recent = {name: np.full(shapes[name], np.nan, np.float32) for name in names if name in shapes}
        self._sums = {name: np.zeros((n_seeds if name == "tdds" else 1, n)) for name in names}
        self._counts = {name: np.zeros(n, np.int64) for name in names}
        #: The label's probability under the temperature of all heads, (n,); the last look sets it.
        self.calibrated = np.full(n if "calibrated" in names else 0, np.nan)
        if "aldr" in self._recent:
            self._recent["aldr"][:] = LAMBDA

    @property
    def compares(self) -> bool:
        """Whether predictions are compared with those of the epoch before."""
        return "tdds" in self.names

    @property
    def calibrates(self) -> bool:
        """Whether the calibrated probability of the label is wanted."""
        return "calibrated" in self.names

    @property
    def looks(self) -> bool:
        """Whether there are looks within the first epoch."""
        return "mdl" in self.names

    def add_look(self, at: slice, p_label: Array) -> None:
        """Add the label's probability at a look, (n,) of one seed."""
        fine = np.isfinite(p_label)
        self._sums["mdl"][0, at] += np.where(fine, p_label, 0.0)
        self._counts["mdl"][at] += fine

    def add_epoch(self, at: slice, seed: int, epoch: int, p_label: Array, change: Array | None) -> None:
        """Add what an epoch (1, 2, ...) of one seed gives. change : `kl_change`, None in the first epoch."""
        if "dual" in self.names:
            recent = self._recent["dual"][:, seed, at]
            recent[epoch % self.window] = p_label
            if epoch >= self.window:
                value = dual_window(recent[_turned(epoch + 1, self.window)])
                fine = np.isfinite(value)
                self._sums["dual"][0, at] += np.where(fine, value, 0.0)
                self._counts["dual"][at] += fine
        if change is not None and "tdds" in self.names:
            recent = self._recent["tdds"][:, seed, at]
            recent[epoch % (self.window - 1)] = change
            if epoch >= self.window:
                value = tdds_window(recent[_turned(epoch + 1, self.window - 1)])
                self._sums["tdds"][seed, at] = (1 - TDDS_DECAY) * self._sums["tdds"][
                    seed, at
                ] + TDDS_DECAY * value

    def temperatures(self, at: slice, seed: int) -> Array:
        """Return the temperatures of the epoch before, (n,)."""
        return self._recent["aldr"][0, seed, at]

    def set_temperatures(self, at: slice, seed: int, values: Array) -> None:
        """Take over the temperatures of this epoch."""
        self._recent["aldr"][0, seed, at] = values

    def columns(self) -> dict[str, Floats]:
        """Return the columns, (n,) each, the mean over seeds; NaN where no seed has a value."""
        found: dict[str, Floats] = {}
        for name in (one for one in COURSE if one in self.names):
            if name == "calibrated":
                found[COURSE[name][0]] = self.calibrated
            elif name == "mdl":
                found[COURSE[name][0]] = mdl_hardness(self._sums[name][0], self._counts[name])
            elif name == "dual":
                total, seen = self._sums[name][0], self._counts[name]
                value = np.where(seen > 0, total / np.maximum(seen, 1), np.nan)
                found[COURSE[name][0]] = value
            else:
                by_seed = self._sums["tdds"] if name == "tdds" else self._recent["aldr"][0].astype(np.float64)
                fine = np.isfinite(by_seed)
                seen = fine.sum(axis=0)
                total = np.where(fine, by_seed, 0.0).sum(axis=0)
                found[COURSE[name][0]] = np.where(seen > 0, total / np.maximum(seen, 1), np.nan)
        return found


def _turned(start: int, size: int) -> npt.NDArray[np.int64]:
    """Return the places of a ring of `size` from the oldest to the newest; `start` is where the next one goes."""
    return (np.arange(size) + start) % size
