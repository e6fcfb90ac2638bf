import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import BudgetError, RunError
from curate.ordering.group_cutoff import nth_smallest_by_group
from curate.ordering.keys import rank_within


def shards(*columns):
    return lambda: iter(zip(*(np.array_split(column, 3) for column in columns), strict=True))


@given(
    st.integers(0, 80), st.integers(1, 5), st.integers(0, 10**6), st.sampled_from([2, 9, 1 << 64]),
    st.sampled_from([1, 64, 1 << 12]), st.sampled_from([0, 5, 1 << 20]),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_by_sorting(total, k, seed, spread, counters, gather):
    rng = np.random.default_rng(seed)
    group = rng.integers(0, k, total)
    key = rng.integers(0, spread, total, dtype=np.uint64, endpoint=False)
    tie = rng.integers(0, 1 << 64, total, dtype=np.uint64, endpoint=False)
    n = rng.integers(0, np.bincount(group, minlength=k) + 1)
    cuts = nth_smallest_by_group(shards(group, key, tie), n, counters=counters, gather=gather)
    rank = rank_within(group, key, tie, np.arange(total).astype(str))
    assert cuts.holds(group, key, tie).tolist() == (rank <= n[group]).tolist()


def test_few_passes_for_uniform_keys_and_all_equal_ones():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 50, 100_000)
    key = rng.integers(0, 1 << 64, len(group), dtype=np.uint64, endpoint=False)
    passes = []

    def read():
        passes.append(1)
        return shards(group, key, key)()

    n = np.bincount(group) // 3
    cuts = nth_smallest_by_group(read, n, gather=2000)
    assert len(passes) <= 3 and (np.bincount(group[cuts.holds(group, key, key)]) == n).all()
    same = np.full(len(group), (1 << 64) - 1, np.uint64)
    cuts = nth_smallest_by_group(shards(group, same, same), n, gather=0)
    assert (cuts.key == same[0]).all() and (cuts.tie == same[0]).all()


def test_refusals():
    group, zero = np.array([0, 1, 1]), np.zeros(3, np.uint64)
    with pytest.raises(BudgetError, match="2 rows of group 0 asked for, there are 1"):
        nth_smallest_by_group(shards(group, zero, zero), np.array([2, 2]))
    with pytest.raises(BudgetError, match="at least 0, got -1"):
        nth_smallest_by_group(shards(group, zero, zero), np.array([0, -1]))
    for gather in (0, 100):
        sizes = iter([6, 5, 4])

        def read(sizes=sizes):
            rows = np.zeros(next(sizes), np.uint64)
            return iter([(rows.astype(int), rows, rows)])

        with pytest.raises(RunError, match="6 candidates of group 0, then 5"):
            nth_smallest_by_group(read, np.array([3]), gather=gather)


def test_nothing_to_keep_reads_nothing():
    cuts = nth_smallest_by_group(None, np.zeros(2, int))
    assert not cuts.holds(np.array([0, 1]), np.zeros(2, np.uint64), np.zeros(2, np.uint64)).any()
