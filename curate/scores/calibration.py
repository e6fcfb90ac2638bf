"""A score as a probability: the logistic curve that fits a yes or no best (Platt 1999, "Probabilistic outputs").

Values keep their order, so that a ranking is as good after it as before; the probabilities add up to the number of yes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Logistic", "fit_logistic"]

Floats = npt.NDArray[np.float64]

_ROUNDS, _TOLERANCE = 100, 1e-12


@dataclass(frozen=True)
class Logistic:
    """The probability 1 / (1 + exp(-(slope x value + intercept))), which never falls where values rise."""

    slope: float
    intercept: float

    def probability(self, values: npt.NDArray[np.floating[Any]]) -> Floats:
        """Return the probability of each value, (n,); NaN where it is not finite.

        >>> Logistic(1.0, 0.0).probability(np.array([-2.0, 0.0, 2.0, np.inf])).round(3)
        array([0.119, 0.5  , 0.881,   nan])
        """
        there = np.isfinite(values)
        given = np.where(there, values, 0.0).astype(np.float64)
        found: Floats = np.exp(-np.logaddexp(0.0, -(self.slope * given + self.intercept)))
        return np.where(there, found, np.nan)


def fit_logistic(
    values: npt.NDArray[np.floating[Any]], yes: npt.NDArray[np.bool_] | npt.NDArray[np.floating[Any]]
) -> Logistic:
    """Return the curve that fits best; the probabilities of all values add up to the number of yes, but for one row.

    values : (n,), finite, larger where yes is more likely. yes : (n,), true or false, or how probable it is. Platt's targets,
    (yes + 1) / (yes + 2) and 1 / (no + 2), keep the curve finite where a threshold tells the two apart. The curve is flat
    where there is no yes, or where yes is less likely for larger values. The order of rows does not matter.
    """
    order = np.lexsort((yes, values))
    x, share = values[order].astype(np.float64), yes[order].astype(np.float64)
    n, n_yes = len(x), float(share.sum())
    high, low = (n_yes + 1) / (n_yes + 2), 1 / (n - n_yes + 2)
    target = low + share * (high - low)
    mean = float(target.mean()) if n else 0.5
    flat = Logistic(0.0, float(np.log(mean / (1 - mean))))
    middle, spread = (float(x.mean()), float(x.std())) if n else (0.0, 0.0)
    if not n_yes or not spread > 0:
        return flat
    slope, intercept = _newton((x - middle) / spread, target, flat.intercept)
    if slope <= 0:
        return flat
    return Logistic(slope / spread, intercept - slope * middle / spread)


def _newton(x: Floats, target: Floats, intercept: float) -> tuple[float, float]:
    """Return slope and intercept of the largest likelihood: Newton's steps, halved where one makes it less."""
    at = np.array([0.0, intercept])
    loss = _loss(at, x, target)
    for _ in range(_ROUNDS):
        p = np.exp(-np.logaddexp(0.0, -(at[0] * x + at[1])))
        gap, weight = p - target, p * (1 - p)
        slopes = np.array([(gap * x).sum(), gap.sum()])
        both = (weight * x).sum()
        curve = np.array([[(weight * x * x).sum(), both], [both, weight.sum()]])
        step = np.linalg.solve(curve + 1e-12 * np.eye(2), slopes)
        while (new := _loss(at - step, x, target)) > loss and np.abs(step).max() > _TOLERANCE:
            step = step / 2
        gained, at, loss = loss - new, at - step, min(new, loss)
        if gained <= _TOLERANCE * max(1.0, abs(loss)):
            break
    return float(at[0]), float(at[1])


def _loss(at: Floats, x: Floats, target: Floats) -> float:
    """Return minus the log likelihood."""
    z = at[0] * x + at[1]
    return float((np.logaddexp(0.0, z) - target * z).sum())
