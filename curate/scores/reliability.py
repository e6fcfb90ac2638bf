"""How far scores of different seeds agree, and when two scores are one.

A stable score need not be a valid one: GraNd at initialisation is the most stable and the worst.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError

__all__ = ["hash_sample", "mean_spearman", "ranks", "same_ranking", "spearman_brown"]

#: Rows on which rankings are compared.
LIMIT = 100_000

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[np.floating[Any]]


def ranks(values: Array) -> Floats:
    """Return the rank of each value from 1, ties at their average. values : (n,) without NaN.

    >>> ranks(np.array([0.2, 0.1, 0.2]))
    array([2.5, 1. , 2.5])
    """
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middle: Floats = (2 * ends - counts + 1) / 2
    return middle[which]


def hash_sample(hashes: npt.NDArray[np.uint64], limit: int = LIMIT) -> npt.NDArray[np.int64]:
    """Return the rows with the `limit` smallest hashes, in that order: a sample that belongs to the ids.

    >>> hash_sample(np.array([7, 3, 9], np.uint64), 2)
    array([1, 0])
    """
    return np.argsort(hashes, kind="stable")[:limit]


def same_ranking(a: Array, b: Array) -> float:
    """Return the Spearman correlation of two scores, in [-1, 1]; above .999 one of them is redundant.

    a, b : (n,); rows where one is not finite are left out. NaN where fewer than two rows are left or a
    score is constant.

    >>> round(same_ranking(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0])), 6)
    1.0
    """
    if a.shape != b.shape or a.ndim != 1:
        raise CurateError(f"scores to compare must be (n,) alike, got {a.shape} and {b.shape}")
    both = np.isfinite(a) & np.isfinite(b)
    x, y = _standard(a[both]), _standard(b[both])
    return float("nan") if x is None or y is None else float(np.clip((x * y).sum(), -1.0, 1.0))


def mean_spearman(scores: Array, hashes: npt.NDArray[np.uint64], limit: int = LIMIT) -> float:
    """Return the mean Spearman correlation of all pairs of seeds: the reliability of one seed.

    scores : (R, n), a row per seed; hashes : (n,), a number per uid, which fixes the sample of at most
    `limit` rows. Seeds without a finite value or with equal ones only are left out, then rows that are
    not finite in all others. NaN where fewer than two seeds are left.

    >>> scores, hashes = np.array([[1.0, 2, 3], [1, 2, 3], [3, 2, 1]]), np.arange(3, dtype=np.uint64)
    >>> round(mean_spearman(scores, hashes), 6)
    -0.333333
    """
    if scores.ndim != 2 or hashes.shape != scores.shape[1:]:
        raise CurateError(f"scores must be (R, n) and hashes (n,), got {scores.shape} and {hashes.shape}")
    sample = scores[:, hash_sample(hashes, limit)]
    sample = sample[np.isfinite(sample).any(axis=1)]
    sample = sample[:, np.isfinite(sample).all(axis=0)]
    standard = [row for row in map(_standard, sample) if row is not None]
    n_seeds = len(standard)
    if n_seeds < 2:
        return float("nan")
    total = np.sum(standard, axis=0)
    mean = (float((total * total).sum()) - n_seeds) / (n_seeds * (n_seeds - 1))
    return min(1.0, max(-1.0, mean))


def spearman_brown(reliability: float, n_seeds: float) -> float:
    """Return the reliability of the mean of `n_seeds` seeds from that of one: k r / (1 + (k - 1) r).

    reliability : in [-1, 1]; values below 0 project to 0 (seeds that disagree do not average to
    anything). Spearman 1910, Brown 1910.

    >>> [round(spearman_brown(0.485, k), 3) for k in (1, 5, 10, 20)]
    [0.485, 0.825, 0.904, 0.95]
    """
    if not n_seeds > 0:
        raise CurateError(f"n_seeds must be > 0, got {n_seeds}")
    if np.isnan(reliability):
        return float("nan")
    r = max(0.0, reliability)
    return n_seeds * r / (1 + (n_seeds - 1) * r)


def _standard(values: Array) -> Floats | None:
    """Return the ranks, centred and scaled to length 1; None where they are all equal."""
    if len(values) < 2 or (values == values[0]).all():
        return None
    centred = ranks(values) - (len(values) + 1) / 2
    scaled: Floats = centred / np.sqrt((centred * centred).sum())
    return scaled
