"""Epsilon for a wanted precision: how sure joins are by brute force, the search over epsilons, and the edges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.deduplication.precision import REFERENCE, cut_for_precision, joins
from curate.linalg import unit_rows

EPSILONS = [
    round(step * 10.0**power, 6)
    for power in (-4, -3, -2, -1)
    for step in (1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.3, 8)
]


def brute(vectors, epsilon):
    """Greedy dedup one row after the other, and for each dropped row 1 over the kept rows within twice its distance."""
    wide = vectors.astype(np.float64)
    kept, dropped = [], []
    for row in range(len(wide)):
        nearest = max(((float(wide[row] @ wide[one]), -one) for one in kept), default=(-2.0, 0))
        if nearest[0] > 1 - epsilon:
            dropped.append((-nearest[1], 1 - nearest[0]))
        else:
            kept.append(row)
    return [
        1 / sum(1 - wide[one] @ wide[of] <= 2 * max(away, 1e-6) + 1e-9 for one in kept)
        for of, away in dropped
    ]


def scattered(n, spread, seed=0):
    rng = np.random.default_rng(seed)
    return unit_rows(rng.normal(size=(1, 12)) + spread * rng.normal(size=(n, 12)))[0]


@settings(max_examples=30)
@given(
    st.integers(2, 40),
    st.sampled_from([0.02, 0.1, 0.4]),
    st.sampled_from([0.003, 0.02, 0.11]),
    st.integers(0, 9),
)
def test_joins_are_as_sure_as_brute_force_says(n, spread, epsilon, seed):
    vectors = scattered(n, spread, seed)
    found = joins(vectors, epsilon)
    assert found == pytest.approx(brute(vectors, epsilon))
    assert ((found > 0) & (found <= 1)).all()


def with_copies(n, seed=0):
    """Rows all over, a third of them with a copy that is very near."""
    rng = np.random.default_rng(seed)
    rows = unit_rows(rng.normal(size=(n, 12)))[0]
    copies = unit_rows(rows[: n // 3] + 0.005 * rng.normal(size=(n // 3, 12)))[0]
    return np.concatenate([rows, copies])


def test_copies_that_stand_apart_are_found():
    concepts = [with_copies(60, seed) for seed in range(3)]
    found = cut_for_precision(concepts, 0.9)
    assert found.estimated >= 0.9 and found.rows == 240
    assert sum(len(joins(rows, found.epsilon)) for rows in concepts) >= 60


def test_where_all_is_alike_nothing_has_the_precision():
    found = cut_for_precision([scattered(300, 0.05)], 0.9)
    assert found.epsilon == 1e-6 and found.estimated is None and 0 < found.best < 0.9


@pytest.mark.parametrize("precision", [0.5, 0.8, 0.95])
def test_the_largest_epsilon_is_taken(precision):
    concepts = [with_copies(45, 1), scattered(60, 0.15, 2)]
    total, wanted = sum(map(len, concepts)), None
    for epsilon in EPSILONS:
        sure = [one for rows in concepts for one in brute(rows, epsilon)]
        if len(sure) > REFERENCE * total:
            break
        if len(sure) >= 10 and round(float(np.mean(sure)), 6) >= precision:
            wanted = epsilon
    assert cut_for_precision(concepts, precision).epsilon == (wanted or 1e-6)


@pytest.mark.parametrize("concepts", [[], [np.empty((0, 4), np.float32)], [np.eye(4, dtype=np.float32)]])
def test_edges(concepts):
    found = cut_for_precision(concepts, 0.9)
    assert (found.epsilon, found.estimated, found.best) == (1e-6, None, None)


def test_equal_rows_are_sure_unless_others_are_as_near():
    rows = np.repeat(np.eye(3, dtype=np.float32), [4, 1, 1], axis=0)
    assert joins(rows, 0.01).tolist() == [1.0] * 3
