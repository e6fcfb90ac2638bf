"""Metrics, intervals and held-out rows against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from curate.evaluation import held_out, intervals, metrics


def logits_and_labels(seed, n=200, classes=5):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return 2 * rng.standard_normal((n, classes)) + 2 * np.eye(classes)[labels], labels


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 6))
def test_label_metrics_are_what_their_definitions_say(seed, n, classes):
    logits, labels = logits_and_labels(seed, n, classes)
    found = metrics.label_metrics(logits, labels)
    said = logits.argmax(axis=1)
    recalls = [np.mean(said[labels == one] == one) for one in sorted(set(labels.tolist()))]
    assert found["accuracy"] == pytest.approx(np.mean(said == labels))
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert found["worst_class"] == pytest.approx(min(recalls))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    error = 0.0
    for low in range(15):
        inside = [row for row in range(n) if min(int(probs[row].max() * 15), 14) == low]
        if inside:
            right = np.mean([said[row] == labels[row] for row in inside])
            error += len(inside) / n * abs(right - np.mean([probs[row].max() for row in inside]))
    assert found["calibration_error"] == pytest.approx(error, abs=1e-9)


def test_balanced_accuracy_is_that_of_scikit_learn():
    from sklearn.metrics import balanced_accuracy_score

    logits, labels = logits_and_labels(3)
    found = metrics.label_metrics(logits, labels)["balanced_accuracy"]
    assert found == pytest.approx(balanced_accuracy_score(labels, logits.argmax(axis=1)))


def test_logits_of_any_size_have_a_calibration_error():
    assert metrics.label_metrics(np.array([[1e4, -1e4]], np.float32), np.array([0]))["calibration_error"] == 0


@given(st.integers(0, 10_000), st.integers(1, 30))
def test_recall_counts_pairs_among_the_nearest(seed, n):
    likeness = np.random.default_rng(seed).standard_normal((n, n))
    found = metrics.recall_metrics(metrics.ranks(likeness))
    for k in (1, 5, 10):
        rows = [one in np.argsort(-likeness[one])[:k] for one in range(n)]
        columns = [one in np.argsort(-likeness[:, one])[:k] for one in range(n)]
        assert found[f"image_to_text_{k}"] == pytest.approx(np.mean(rows))
        assert found[f"text_to_image_{k}"] == pytest.approx(np.mean(columns))
        assert found[f"recall_{k}"] == pytest.approx((np.mean(rows) + np.mean(columns)) / 2)


def test_the_interval_of_a_mean_is_that_of_student():
    values = np.random.default_rng(0).normal(0.8, 0.01, 6)
    low, high = stats.t.interval(0.95, 5, values.mean(), stats.sem(values))
    assert intervals.mean_interval(list(values)) == pytest.approx((high - low) / 2)
    assert intervals.mean_interval([0.5]) is None


def test_one_more_draw_is_beyond_chance_in_one_of_twenty_cases():
    rng = np.random.default_rng(1)
    cases = rng.normal(0.8, 0.02, (4000, 6))
    gaps = [intervals.difference([case[0]], [case[1:]]) for case in cases]
    assert 0.04 < np.mean([abs(gap) > half for gap, half in gaps]) < 0.06


def test_draws_depend_on_uids_and_key_alone():
    uids = [f"u{one}" for one in range(50)]
    among = np.arange(50) % 5 > 0
    rows = held_out.drawn(uids, among, 12, 0, "draw")
    assert len(set(rows.tolist())) == 12
    assert among[rows].all()
    order = np.random.default_rng(0).permutation(50)
    again = held_out.drawn([uids[one] for one in order], among[order], 12, 0, "draw")
    assert set(order[again].tolist()) == set(rows.tolist())
    assert set(held_out.drawn(uids, among, 12, 1, "draw").tolist()) != set(rows.tolist())
    assert len(held_out.drawn(uids, among, 0, 0)) == 0


@given(st.integers(0, 10_000), st.integers(0, 20), st.integers(0, 30), st.sampled_from([0.001, 0.1, 0.5]))
def test_near_copies_are_those_of_brute_force(seed, m, n, epsilon):
    rng = np.random.default_rng(seed)

    def unit(rows):
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    pool = [unit(rng.standard_normal((n, 3))) for _ in range(2)]
    held = [unit(rng.standard_normal((m, 3))) for _ in range(2)]
    for one, other in zip(held, pool, strict=True):
        some = min(m, n) // 2
        one[:some] = other[:some]
    held[1][: m // 4] = unit(rng.standard_normal((m // 4, 3)))
    for kinds in (1, 2):
        found = held_out.near_copies(held[:kinds], pool[:kinds], epsilon)
        for row in range(m):
            near = [
                all(
                    held[k][row].astype(float) @ pool[k][other].astype(float) > 1 - epsilon
                    for k in range(kinds)
                )
                for other in range(n)
            ]
            assert found[row] == any(near)
