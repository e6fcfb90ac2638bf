import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import BudgetError, RunError
from curate.ordering.cutoff import nth_smallest
from curate.ordering.keys import priority_key


def shards(key, tie, cuts=4):
    return lambda: iter(zip(np.array_split(key, cuts), np.array_split(tie, cuts), strict=True))


def by_sorting(key, tie, n):
    row = np.lexsort((tie, key))[n - 1]
    return int(key[row]), int(tie[row])


@given(
    st.integers(1, 200), st.integers(0, 10**6), st.sampled_from([2, 9, 1 << 64]), st.sampled_from([5, 16, 20]),
    st.sampled_from([0, 3, 1 << 20]), st.data(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_equals_sorting(total, seed, spread, bits, gather, data):
    rng = np.random.default_rng(seed)
    key = rng.integers(0, spread, total, dtype=np.uint64, endpoint=False)
    tie = rng.integers(0, 1 << 64, total, dtype=np.uint64, endpoint=False)
    n = data.draw(st.integers(1, total))
    cut = nth_smallest(shards(key, tie), n, bits=bits, gather=gather)
    assert cut == by_sorting(key, tie, n)
    pairs = list(zip(key.tolist(), tie.tolist(), strict=True))
    assert sum(pair <= cut for pair in pairs) == n


def test_all_pairs_equal():
    same = np.full(50, (1 << 64) - 1, np.uint64)
    for gather in (0, 100):
        assert nth_smallest(shards(same, same), 7, gather=gather) == ((1 << 64) - 1, (1 << 64) - 1)


def test_few_passes_for_scores():
    rng = np.random.default_rng(0)
    key = priority_key(rng.random(200_000).astype(np.float32))
    tie = rng.integers(0, 1 << 64, len(key), dtype=np.uint64, endpoint=False)
    passes = []

    def read():
        passes.append(1)
        return shards(key, tie, 20)()

    assert nth_smallest(read, 60_000, gather=2000) == by_sorting(key, tie, 60_000)
    assert len(passes) <= 3


def test_ends_of_the_range():
    rng = np.random.default_rng(1)
    key, tie = rng.integers(0, 9, 30, dtype=np.uint64), rng.integers(0, 9, 30, dtype=np.uint64)
    assert nth_smallest(shards(key, tie), 0) is None
    assert nth_smallest(shards(key, tie), 30) == max(zip(key.tolist(), tie.tolist(), strict=True))
    assert nth_smallest(shards(key, tie), 1) == min(zip(key.tolist(), tie.tolist(), strict=True))
    with pytest.raises(BudgetError, match="31 rows asked for, there are 30"):
        nth_smallest(shards(key, tie), 31)
    with pytest.raises(BudgetError, match="at least 0, got -1"):
        nth_smallest(shards(key, tie), -1)
    with pytest.raises(BudgetError, match="there are 0"):
        nth_smallest(lambda: iter(()), 1)


@pytest.mark.parametrize("gather", [0, 100])
def test_rows_that_change_between_passes(gather):
    sizes = iter([10, 9, 8])

    def read():
        zero = np.zeros(next(sizes), np.uint64)
        return iter([(zero, zero)])

    with pytest.raises(RunError, match="10 candidates, then 9"):
        nth_smallest(read, 3, gather=gather)
