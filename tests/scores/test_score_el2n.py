import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import CurateError
from tests.fixtures import trained_formulas
from tests.reference.el2n import el2n, el2n_bounds, errors
from tests.reference.losses import loss, p_label


def by_definition(probs, labels):
    """Mean over models of the norm of p - y, one number at a time."""
    models, n, n_classes = probs.shape
    result = []
    for i in range(n):
        norms = []
        for m in range(models):
            terms = [(probs[m, i, k] - (k == labels[i])) ** 2 for k in range(n_classes)]
            norms.append(sum(terms) ** 0.5)
        result.append(sum(norms) / models)
    return np.array(result)


def one(p, y):
    return float(el2n(np.array([p]), np.array([y]))[0])


def test_hand_values():
    p = [0.7, 0.2, 0.1]
    assert [one(p, y) for y in range(3)] == pytest.approx([0.374166, 1.067708, 1.157584], abs=1e-6)
    assert [one(p, y) ** 2 for y in range(3)] == pytest.approx([0.14, 1.14, 1.34])
    assert one([0.5, 0.5], 0) == pytest.approx(0.707107, abs=1e-6)
    assert one([1.0, 0.0], 0) == 0 and one([0.0, 1.0], 0) == pytest.approx(1.414214, abs=1e-6)
    for n_classes, value in ((2, 0.707107), (3, 0.816497), (10, 0.948683), (100, 0.994987)):
        assert one([1 / n_classes] * n_classes, 0) == pytest.approx(value, abs=1e-6)


def test_same_loss_but_another_score():
    spread, single = [0.4, 0.3, 0.3], [0.4, 0.6, 0.0]
    assert (one(spread, 0), one(single, 0)) == pytest.approx((0.734847, 0.848528), abs=1e-6)
    with np.errstate(divide="ignore"):
        logits = np.log(np.array([spread, [0.4, 0.6 - 1e-300, 1e-300]]))
    np.testing.assert_allclose(loss(logits, np.zeros(2, int)), 0.916291, atol=1e-6)
    bounds = el2n_bounds(np.array([0.4]), 3)
    assert (bounds[0][0], bounds[1][0]) == pytest.approx((0.734847, 0.848528), abs=1e-6)


def test_soft_label():
    got = el2n(np.array([[0.7, 0.2, 0.1]]), np.array([[0.5, 0.5, 0.0]]))
    assert got == pytest.approx([0.374166], abs=1e-6)
    assert np.isnan(el2n(np.array([[0.5, 0.5]]), np.array([[np.nan, 1.0]]))).all()
    with pytest.raises(CurateError, match=r"soft labels must be \(1, 3\), got \(2, 3\)"):
        el2n(np.ones((1, 3)), np.ones((2, 3)))


def test_norms_are_averaged_not_squares():
    """Two seeds with norms .1 and 1.3 against .8 and .8: the second is harder."""
    p = 1 - np.array([[0.1, 0.8], [1.3, 0.8]]) / np.sqrt(2)
    probs = np.stack([p, 1 - p], axis=-1)
    a, b = el2n(probs, np.zeros(2, int))
    assert (a, b) == pytest.approx((0.7, 0.8)) and b > a


@pytest.mark.parametrize("el2n", [el2n, trained_formulas.el2n])
def test_two_classes_rank_as_the_loss(el2n):
    logits = np.random.default_rng(0).standard_normal((50, 2)) * 3
    labels = np.arange(50) % 2
    score = el2n(logits, labels, of="logits")
    np.testing.assert_allclose(score, np.sqrt(2) * (1 - p_label(logits, labels)), atol=1e-12)
    np.testing.assert_array_equal(score.argsort(), loss(logits, labels).argsort())


@given(st.integers(1, 4), st.integers(0, 12), st.integers(2, 6), st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_by_definition_and_its_laws(models, n, n_classes, seed):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(n_classes, 0.3), (models, n))
    labels = rng.integers(0, n_classes, n)
    got = el2n(probs, labels)
    np.testing.assert_allclose(got, by_definition(probs, labels), atol=1e-12)
    assert ((got >= 0) & (got <= np.sqrt(2) + 1e-12)).all()
    own = probs[:, np.arange(n), labels]
    lower, upper = el2n_bounds(own, n_classes)
    each = np.stack([el2n(p, labels) for p in probs])
    assert (each >= lower - 1e-12).all() and (each <= upper + 1e-12).all()
    moved = rng.permutation(n)
    np.testing.assert_array_equal(el2n(probs[:, moved], labels[moved]), got[moved])
    logits = rng.standard_normal((models, n, n_classes)) * 10
    from_logits = el2n(logits, labels, of="logits")
    np.testing.assert_allclose(
        el2n(logits + rng.uniform(-50, 50), labels, of="logits"), from_logits, atol=1e-12
    )
    powers = np.exp(logits)
    want = by_definition(powers / powers.sum(-1, keepdims=True), labels)
    np.testing.assert_allclose(from_logits, want, atol=1e-12)
    np.testing.assert_allclose(trained_formulas.el2n(logits, labels), want, atol=1e-12)
    for batch in (1, 7, 256):
        parts = [
            el2n(logits[:, i : i + batch], labels[i : i + batch], of="logits") for i in range(0, n, batch)
        ]
        np.testing.assert_array_equal(np.concatenate([*parts, []]), from_logits)
    single = el2n(logits.astype(np.float32), labels, of="logits")
    np.testing.assert_allclose(single, from_logits, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("el2n", [el2n, trained_formulas.el2n])
def test_extreme_logits(el2n):
    logits = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 0], [-1e4, -1e4, -1e4], [40.0, 0.0, 0.0]])
    got = el2n(logits, np.zeros(4, int), of="logits")
    np.testing.assert_allclose(got[:3], [0, np.sqrt(2), np.sqrt(2 / 3)], atol=1e-12)
    tail = np.exp(-40.0)
    assert got[3] == pytest.approx(np.sqrt(6) * tail, rel=1e-9), "digits are left where p_y is nearly 1"


def test_seeds_that_are_not_finite_are_dropped():
    probs = np.array([[[0.5, 0.5], [np.nan, 0.5]], [[1.0, 0.0], [np.inf, 0.0]]])
    got = el2n(probs, np.zeros(2, int))
    assert got[0] == pytest.approx(np.sqrt(0.5) / 2) and np.isnan(got[1])
    assert np.isnan(errors(probs, np.zeros(2, int))[:, 1]).all()


def test_refuses():
    with pytest.raises(CurateError, match=r"labels must be \(n,\) for \(\.\.\., n, C\), got \(3,\)"):
        el2n(np.ones((2, 2)), np.zeros(3, int))
    with pytest.raises(CurateError, match="below the number of classes 2, got 2"):
        el2n(np.ones((1, 2)), np.array([2]))
    with pytest.raises(CurateError, match="of must be probs or logits, got 'odds'"):
        el2n(np.ones((1, 2)), np.array([0]), of="odds")
    with pytest.raises(CurateError, match="at least 2 classes, got 1"):
        el2n_bounds(np.ones(1), 1)
