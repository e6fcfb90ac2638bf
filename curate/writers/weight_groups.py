"""Weights as upsampling factors of tars: rows grouped by weight, and the line that tells open_clip.

open_clip draws tars with replacement, each with odds in proportion to its factor, and reads all samples of a
tar it drew. So a sample is seen in proportion to the factor of its tar, however many samples that holds.
"""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError, UsageError

__all__ = ["Group", "Tars", "train_data_line", "weight_groups"]

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Group:
    """Rows whose weight is in [low, high]; factor : their mean weight."""

    low: float
    high: float
    factor: float


@dataclass(frozen=True)
class Tars:
    """Tars of one factor, by file name, in order."""

    factor: float
    names: tuple[str, ...]


def weight_groups(weight: Floats, n_groups: int) -> list[Group]:
    """Return at most `n_groups` groups that hold every weight, from light to heavy.

    weight : (n,) finite, >= 0. Up to `n_groups` different weights get a group each. More are cut at equal
    ratios between the smallest and the largest, so that a factor is off by at most the n-th root of their
    ratio; weights of 0 stay apart. A factor is the mean of its group: the sum of weights is kept.

    >>> [(g.low, g.high, g.factor) for g in weight_groups(np.array([1.0, 2.0, 8.0, 16.0]), 2)]
    [(1.0, 2.0, 1.5), (8.0, 16.0, 12.0)]
    """
    if n_groups < 1:
        raise UsageError(f"write.weight_groups must be at least 1, got {n_groups}")
    exact = weight.astype(np.float64)
    if not (np.isfinite(exact) & (exact >= 0)).all():
        raise CurateError("weights to group by must be finite and at least 0")
    values, which = np.unique(exact, return_inverse=True)
    place = np.arange(len(values)) if len(values) <= n_groups else _bins(values, n_groups)
    groups = []
    for number in np.unique(place):
        rows = place[which] == number
        mine = values[place == number]
        factor = math.fsum(exact[rows].tolist()) / int(rows.sum())
        groups.append(Group(float(mine[0]), float(mine[-1]), factor))
    return groups


def _bins(values: npt.NDArray[np.float64], n_groups: int) -> npt.NDArray[np.int64]:
    """Return the group of each of the ascending `values`."""
    zero = int(values[0] == 0 and n_groups > 1)
    some = values[values > 0]
    place = np.zeros(len(values), np.int64)
    if n_groups > 1:
        edges = np.geomspace(some[0], some[-1], n_groups - zero + 1)[1:-1]
        place[len(values) - len(some) :] = zero + np.searchsorted(edges, some, side="right")
    return place


def train_data_line(groups: Sequence[Tars], n_samples: int) -> str:
    """Return the arguments for `open_clip_train.main`, names as below the folder of the tars.

    >>> train_data_line([Tars(0.5, ("00000.tar", "00001.tar")), Tars(2.0, ("00002.tar",))], 30)
    "--train-data '{00000..00001}.tar::00002.tar' --train-data-upsampling-factors 0.5::2.0 --dataset-type webdataset --dataset-resampled --train-num-samples 30"
    """
    names = "::".join(_braced(group.names) for group in groups)
    factors = "::".join(repr(group.factor) for group in groups)
    return (
        f"--train-data {shlex.quote(names)} --train-data-upsampling-factors {factors} "
        f"--dataset-type webdataset --dataset-resampled --train-num-samples {n_samples}"
    )


def _braced(names: Sequence[str]) -> str:
    """Return one pattern for tars that are numbered through."""
    first, last = names[0].removesuffix(".tar"), names[-1].removesuffix(".tar")
    return names[0] if len(names) == 1 else f"{{{first}..{last}}}.tar"
