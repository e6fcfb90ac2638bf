"""Whether anything of a run fits a query: learned from texts that do fit, and texts that do not.

The texts of the run itself (names of classes, captions) fit some of its images. Texts about other things, and senseless
ones, fit none. If the model tells the two apart by how near the best image is (`relevance.surplus`), a curve between
them says of any query how likely it is that something fits. If it does not, the model cannot say, and does not.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["RELIABLE", "Curve", "fit_curve", "rank_auc"]

#: A model can say what fits if a text of the run beats a text about something else with this probability.
RELIABLE = 0.95

_STEPS, _RIDGE, _DIGITS = 50, 1e-3, 6

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A logistic curve over the best surplus of a query, and how well it tells texts apart.

    auc : the probability that a text that fits has a larger surplus than one that does not.
    """

    slope: float
    middle: float
    auc: float
    own: int
    foreign: int

    @property
    def reliable(self) -> bool:
        """Whether the model tells texts that fit from others."""
        return self.own > 0 and self.foreign > 0 and self.auc >= RELIABLE

    def probability(self, surplus: float) -> float:
        """Return the probability that something fits a query with this best surplus, 0 to 1.

        >>> Curve(10.0, 0.1, 1.0, 5, 5).probability(0.1)
        0.5
        """
        power = max(-500.0, min(500.0, self.slope * (surplus - self.middle)))
        return 1 / (1 + math.exp(-power))

    def weight(self, surplus: float) -> float:
        """Return what relevances are multiplied by: 1 where something fits (rather than not), else the odds of it."""
        chance = self.probability(surplus)
        return 1.0 if chance >= 0.5 else chance / (1 - chance)


def rank_auc(own: Floats, foreign: Floats) -> float:
    """Return the probability that a value of `own` is larger than one of `foreign`, equal ones by half; NaN without any.

    >>> rank_auc(np.array([1.0, 3.0]), np.array([0.0, 1.0, 2.0])).__round__(3)
    0.75
    """
    if not len(own) or not len(foreign):
        return math.nan
    order = np.sort(foreign)
    below, upto = np.searchsorted(order, own, "left"), np.searchsorted(order, own, "right")
    return float((below + upto).mean() / (2 * len(foreign)))


def fit_curve(own: Floats, foreign: Floats) -> Curve:
    """Return the curve between the best surpluses of texts that fit and of texts that do not, both kinds weighing the same.

    Logistic regression by Newton steps with a small ridge; targets are those of Platt (1999), so that kinds that part
    without overlap have a finite slope. Without any of a kind the middle is the 95th percentile of the others.
    """
    if not len(own) or not len(foreign):
        there = foreign if len(foreign) else own
        middle = float(np.quantile(there, 0.95)) if len(there) else 0.0
        return Curve(100.0, round(middle, _DIGITS), math.nan, len(own), len(foreign))
    values = np.concatenate([own, foreign])
    mean, scale = float(values.mean()), float(values.std()) or 1.0
    x = np.stack([(values - mean) / scale, np.ones(len(values))])
    target = np.concatenate(
        [np.full(len(own), (len(own) + 1) / (len(own) + 2)), np.full(len(foreign), 1 / (len(foreign) + 2))]
    )
    weight = np.concatenate([np.full(len(own), 0.5 / len(own)), np.full(len(foreign), 0.5 / len(foreign))])
    solved = np.zeros(2)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(solved @ x, -50, 50)))
        slope = x @ (weight * (target - chance)) - _RIDGE * np.array([solved[0], 0.0])
        bend = (x * (weight * chance * (1 - chance))) @ x.T + _RIDGE * np.eye(2)
        step = np.linalg.solve(bend, slope)
        solved = solved + step
        if float(np.abs(step).max()) < 1e-10:
            break
    # A curve that falls would say that what is nearer fits less: nothing can be told.
    steep = max(float(solved[0]), 1e-6)
    middle = mean - scale * float(solved[1]) / steep
    return Curve(
        round(steep / scale, _DIGITS),
        round(middle, _DIGITS),
        round(rank_auc(own, foreign), _DIGITS),
        len(own),
        len(foreign),
    )
