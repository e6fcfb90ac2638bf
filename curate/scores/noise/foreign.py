"""Images that look like no class: a linear detector of pictures, in turn with the detector of labels.

Albert et al. 2024, "An accurate detection is not all you need to combat label noise in web-noisy datasets"
(arXiv:2407.05528): where images of no class are among others, a linear classifier of the vectors tells them apart, because
their labels fit none of them; labels that were swapped by chance it cannot see, as the picture says nothing of those. So
the two detectors take turns, and their findings stay apart.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from curate.linalg import row_dots

__all__ = ["FOLDS", "PictureDetector", "find_foreign", "fit_pictures"]

#: Every picture is judged by a detector that never saw it.
FOLDS = 3
#: Fewer pictures than these, or this share of all, are chance.
_FEWEST, _LEAST_SHARE = 10, 0.002
#: The ridge, against the mean loss of a row: vectors are long and rows few, and chance must not look like a group.
_RIDGE = 0.05
_ROUNDS = 5

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.integer[Any]]


class PictureDetector(NamedTuple):
    """A logistic regression for each fold, fitted to the rows of the others: weight (folds, d), bias (folds,)."""

    weight: Floats
    bias: Floats

    def posterior(self, features: Features, fold: Ints) -> Floats:
        """Return the probability of each row, (n,), by the detector of its fold; it depends on that row alone."""
        posterior = np.empty(len(features))
        for one, (weight, bias) in enumerate(zip(self.weight, self.bias, strict=True)):
            here = fold == one
            logits = row_dots(features[here], weight[None]) + bias
            posterior[here] = np.exp(-np.logaddexp(0.0, -logits))
        return posterior


def fit_pictures(features: Features, yes: Mask, fold: Ints) -> PictureDetector | None:
    """Return the detectors of `yes`; None where the rows outside of some fold are all alike.

    features : (n, d), finite. yes : (n,). fold : (n,) in [0, FOLDS). Standardised features and a ridge. Last bits depend on
    the order of rows and on the number of BLAS threads.
    """
    # scikit-learn takes a second to load and is not needed for the first detector
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    weights, biases = [], []
    for one in range(FOLDS):
        others = fold != one
        if not yes[others].any() or yes[others].all():
            return None
        scaler = StandardScaler(copy=False)
        model = LogisticRegression(C=1 / (_RIDGE * others.sum()), max_iter=1000)
        model.fit(scaler.fit_transform(features[others].astype(np.float64)), yes[others])
        weights.append(model.coef_[0] / scaler.scale_)
        biases.append(float(model.intercept_[0] - (scaler.mean_ * weights[-1]).sum()))
    return PictureDetector(np.stack(weights), np.array(biases))


def find_foreign(features: Features, doubtful: Mask, fold: Ints) -> PictureDetector | None:
    """Return what tells images of no class from the others; None where there is no group of them.

    features : (n, d). doubtful : (n,), rows whose label does not fit, by the detector of labels. fold : (n,).

    The picture detector first learns which rows are doubtful. What is doubtful by chance makes it say the same of all
    pictures, the median; images are foreign where it goes more than half of the way from there to certainty. These, and no
    longer the rest of the doubtful, are what it learns next, until its findings are what it has learnt.
    """
    detector = fit_pictures(features, doubtful, fold)
    if detector is None:
        return None
    odds = detector.posterior(features, fold)
    foreign = odds > (1 + np.median(odds)) / 2
    for _ in range(_ROUNDS):
        if foreign.sum() < max(_FEWEST, _LEAST_SHARE * len(foreign)):
            return None
        detector = fit_pictures(features, foreign, fold)
        if detector is None:
            return None
        before, foreign = foreign, detector.posterior(features, fold) > 0.5
        if np.array_equal(foreign, before):
            break
    few = foreign.sum() < max(_FEWEST, _LEAST_SHARE * len(foreign))
    return None if few else detector
