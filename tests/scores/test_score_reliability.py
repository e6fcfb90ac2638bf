import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr

from curate.errors import CurateError
from curate.hashing import hash_uids
from curate.scores.reliability import hash_sample, mean_spearman, ranks, same_ranking, spearman_brown


@given(st.lists(st.integers(-3, 3), max_size=12))
def test_ranks_by_scipy(values):
    values = np.array(values, float)
    np.testing.assert_array_equal(ranks(values), rankdata(values))


@given(st.integers(2, 5), st.integers(3, 12), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_mean_over_pairs_by_scipy(seeds, n, seed):
    scores = np.random.default_rng(seed).integers(0, 6, (seeds, n)).astype(float)
    scores[:, 0], scores[:, 1] = 0, 1  # none is constant
    hashes = hash_uids(map(str, range(n)), 0)
    pairs = [(a, b) for a in range(seeds) for b in range(a)]
    each = [spearmanr(scores[a], scores[b]).statistic for a, b in pairs]
    assert mean_spearman(scores, hashes) == pytest.approx(np.mean(each), abs=1e-12)
    assert same_ranking(scores[0], scores[1]) == pytest.approx(spearmanr(scores[0], scores[1]).statistic)
    moved = np.random.default_rng(seed).permutation(n)
    few = mean_spearman(scores, hashes, limit=n - 1)
    again = mean_spearman(scores[:, moved], hashes[moved], limit=n - 1)
    assert few == again or (np.isnan(few) and np.isnan(again))


def test_sample_belongs_to_the_hashes():
    hashes = hash_uids(map(str, range(50)), 1)
    assert hash_sample(hashes, 5).tolist() == np.argsort(hashes)[:5].tolist()
    assert len(hash_sample(hashes)) == 50 and len(hash_sample(hashes, 0)) == 0


def test_what_is_not_finite_is_left_out():
    a, b = np.array([1, 2, np.nan, 4, 3.0]), np.array([1, 2, 9, np.inf, 3.0])
    assert same_ranking(a, b) == pytest.approx(1)
    hashes = np.arange(5, dtype=np.uint64)
    assert mean_spearman(np.stack([a, b, np.full(5, np.nan)]), hashes) == pytest.approx(1)
    assert np.isnan(mean_spearman(a[None], hashes)) and np.isnan(same_ranking(a, np.zeros(5)))
    assert np.isnan(mean_spearman(np.zeros((3, 5)), hashes))
    assert np.isnan(mean_spearman(np.zeros((2, 0)), hashes[:0]))
    with pytest.raises(CurateError, match=r"scores must be \(R, n\) and hashes \(n,\)"):
        mean_spearman(np.zeros((2, 4)), hashes)
    with pytest.raises(CurateError, match=r"\(n,\) alike, got \(5,\) and \(4,\)"):
        same_ranking(a, b[:4])


def test_projection():
    assert [round(spearman_brown(0.485, k), 3) for k in (5, 10, 20)] == [0.825, 0.904, 0.950]
    assert spearman_brown(1.0, 7) == 1 and spearman_brown(0.0, 7) == 0 and spearman_brown(-0.2, 2) == 0
    assert np.isnan(spearman_brown(np.nan, 2))
    with pytest.raises(CurateError, match="n_seeds must be > 0, got 0"):
        spearman_brown(0.5, 0)


def test_projection_is_what_averaging_does():
    """Seeds = truth + noise: the mean of 5 agrees with another mean of 5 as projected."""
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(20_000) + rng.standard_normal((10, 20_000))
    single = mean_spearman(scores, np.arange(20_000, dtype=np.uint64))
    five = same_ranking(scores[:5].mean(axis=0), scores[5:].mean(axis=0))
    assert spearman_brown(single, 5) == pytest.approx(five, abs=0.02)
