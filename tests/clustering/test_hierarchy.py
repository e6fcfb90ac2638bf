"""Concepts in levels: against k-means and resampling as they are defined, in plain NumPy and Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import curate
from curate.clustering.hierarchy import (
    Resampling,
    ancestors,
    fit_levels,
    members_to_take,
    nearest_members,
)
from curate.clustering.kmeans import assign, fit
from curate.errors import EmbeddingError, UsageError
from curate.hashing import hash_uids
from curate.linalg import unit_rows

NONE = Resampling(steps=0)


def rows(n, d, seed=0):
    return unit_rows(np.random.default_rng(seed).standard_normal((n, d)))[0]


def nested(tops, groups, each, seed=0):
    """Return rows in `groups` tight groups around each of `tops` directions, and which group each is in."""
    rng = np.random.default_rng(seed)
    top = np.eye(24)[:tops]
    centres = (top[:, None] + 0.25 * np.eye(24)[tops : tops + groups]).reshape(-1, 24)
    group = np.repeat(np.arange(tops * groups), each)
    rng.shuffle(group)
    return unit_rows(centres[group] + 0.01 * rng.standard_normal((len(group), 24)))[0], group


def lloyd(x, centres, rounds=30):
    """Return the centroids and the clusters that spherical k-means converges to from a start, by its definition."""
    x, centres = x.astype(np.float64), centres.astype(np.float64)
    for _ in range(rounds):
        own = (x @ centres.T).argmax(axis=1)
        sums = np.stack([x[own == j].sum(axis=0) for j in range(len(centres))])
        centres = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return centres, own


def same_partition(a, b):
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


def test_levels_are_those_of_k_means_by_its_definition():
    """Each level is where k-means in NumPy comes to rest, and with a lucky start it is the best one there is."""
    x, group = nested(2, 3, 25)
    perfect = 0
    for seed in range(12):
        found = fit_levels(x, [6, 2], seed=seed, resampling=NONE)
        concept, _ = assign(x, found.finest.centroids)
        centres, own = lloyd(x, found.finest.centroids)
        np.testing.assert_allclose(found.finest.centroids, centres, atol=1e-5)
        np.testing.assert_array_equal(concept, own)
        (parent,) = found.parents
        start = np.stack([found.finest.centroids[parent == t].mean(axis=0) for t in range(2)])
        start /= np.linalg.norm(start, axis=1, keepdims=True)
        np.testing.assert_array_equal(parent, lloyd(found.finest.centroids, start)[1])
        if same_partition(concept, group):
            perfect += 1
            tops = np.array([group[np.flatnonzero(concept == j)[0]] // 3 for j in range(6)])
            perfect += same_partition(parent, tops)
    assert perfect >= 2


def by_definition(x, levels, seed, steps, members):
    """Return centroids and parents of all levels; each k-means by `fit`, all else from the definition."""
    below, parents, finest = x, [], None
    for level, k in enumerate(levels, 1):
        centroids = fit(below, k, seed=seed).centroids
        count = members or -(-len(below) // (2 * len(centroids)))
        for step in range(steps if count > 1 else 0):
            own, distance = assign(below, centroids)
            picks = []
            for j in range(len(centroids)):
                inside = [i for i in range(len(below)) if own[i] == j]
                picks += sorted(inside, key=lambda i: (distance[i], i))[:count]
            start = int(hash_uids([f"{level} {step}"], seed, "cluster", "resample")[0]) // 2**33
            again = fit(below[sorted(picks)], k, seed=start).centroids
            own, _ = assign(below, again)
            sizes, first = (
                np.bincount(own, minlength=len(again)),
                {j: i for i, j in reversed(list(enumerate(own)))},
            )
            order = sorted(first, key=lambda j: (-sizes[j], first[j]))
            centroids = unit_rows(again)[0][order]
        if finest is None:
            finest = centroids
        else:
            parents.append(assign(below, centroids)[0])
        below = centroids
    return finest, parents


@pytest.mark.parametrize(("steps", "members"), [(0, None), (1, None), (3, 2), (2, 1), (2, 1000)])
def test_each_level_and_step_by_its_definition(steps, members):
    x = rows(300, 8)
    want, parents = by_definition(x, [30, 9, 2], 5, steps, members)
    got = fit_levels(x, [30, 9, 2], seed=5, resampling=Resampling(steps, members))
    np.testing.assert_array_equal(got.finest.centroids, want)
    assert [one.tolist() for one in got.parents] == [one.tolist() for one in parents]
    assert got.sizes == (30, 9, 2)


def test_one_level_without_resampling_is_k_means():
    x = rows(400, 8)
    plain, found = fit(x, 20, seed=3), fit_levels(x, [20], seed=3, resampling=NONE)
    np.testing.assert_array_equal(found.finest.centroids, plain.centroids)
    assert found.finest.objective == plain.objective and found.parents == ()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=40), st.integers(1, 9))
def test_nearest_members_by_definition(members, count):
    concept = np.array([c for c, _ in members], np.int32)
    distance = np.array([d / 4 for _, d in members], np.float32)
    want = [
        i for i in range(len(members))
        if sum(
            concept[j] == concept[i] and (distance[j], j) < (distance[i], i) for j in range(len(members))
        ) < count
    ]  # fmt: skip
    assert nearest_members(concept, distance, count).tolist() == want


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(2, 5), st.integers(0, 3), st.data())
def test_rows_are_in_one_concept_of_each_level(n, d, steps, data):
    x = rows(n, d, data.draw(st.integers(0, 9)))[
        data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=80))
    ]
    levels = sorted(data.draw(st.sets(st.integers(1, 70), min_size=1, max_size=4)), reverse=True)
    found = fit_levels(np.ascontiguousarray(x), levels, seed=0, resampling=Resampling(steps))
    assert all(got <= asked for got, asked in zip(found.sizes, levels, strict=True))
    assert all(a >= b for a, b in zip(found.sizes, found.sizes[1:], strict=False))
    assert found.finest.sizes.sum() == len(x) and (found.finest.sizes > 0).all()
    for above, size in zip(ancestors(found.parents), found.sizes[1:], strict=True):
        assert above.shape == (found.sizes[0],)
        assert sorted(set(above.tolist())) == list(range(size))


def test_a_level_is_the_union_of_what_is_below():
    parents = [np.array([0, 1, 2, 1, 0], np.int32), np.array([1, 0, 1], np.int32), np.array([0, 0], np.int32)]
    two, three, four = ancestors(parents)
    assert two.tolist() == [0, 1, 2, 1, 0]
    assert three.tolist() == [[1, 0, 1][one] for one in two]
    assert four.tolist() == [0] * 5
    assert ancestors([]) == ()


@pytest.mark.parametrize(
    ("n", "k", "asked", "want"), [(10, 5, None, 1), (11, 5, None, 2), (100, 7, None, 8), (5, 5, 3, 3)]
)
def test_members_to_take(n, k, asked, want):
    assert members_to_take(n, k, asked) == want


def test_edges():
    one = rows(1, 4)
    found = fit_levels(one, [5, 3, 2], seed=0, resampling=Resampling(4))
    assert found.sizes == (1, 1, 1) and [p.tolist() for p in found.parents] == [[0], [0]]
    equal = np.repeat(rows(1, 4), 9, axis=0)
    assert fit_levels(equal, [3, 2], seed=0, resampling=Resampling(4)).sizes == (1, 1)
    few = rows(4, 4)
    assert fit_levels(few, [4, 2], seed=0, resampling=Resampling(2, members=5)).sizes == (4, 2)
    with pytest.raises(EmbeddingError, match="at least 1 usable vector"):
        fit_levels(np.empty((0, 4), np.float32), [2], seed=0, resampling=NONE)
    with pytest.raises(EmbeddingError, match="at least 1 level"):
        fit_levels(one, [], seed=0, resampling=NONE)


def test_levels_and_resampling_reach_what_is_rare():
    """Of 4,000 rows 95 % are in one crowd: plain k-means gives it most centroids, resampling does not."""
    rng = np.random.default_rng(0)
    crowd = np.eye(16)[0] + 0.15 * rng.standard_normal((3800, 16))
    rest = rng.standard_normal((200, 16))
    x = unit_rows(np.concatenate([crowd, rest]))[0]

    def in_crowd(centroids):
        return float((centroids[:, 0] > 0.75).mean())

    plain = in_crowd(fit(x, 40, seed=0).centroids)
    again = in_crowd(fit_levels(x, [40], seed=0, resampling=Resampling(10, 10)).finest.centroids)
    assert plain > 0.7 and again < 0.5 * plain


def test_in_memory_takes_levels():
    x = rows(200, 6)
    groups = curate.cluster(x, levels=[20, 5], resamples=2, seed=4)
    want = fit_levels(x, [20, 5], seed=4, resampling=Resampling(2))
    np.testing.assert_array_equal(groups.centroids, want.finest.centroids)
    assert [one.tolist() for one in groups.parents] == [one.tolist() for one in want.parents]
    assert groups.sizes.sum() == 200
    assert curate.cluster(x, 20).parents == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 3, "levels": [3]}, "takes one of k and levels"),
        ({"levels": []}, "levels must be a list"),
        ({"levels": [3, 0]}, "levels must be whole numbers of at least 1"),
        ({"levels": [3, 3]}, "levels must get fewer"),
        ({"levels": [3], "resamples": -1}, "resamples must be at least 0"),
        ({"levels": [3], "resample_members": 0}, "resample_members at least 1"),
    ],
)
def test_levels_in_memory_are_checked(settings, message):
    with pytest.raises(UsageError, match=message):
        curate.cluster(rows(9, 3), **settings)
