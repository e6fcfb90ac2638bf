import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from curate.deduplication import similarity
from curate.deduplication.semantic import (
    find_duplicates,
    near_any,
    split_large,
    threshold_for_share,
    threshold_of,
)
from curate.errors import CurateError, EmbeddingError, RecipeError
from curate.linalg import row_dots, unit_rows

FIELDS = ("max_similarity_earlier", "duplicate_of", "similarity")


def rows(n, d, seed=0):
    return unit_rows(np.random.default_rng(seed).standard_normal((n, d)))[0]


def alike(n, d, noise, seed=0, groups=3):
    """Rows around a few directions, some of them exact copies of others."""
    rng = np.random.default_rng(seed)
    x = unit_rows(
        rng.standard_normal((groups, d))[rng.integers(0, groups, n)] + noise * rng.standard_normal((n, d))
    )[0]
    x[rng.integers(0, n, n // 6)] = x[rng.integers(0, n, n // 6)]
    return x


def all_similarities(x):
    return np.stack([np.clip(row_dots(x, one[None]), -1, 1) for one in x]).astype(np.float32)


def by_definition(x, threshold, mode, inclusive=False, n_fixed=0):
    """One row at a time, from the words of the docstring."""
    s, n = all_similarities(x).astype(np.float64), len(x)
    equal_to = [next(i for i in range(j + 1) if (x[i] == x[j]).all()) for j in range(n)]
    largest, of, similar = np.full(n, np.nan), np.full(n, -1), np.full(n, np.nan)
    for j in range(n):
        first = equal_to[j]
        earlier = [i for i in range(j) if equal_to[i] == i]
        if first < j:
            largest[j] = s[j, j]
            if j < n_fixed:
                continue
            follow = mode == "greedy" and of[first] >= 0
            of[j], similar[j] = (of[first], similar[first]) if follow else (first, s[j, j])
            continue
        if earlier:
            largest[j] = max(s[j, i] for i in earlier)
        if j < n_fixed:
            continue
        pool = [i for i in earlier if mode == "reference" or of[i] < 0]
        best = max(pool, key=lambda i: (s[j, i], -i), default=None)
        if best is not None and (s[j, best] > threshold or (inclusive and s[j, best] == threshold)):
            of[j], similar[j] = best, s[j, best]
    return largest, of, similar


def assert_same(got, want):
    for name, expected in zip(FIELDS, want, strict=True):
        np.testing.assert_array_equal(getattr(got, name), expected, err_msg=name)


@pytest.mark.parametrize("mode", ["greedy", "reference"])
@pytest.mark.parametrize("noise", [1e-8, 1e-6, 1e-4, 0.05, 0.5])
@pytest.mark.parametrize("tile", [1, 300, 1 << 24])
@pytest.mark.parametrize("dim", [12, 400])  # a block of short rows is multiplied with itself in another way
def test_by_definition(mode, noise, tile, dim):
    x = alike(40, dim, noise)
    s = all_similarities(x)
    for threshold in (
        0.2,
        float(np.quantile(s, 0.7)),
        float(np.quantile(s, 0.9)),
        float(np.sort(s, None)[-200]),
    ):
        for inclusive in (False, True):
            got = find_duplicates(x, threshold=threshold, mode=mode, inclusive=inclusive, tile=tile)
            assert_same(got, by_definition(x, threshold, mode, inclusive))


@pytest.mark.parametrize("mode", ["greedy", "reference"])
@pytest.mark.parametrize("noise", [1e-6, 1e-4, 0.05, 0.5])
@pytest.mark.parametrize("n_fixed", [0, 1, 9, 40])
def test_fixed_rows_by_definition(mode, noise, n_fixed):
    x = alike(40, 12, noise, seed=n_fixed)
    x[3:6] = x[30:33] = x[0]
    s = all_similarities(x)
    for threshold in (0.2, float(np.quantile(s, 0.7)), float(np.quantile(s, 0.9))):
        for tile in (1, 300, 1 << 24):
            got = find_duplicates(x, threshold=threshold, mode=mode, fixed=np.arange(40) < n_fixed, tile=tile)
            assert_same(got, by_definition(x, threshold, mode, n_fixed=n_fixed))
            assert got.keep[:n_fixed].all()
            assert not got.keep[max(1, n_fixed) :].all() or n_fixed == 40


def test_fixed_rows_come_first():
    x = rows(4, 6)
    for wrong in ([False, True, False, False], [True] * 3):
        with pytest.raises(CurateError, match="fixed rows must be the first of 4"):
            find_duplicates(x, threshold=0.5, fixed=np.array(wrong))


@pytest.mark.parametrize("noise", [1e-7, 1e-4, 0.3])
def test_matrix_products_and_pairs_agree(noise, monkeypatch):
    x = alike(100, 20, noise)
    threshold = float(np.median(all_similarities(x)))
    monkeypatch.setattr(similarity, "_COLUMNS", 37)
    found = []
    for few in (0, 10**9):
        monkeypatch.setattr(similarity, "_FEW", few)
        found += [find_duplicates(x, threshold=threshold, mode=mode) for mode in ("greedy", "reference")]
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[2], name))
        np.testing.assert_array_equal(getattr(found[1], name), getattr(found[3], name))
    assert_same(found[0], by_definition(x, threshold, "greedy"))


