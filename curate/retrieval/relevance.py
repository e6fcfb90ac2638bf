"""Relevance: what a cosine is worth, for this query and this image.

A cosine of .7 is a lot for one query and nothing for another, and some images are near to every text. So a cosine is
first set against those of the same query over a background sample (`log_lift`: how many times more the query is drawn
to this image than to an average one), and then against those of other texts on the same image (`posterior`). Both
together are an inverted softmax followed by a softmax (Smith et al. 2017, arXiv:1702.03859, for word translation).
"""

import numpy as np
import numpy.typing as npt

__all__ = [
    "HUBS",
    "best_surplus",
    "by_captions",
    "location",
    "log_lift",
    "posterior",
    "something_else",
    "surplus",
]

#: Texts of the bank that say how near an image is to any text at all (as in CSLS, Conneau et al. 2018).
HUBS = 10

Floats = npt.NDArray[np.float64]


def location(cosines: Floats, temperature: float) -> Floats:
    """Return where the cosines of each query lie: the log of the mean of exp(cosine / temperature).

    cosines : (queries, images) of the background sample, at least one image. Returns (queries, 1).

    >>> location(np.array([[0.0, 0.0], [0.5, 0.5]]), 0.1).round(3).tolist()
    [[0.0], [5.0]]
    """
    return np.asarray(_log_sum(cosines / temperature, 1) - np.log(cosines.shape[1]))


def log_lift(cosines: Floats, where: Floats, temperature: float) -> Floats:
    """Return the log of how many times more a query is drawn to each image than to an average one.

    cosines : (queries, n). where : (queries, 1), see `location`. Returns (queries, n); the mean lift of the background is 1.

    >>> log_lift(np.array([[0.6, 0.5]]), np.array([[5.0]]), 0.1).round(3).tolist()
    [[1.0, 0.0]]
    """
    return np.asarray(cosines / temperature - where)


def something_else(bank: Floats) -> Floats:
    """Return the log lift of `something else` on each image: the mean lift of the texts of a bank.

    bank : log lifts (texts, n). Returns (n,).
    """
    return np.asarray(_log_sum(bank, 0)[0] - np.log(len(bank)))


def posterior(lifts: Floats, other: Floats) -> Floats:
    """Return the probability that each image is of each query, and not of another one or of something else.

    lifts : log lifts (queries, n). other : (n,), see `something_else`. All are as likely before an image is seen. Returns
    (queries, n) in [0, 1]; a column sums to at most 1.

    >>> posterior(np.log([[3.0], [1.0]]), np.log([1.0])).round(3).tolist()
    [[0.6], [0.2]]
    """
    every = np.concatenate([lifts, other[None, :]])
    return np.asarray(np.exp(lifts - _log_sum(every, 0)))


def surplus(cosines: Floats, bank: Floats) -> Floats:
    """Return by how much a query is nearer to an image than the texts of a bank that are nearest to it.

    cosines : (queries, n). bank : cosines (texts, n). Returns (queries, n): cosine minus the mean of the `HUBS` largest of
    the bank (all of a smaller one).

    >>> surplus(np.array([[0.5]]), np.array([[0.1], [0.3]])).round(3).tolist()
    [[0.3]]
    """
    count = min(HUBS, len(bank))
    largest = np.partition(bank, len(bank) - count, axis=0)[len(bank) - count :]
    return np.asarray(cosines - np.sort(largest, axis=0).mean(axis=0))


def best_surplus(cosines: Floats, bank: Floats) -> Floats:
    """Return the largest surplus of each query over some images, (queries,); -2 where there are none."""
    return np.asarray(surplus(cosines, bank).max(axis=1, initial=-2.0))


def by_captions(found: Floats, covered: Floats) -> Floats:
    """Return the relevance where the words of captions decide: covered x (1 + posterior) / 2, in [0, 1].

    found : posteriors. covered : the share of the words of the query that the caption of an image has. An image whose
    caption has all words is at .5 or above, one whose caption has half of them below.

    >>> by_captions(np.array([0.9, 0.9, 0.0]), np.array([1.0, 0.5, 1.0])).round(3).tolist()
    [0.95, 0.475, 0.5]
    """
    return np.asarray(covered * (1 + found) / 2)


def _log_sum(values: Floats, axis: int) -> Floats:
    largest = values.max(axis=axis, keepdims=True)
    return np.asarray(largest + np.log(np.exp(values - largest).sum(axis=axis, keepdims=True)))
