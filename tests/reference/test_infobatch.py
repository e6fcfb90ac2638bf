import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import BudgetError, CurateError, RecipeError
from tests.reference.infobatch import easy_rows_kept, select_infobatch


def draws(n, seed=0):
    return np.random.default_rng(seed).permutation(n).astype(np.uint64)


def test_by_hand():
    got = select_infobatch(np.array([1.0, 2, 3, 4]), draws(4), np.array(list("abcd")), 0.5)
    assert got.easy.tolist() == [True, True, False, False]
    assert got.keep.sum() == 3 and sorted(got.weight.tolist()) == [0, 1, 1, 2] and got.weight.sum() == 4


@pytest.mark.parametrize(
    ("m", "r", "want"),
    [(3, 0.5, 2), (2, 0.5, 1), (1, 0.9, 1), (4, 1, 1), (4, 0, 4), (0, 0.5, 0), (10, "0.35", 7)],
)
def test_easy_rows_kept(m, r, want):
    assert easy_rows_kept(m, r) == want


@given(
    st.lists(st.integers(-6, 6), max_size=40), st.integers(0, 10**6), st.sampled_from([0, 0.3, 0.5, "0.9", 1])
)
@settings(max_examples=100, deadline=None)
def test_laws(values, seed, r):
    score, n = np.array(values, float) / 4, len(values)
    draw, uid = draws(n, seed), np.arange(n).astype(str)
    got = select_infobatch(score, draw, uid, r)
    assert got.weight.sum() == pytest.approx(n)
    assert got.easy.tolist() == [4 * v * n < 4 * sum(values) for v in values]
    assert got.keep[~got.easy].all() and (got.weight[~got.easy] == 1).all()
    assert (got.weight > 0).tolist() == got.keep.tolist()
    easy = sorted(np.flatnonzero(got.easy), key=lambda i: draw[i])
    assert np.flatnonzero(got.keep & got.easy).tolist() == sorted(easy[: easy_rows_kept(len(easy), r)])
    moved = np.random.default_rng(seed).permutation(n)
    assert (
        select_infobatch(score[moved], draw[moved], uid[moved], r).weight.tolist()
        == got.weight[moved].tolist()
    )


def test_weighted_sums_are_unbiased():
    score, rounds = np.array([1.0, 2, 2.5, 9]), 1500
    uid = np.array(list("abcd"))
    rng = np.random.default_rng(0)
    total = sum(
        select_infobatch(score, rng.permutation(4).astype(np.uint64), uid, 0.5).weight for _ in range(rounds)
    )
    np.testing.assert_allclose(total / rounds, 1, atol=0.1)


@pytest.mark.parametrize("value", [0.1, -0.7, 1e-310])
def test_constant_scores_are_never_below_their_mean(value):
    for n in (1, 3, 7, 10):
        got = select_infobatch(np.full(n, value), draws(n), np.arange(n).astype(str), 0.5)
        assert got.keep.all() and (got.weight == 1).all()


def test_refusals():
    with pytest.raises(CurateError, match="must be finite"):
        select_infobatch(np.array([np.nan]), draws(1), np.array(["a"]))
    with pytest.raises(RecipeError, match=r"select.r must be in \[0, 1\], got 1.5"):
        easy_rows_kept(3, 1.5)
    with pytest.raises(BudgetError, match="at least 0, got -1"):
        easy_rows_kept(-1, 0.5)
