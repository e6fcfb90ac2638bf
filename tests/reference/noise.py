"""Noise scores from the definition: the calibrated curve and the two detectors in turn, by scikit-learn on whole arrays."""

import numpy as np

__all__ = ["alternated", "cross_fitted", "platt"]


def platt(values, yes):
    """Return slope and intercept of the curve, by scikit-learn: every row once as yes and once as no, with shares as weights."""
    from sklearn.linear_model import LogisticRegression

    values, yes = np.asarray(values, float), np.asarray(yes, float)
    n_yes = yes.sum()
    high, low = (n_yes + 1) / (n_yes + 2), 1 / (len(yes) - n_yes + 2)
    share = low + yes * (high - low)
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000)
    middle, spread = values.mean(), values.std()
    x = (values - middle)[:, None] / spread
    model.fit(np.r_[x, x], np.r_[np.ones(len(x)), np.zeros(len(x))], sample_weight=np.r_[share, 1 - share])
    slope = model.coef_[0, 0] / spread
    return slope, model.intercept_[0] - slope * middle


def cross_fitted(features, yes, fold, judged=None, judged_fold=None):
    """Return the probability of yes by a ridge fitted to the rows of the other folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    judged, judged_fold = (features, fold) if judged is None else (judged, judged_fold)
    found = np.full(len(judged), np.nan)
    for one in range(3):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=20 / (fold != one).sum(), max_iter=1000))
        model.fit(features[fold != one].astype(np.float64), yes[fold != one])
        if (judged_fold == one).any():
            found[judged_fold == one] = model.predict_proba(judged[judged_fold == one].astype(np.float64))[
                :, 1
            ]
    return found


def alternated(features, doubtful, fold, judged=None, judged_fold=None):
    """Return how probable it is that each image is foreign: what is doubtful first, then what was found to be foreign."""
    odds = cross_fitted(features, doubtful, fold)
    foreign = odds > (1 + np.median(odds)) / 2
    for _ in range(5):
        found = cross_fitted(features, foreign, fold)
        before, foreign, learnt = foreign, found > 0.5, foreign
        if (foreign == before).all():
            break
    return cross_fitted(features, learnt, fold, judged, judged_fold)
