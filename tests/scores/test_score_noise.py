"""Noise from the definition: two groups of losses, the curve of the heads, and the detectors that take turns."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.scores.calibration import Logistic
from curate.scores.noise.foreign import find_foreign, fit_pictures
from curate.scores.noise.mixture import Mixture, fit_mixture, small_loss_noise
from curate.scores.noise.noise import doubtful, label_noise
from curate.scores.status import status_names
from tests.reference.noise import alternated, cross_fitted, platt


def planted(n=1000, share=0.2, seed=0, gap=3.0):
    """Losses and features of which the last `share` are noisy."""
    rng = np.random.default_rng(seed)
    noisy = np.arange(n) >= n - round(share * n)
    loss = np.where(noisy, rng.normal(gap, 0.4, n), rng.exponential(0.3, n))
    features = rng.standard_normal((n, 4)) + noisy[:, None] * [2, 0, 0, 0]
    return np.abs(loss), features, noisy


@pytest.mark.parametrize(("share", "gap"), [(0.5, 3.0), (0.2, 3.0), (0.05, 4.0)])
def test_mixture_by_scikit_learn(share, gap):
    from sklearn.mixture import GaussianMixture

    loss = planted(2000, share, gap=gap)[0]
    x = (loss - loss.min()) / np.ptp(loss)
    got = fit_mixture(x)
    model = GaussianMixture(2, tol=1e-9, max_iter=2000, means_init=got.mean[:, None], random_state=0)
    model.fit(x[:, None])
    order = model.means_[:, 0].argsort()
    np.testing.assert_allclose(got.mean, model.means_[order, 0], atol=1e-3)
    np.testing.assert_allclose(got.weight, model.weights_[order], atol=1e-3)
    np.testing.assert_allclose(got.variance, model.covariances_[order, 0, 0], atol=1e-3)
    between = x[(x > got.mean[0]) & (x < got.mean[1])]
    want = model.predict_proba(between[:, None])[:, order[1]]
    np.testing.assert_allclose(got.posterior(between), want, atol=5e-3)


def test_small_loss_finds_the_noise():
    from sklearn.metrics import roc_auc_score

    loss, _, noisy = planted()
    posterior, status = small_loss_noise(loss)
    assert set(status_names(status)) == {"ok"}
    called = posterior > 0.95
    assert called[noisy].mean() > 0.99 and called[~noisy].mean() < 0.1  # the tail of the clean losses
    assert roc_auc_score(noisy, posterior) > 0.99


@given(st.integers(50, 300), st.floats(0.05, 0.5), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_posterior_laws(n, share, seed):
    """Non-decreasing in the loss, in [0, 1], a function of the loss, in any row order and scale."""
    loss = planted(n, share, seed)[0]
    got, status = small_loss_noise(loss)
    moved = np.random.default_rng(seed).permutation(n)
    again, codes = small_loss_noise(loss[moved])
    np.testing.assert_array_equal(again, got[moved])
    np.testing.assert_array_equal(codes, status[moved])
    np.testing.assert_allclose(small_loss_noise(loss * 4 + 8)[0], got, atol=1e-6)
    if (status == 0).all():
        assert (np.diff(got[loss.argsort()]) >= 0).all() and ((got >= 0) & (got <= 1)).all()


def test_smallest_losses_are_clean_even_beside_a_wide_component():
    narrow, wide = Mixture(np.array([0.7, 0.3]), np.array([0.2, 0.6]), np.array([1e-4, 0.09])), None
    got = narrow.posterior(np.array([0.0, 0.2, 0.6, 1.0]))
    assert got[0] == got[1] < 0.02 and got[2] == got[3] > 0.99
    wide = Mixture(np.array([0.7, 0.3]), np.array([0.2, 0.6]), np.array([0.09, 1e-4]))
    assert (np.diff(wide.posterior(np.linspace(-1, 2, 50))) >= 0).all()


@pytest.mark.parametrize(
    "losses",
    [
        np.random.default_rng(0).normal(5, 1, 2000),
        np.random.default_rng(0).exponential(size=2000),
        np.random.default_rng(0).gamma(4, size=2000),
        np.full(100, 0.7),
        np.zeros(0),
        np.r_[np.zeros(25), np.ones(24)],
        np.r_[np.zeros(9950), np.ones(50)] + np.linspace(0, 0.1, 10_000),
    ],
    ids=["normal", "exponential", "gamma", "constant", "empty", "49 rows", "half a percent"],
)
def test_one_group_of_losses_is_no_noise(losses):
    probability, status = label_noise(losses, "own", None)
    assert set(status_names(status)) <= {"unimodal"}
    assert np.isnan(probability).all()


def test_bimodality_rule():
    def mixture(gap, weight=0.5, variance=(0.01, 0.01)):
        return Mixture(np.array([1 - weight, weight]), np.array([0, gap]), np.array(variance))

    assert mixture(0.21).bimodal() and not mixture(0.2).bimodal()
    assert mixture(0.9, 0.01).bimodal() and not mixture(0.9, 0.0099).bimodal()
    assert mixture(0.5, 0.2, (0.01, 0.2)).bimodal() and not mixture(0.5, 0.5, (0.01, 0.2)).bimodal()


def test_losses_that_are_not_finite():
    loss = planted()[0]
    loss[[0, 5]] = np.nan, np.inf
    posterior, status = small_loss_noise(loss)
    assert status_names(status[[0, 5]]).tolist() == ["nonfinite"] * 2
    assert np.flatnonzero(np.isnan(posterior)).tolist() == [0, 5]
    np.testing.assert_array_equal(np.delete(posterior, [0, 5]), small_loss_noise(np.delete(loss, [0, 5]))[0])
    for curve in (None, (1.0, -2.0)):
        probability, status = label_noise(loss, "own", curve)
        assert np.flatnonzero(np.isnan(probability)).tolist() == [0, 5], curve
        assert status_names(status[[0, 5, 7]]).tolist() == ["nonfinite", "nonfinite", "ok"], curve


# --- labels ----------------------------------------------------------------------------------------------------------


def test_the_curve_of_the_heads_decides_where_there_is_one():
    loss = np.random.default_rng(0).normal(5, 1, 500)
    probability, status = label_noise(loss, "neg_aum", (2.0, -11.0))
    assert set(status_names(status)) == {"ok"}, "one group of losses has a score too"
    np.testing.assert_array_equal(probability, Logistic(2.0, -11.0).probability(loss))


@pytest.mark.parametrize("name", ["own", "pixels_neg_aum"])
def test_without_a_curve_two_groups_say_how_many(name):
    loss, _, noisy = planted()
    loss = loss - 1.0  # then margins: another class fits better where they are above 0
    probability, _ = label_noise(loss, name, None)
    posterior, _ = small_loss_noise(loss)
    share = posterior * (loss > 0) if name == "pixels_neg_aum" else posterior
    slope, intercept = platt(loss, share)
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-slope * loss - intercept)), atol=1e-4)
    assert (np.diff(probability[loss.argsort()]) > 0).all(), "ranks are those of the losses, without ties"
    assert (probability[noisy] > 0.5).mean() > 0.95


def test_doubtful_rows_are_those_that_another_class_fits_better():
    values, label = np.array([-1.0, 0.5, 0.8, np.nan]), np.array([0.9, 0.2, 0.6, np.nan])
    assert doubtful(values, "neg_aum", label).tolist() == [False, True, True, False]
    assert doubtful(values, "pixels_loss", label).tolist() == [False, False, True, False]
    assert doubtful(values, "own", label).tolist() == [True, False, True, False]


# --- pictures --------------------------------------------------------------------------------------------------------


def pictures(n=1500, foreign=0.15, flipped=0.2, seed=0, d=16):
    """Vectors of which the first share is of no class, and rows whose label does not fit: those, and some by chance."""
    rng = np.random.default_rng(seed)
    strange = np.arange(n) < foreign * n
    vectors = rng.standard_normal((n, d)) + 3 * np.eye(4, d)[rng.integers(0, 4, n)]
    vectors[strange] = rng.standard_normal((strange.sum(), d)) * 0.5 + 4 * np.eye(d)[d - 1]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    fits_not = np.where(strange, rng.random(n) < 0.95, rng.random(n) < flipped)
    return unit.astype(np.float32), strange, fits_not, rng.integers(0, 3, n)


def test_pictures_by_definition():
    vectors, _, fits_not, fold = pictures()
    got = fit_pictures(vectors, fits_not, fold).posterior(vectors, fold)
    np.testing.assert_allclose(got, cross_fitted(vectors, fits_not, fold), atol=1e-6)
    found = find_foreign(vectors, fits_not, fold)
    np.testing.assert_allclose(found.posterior(vectors, fold), alternated(vectors, fits_not, fold), atol=1e-6)
    others, _, _, their_fold = pictures(50, seed=3)
    np.testing.assert_allclose(
        found.posterior(others, their_fold),
        alternated(vectors, fits_not, fold, others, their_fold),
        atol=1e-6,
    )


@pytest.mark.parametrize("flipped", [0.0, 0.2, 0.4])
def test_images_of_no_class_are_found_and_flipped_labels_are_not(flipped):
    vectors, strange, fits_not, fold = pictures(flipped=flipped)
    foreign = find_foreign(vectors, fits_not, fold).posterior(vectors, fold) > 0.5
    assert foreign[strange].mean() > 0.9
    assert foreign[~strange].mean() < 0.01


@pytest.mark.parametrize("flipped", [0.0, 0.2, 0.5, 1.0])
def test_chance_makes_no_group(flipped):
    vectors, _, fits_not, fold = pictures(foreign=0.0, flipped=flipped)
    assert find_foreign(vectors, fits_not, fold) is None


@pytest.mark.parametrize("n", [0, 1, 5])
def test_few_rows_are_no_group(n):
    vectors, _, _, fold = pictures(n)
    assert find_foreign(vectors, np.ones(n, bool), fold) is None
