"""How far scores agree: with a truth, with each other and on whom not, and over groups."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError
from curate.scores.reliability import ranks, same_ranking

__all__ = ["Disagreement", "Uneven", "auc", "disagreements", "threshold_inconsistency"]

#: Quantiles of a score at which it is cut to compare groups.
CUTS = tuple(round(0.05 * step, 2) for step in range(1, 20))
#: Groups of fewer rows are not compared: their shares are chance.
LEAST = 20

Array = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.integer[Any]]


class Disagreement(NamedTuple):
    """Two scores that rank unlike: their Spearman correlation, both turned so that more is harder, and rows.

    rows : (place, share below by the first, share below by the second), those first where they are farthest apart.
    """

    one: str
    other: str
    correlation: float
    rows: tuple[tuple[int, float, float], ...]


class Uneven(NamedTuple):
    """How unevenly one threshold treats groups: the mean variance, the group that is farthest off, and its share.

    share : what passes the median of all in that group, where it is one half of all rows.
    """

    variance: float
    group: int
    share: float


def auc(score: Array, positive: npt.NDArray[np.bool_]) -> float:
    """Return the probability that a positive row has the larger score, ties counting one half (area under the ROC curve).

    Parameters
    ----------
    score : numpy.ndarray
        (n,); rows that are not finite are left out.
    positive : numpy.ndarray
        (n,) of bool.

    Returns
    -------
    float
        In [0, 1]; .5 says nothing, below it the score points the other way. NaN where all rows are of one kind.

    Examples
    --------
    >>> auc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
    0.875
    """
    if score.shape != positive.shape or score.ndim != 1:
        raise CurateError(f"score and truth must be (n,) alike, got {score.shape} and {positive.shape}")
    known = np.isfinite(score)
    n_true = int(positive[known].sum())
    n_false = int(known.sum()) - n_true
    if not n_true or not n_false:
        return float("nan")
    total = float(ranks(score[known])[positive[known]].sum())
    return (total - n_true * (n_true + 1) / 2) / (n_true * n_false)


def disagreements(
    scores: Mapping[str, Array],
    *,
    turned: Mapping[str, bool],
    families: Mapping[str, str],
    pairs: int = 3,
    rows: int = 3,
) -> list[Disagreement]:
    """Return the pairs of scores of different families that rank most unlike, and the rows on which they do.

    Parameters
    ----------
    scores : mapping of name to numpy.ndarray
        (n,) each; what is not finite does not count.
    turned : mapping of name to bool
        Whether a larger value is an easier or better sample.
    families : mapping of name to str
        Scores of one family are not compared with each other.
    pairs, rows : int
        How many are returned; fewer where there are fewer.

    Returns
    -------
    list of Disagreement
        The least correlated pair first.

    Examples
    --------
    >>> scores = {"a": np.array([0.0, 1.0, 2.0, 3.0]), "b": np.array([1.0, 0.0, 3.0, 2.0])}
    >>> kinds = {"turned": {"a": False, "b": True}, "families": {"a": "x", "b": "y"}}
    >>> found = disagreements(scores, **kinds, rows=1)[0]
    >>> found.one, found.other, round(found.correlation, 3), found.rows  # row 0 is the easiest only by the first
    ('a', 'b', -0.6, ((0, 0.0, 0.5),))
    """
    hard = {
        name: np.where(np.isfinite(one), -one if turned[name] else one, np.nan)
        for name, one in scores.items()
    }
    names, found = list(hard), []
    for place, other in enumerate(names):
        for one in names[:place]:
            if families[one] != families[other]:
                found.append((same_ranking(hard[one], hard[other]), one, other))
    found = sorted(pair for pair in found if np.isfinite(pair[0]))
    return [
        Disagreement(one, other, r, _farthest(hard[one], hard[other], rows))
        for r, one, other in found[:pairs]
    ]


def _farthest(one: Array, other: Array, count: int) -> tuple[tuple[int, float, float], ...]:
    both = np.flatnonzero(np.isfinite(one) & np.isfinite(other))
    a, b = ((ranks(values[both]) - 1) / len(both) for values in (one, other))
    order = np.lexsort((both, -np.abs(a - b)))[:count]
    return tuple((int(both[row]), float(a[row]), float(b[row])) for row in order)


def threshold_inconsistency(score: Array, group: Codes, cuts: Sequence[float] = CUTS) -> Uneven | None:
    """Return how unevenly a threshold over a score treats groups, over all thresholds.

    At each quantile the share of a group that lies above it is compared with the mean of all groups; the squared
    differences are averaged over groups and quantiles.

    Parameters
    ----------
    score : numpy.ndarray
        (n,); what is not finite does not count.
    group : numpy.ndarray
        (n,) codes, negative for rows without a group. Groups of fewer than 20 rows are left out.
    cuts : sequence of float
        Quantiles in (0, 1).

    Returns
    -------
    Uneven or None
        variance in [0, 1/4]: 0 where every group passes alike, its root in points of the share that passes. None with fewer
        than two groups.

    Notes
    -----
    After the Operating-Point-Inconsistency Score (Zhang et al. 2023, arXiv:2307.04047), which has the accuracy of a
    class in the place of the share that passes; source: not checked.

    Examples
    --------
    >>> threshold_inconsistency(np.repeat([0.0, 1.0], 20), np.repeat([0, 1], 20), [0.5])
    Uneven(variance=0.25, group=0, share=0.0)
    """
    known = np.isfinite(score) & (group >= 0)
    values, codes = score[known].astype(np.float64), group[known]
    sizes = np.bincount(codes)
    large = np.flatnonzero(sizes >= LEAST)
    if len(large) < 2:
        return None
    inside = np.isin(codes, large)
    values, codes = values[inside], codes[inside]

    thresholds = np.quantile(values, [*cuts, 0.5], method="inverted_cdf")
    above = np.array([np.bincount(codes[values > one], minlength=len(sizes))[large] for one in thresholds])
    passing = above / sizes[large]
    variance, middle = float(passing[:-1].var(axis=1).mean()), passing[-1]
    worst = int(np.argmax(np.abs(middle - middle.mean())))
    return Uneven(variance, int(large[worst]), float(middle[worst]))
