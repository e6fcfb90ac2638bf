"""Calibration of heads: the error against its definition, the temperature against a search, and heads that note it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import CurateError
from curate.scores.heads.temperature import (
    ENDS,
    ROWS,
    ProbabilitySample,
    calibration_error,
    fit_temperature,
    scaled,
)
from tests.fixtures.trained_heads import N, clusters, directly
from tests.reference.losses import softmax


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(2, 5), st.integers(0, 9))
def test_the_error_is_the_definition(n, n_classes, seed):
    rng = np.random.default_rng(seed)
    probs, label = softmax(2 * rng.standard_normal((n, n_classes))), rng.integers(0, n_classes, n)
    got = calibration_error(probs, label)
    total = 0.0
    for place in range(15):
        inside = [i for i in range(n) if place / 15 < probs[i].max() <= (place + 1) / 15]
        if inside:
            right = np.mean([probs[i].argmax() == label[i] for i in inside])
            total += len(inside) * abs(right - np.mean([probs[i].max() for i in inside]))
    assert math.isnan(got) if n == 0 else got == pytest.approx(total / n, abs=1e-9)


def test_the_temperature_is_the_one_with_the_least_loss_and_undoes_a_known_one():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((20_000, 4))
    label = np.array([rng.choice(4, p=p) for p in softmax(logits)])
    found = fit_temperature(3 * logits, label)
    assert found == pytest.approx(3, rel=0.05), "three times too sure"
    loss = [
        -np.log(scaled(3 * logits, one)[np.arange(len(label)), label]).mean()
        for one in (found / 1.02, found, found * 1.02)
    ]
    assert loss[1] == min(loss)
    errors = [calibration_error(scaled(3 * logits, one), label) for one in (1.0, found)]
    assert errors[0] > 0.1
    assert errors[1] < 0.02


def test_ends_and_refusals():
    sure = np.log(np.array([[0.9, 0.1]] * 3))
    assert ENDS[0] <= fit_temperature(sure, np.zeros(3, np.int64)) < 0.06
    assert fit_temperature(sure, np.ones(3, np.int64)) == pytest.approx(ENDS[1])
    assert math.isnan(calibration_error(np.empty((0, 2)), np.empty(0, np.int64)))
    with pytest.raises(CurateError, match=r"labels must be \(n,\) codes below C"):
        calibration_error(np.ones((1, 2)), np.array([2]))


def test_a_sample_is_the_first_rows_and_empty_without_any():
    label = np.zeros(ROWS + 5, np.int64)
    sample = ProbabilitySample(label, 2)
    sample.add(slice(ROWS - 2, ROWS + 2), np.full((4, 2), 0.5, np.float32))
    sample.add(slice(ROWS, ROWS + 5), np.ones((5, 2), np.float32))
    assert sample.facts()["rows"] == 2
    assert ProbabilitySample(label[:0], 2).facts() == {}


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_heads_note_their_temperature_and_calibrate_p_label(kind):
    vectors, labels = clusters(n_classes=2)
    found = directly(vectors, labels, kind=kind, epochs=4, dynamics=("calibrated",))
    noted, p = found.calibration, found.p_label.astype(np.float64)
    assert noted["rows"] == N
    probs, label = np.stack([p, 1 - p], axis=1), np.zeros(N, np.int64)
    assert noted["error"] == pytest.approx(calibration_error(probs, label), abs=1e-4), (
        "of two classes p_label is all"
    )
    log_p = np.log(np.maximum(probs, 1e-12))
    assert noted["temperature"] == pytest.approx(fit_temperature(log_p, label), rel=1e-3)
    want = scaled(log_p, noted["temperature"])
    np.testing.assert_allclose(found.course["p_label_calibrated"], want[:, 0], atol=1e-4)
    assert noted["error_scaled"] == pytest.approx(calibration_error(want, label), abs=5e-3)


def test_heads_without_folds_note_none():
    assert directly(*clusters(), cross_fit=0).calibration == {}