@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([1e-5, 0.1, 1.0]), st.floats(0.05, 0.999))
@settings(max_examples=40, deadline=None)
def test_laws(seed, n, noise, threshold):
    x = alike(n, 6, noise, seed)
    s = all_similarities(x)
    greedy = find_duplicates(x, threshold=threshold)
    reference = find_duplicates(x, threshold=threshold, mode="reference")
    assert greedy.keep[0]  # (a) and the first row is always kept
    kept = np.flatnonzero(greedy.keep)
    pairs = s[np.ix_(kept, kept)][np.triu_indices(len(kept), 1)]
    assert (pairs.astype(np.float64) <= threshold).all()  # (b)
    for j in np.flatnonzero(~greedy.keep):  # (c)
        i = greedy.duplicate_of[j]
        assert i < j and greedy.keep[i] and greedy.similarity[j] == s[j, i]
        assert s[j, i].astype(np.float64) > threshold or (x[i] == x[j]).all()
    assert find_duplicates(x[kept], threshold=threshold).keep.all()  # (d)
    lower = find_duplicates(x, threshold=threshold - 0.04, mode="reference")
    assert (reference.keep | ~lower.keep).all()  # (e)
    assert (greedy.keep | ~reference.keep).all()  # (f)
    for one in kept:  # (h)
        assert (x[kept] == x[one]).all(axis=1).sum() == 1
    copies = np.array([(x[:j] == x[j]).all(axis=1).any() for j in range(n)], bool)
    largest = reference.max_similarity_earlier.astype(np.float64)
    np.testing.assert_array_equal(~reference.keep, (largest > threshold) | copies)


def test_chain_of_three():
    angles = np.radians([0, 20, 40])
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    threshold = np.cos(np.radians(25))
    greedy = find_duplicates(chain, threshold=threshold)
    assert greedy.keep.tolist() == [True, False, True] and greedy.duplicate_of.tolist() == [-1, 0, -1]
    reference = find_duplicates(chain, threshold=threshold, mode="reference")
    assert reference.keep.tolist() == [True, False, False] and reference.duplicate_of.tolist() == [-1, 0, 1]
    np.testing.assert_allclose(greedy.max_similarity_earlier[1:], np.cos(np.radians(20)), rtol=1e-6)


def test_copies_and_signed_zeros():
    x = np.array([[0, 1], [1, 0], [-0.0, 1], [0, 1]], np.float32)
    got = find_duplicates(x, threshold=0.9999999)
    assert got.duplicate_of.tolist() == [-1, -1, 0, 0]
    assert got.similarity[2:].tolist() == [1, 1]
    assert got.max_similarity_earlier[1:].tolist() == [0, 1, 1]


def test_copies_follow_a_dropped_original():
    x = unit_rows(np.array([[1.0, 0.0], [1.0, 0.01], [1.0, 0.01]]))[0]
    assert find_duplicates(x, threshold=0.9).duplicate_of.tolist() == [-1, 0, 0]
    assert find_duplicates(x, threshold=0.9, mode="reference").duplicate_of.tolist() == [-1, 0, 1]


