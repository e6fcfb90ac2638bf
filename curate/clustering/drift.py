"""Whether concepts still fit: how far data that came after the fit lies from what the fit was made of."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Drift", "drift", "far_by_chance", "reach", "shares_moved"]

Counts = npt.NDArray[np.integer[Any]]

#: A share of far rows is drift only where it is this many standard errors above what chance gives.
STANDARD_ERRORS = 3.0


@dataclass(frozen=True)
class Drift:
    """How the rows that came since the fit differ from those at the fit.

    new_rows : rows of shards that were not there at the fit. far : the share of them that is farther from its
    concept than the concept's 99th percentile at fitting (`reach`); far_by_chance : what it is without any drift, about
    0.01. moved : total variation between the shares of the concepts at fitting and now, in [0, 1];
    moved_by_chance : what it is on average if rows come and go at random.
    """

    new_rows: int
    far: float
    far_by_chance: float
    moved: float
    moved_by_chance: float

    @property
    def figure(self) -> float:
        """The larger of two shares: far rows, brought to what they would be if chance gave 0.01, and `moved` less chance.

        1 % of the rows are farther than a 99th percentile by its definition, and remain in the figure. What goes is
        the surplus of small concepts, whose percentile is that of few rows. It is 0 while the far rows are within three
        standard errors of chance, so that a handful of new rows raises no alarm.
        """
        expected = self.far_by_chance
        surplus = self.far - expected
        error = math.sqrt(expected * (1 - expected) / self.new_rows) if self.new_rows else math.inf
        far = max(0.0, surplus + 0.01) if surplus > STANDARD_ERRORS * error else 0.0
        return max(far, self.moved - self.moved_by_chance, 0.0)


def drift(fitted: Counts, kept: Counts, new: Counts, far: Counts, n_fit: Counts) -> Drift:
    """Return the drift of rows now against the rows at fitting; all arrays (k,), counts per concept.

    fitted : rows at fitting. kept : those of them that are still there. new : rows that came since. far : rows of
    `new` beyond the 99th percentile of their concept. n_fit : rows that the percentile was measured on.

    >>> same = np.array([500, 500])
    >>> drift(same, same, np.array([0, 1000]), np.array([0, 110]), same).figure.__round__(3)
    0.241
    """
    n_new = int(new.sum())
    chance = far_by_chance(n_fit)
    moved, by_chance = shares_moved(fitted, kept, new)
    return Drift(
        new_rows=n_new,
        far=int(far.sum()) / n_new if n_new else 0.0,
        far_by_chance=math.fsum((chance * new).tolist()) / n_new if n_new else 0.0,
        moved=moved,
        moved_by_chance=by_chance,
    )


def far_by_chance(n_fit: Counts) -> npt.NDArray[np.float64]:
    """Return the chance that a row like those at fitting is farther than the 99th percentile of a sample, (k,).

    n_fit : (k,) rows of the sample, whose percentile is its member number ceil(0.99 n). Of n + 1 rows in random
    order, the last is beyond that member with probability 1 - ceil(0.99 n) / (n + 1), whatever the distribution.
    Of concepts with one row nothing is known, and nothing is far.

    >>> far_by_chance(np.array([1, 9, 99, 100_000])).round(4)
    array([0.  , 0.1 , 0.01, 0.01])
    """
    n = np.asarray(n_fit, np.int64)
    return np.where(n > 1, 1.0 - ((99 * n + 99) // 100) / (n + 1.0), 0.0)


def reach(p99: npt.NDArray[np.floating[Any]], n_fit: Counts) -> npt.NDArray[np.float64]:
    """Return the distance beyond which a row is far from its concept, (k,): the 99th percentile at fitting.

    That was measured on rows that made the centroid themselves and so are nearer to it than others: without a row,
    the mean of its n rows is n / (n - 1) times as far from it, and cosine distances grow as the square of that.

    >>> reach(np.array([0.0, 0.2, 0.2]), np.array([1, 11, 10_001])).round(4)
    array([  inf, 0.242, 0.2  ])
    """
    n = np.asarray(n_fit, np.float64)
    others = np.where(n > 1, n - 1, 1.0)
    return np.where(n > 1, np.asarray(p99, np.float64) * (n / others) ** 2, np.inf)


def shares_moved(fitted: Counts, kept: Counts, new: Counts) -> tuple[float, float]:
    """Return the total variation between the shares of concepts at fitting and now, and what chance alone gives.

    Chance: rows that went and rows that came are draws from the shares at fitting. The share of a concept then
    moves by a sum of independent steps with a known variance, and by sqrt(2 / pi) of its root on average.

    >>> shares_moved(np.array([50, 50]), np.array([50, 50]), np.array([100, 0]))[0]
    0.25
    """
    before, now = int(fitted.sum()), int(kept.sum() + new.sum())
    if not before or not now:
        return 0.0, 0.0
    share = fitted / before
    moved = 0.5 * math.fsum(np.abs((kept + new) / now - share).tolist())
    stayed, came = int(kept.sum()), int(new.sum())
    gone = max(0, before - stayed)  # a retry may have given a part more rows than it had
    variance = stayed * (1 / now - 1 / before) ** 2 + gone / before**2 + came / now**2
    steps = np.sqrt(2 / np.pi * share * (1 - share) * variance)
    return moved, 0.5 * math.fsum(steps.tolist())
