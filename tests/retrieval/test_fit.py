"""Whether something fits: the curve against scikit-learn, the probability of order by counting, and the edges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.retrieval.fit import Curve, fit_curve, rank_auc

VALUES = st.lists(st.integers(-5, 5), min_size=1, max_size=8)


@given(VALUES, VALUES)
def test_auc_counts_pairs(own, foreign):
    wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in own for b in foreign)
    found = rank_auc(np.array(own, float), np.array(foreign, float))
    assert found == pytest.approx(wins / (len(own) * len(foreign)))


def test_the_curve_is_a_weighed_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    own, foreign = rng.normal(0.2, 0.08, 30), rng.normal(0.0, 0.08, 300)
    found = fit_curve(own, foreign)
    high, low = 31 / 32, 1 / 302
    # Targets that are no whole numbers: each row once as each class, weighed by its target.
    x = np.concatenate([own, own, foreign, foreign])
    mean, scale = np.concatenate([own, foreign]).mean(), np.concatenate([own, foreign]).std()
    y = np.repeat([1, 0, 1, 0], [30, 30, 300, 300])
    weight = np.concatenate(
        [
            np.full(30, high / 60),
            np.full(30, (1 - high) / 60),
            np.full(300, low / 600),
            np.full(300, (1 - low) / 600),
        ]
    )
    said = LogisticRegression(C=1e3, tol=1e-10, max_iter=10_000)
    said.fit(((x - mean) / scale)[:, None], y, sample_weight=weight)
    slope = said.coef_[0, 0] / scale
    assert found.slope == pytest.approx(slope, rel=1e-3)
    assert found.middle == pytest.approx(mean - scale * said.intercept_[0] / said.coef_[0, 0], abs=1e-4)
    assert found.auc == pytest.approx(rank_auc(own, foreign), abs=1e-6) and found.reliable


def test_kinds_that_part_have_a_middle_between_them():
    found = fit_curve(np.array([0.3, 0.4]), np.array([-0.1, 0.0, 0.1]))
    assert 0.1 < found.middle < 0.3 and found.reliable
    assert found.probability(0.4) > 0.5 > found.probability(0.0)
    assert found.weight(0.4) == 1.0 and 0 < found.weight(0.0) < 1


def test_a_curve_that_falls_tells_nothing():
    found = fit_curve(np.array([0.0, 0.1]), np.array([0.5, 0.6]))
    assert not found.reliable and found.slope >= 0


@pytest.mark.parametrize("own, foreign", [([], []), ([0.5], []), ([], [0.5, 0.7]), ([0.2] * 3, [0.2] * 4)])
def test_edges(own, foreign):
    found = fit_curve(np.array(own), np.array(foreign))
    assert not found.reliable
    assert 0 <= found.probability(1e9) <= 1 and 0 <= found.weight(-1e9) <= 1


def test_weights_never_leave_zero_to_one():
    curve = Curve(1e6, 0.0, 1.0, 1, 1)
    assert curve.weight(-1.0) >= 0 and curve.weight(1.0) == 1.0
