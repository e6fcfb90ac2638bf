import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from curate.errors import CurateError, RecipeError
from curate.ordering.keys import priority_key, rank_within

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(hnp.arrays(np.float64, st.integers(0, 30), elements=finite))
def test_key_has_the_order_of_the_values(values):
    easy, hard = priority_key(values, "easiest"), priority_key(values, "hardest")
    assert easy.dtype == np.uint64
    np.testing.assert_array_equal(easy[:, None] < easy, values[:, None] < values)
    np.testing.assert_array_equal(hard[:, None] < hard, values[:, None] > values)
    np.testing.assert_array_equal(easy[:, None] == easy, values[:, None] == values)


def test_key_of_both_zeros_and_of_single_precision():
    assert len(set(priority_key(np.array([-0.0, 0.0])).tolist())) == 1
    single = np.array([0.1, -0.5, 3e38], np.float32)
    np.testing.assert_array_equal(priority_key(single), priority_key(single.astype(np.float64)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_key_refuses_what_is_not_finite(value):
    with pytest.raises(CurateError, match=f"row 1 is {value}"):
        priority_key(np.array([0.0, value]))


def test_key_refuses_another_preference():
    with pytest.raises(RecipeError, match="hardest or easiest, got 'random'"):
        priority_key(np.zeros(1), "random")


def rank_by_sorting(concept, key, tie, uid):
    ranks = np.zeros(len(key), int)
    for c in set(concept.tolist()):
        members = [i for i in range(len(key)) if concept[i] == c]
        members.sort(key=lambda i: (key[i], tie[i], uid[i].encode()))
        for place, i in enumerate(members):
            ranks[i] = place + 1
    return ranks


@given(st.integers(0, 40), st.integers(0, 100))
def test_rank_by_sorting_and_under_permutation(n, seed):
    rng = np.random.default_rng(seed)
    concept = rng.integers(-1, 3, n).astype(np.int32)
    key, tie = rng.integers(0, 3, n).astype(np.uint64), rng.integers(0, 2, n).astype(np.uint64)
    uid = rng.permutation(np.array([f"{'é' if i % 3 else '~'}{i}" for i in range(n)], object))
    ranks = rank_within(concept, key, tie, uid)
    assert ranks.dtype == np.int32
    assert ranks.tolist() == rank_by_sorting(concept, key, tie, uid).tolist()
    moved = rng.permutation(n)
    np.testing.assert_array_equal(
        rank_within(concept[moved], key[moved], tie[moved], uid[moved]), ranks[moved]
    )


@pytest.mark.parametrize(
    "uid", [np.array([b"b", b"a"]), np.array([b"b", b"a"], object), np.array(["b", "a"])]
)
def test_uid_types(uid):
    zero = np.zeros(2, np.uint64)
    assert rank_within(np.zeros(2, int), zero, zero, uid).tolist() == [2, 1]
