"""Whether one subset is better than random draws of the same size, or only luckier."""

from collections.abc import Sequence

import numpy as np

__all__ = ["difference", "mean_interval", "t_value"]


def t_value(freedom: int) -> float:
    """Return how many standard errors make an interval of 95 %, by Student's t.

    >>> round(t_value(4), 3)
    2.776
    """
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def mean_interval(values: Sequence[float]) -> float | None:
    """Return half of the 95 % interval of the mean of `values`; None for fewer than two.

    >>> mean_interval([1.0]), round(mean_interval([1.0, 2.0, 3.0]), 3)
    (None, 2.484)
    """
    if len(values) < 2:
        return None
    return t_value(len(values) - 1) * float(np.std(values, ddof=1) / np.sqrt(len(values)))


def difference(values: Sequence[float], draws: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return how much better a subset is than random draws, on average over pools, and half of its 95 % interval.

    values : one per pool. draws : those of each pool, at least two. A subset is one draw of its own, so that the
    difference of one pool has the variance sd^2 (1 + 1 / draws); pools are independent.

    >>> [round(one, 3) for one in difference([0.9], [[0.8, 0.82, 0.84]])]
    [0.08, 0.099]
    """
    gaps = [value - np.mean(those) for value, those in zip(values, draws, strict=True)]
    variance = [np.var(those, ddof=1) * (1 + 1 / len(those)) for those in draws]
    freedom = sum(len(those) - 1 for those in draws)
    half = t_value(freedom) * float(np.sqrt(np.sum(variance))) / len(gaps)
    return float(np.mean(gaps)), half
