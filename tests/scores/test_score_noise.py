import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import CurateError
from curate.scores.noise import Mixture, fit_mixture, small_loss_noise
from curate.scores.status import status_names
from tests.reference.noise import linear_noise, noise_scores


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
    got = noise_scores(losses, np.ones((len(losses), 2)))
    assert set(status_names(got.status)) <= {"unimodal"}
    assert np.isnan(got.noise_prob).all() and np.isnan(got.noise_linear).all()


def test_bimodality_rule():
    def mixture(gap, weight=0.5, variance=(0.01, 0.01)):
        return Mixture(np.array([1 - weight, weight]), np.array([0, gap]), np.array(variance))

    assert mixture(0.21).bimodal() and not mixture(0.2).bimodal()
    assert mixture(0.9, 0.01).bimodal() and not mixture(0.9, 0.0099).bimodal()
    assert mixture(0.5, 0.2, (0.01, 0.2)).bimodal() and not mixture(0.5, 0.5, (0.01, 0.2)).bimodal()


def test_losses_that_are_not_finite():
    loss = planted()[0]
    loss[[0, 5]] = np.nan, np.inf
    got = noise_scores(loss)
    assert status_names(got.status[[0, 5]]).tolist() == ["nonfinite"] * 2
    assert np.flatnonzero(np.isnan(got.noise_prob)).tolist() == [0, 5] and got.noise_linear is None
    np.testing.assert_array_equal(
        np.delete(got.noise_prob, [0, 5]), noise_scores(np.delete(loss, [0, 5])).noise_prob
    )


def test_linear_by_definition():
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    loss, features, noisy = planted()
    small, _ = small_loss_noise(loss)
    got = linear_noise(features, small)
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(scaled, small > 0.95)
    np.testing.assert_allclose(got, model.predict_proba(scaled)[:, 1], atol=1e-6)
    both = noise_scores(loss, features)
    np.testing.assert_allclose(both.noise_prob, (both.noise_small_loss + both.noise_linear) / 2)
    assert roc_auc_score(noisy, got) > 0.85
    some = np.arange(1000) % 2 == 0
    half = linear_noise(features, small, fit=some)
    np.testing.assert_allclose(half[some], linear_noise(features[some], small[some]), atol=1e-6)
    assert np.isfinite(half).all()


def test_linear_needs_both_classes_and_finite_features():
    features = np.random.default_rng(0).standard_normal((60, 3))
    for noise in (np.zeros(60), np.ones(60), np.full(60, np.nan)):
        assert np.isnan(linear_noise(features, noise)).all()
    noise = (np.arange(60) < 20).astype(float)
    features[0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = linear_noise(features, noise)
    assert np.flatnonzero(np.isnan(got)).tolist() == [0]
    loss = np.r_[np.full(20, 3.0), np.zeros(40)] + np.linspace(0, 0.1, 60)
    mixed = noise_scores(loss, features)
    assert mixed.noise_prob[0] == mixed.noise_small_loss[0], "one detector is left"
    with pytest.raises(CurateError, match=r"must agree, got \(60, 3\), \(59,\)"):
        linear_noise(features, noise[1:])