def test_orthogonal_rows_are_kept():
    assert find_duplicates(np.eye(50, dtype=np.float32), threshold=0.1).keep.all()
    assert find_duplicates(np.eye(50, dtype=np.float32), threshold=0.0).keep.all()


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_to_compare(n):
    got = find_duplicates(rows(n, 4), threshold=0.5)
    assert got.keep.tolist() == [True] * n and np.isnan(got.max_similarity_earlier).all()


def test_inclusive_at_the_threshold():
    x = np.array([[1, 0], [0.6, 0.8]], np.float32)
    exact = float(find_duplicates(x, threshold=0.9).max_similarity_earlier[1])
    assert find_duplicates(x, threshold=exact).keep.all()
    assert not find_duplicates(x, threshold=exact, inclusive=True).keep.all()
    assert not find_duplicates(x, threshold=exact - 1e-12).keep.all()
    assert find_duplicates(x, threshold=exact + 1e-12, inclusive=True).keep.all()


def test_independent_of_order_before_sorting_and_of_tile():
    x = alike(700, 32, 0.2)
    priority = np.arange(700)
    want = find_duplicates(x, threshold=0.9)
    moved = np.random.default_rng(5).permutation(700)
    sorted_again = x[moved][np.argsort(priority[moved])]
    for tile in (1 << 12, 1 << 16):
        assert_same(
            find_duplicates(sorted_again, threshold=0.9, tile=tile), [getattr(want, f) for f in FIELDS]
        )


def test_independent_of_threads():
    x, found = alike(1200, 64, 0.1), []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(find_duplicates(x, threshold=0.95))
    assert_same(found[0], [getattr(found[1], f) for f in FIELDS])


def test_many_equal_and_many_almost_equal_rows():
    equal = find_duplicates(np.repeat(rows(1, 32), 10_000, axis=0), threshold=0.9)
    assert equal.keep.sum() == 1 and (equal.duplicate_of[1:] == 0).all()
    x = unit_rows(rows(1, 32) + 1e-4 * np.random.default_rng(0).standard_normal((3000, 32)))[0]
    got = find_duplicates(x, threshold=0.95)
    assert got.keep.sum() == 1 and (got.duplicate_of[1:] == 0).all()
    np.testing.assert_array_equal(
        got.similarity[1:], np.clip(row_dots(x[1:], x[:1]), -1, 1).astype(np.float32)
    )


def test_find_duplicates_refuses():
    with pytest.raises(RecipeError, match="greedy or reference, got 'best'"):
        find_duplicates(rows(2, 2), threshold=0.5, mode="best")
    with pytest.raises(EmbeddingError, match="finite"):
        find_duplicates(np.array([[np.nan, 1]], np.float32), threshold=0.5)


@pytest.mark.parametrize(("epsilon", "threshold"), [(0.07, 0.93), ("0.1", 0.9), (0.9, 0.1), (1e-6, 0.999999)])
def test_threshold_of(epsilon, threshold):
    assert threshold_of(epsilon) == threshold


@pytest.mark.parametrize("epsilon", [0, -0.1, 1, 1.5, "none", float("nan")])
def test_threshold_refuses(epsilon):
    with pytest.raises(RecipeError, match=r"dedup.epsilon must be .*in \(0, 1\), got"):
        threshold_of(epsilon)


def test_tiny_epsilon_warns(caplog):
    with caplog.at_level(logging.WARNING):
        assert threshold_of(1e-7) == 0.9999999
    assert "dedup.epsilon 1e-07 is below" in caplog.text


@given(
    st.lists(
        st.one_of(st.just(np.nan), st.floats(-1, 1, width=32), st.sampled_from([0.5, 0.75, 1.0])), max_size=30
    ),
    st.integers(1, 99),
)
def test_share_is_the_nearest_there_is(values, percent):
    x = np.array(values, np.float32)
    epsilon, dropped = threshold_for_share(x, percent / 100)
    threshold = threshold_of(epsilon)
    assert (x.astype(np.float64) > threshold).sum() == dropped
    with np.errstate(invalid="ignore"):
        steps = {int((x >= v).sum()) for v in x if v > 1e-6} | ({0} if not (x == 1).any() else set())
    wanted = percent * len(x) / 100
    assert abs(dropped - wanted) == min((abs(s - wanted) for s in steps), default=wanted)


