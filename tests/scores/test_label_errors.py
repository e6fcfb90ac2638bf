"""Counts of wrong labels by confident learning."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from curate.scores.calibration import Logistic
from curate.scores.heads.folds import row_hashes
from curate.scores.heads.in_memory import UnitRows
from curate.scores.heads.label_errors import (
    GATE,
    SURE,
    confident_classes,
    count_errors,
    errors_of,
    thresholds,
)
from curate.scores.heads.training import HeadSettings, train_heads
from tests.reference.noise import platt


def some(n, n_classes, seed, share=0.2):
    """Return noisy labels and probabilities that know the true ones."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, n_classes, n)
    label = np.where(rng.random(n) < share, rng.integers(0, n_classes, n), true)
    logits = rng.standard_normal((n, n_classes)) + 2.5 * (np.arange(n_classes) == true[:, None])
    probs = np.exp(logits)
    return label, probs / probs.sum(axis=1, keepdims=True)


def found_in(label, probs):
    n_classes = probs.shape[1]
    limits = thresholds(probs[np.arange(len(label)), label], label, n_classes)
    confident = confident_classes(probs, limits)
    return confident, count_errors(label, confident, probs.argmax(axis=1), list(range(n_classes)))


@given(st.integers(1, 60), st.integers(2, 5), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_as_by_definition(n, n_classes, seed):
    label, probs = some(n, n_classes, seed)
    confident, got = found_in(label, probs)
    limit = {
        one: sum(probs[i, one] for i in range(n) if label[i] == one) / max(1, sum(label == one))
        for one in range(n_classes)
        if (label == one).any()
    }
    pairs = {}
    for i in range(n):
        reached = [one for one, least in limit.items() if probs[i, one] >= least - 1e-6]
        best = max(reached, key=lambda one, i=i: probs[i, one], default=-1)
        assert confident[i] == best
        if best not in (-1, label[i]) and probs[i].argmax() != label[i]:
            pairs[str(label[i]), str(best)] = pairs.get((str(label[i]), str(best)), 0) + 1
    assert got.count == sum(pairs.values())
    assert {(a, b): n for a, b, n in got.pairs} == pairs
    assert got.rate == got.count / n


@pytest.mark.parametrize(("seed", "share"), [(0, 0.0), (1, 0.1), (2, 0.4)])
def test_as_many_as_cleanlab_counts(seed, share):
    count = pytest.importorskip("cleanlab.count", reason="compares with cleanlab, which is not installed")
    label, probs = some(2000, 6, seed, share)
    assert found_in(label, probs)[1].count == count.num_label_issues(label, probs)


@pytest.mark.parametrize(("count", "n"), [(0, 50), (3, 50), (50, 50), (400, 2000)])
def test_the_interval_is_that_of_wilson(count, n):
    wrong = np.arange(n) < count
    got = count_errors(np.zeros(n, int), np.where(wrong, 1, 0), np.where(wrong, 1, 0), ["a", "b"])
    want = stats.binomtest(count, n).proportion_ci(method="wilson")
    assert (got.low, got.high) == pytest.approx((want.low, want.high))
    assert got.pairs == ((("a", "b", count),) if count else ())


def test_few_errors_are_hard_rows_and_none_is_dropped():
    label = np.zeros(1000, int)
    few, many = (np.where(np.arange(1000) < n, 1, 0) for n in (60, 61))
    assert count_errors(label, few, few, "ab").to_drop == 0
    assert count_errors(label, many, many, "ab").to_drop == 61
    assert GATE == 0.06


@pytest.mark.parametrize(("sure", "few"), [(None, False), (20, True), (21, False), (0, True)])
def test_many_errors_of_which_few_are_sure_are_told_apart(sure, few):
    label, found = np.zeros(1000, int), np.where(np.arange(1000) < 90, 1, 0)
    got = replace(count_errors(label, found, found, "ab"), sure=sure)
    assert (got.to_drop, got.few_sure, got.as_facts()["few_sure"]) == (90, few, few)
    assert not replace(got, rate=0.06).few_sure and SURE == 0.02


def test_of_nothing():
    none = np.zeros(0, int)
    got = count_errors(none, none, none, [])
    assert (got.rows, got.count, got.rate, got.low, got.high, got.to_drop) == (0, 0, 0.0, 0.0, 1.0, 0)
    assert np.isinf(thresholds(np.zeros(0), none, 2)).all()


def trained(label, vectors, **settings):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    uids = [f"u{row}" for row in range(len(label))]
    chosen = HeadSettings(n_seeds=2, epochs=10, cross_fit=3, hidden=32, seed=0, **settings)
    return train_heads(UnitRows(unit.astype(np.float32)), uids, [str(one) for one in label], chosen), uids


def blobs(n, share, seed=0):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 4, n)
    vectors = rng.standard_normal((n, 12)) + 4 * np.eye(4, 12)[true]
    wrong = np.zeros(n, bool)
    wrong[rng.choice(n, round(share * n), replace=False)] = True
    return np.where(wrong, (true + rng.integers(1, 4, n)) % 4, true), vectors, wrong


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_trained_heads_count_the_labels_that_are_wrong(kind):
    label, vectors, wrong = blobs(1200, 0.25)
    scores, _ = trained(label, vectors, kind=kind)
    names = [int(name) for name in scores.classes]
    suspect = np.array([names[one] if one >= 0 else -1 for one in scores.confident_label])
    flagged = (suspect >= 0) & (suspect != label)
    assert flagged[wrong].mean() > 0.85
    assert wrong[flagged].mean() > 0.85
    flagged &= np.array([names[one] for one in scores.pred_label]) != label
    found = errors_of(scores, [str(one) for one in label])
    assert (found.rows, found.count) == (len(label), flagged.sum())
    differ = np.array([names[one] for one in scores.pred_label]) != label
    assert found.differ == differ.sum() >= found.count and not (flagged & ~differ).any()
    for name, curve in found.calibration.items():
        values = getattr(scores, name).astype(np.float64)
        np.testing.assert_allclose(curve, platt(values, flagged), rtol=1e-2, err_msg=name)
    curve = Logistic(*found.calibration["neg_aum"])
    assert found.sure == (curve.probability(scores.neg_aum) > 0.9).sum() > 0.02 * len(label)
    assert set(found.as_facts()["calibration"]) == {"neg_aum", "loss", "el2n"}
    some = errors_of(scores, [str(one) if row % 2 else None for row, one in enumerate(label)])
    assert (some.rows, some.count) == (len(label) // 2, flagged[1::2].sum())


def test_confident_classes_of_heads_do_not_depend_on_batches_or_workers():
    label, vectors, _ = blobs(900, 0.2)
    one, uids = trained(label, vectors, look_rows=64, workers=1)
    two, _ = trained(label, vectors, look_rows=2048, workers=2)
    assert (one.confident_label == two.confident_label).all()
    assert len(row_hashes(uids, 0)) == len(one.confident_label)
