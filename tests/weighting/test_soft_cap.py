import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import BudgetError, CurateError, RecipeError
from curate.hashing import hash_uids, nth_hash
from curate.weighting.base import Kept
from curate.weighting.soft_cap import SoftCap, soft_cap_counts, soft_cap_draws

MASK = (1 << 64) - 1


def hashes(n, seed=0):
    return hash_uids([f"u{i}" for i in range(n)], seed, "test")


def split_mix(state, n):
    """Return the n-th number after a state, as SplitMix64 is published, in whole numbers."""
    z = (state + (n + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@given(st.lists(st.integers(0, MASK), max_size=5), st.integers(0, 2**40))
@settings(max_examples=50, deadline=None)
def test_numbers_of_a_row(states, n):
    assert nth_hash(np.array(states, np.uint64), n).tolist() == [split_mix(state, n) for state in states]


def one_by_one(logit, total, penalty, keys):
    """Let the clocks of all rows run, and take the next row that comes, one after the other."""

    def wait(row, times):
        uniform = ((split_mix(int(keys[row]), times) >> 12) + 0.5) / 2**52
        return np.log(-np.log(uniform)) - logit[row] + penalty * times

    queue = [(wait(row, 0), int(keys[row]), row, 0) for row in range(len(logit)) if np.isfinite(logit[row])]
    heapq.heapify(queue)
    drawn = []
    for _ in range(total):
        time, key, row, times = heapq.heappop(queue)
        drawn.append(row)
        heapq.heappush(queue, (np.logaddexp(time, wait(row, times + 1)), key, row, times + 1))
    return drawn


@given(
    st.lists(st.floats(-20, 20) | st.just(np.nan), min_size=1, max_size=12),
    st.integers(0, 150), st.sampled_from([0.0, 0.05, 1.0, 30.0]), st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_draws_are_those_of_the_clocks_one_by_one(values, total, penalty, seed):
    logit = np.array(values)
    if not np.isfinite(logit).any():
        return
    keys = hashes(len(logit), seed)
    got = soft_cap_draws(logit, total, penalty, keys)
    assert got.row.tolist() == one_by_one(logit, total, penalty, keys)
    assert (np.diff(got.time) >= 0).all()
    counts = soft_cap_counts(logit, total, penalty, keys)
    assert counts.sum() == total and (counts[~np.isfinite(logit)] == 0).all()
    order = np.random.default_rng(seed).permutation(len(logit))
    assert soft_cap_counts(logit[order], total, penalty, keys[order]).tolist() == counts[order].tolist()


def in_a_loop(logit, total, penalty, rng, batch=1):
    """Do what the paper's code does: draw a batch by softmax without replacement, lower the logits, go on."""
    left, counts = logit.copy(), np.zeros(len(logit), int)
    for _ in range(0, total, batch):
        odds = np.exp(left - left.max())
        drawn = rng.choice(len(logit), size=batch, p=odds / odds.sum(), replace=False)
        left[drawn] -= penalty
        counts[drawn] += 1
    return counts


@pytest.mark.parametrize(("penalty", "batch"), [(0.15, 1), (1.0, 1), (0.0, 1), (0.15, 2)])
def test_counts_are_distributed_as_in_the_loop(penalty, batch):
    """Means and variances over many seeds; a batch of 2 of 40 draws is near enough to one by one."""
    logit, total, rounds = np.array([2.0, 1.0, 0.5, 0.0, 0.0, -1.0]), 40, 250
    rng = np.random.default_rng(1)
    want = np.array([in_a_loop(logit, total, penalty, rng, batch) for _ in range(rounds)])
    got = np.array([soft_cap_counts(logit, total, penalty, hashes(6, seed)) for seed in range(rounds)])
    spread = np.sqrt((want.var(0) + got.var(0)) / rounds)
    limit = 4 if batch == 1 else 12  # a batch takes some of the chance out of the first row
    assert (np.abs(got.mean(0) - want.mean(0)) < limit * spread + 0.01).all()
    if batch == 1:
        np.testing.assert_allclose(got.std(0), want.std(0), rtol=0.25)


def test_the_first_draw_has_the_odds_of_the_softmax():
    logit = np.log(np.array([0.5, 0.3, 0.2]))
    first = np.array([soft_cap_draws(logit, 1, 9.0, hashes(3, seed)).row[0] for seed in range(3000)])
    seen = np.bincount(first, minlength=3)
    expected = 3000 * np.exp(logit)
    assert ((seen - expected) ** 2 / expected).sum() < 18.4  # chi-square, 2 degrees: 1 in 10,000


def test_the_penalty_is_a_soft_cap():
    """With many draws the logits are level: a row has its lead, divided by the penalty, more draws than another."""
    counts = soft_cap_counts(np.array([3.0, 0.0, -40.0]), 4000, 0.05, hashes(3))
    assert counts[0] - counts[1] == pytest.approx(60, abs=25) and counts[1] - counts[2] == pytest.approx(
        800, abs=60
    )
    even = soft_cap_counts(np.zeros(7), 700, 50.0, hashes(7))
    assert even.tolist() == [100] * 7, "nobody comes again before all others have"


@pytest.mark.parametrize(("n", "total"), [(3, 5000), (5000, 3), (2000, 2000), (1, 7)])
def test_many_rows_and_many_draws(n, total):
    logit = np.random.default_rng(n).normal(size=n) * 5
    got = soft_cap_draws(logit, total, 0.01, hashes(n))
    assert got.row.tolist() == one_by_one(logit, total, 0.01, hashes(n))


def test_edges():
    assert soft_cap_draws(np.empty(0), 0, 1.0, hashes(0)).row.tolist() == []
    assert soft_cap_counts(np.array([np.nan]), 0, 1.0, hashes(1)).tolist() == [0]
    assert soft_cap_counts(np.array([1e300, -1e300]), 3, 0.1, hashes(2)).tolist() == [3, 0]
    with pytest.raises(CurateError, match="3 draws asked for, and no row has a finite score"):
        soft_cap_draws(np.array([np.nan, np.inf]), 3, 1.0, hashes(2))
    with pytest.raises(RecipeError, match=r"weight.penalty must be a finite number of at least 0, got -1"):
        soft_cap_draws(np.zeros(2), 3, -1, hashes(2))
    with pytest.raises(BudgetError, match="draws must be at least 0, got -3"):
        soft_cap_draws(np.zeros(2), -3, 1.0, hashes(2))


def kept(score):
    n = len(score)
    none = np.zeros(n)
    return Kept(
        np.zeros(n, np.int32), none.astype(np.float32), none, score, np.array([n]), 1, "all", None, hashes(n)
    )


@pytest.mark.parametrize("draws", [None, 1, 700, 123_457])
def test_weights_are_counts_with_mean_1_and_counts_again(draws):
    score = np.random.default_rng(0).normal(size=300)
    score[[3, 200]] = np.nan
    settings = SoftCap(by="x", temperature=0.5, draws=draws)
    weight = settings.weigh(kept(score))
    total = 298 if draws is None else draws
    want = soft_cap_counts(score / 0.5, total, 0.15, hashes(300))
    assert np.isnan(weight[[3, 200]]).all() and np.nanmean(weight) == pytest.approx(1)
    stored = weight.astype(np.float32)
    order = np.random.default_rng(1).permutation(300)
    assert settings.counts(stored[order]).tolist() == want[order].tolist()
    with pytest.raises(CurateError, match="not those of"):
        settings.counts(np.where(np.arange(300) == 5, 400, stored))


def test_weights_of_no_rows_and_of_rows_without_a_score():
    assert SoftCap(by="x").weigh(kept(np.empty(0))).tolist() == []
    assert SoftCap(by="x").counts(np.empty(0, np.float32)).tolist() == []
    assert np.isnan(SoftCap(by="x").weigh(kept(np.full(2, np.nan)))).all()
    assert SoftCap(by="x").counts(np.full(2, np.nan, np.float32)).tolist() == [0, 0]
    assert SoftCap(by="x").weigh(kept(np.array([0.3]))).tolist() == [1]
    assert SoftCap(by="x").extra_rows(5) == 5 and SoftCap(by="x", draws=9).extra_rows(5) == 9