@pytest.mark.parametrize("share", [0, 1, 1.2, "a lot"])
def test_share_refuses(share):
    with pytest.raises(RecipeError, match=r"dedup.epsilon.drop must be .*in \(0, 1\), got"):
        threshold_for_share(np.zeros(3, np.float32), share)


@pytest.mark.parametrize("max_rows", [1, 7, 50, 299, 300])
def test_split_large(max_rows):
    x = alike(300, 8, 0.3)
    groups = split_large(x, max_rows, seed=1)
    distinct = [len(np.unique(x[groups == g] + 0.0, axis=0)) for g in range(groups.max() + 1)]
    assert 1 <= min(distinct) and max(distinct) <= max_rows
    assert groups.dtype == np.int32
    np.testing.assert_array_equal(groups, split_large(x, max_rows, seed=1))
    if max_rows >= 300:
        assert not groups.any()


def test_split_keeps_equal_rows_together():
    x = np.repeat(rows(4, 8), 50, axis=0)
    groups = split_large(x, 2, seed=0)
    assert all(len(set(groups[50 * i : 50 * i + 50].tolist())) == 1 for i in range(4))
    assert not split_large(x, 4, seed=0).any()
    assert split_large(x[:0], 4, seed=0).shape == (0,)
    with pytest.raises(RecipeError, match="at least 1, got 0"):
        split_large(x, 0, seed=0)


def confirmed_by_definition(x, threshold, mode, confirms, n_fixed):
    """One row at a time: the most similar confirmed one of the 16 most similar earlier (kept) rows."""
    s, n = all_similarities(x).astype(np.float64), len(x)
    of, similar = np.full(n, -1), np.full(n, np.nan)
    for j in range(n_fixed, n):
        pool = [i for i in range(j) if mode == "reference" or of[i] < 0]
        near = sorted((i for i in pool if s[j, i] > threshold), key=lambda i: (-s[j, i], i))[:16]
        if yes := [i for i in near if confirms[j, i]]:
            of[j], similar[j] = yes[0], s[j, yes[0]]
    return of, similar


@pytest.mark.parametrize("mode", ["greedy", "reference"])
@pytest.mark.parametrize(("noise", "n_fixed", "tile"), [(0.1, 0, 1 << 24), (0.02, 5, 300), (0.2, 0, 64)])
def test_pairs_that_nothing_confirms_are_no_duplicates(mode, noise, n_fixed, tile):
    x = alike(90, 8, noise, seed=2)
    confirms = np.random.default_rng(7).random((90, 90)) < 0.1
    asked = []

    def confirm(row, others):
        asked.append(len(others))
        return confirms[row, others]

    found = find_duplicates(
        x, threshold=0.9, mode=mode, confirm=confirm, tile=tile, fixed=np.arange(90) < n_fixed
    )
    of, similar = confirmed_by_definition(x, 0.9, mode, confirms, n_fixed)
    np.testing.assert_array_equal(found.duplicate_of, of)
    np.testing.assert_array_equal(found.similarity, similar.astype(np.float32))
    assert 0 < (of >= 0).sum() and max(asked) == 16
    largest = [max(s[:j], default=np.nan) for j, s in enumerate(all_similarities(x))]
    np.testing.assert_array_equal(found.max_similarity_earlier, np.array(largest, np.float32))


def test_rows_that_may_be_in_a_pair_are_all_that_are():
    x = alike(70, 8, 0.2, seed=3)
    s = all_similarities(x) - 3 * np.eye(70)
    for threshold in (0.5, 0.9, 0.99):
        found = near_any(x, threshold=threshold, tile=500)
        assert (
            found[(s > threshold).any(axis=1)].all() and not found[(s < threshold - 0.01).all(axis=1)].any()
        )
