import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import BudgetError, CurateError, RecipeError
from curate.filtering.threshold import above, top, top_cuts, top_rows
from curate.ordering.keys import priority_key

BAD = [np.nan, np.inf, -np.inf]


def rows(n, seed):
    rng = np.random.default_rng(seed)
    score = rng.integers(-3, 4, n).astype(np.float64) / 2
    score[rng.random(n) < 0.2] = rng.choice(BAD)
    uid = rng.permutation(np.array([f"u{i:03d}" for i in range(n)], object))
    return score, rng.integers(0, 2, n).astype(np.uint64), uid


@given(st.integers(0, 30), st.integers(0, 10**6), st.sampled_from([-1.5, 0.0, 0.25, 9.0]))
@settings(max_examples=60, deadline=None)
def test_above_by_definition_and_idempotent(n, seed, threshold):
    score, *_ = rows(n, seed)
    keep = above(score, threshold)
    assert keep.tolist() == [bool(np.isfinite(s) and s >= threshold) for s in score]
    assert above(score[keep], threshold).all()
    assert above(score, threshold, "keep").tolist() == (keep | ~np.isfinite(score)).tolist()


@given(st.integers(0, 30), st.integers(0, 10**6), st.data())
@settings(max_examples=100, deadline=None)
def test_top_by_definition(n, seed, data):
    score, tie, uid = rows(n, seed)
    order = sorted(np.flatnonzero(np.isfinite(score)), key=lambda i: (-score[i], tie[i], uid[i]))
    n_top = data.draw(st.integers(0, len(order)))
    keep = top(score, tie, uid, n_top)
    assert np.flatnonzero(keep).tolist() == sorted(order[:n_top])
    every = top(score, tie, uid, n_top, ties="all")
    last = score[order[n_top - 1]] if n_top else np.inf
    assert every.tolist() == [bool(np.isfinite(s) and s >= last) for s in score]
    assert top(score, tie, uid, n_top, on_missing="keep").sum() == n_top + n - len(order)
    assert (keep <= top(score, tie, uid, min(n_top + 1, len(order)))).all()
    assert top(4 * score + 1, tie, uid, n_top).tolist() == keep.tolist()
    moved = np.random.default_rng(seed).permutation(n)
    assert top(score[moved], tie[moved], uid[moved], n_top).tolist() == keep[moved].tolist()


@given(st.integers(1, 30), st.integers(0, 10**6), st.sampled_from(["cut", "all"]), st.data())
@settings(max_examples=25, deadline=None)
def test_top_from_shards(n, seed, ties, data):
    rng = np.random.default_rng(seed)
    score, tie = rng.integers(0, 4, n) / 2, rng.permutation(n).astype(np.uint64)
    n_top = data.draw(st.integers(0, n))
    key = priority_key(score)
    cuts = top_cuts(
        lambda: iter(zip(np.array_split(key, 3), np.array_split(tie, 3), strict=True)), n_top, ties=ties
    )
    want = top(score, tie, np.arange(n).astype(str), n_top, ties=ties)
    assert cuts.holds(key, tie).tolist() == want.tolist()


def test_base_of_a_share():
    assert top_rows(0.5, 5, 10) == 3 and top_rows(0.5, 5, 10, "all") == 5
    with pytest.raises(BudgetError, match=r"0.6 of 10 rows = 6 asked for, 5 have a score"):
        top_rows(0.6, 5, 10, "all")
    with pytest.raises(RecipeError, match="scored or all, got 'some'"):
        top_rows(0.6, 5, 10, "some")


def test_refusals():
    score, tie, uid = np.array([1.0, np.nan]), np.zeros(2, np.uint64), np.array(["a", "b"])
    with pytest.raises(CurateError, match="1 of 2 rows have no finite score"):
        above(score, 0, "error")
    with pytest.raises(RecipeError, match="got 'nothing'"):
        above(score, 0, "nothing")
    with pytest.raises(RecipeError, match="a threshold must be finite, got nan"):
        above(score, np.nan)
    with pytest.raises(BudgetError, match="2 rows asked for, there are 1"):
        top(score, tie, uid, 2)
    for call in (lambda: top(score, tie, uid, 1, ties="some"), lambda: top_cuts(None, 1, ties="some")):
        with pytest.raises(RecipeError, match="ties must be cut or all, got 'some'"):
            call()
