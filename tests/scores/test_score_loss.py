from decimal import Decimal, getcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import CurateError
from tests.fixtures import trained_formulas
from tests.reference import losses
from tests.reference.losses import (
    correct,
    entropy,
    loss,
    margin_logit,
    p_label,
    pred_label,
    softmax,
)

getcontext().prec = 320

BOTH = [losses, trained_formulas]


def by_definition(logits, y):
    """Loss, p_label, margin, entropy of one row, with 320 digits."""
    z = [Decimal(float(value)) for value in logits]
    total = sum(value.exp() for value in z)
    p = [value.exp() / total for value in z]
    others = [value for k, value in enumerate(z) if k != y]
    entropy = -sum(q * q.ln() for q in p if q > 0)
    return [float(v) for v in (total.ln() - z[y], p[y], z[y] - max(others), entropy)]


@given(st.integers(0, 8), st.integers(2, 5), st.floats(0.1, 100), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_by_definition(n, n_classes, spread, seed):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n, n_classes)) * spread
    labels = rng.integers(0, n_classes, n)
    want = np.array([by_definition(*row) for row in zip(logits, labels, strict=True)]).reshape(n, 4).T
    for formulas in BOTH:
        check_formulas(formulas, logits, labels, want, rng.permutation(n))


def check_formulas(formulas, logits, labels, want, moved):
    n = len(logits)
    got = [
        formulas.loss(logits, labels),
        formulas.p_label(logits, labels),
        formulas.margin_logit(logits, labels),
        formulas.entropy(logits),
    ]
    for values, exact in zip(got, want, strict=True):
        np.testing.assert_allclose(values, exact, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-12, atol=0)
    assert (formulas.correct(logits, labels) == (logits.argmax(1) == labels)).all()
    assert ((formulas.entropy(logits, normalised=True) <= 1 + 1e-12) & (got[3] >= 0)).all()
    np.testing.assert_array_equal(formulas.loss(logits[moved], labels[moved]), got[0][moved])
    np.testing.assert_allclose(formulas.loss(logits + 37.5, labels), got[0], rtol=1e-9, atol=1e-11)
    stacked = np.stack([logits, -logits])
    np.testing.assert_array_equal(formulas.loss(stacked, labels)[0], got[0])
    np.testing.assert_array_equal(
        formulas.margin_logit(stacked, labels)[1], formulas.margin_logit(-logits, labels)
    )
    np.testing.assert_allclose(formulas.loss(logits.astype(np.float32), labels), got[0], rtol=1e-4, atol=1e-4)
    for batch in (1, 7, 256):
        parts = [formulas.loss(logits[i : i + batch], labels[i : i + batch]) for i in range(0, n, batch)]
        np.testing.assert_array_equal(np.concatenate([*parts, []]), got[0])


@pytest.mark.parametrize("formulas", BOTH)
def test_hand_values(formulas):
    z = np.log(np.array([[0.7, 0.2, 0.1]] * 3))
    np.testing.assert_allclose(formulas.loss(z, np.arange(3)), [0.356675, 1.609438, 2.302585], atol=1e-6)
    np.testing.assert_allclose(formulas.p_label(z, np.arange(3)), [0.7, 0.2, 0.1])
    assert formulas.entropy(z)[0] == pytest.approx(0.801819, abs=1e-6)
    assert formulas.entropy(z, normalised=True)[0] == pytest.approx(0.729847, abs=1e-6)
    assert formulas.entropy(np.zeros((1, 4)), normalised=True)[0] == pytest.approx(1)


@pytest.mark.parametrize("formulas", BOTH)
def test_extreme_logits_are_finite(formulas):
    z = np.array([[1e4, -1e4], [-1e4, 1e4], [1e308, -1e308 / 2]])
    np.testing.assert_array_equal(formulas.loss(z, np.zeros(3, int)), [0, 2e4, 0])
    np.testing.assert_array_equal(formulas.entropy(z), [0, 0, 0])
    assert formulas.loss(np.array([[0.0, 50.0]]), np.array([1]))[0] == pytest.approx(np.exp(-50), rel=1e-12)
    assert softmax(z).sum(axis=1).tolist() == [1, 1, 1]


def test_rows_without_a_score():
    z = np.array([[0.0, 1.0], [np.nan, 1.0], [np.inf, 1.0], [0.0, 1.0]])
    labels = np.array([0, 0, 0, -1])
    for values in (loss(z, labels), p_label(z, labels), margin_logit(z, labels)):
        assert np.isfinite(values).tolist() == [True, False, False, False]
    assert np.isfinite(entropy(z)).tolist() == [True, False, False, True]
    assert pred_label(z).tolist() == [1, -1, -1, 1]
    assert correct(z, np.array([1, 1, 1, -1])).tolist() == [True, False, False, False]
    for single in (np.zeros((2, 1)), np.zeros((0, 3)), np.zeros((2, 0))):
        labels = np.full(len(single), -1 if single.shape[1] == 0 else 0)
        assert np.isnan(loss(single, labels)).all() and np.isnan(margin_logit(single, labels)).all()
        if single.shape[1] < 2:
            assert np.isnan(entropy(single)).all()
        assert pred_label(single).shape == (len(single),)


def test_refuses():
    with pytest.raises(CurateError, match="below the number of classes 2, got 5"):
        loss(np.zeros((1, 2)), np.array([5]))
    with pytest.raises(CurateError, match=r"labels must be \(n,\)"):
        correct(np.zeros((1, 2)), np.array([0, 1]))
