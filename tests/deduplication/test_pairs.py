"""What bfloat16 products propose decides nothing: the answers are those of the definition, on whatever is nasty for them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.deduplication import pairs, semantic
from curate.deduplication.semantic import find_duplicates, near_any, split_large, threshold_of
from curate.linalg import unit_rows
from tests.deduplication.test_semantic import FIELDS, alike, all_similarities, assert_same, by_definition


@st.composite
def nasty(draw):
    """Unit rows with near-ties at any scale, exact copies, opposite rows and rows that are much alike; few numbers or many."""
    n, d = draw(st.integers(1, 70)), draw(st.sampled_from([1, 2, 3, 7, 33, 64]))
    noise = draw(st.sampled_from([0.0, 1e-8, 1e-6, 1e-4, 4e-3, 0.05, 0.5]))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    x = rng.standard_normal((draw(st.integers(1, 5)), d))
    x = x[rng.integers(0, len(x), n)] + noise * rng.standard_normal((n, d))
    if draw(st.booleans()):
        x[rng.random(n) < 0.3] *= -1
    if draw(st.booleans()):  # what all rows share
        x += 20 * rng.standard_normal(d)
    return alike_rows(x, rng)


def alike_rows(x, rng):
    units, valid = unit_rows(x)
    units[~valid] = unit_rows(np.ones((1, x.shape[1])))[0]
    if len(x) > 6:
        units[rng.integers(0, len(x), 3)] = units[rng.integers(0, len(x), 3)]
    return units


@settings(max_examples=120, deadline=None)
@given(nasty(), st.floats(0.01, 0.9999), st.sampled_from(["greedy", "reference"]), st.booleans(), st.data())
def test_by_definition(x, threshold, mode, inclusive, data):
    if data.draw(st.booleans(), "at a similarity there is"):
        threshold = float(
            np.clip(data.draw(st.sampled_from(sorted(set(all_similarities(x).ravel().tolist())))), 0.01, 1)
        )
    n_fixed = data.draw(st.integers(0, len(x)), "fixed")
    tile = data.draw(st.sampled_from([1, 500, 1 << 24]), "tile")
    got = find_duplicates(
        x, threshold=threshold, mode=mode, inclusive=inclusive, fixed=np.arange(len(x)) < n_fixed, cheap=True, tile=tile
    )  # fmt: skip
    assert_same(got, by_definition(x, threshold, mode, inclusive, n_fixed))


@settings(max_examples=40, deadline=None)
@given(nasty(), st.floats(0.3, 0.9999), st.sampled_from(["greedy", "reference"]), st.integers(0, 99))
def test_confirmed_pairs_are_those_of_float32(x, threshold, mode, seed):
    def confirm(row, others):
        return (row * 31 + others * 17 + seed) % 3 == 0

    cheap, exact = (
        find_duplicates(x, threshold=threshold, mode=mode, confirm=confirm, cheap=way)
        for way in (True, False)
    )
    assert_same(cheap, [getattr(exact, name) for name in FIELDS])


@pytest.mark.parametrize("epsilon", [0.05, 0.07, 0.3])
def test_rows_at_exactly_epsilon(epsilon):
    """Directions in the plane whose similarity is the threshold, as near as float32 comes, on either side."""
    threshold = threshold_of(epsilon)
    angle = np.arccos(threshold)
    steps = np.cumsum(np.r_[0.0, angle + np.linspace(-3e-7, 3e-7, 60)])
    x = unit_rows(np.stack([np.cos(steps), np.sin(steps)], axis=1))[0]
    for inclusive in (False, True):
        for mode in ("greedy", "reference"):
            got = find_duplicates(x, threshold=threshold, mode=mode, inclusive=inclusive, cheap=True)
            assert_same(got, by_definition(x, threshold, mode, inclusive))
            assert 0 < got.keep.sum() < len(x)


@pytest.mark.parametrize("spread", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("mode", ["greedy", "reference"])
def test_concepts_of_many_blocks(spread, mode):
    """More than one block and one tile of columns, wide rows: as float32 products say."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal(96) + spread * rng.standard_normal((2700, 96))
    x[1500:1700] = x[:200] + 1e-3 * spread * rng.standard_normal((200, 96))
    x = alike_rows(x, rng)
    cheap, exact = (find_duplicates(x, threshold=0.99, mode=mode, cheap=way) for way in (True, False))
    assert_same(cheap, [getattr(exact, name) for name in FIELDS])
    assert not exact.keep.all()


def test_few_pairs_are_left_of_many_rows(monkeypatch):
    """The point of it all: about one pair of a row is computed, not a thousand."""
    seen = []
    whole = pairs.pair_similarities
    monkeypatch.setattr(
        pairs, "pair_similarities", lambda rows, i, j: seen.append(len(i)) or whole(rows, i, j)
    )
    rng = np.random.default_rng(3)
    x = unit_rows(rng.standard_normal(256) + rng.standard_normal((2048, 256)))[0]
    find_duplicates(x, threshold=0.95, cheap=True)
    assert sum(seen) < 4 * len(x)


def test_too_many_pairs_are_left_to_float32(monkeypatch):
    tried = []
    propose = pairs.Proposals.pairs
    monkeypatch.setattr(
        pairs.Proposals, "pairs", lambda self, a, b: tried.append(propose(self, a, b)) or tried[-1]
    )
    monkeypatch.setattr(semantic.bf16, "ready", lambda: True)
    x = alike(3000, 16, 1e-3)
    got = find_duplicates(x, threshold=0.9)
    assert tried == [None, None]  # two blocks, then no more
    exact = find_duplicates(x, threshold=0.9, cheap=False)
    assert_same(got, [getattr(exact, name) for name in FIELDS])


@settings(max_examples=40, deadline=None)
@given(nasty(), st.floats(0.05, 0.9999))
def test_near_any_finds_all_pairs(x, threshold):
    near = near_any(x, threshold=threshold, cheap=True)
    s = all_similarities(x)
    np.fill_diagonal(s, -1)
    assert near[(s >= np.float32(threshold)).any(axis=1)].all()
    sure = (s < threshold - 1e-4).all(axis=1)
    assert not near[sure].any()


def test_large_concepts_split_and_compared():
    x = alike(900, 24, 0.2, groups=9)
    ids = split_large(x, 150, seed=1)
    for one in np.unique(ids):
        part = x[ids == one]
        cheap, exact = (find_duplicates(part, threshold=0.97, cheap=way) for way in (True, False))
        assert_same(cheap, [getattr(exact, name) for name in FIELDS])


def test_no_rows_and_one():
    for n in (0, 1):
        got = find_duplicates(np.ones((n, 1), np.float32), threshold=0.9, cheap=True)
        assert got.keep.all()
        assert np.isnan(got.max_similarity_earlier).all()
