import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.clustering.complexity import complexity
from curate.errors import BudgetError
from curate.ordering.keys import priority_key, rank_within
from curate.selection.density import density_budgets


def budgets(sizes, n_keep, intra=None, inter=None, temperature=0.1, **more):
    sizes = np.array(sizes)
    intra = np.linspace(0.2, 0.6, len(sizes)) if intra is None else np.array(intra, float)
    inter = np.ones(len(sizes)) if inter is None else np.array(inter, float)
    more = {"smallest_uid_rank": np.arange(len(sizes))} | more
    value = complexity(inter, intra, more.pop("kind", "inter*intra"), sizes=sizes)
    return density_budgets(sizes, value, n_keep=n_keep, temperature=temperature, **more)


some_sizes = st.lists(st.integers(0, 30), min_size=1, max_size=8)


@given(some_sizes, st.integers(0, 200), st.integers(0, 3), st.floats(0.01, 5), st.integers(0, 10**6))
@settings(max_examples=120, deadline=None)
def test_sums_bounds_and_relaxing(sizes, n_keep, floor, temperature, seed):
    intra = np.random.default_rng(seed).random(len(sizes))
    got = budgets(sizes, n_keep, intra, temperature=temperature, min_per_concept=floor)
    n = min(n_keep, sum(sizes))
    used = got.min_per_concept_used
    assert got.budget.sum() == n
    assert (got.budget <= sizes).all() and (got.budget >= np.minimum(used, sizes)).all()
    assert used == max(m for m in range(floor + 1) if np.minimum(m, sizes).sum() <= n)
    if sum(sizes):
        assert got.probability.sum() == pytest.approx(1)
    assert (got.probability[np.array(sizes) == 0] == 0).all()


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_equal_sizes_follow_complexity(intra, n_keep):
    got = budgets([20] * len(intra), n_keep, intra)
    order = np.argsort(got.probability, kind="stable")
    clear = np.diff(got.probability[order]) > 1e-9
    assert (np.diff(got.budget[order])[clear] >= 0).all()


@given(some_sizes, st.data())
@settings(max_examples=60, deadline=None)
def test_more_to_keep_takes_from_nobody(sizes, data):
    n_keep = data.draw(st.integers(int(np.minimum(sizes, 1).sum()), sum(sizes)))
    less, more = budgets(sizes, n_keep), budgets(sizes, n_keep + 1)
    assert (more.budget >= less.budget - 1).all()


@given(some_sizes, st.integers(1, 100), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_scale_shift_and_relabelling(sizes, n_keep, seed):
    rng = np.random.default_rng(seed)
    intra = rng.random(len(sizes))
    want = budgets(sizes, n_keep, intra).budget
    assert budgets(sizes, n_keep, 4 * intra, temperature=0.4).budget.tolist() == want.tolist()
    assert budgets(sizes, n_keep, intra + 1).budget.tolist() == want.tolist()
    moved = rng.permutation(len(sizes))
    again = budgets(np.array(sizes)[moved], n_keep, intra[moved], smallest_uid_rank=moved)
    assert again.budget.tolist() == want[moved].tolist()


def test_infinite_temperature_and_uniform_complexity_fill_like_water():
    assert budgets([3, 10, 10, 10], 23, temperature=np.inf).budget.tolist() == [3, 6, 7, 7]
    got = budgets([9, 9, 9], 10, [0.1, 0.9, 0.5], kind="uniform")
    assert sorted(got.budget.tolist()) == [3, 3, 4]


def test_temperature_towards_zero_gives_the_most_complex_all():
    assert budgets([9, 9, 9], 9, [0.1, 0.9, 0.5], temperature=1e-9, min_per_concept=0).budget.tolist() == [
        0,
        9,
        0,
    ]


def test_all_rows_and_one_concept():
    for temperature in (1e-6, 0.1, np.inf):
        got = budgets([4, 0, 9], 13, temperature=temperature)
        assert got.budget.tolist() == [4, 0, 9] and got.at_cap.all()
    assert budgets([4, 9], 1000).budget.tolist() == [4, 9]
    assert budgets([50], 7).budget.tolist() == [7]
    assert budgets([], 0).budget.tolist() == []
    assert budgets([0, 0], 5).budget.tolist() == [0, 0]


def test_identical_vectors_give_equal_shares():
    assert budgets([10, 10], 6, [0, 0]).probability.tolist() == [0.5, 0.5]


def test_floor_that_does_not_fit_is_lowered_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        got = budgets([10, 10, 10], 7, [0.1, 0.1, 0.9], min_per_concept=5)
    assert got.min_per_concept_used == 2 and got.budget.tolist() == [2, 2, 3]
    assert "min_per_concept lowered from 5 to 2: 7 rows to keep, 3 concepts" in caplog.text
    assert budgets([10, 10, 10], 2).min_per_concept_used == 0


def test_flags_and_columns():
    got = budgets([2, 50, 50], 40, [0.5, 0.2, 0.1])
    assert got.at_cap.tolist() == [True, False, False]
    np.testing.assert_allclose(got.target, got.probability * 40)
    np.testing.assert_allclose(got.complexity, [0.5, 0.2, 0.1])
    assert budgets([5, 10], 6, kind="size").complexity.tolist() == [0.5, 1.0]


def test_refuses_negative_numbers():
    with pytest.raises(BudgetError, match="at least 0"):
        budgets([5], -1)


@given(st.integers(1, 60), st.integers(1, 5), st.integers(0, 60), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_rows_kept_are_the_hardest_of_their_concept_under_any_order(n, k, n_keep, seed):
    rng = np.random.default_rng(seed)
    distance = rng.integers(0, 6, n).astype(np.float32) / 5
    concept, tie = rng.integers(0, k, n), rng.permutation(n).astype(np.uint64)
    uid = np.array([f"{i:03d}" for i in range(n)])

    def kept(rows, label):
        ids = label[concept[rows]]
        sums = [distance[rows][ids == j].astype(np.float64) for j in range(k)]
        intra = np.array([own.mean() if len(own) > 1 else 0.0 for own in sums]).round(12)
        first = np.array([min(uid[rows][ids == j], default="~") for j in range(k)])
        got = budgets(
            np.bincount(ids, minlength=k), n_keep, intra, smallest_uid_rank=first.argsort().argsort()
        )
        rank = rank_within(ids, priority_key(distance[rows]), tie[rows], uid[rows])
        return set(uid[rows][rank <= got.budget[ids]].tolist())

    want = kept(np.arange(n), np.arange(k))
    assert len(want) == min(n, n_keep)
    assert kept(rng.permutation(n), rng.permutation(k)) == want
    chosen = np.isin(uid, sorted(want))
    for j in range(k):
        inside, outside = distance[(concept == j) & chosen], distance[(concept == j) & ~chosen]
        assert inside.min(initial=2) >= outside.max(initial=0)
