from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import BudgetError, CurateError, RecipeError
from curate.ordering.cutoff import nth_smallest
from curate.ordering.span import Cuts
from curate.selection.weighted import race_keys
from tests.reference.selection import select_weighted

UIDS = np.array([f"u{i:03d}" for i in range(64)])


def draws(n, seed):
    return np.random.default_rng(seed).integers(0, 1 << 64, n, dtype=np.uint64, endpoint=False)


def chance_of_each(weights, n_keep):
    """Exact inclusion probabilities of n successive draws without replacement."""
    chance = np.zeros(len(weights))
    for order in permutations(range(len(weights)), n_keep):
        left, p = sum(weights), 1.0
        for row in order:
            p, left = p * weights[row] / left, left - weights[row]
        chance[list(order)] += p
    return chance


@pytest.mark.parametrize(("gamma", "n_keep"), [(1.0, 1), (1.0, 2), (2.0, 2), (-1.0, 3), (0.0, 2)])
def test_frequencies_are_those_of_successive_draws(gamma, n_keep):
    score, rounds = np.array([0.5, 1.0, 2.0, 4.0]), 10_000
    keys = race_keys(np.tile(score, rounds), draws(4 * rounds, 0), gamma).reshape(rounds, 4)
    kept = (keys.argsort(axis=1).argsort(axis=1) < n_keep).mean(axis=0)
    np.testing.assert_allclose(kept, chance_of_each((score**gamma).tolist(), n_keep), atol=0.02)


@given(st.integers(0, 40), st.integers(0, 10**6), st.sampled_from([-2.0, 0.0, 1.0, 3.5]), st.data())
@settings(max_examples=80, deadline=None)
def test_by_definition_and_from_shards(n, seed, gamma, data):
    rng = np.random.default_rng(seed)
    score, draw = rng.uniform(0.1, 5, n), draws(n, seed)
    n_keep = data.draw(st.integers(0, n))
    keep = select_weighted(score, draw, UIDS[:n], n_keep, gamma)
    u = (draw / 2.0**64).clip(1e-18, 1 - 1e-16)
    order = np.argsort(-np.log(u) / score**gamma)
    assert np.flatnonzero(keep).tolist() == sorted(order[:n_keep].tolist())
    moved = rng.permutation(n)
    again = select_weighted(score[moved], draw[moved], UIDS[:n][moved], n_keep, gamma)
    assert again.tolist() == keep[moved].tolist()
    key = race_keys(score, draw, gamma)
    assert (
        Cuts(None, nth_smallest(lambda: iter([(key, draw)]), n_keep)).holds(key, draw).tolist()
        == keep.tolist()
    )


def test_a_larger_selection_contains_the_smaller():
    score, draw = np.arange(1.0, 21.0), draws(20, 3)
    masks = [select_weighted(score, draw, UIDS[:20], k) for k in range(21)]
    assert all((less <= more).all() for less, more in pairwise(masks))


def test_rows_of_weight_zero_come_last_and_counts_stay_exact():
    score, draw = np.array([0.0, 1.0, 0.0, 1e-300, 1e300]), draws(5, 1)
    assert select_weighted(score, draw, UIDS[:5], 3, 4.0).tolist() == [False, True, False, True, True]
    assert select_weighted(score, draw, UIDS[:5], 4, 4.0).sum() == 4
    assert select_weighted(score, draw, UIDS[:5], 2, -4.0).tolist() == [True, False, True, False, False]


def test_ends_of_the_hash_range_are_finite():
    ends = np.array([0, (1 << 64) - 1], np.uint64)
    assert race_keys(np.ones(2), ends).argsort().tolist() == [1, 0]
    assert len(set(race_keys(np.ones(2), ends).tolist())) == 2


def test_refusals():
    with pytest.raises(CurateError, match="finite and at least 0"):
        race_keys(np.array([-1.0]), draws(1, 0))
    with pytest.raises(CurateError, match="finite and at least 0"):
        race_keys(np.array([np.nan]), draws(1, 0))
    with pytest.raises(RecipeError, match=r"select.gamma must be finite, got inf"):
        race_keys(np.ones(1), draws(1, 0), np.inf)
    with pytest.raises(BudgetError, match="2 rows asked for, there are 1"):
        select_weighted(np.ones(1), draws(1, 0), UIDS[:1], 2)
