from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import BudgetError
from curate.ordering.group_cutoff import nth_smallest_by_group
from curate.selection.quotas import quotas
from tests.reference.selection import take_quotas


@pytest.mark.parametrize(
    ("sizes", "n_keep", "floor", "want"),
    [
        ([1, 9, 90], 10, 1, [1, 2, 7]),
        ([5, 5], 5, 1, [3, 2]),
        ([5, 5], 10, 1, [5, 5]),
        ([5, 0, 5], 2, 1, [1, 0, 1]),
        ([5, 5], 0, 0, [0, 0]),
        ([3, 9], 6, [3, 1], [3, 3]),
        ([], 0, 1, []),
    ],
)
def test_by_hand(sizes, n_keep, floor, want):
    floor = floor if isinstance(floor, int) else np.array(floor)
    assert quotas(np.array(sizes, int), n_keep, floor).tolist() == want


def test_floors_that_do_not_fit_name_the_groups():
    with pytest.raises(
        BudgetError, match=r"add up to 11, more than the 10 .*cat: 5 of 9, dog: 5 of 90, ant: 1 of 1"
    ):
        quotas(np.array([1, 9, 90]), 10, 5, ["ant", "cat", "dog"])
    with pytest.raises(BudgetError, match=r"0: 1 of 2, .* and 2 more\)"):
        quotas(np.full(12, 2), 3)


@pytest.mark.parametrize(
    ("sizes", "n_keep", "floor"), [([2], 3, 1), ([2], -1, 0), ([2], 1, -1), ([-2], 0, 0)]
)
def test_refusals(sizes, n_keep, floor):
    with pytest.raises(BudgetError, match=r"the groups have 2|at least 0"):
        quotas(np.array(sizes), n_keep, floor)


def by_definition(sizes, n_keep, floor):
    floors = [min(size, floor) for size in sizes]
    room = [size - least for size, least in zip(sizes, floors, strict=True)]
    rest = n_keep - sum(floors)
    exact = [Fraction(rest * one, max(1, sum(room))) for one in room]
    kept = [least + int(share) for least, share in zip(floors, exact, strict=True)]
    order = sorted(range(len(sizes)), key=lambda i: (int(exact[i]) - exact[i], i))
    for i in order[: n_keep - sum(kept)]:
        kept[i] += 1
    return kept


@given(st.lists(st.integers(0, 50), min_size=1, max_size=10), st.integers(0, 4), st.data())
@settings(max_examples=150, deadline=None)
def test_by_definition_and_laws(sizes, floor, data):
    n_keep = data.draw(st.integers(sum(min(size, floor) for size in sizes), sum(sizes)))
    got = quotas(np.array(sizes), n_keep, floor)
    assert got.tolist() == by_definition(sizes, n_keep, floor)
    assert got.sum() == n_keep and (got <= sizes).all() and (got >= np.minimum(sizes, floor)).all()


def test_counts_of_billions_stay_exact():
    sizes = np.array([4_000_000_001, 6_000_000_000, 1])
    assert quotas(sizes, 5_000_000_001).sum() == 5_000_000_001


@given(st.integers(0, 50), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_rows_of_each_group_in_memory_and_from_shards(n, seed):
    rng = np.random.default_rng(seed)
    group, key = rng.integers(0, 4, n), rng.integers(0, 3, n).astype(np.uint64)
    tie = rng.permutation(n).astype(np.uint64)
    quota = rng.integers(0, np.bincount(group, minlength=4) + 1)
    keep = take_quotas(group, key, tie, np.arange(n).astype(str), quota)
    for g in range(4):
        members = sorted(np.flatnonzero(group == g), key=lambda i: (key[i], tie[i]))
        assert np.flatnonzero(keep & (group == g)).tolist() == sorted(members[: quota[g]])
    cuts = nth_smallest_by_group(lambda: iter([(group, key, tie)]), quota)
    assert cuts.holds(group, key, tie).tolist() == keep.tolist()


@pytest.mark.parametrize("quota", [[2, 0], [0, -1], [1]])
def test_quota_beyond_its_group(quota):
    zero = np.zeros(2, np.uint64)
    with pytest.raises(BudgetError, match="between 0 and the rows of its group"):
        take_quotas(np.array([0, 1]), zero, zero, np.array(["a", "b"]), np.array(quota))
