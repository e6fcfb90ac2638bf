"""How right a score is about the rows it flags, measured on rows that a person looked at, and the cut that follows.

A score flags the rows beyond a cut. Of those, rows are looked at in a random order, so that the share that a person calls
wrong is an estimate of the share of all of them, with its interval; and rows near the cut, which say most about where it
should be.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

__all__ = ["FEWEST", "Cut", "proposed_cut", "wilson"]

#: A cut is proposed once so many rows were looked at.
FEWEST = 10


def wilson(right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of a share of which `right` of `n` are one kind (Wilson 1927); (0, 1) without any.

    >>> [round(one, 3) for one in wilson(8, 10)]
    [0.49, 0.943]
    >>> [round(one, 3) for one in wilson(0, 10)]
    [0.0, 0.278]
    """
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (0.0 if right == 0 else max(0.0, centre - half)), (1.0 if right == n else min(1.0, centre + half))


@dataclass(frozen=True)
class Cut:
    """A cut that is proposed: rows at least as bad as `value` are out.

    looked, wrong : rows looked at beyond it, and how many of them a person called wrong. open : whether even the last
    rows looked at were wrong enough, so that the cut may lie farther.
    """

    value: float
    looked: int
    wrong: int
    open: bool


def proposed_cut(seen: Sequence[tuple[float, bool]], *, target: float, high_is_bad: bool) -> Cut | None:
    """Return the widest cut beyond which each further step still finds enough wrong rows.

    seen : the score of each row looked at, and whether it was called wrong. target : the share of wrong rows that is
    worth dropping rows for: at 0.5 the cut makes the fewest mistakes on what was seen. The cut maximizes the sum of
    (wrong - target) over the rows beyond it, so that the rows just inside are wrong less often than `target`. None where
    fewer than `FEWEST` rows were seen, or where no cut is worth it.

    >>> seen = [(score / 20, score >= 12) for score in range(20)]
    >>> proposed_cut(seen, target=0.5, high_is_bad=True)
    Cut(value=0.6, looked=8, wrong=8, open=False)
    """
    if len(seen) < FEWEST:
        return None
    ordered = sorted(seen, key=lambda one: -one[0] if high_is_bad else one[0])
    best, gain, wrong, found = 0.0, 0.0, 0, None
    for place, (value, bad) in enumerate(ordered):
        gain, wrong = gain + bad - target, wrong + bad
        last_of_equals = place + 1 == len(ordered) or ordered[place + 1][0] != value
        if last_of_equals and gain > best + 1e-12:
            best, found = gain, Cut(value, place + 1, wrong, place + 1 == len(ordered))
    return found
