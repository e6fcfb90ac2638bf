"""A score as a probability: the curve against scikit-learn, then what it keeps, then the edges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.scores.calibration import Logistic, fit_logistic
from tests.reference.noise import platt


def planted(n, share, seed, gap=2.0):
    rng = np.random.default_rng(seed)
    yes = rng.random(n) < share
    return rng.standard_normal(n) * 3 + gap * 3 * yes - 5, yes


@pytest.mark.parametrize(
    ("n", "share", "gap"), [(400, 0.2, 2.0), (2000, 0.03, 1.0), (60, 0.5, 8.0), (500, 0.9, 0.5)]
)
def test_curve_by_scikit_learn(n, share, gap):
    values, yes = planted(n, share, 0, gap)
    got = fit_logistic(values, yes)
    np.testing.assert_allclose([got.slope, got.intercept], platt(values, yes), rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(
        got.probability(values), 1 / (1 + np.exp(-got.slope * values - got.intercept)), atol=1e-12
    )


def test_shares_in_place_of_yes_and_no():
    values, yes = planted(500, 0.3, 1)
    shares = np.clip(yes * 0.7 + 0.1, 0, 1)
    got = fit_logistic(values, shares)
    np.testing.assert_allclose([got.slope, got.intercept], platt(values, shares), rtol=2e-3, atol=1e-4)
    assert got.probability(values).sum() == pytest.approx(shares.sum(), abs=1)


@given(st.integers(2, 200), st.floats(0.0, 1.0), st.integers(0, 10**6), st.floats(0.01, 100))
@settings(max_examples=60, deadline=None)
def test_order_is_kept_and_so_is_the_number(n, share, seed, scale):
    values, yes = planted(n, share, seed)
    got = fit_logistic(values * scale, yes)
    probability = got.probability(values * scale)
    assert (np.diff(probability[values.argsort()]) >= 0).all()
    assert ((probability > 0) & (probability < 1)).all() or n < 3
    assert probability.sum() == pytest.approx(yes.sum(), abs=1.01)
    moved = np.random.default_rng(seed).permutation(n)
    assert fit_logistic((values * scale)[moved], yes[moved]) == got


@pytest.mark.parametrize(
    ("values", "yes", "share"),
    [([], [], 0.5), ([1.0, 2.0, 3.0], [0, 0, 0], 0.2), ([1.0, 1.0], [1, 0], 0.5), ([1.0, 2.0, 3.0, 4.0], [1, 1, 0, 0], 0.5)],
    ids=["none", "no yes", "one value", "the wrong way round"],
)  # fmt: skip
def test_a_flat_curve_where_values_say_nothing(values, yes, share):
    got = fit_logistic(np.array(values), np.array(yes, bool))
    assert got.slope == 0
    np.testing.assert_allclose(got.probability(np.array([-5.0, 5.0])), share)


def test_a_threshold_between_the_two_gives_a_finite_curve():
    values = np.arange(100.0)
    got = fit_logistic(values, values >= 80)
    assert 0 < got.slope < 20
    probability = got.probability(values)
    assert probability[:78].max() < 0.5 < probability[82:].min()


def test_what_is_not_finite_has_no_probability():
    assert np.isnan(Logistic(1.0, 0.0).probability(np.array([np.nan, np.inf, -np.inf]))).all()
