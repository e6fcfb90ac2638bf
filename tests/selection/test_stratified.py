import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import BudgetError, CurateError, RecipeError
from curate.ordering.cutoff import nth_smallest
from curate.ordering.group_cutoff import nth_smallest_by_group
from curate.ordering.keys import priority_key
from curate.ordering.span import Cuts, rows_of
from curate.selection.stratified import Strata, find_strata, strata_budgets
from tests.reference.selection import select_stratified

FULL = (0, 1)


@pytest.mark.parametrize(
    ("n", "sizes", "want"),
    [
        (10, [1, 2, 20, 30], [1, 2, 3, 4]),
        (10, [0, 0, 4, 100], [0, 0, 4, 6]),
        (3, [5, 5, 5, 5], [0, 1, 1, 1]),
        (100, [5, 5, 5], [5, 5, 5]),
        (7, [3, 3, 3], [2, 2, 3]),
        (0, [3, 3], [0, 0]),
        (3, [5] * 50, [0] * 47 + [1] * 3),
        (5, [], []),
    ],
)
def test_budgets_by_hand(n, sizes, want):
    assert strata_budgets(n, np.array(sizes, int)).tolist() == want


@given(st.integers(0, 200), st.lists(st.integers(0, 40), max_size=12))
def test_budgets_are_the_most_even_ones(n, sizes):
    got = strata_budgets(n, np.array(sizes, int))
    assert got.sum() == min(n, sum(sizes)) and (got <= sizes).all()
    short = got[got < np.array(sizes, int)]
    if len(short):
        assert short.max() - short.min() <= 1 and got.max() <= short.min() + 1


def by_definition(score, draw, tie, uid, n_keep, cutoff, beta, k, clip):
    """The method on Python lists, in exact numbers where it counts."""
    rows = sorted(range(len(score)), key=lambda i: (-cutoff[i], tie[i], uid[i]))[rows_of(beta, len(score)) :]
    ordered = sorted(score[i] for i in rows)
    stratum = dict.fromkeys(rows, 0)
    if rows:
        low = ordered[math.floor(Fraction(str(clip[0])) * (len(rows) - 1))]
        high = ordered[math.ceil(Fraction(str(clip[1])) * (len(rows) - 1))]
        if low == high:
            low, high = ordered[0], ordered[-1]
        for i in rows if low < high else []:
            place = Fraction(min(max(score[i], low), high)) - Fraction(low)
            stratum[i] = min(k - 1, math.floor(place / (Fraction(high) - Fraction(low)) * k))
    members = {
        s: sorted((i for i in rows if stratum[i] == s), key=lambda i: (draw[i], tie[i], uid[i]))
        for s in range(k)
    }
    left, kept = n_keep, []
    for done, s in enumerate(sorted(range(k), key=lambda s: (len(members[s]), s))):
        give = min(len(members[s]), left // (k - done))
        kept, left = kept + members[s][:give], left - give
    return sorted(kept)


@given(
    st.integers(0, 40), st.integers(0, 10**6), st.sampled_from([1, 2, 4, 8]), st.sampled_from([0, 0.1, "0.3"]),
    st.sampled_from([FULL, (0.01, 0.99), (0.25, 0.75)]), st.sampled_from([1, 3, 17]), st.data(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_by_definition_and_from_shards(n, seed, k, beta, clip, values, data):
    rng = np.random.default_rng(seed)
    score, cutoff = rng.integers(-values, values, n) / 8, rng.integers(0, 4, n) / 2
    draw, tie = rng.permutation(n).astype(np.uint64), rng.integers(0, 3, n).astype(np.uint64)
    uid = rng.permutation(np.array([f"u{i:03d}" for i in range(n)], object))
    n_keep = data.draw(st.integers(0, n - rows_of(beta, n)))
    options = {"cutoff": cutoff, "beta": beta, "n_strata": k, "ends": clip}
    got = select_stratified(score, draw, tie, uid, n_keep, **options)
    assert np.flatnonzero(got.keep).tolist() == by_definition(
        score, draw, tie, uid, n_keep, cutoff, beta, k, clip
    )
    assert got.keep.sum() == n_keep and not got.keep[got.stratum < 0].any()
    assert np.bincount(got.stratum[got.keep], minlength=k).tolist() == got.budget.tolist()
    moved = rng.permutation(n)
    options["cutoff"] = cutoff[moved]
    again = select_stratified(score[moved], draw[moved], tie[moved], uid[moved], n_keep, **options)
    assert again.keep.tolist() == got.keep[moved].tolist()


@given(st.integers(1, 60), st.integers(0, 10**6), st.data())
@settings(max_examples=15, deadline=None)
def test_from_shards(n, seed, data):
    rng = np.random.default_rng(seed)
    score, cutoff = rng.normal(size=n).astype(np.float32), rng.integers(0, 4, n) / 2
    draw, tie = (rng.permutation(n).astype(np.uint64) for _ in range(2))
    dropped = rows_of(0.1, n)
    n_keep = data.draw(st.integers(0, n - dropped))
    want = select_stratified(score, draw, tie, tie.astype(str), n_keep, cutoff=cutoff, beta=0.1, n_strata=5)

    def blocks(*columns):
        return lambda: iter(zip(*(np.array_split(column, 3) for column in columns), strict=True))

    left = ~Cuts(None, nth_smallest(blocks(priority_key(cutoff), tie), dropped)).holds(
        priority_key(cutoff), tie
    )
    strata = find_strata(blocks(priority_key(score[left], "easiest"), tie[left]), int(left.sum()), 5)
    group = strata.of(score[left])
    budget = strata_budgets(n_keep, np.bincount(group, minlength=5))
    cuts = nth_smallest_by_group(blocks(group, draw[left], tie[left]), budget)
    assert cuts.holds(group, draw[left], tie[left]).tolist() == want.keep[left].tolist()


def select(score, n_keep, **options):
    n = len(score)
    draw = np.random.default_rng(1).permutation(n).astype(np.uint64)
    return select_stratified(np.array(score, float), draw, draw, np.arange(n).astype(str), n_keep, **options)


def test_negative_scores_all_have_a_stratum():
    got = select([-3, -2, -1], 3, n_strata=4, ends=FULL)
    assert got.keep.all() and got.stratum.tolist() == [0, 2, 3]


@pytest.mark.parametrize("value", [2.0, 0.0, -1e308])
def test_constant_scores_are_one_stratum_of_exact_size(value):
    for n_keep in (0, 1, 2, 3):
        got = select([value] * 3, n_keep)
        assert got.keep.sum() == n_keep and (got.stratum == 0).all()


def test_outliers_do_not_stretch_the_strata():
    score = [*np.linspace(0, 1, 199), 1e6]
    assert (select(score, 0, n_strata=10).sizes >= 15).all()
    assert select(score, 0, n_strata=10, ends=FULL).sizes.tolist() == [199, *[0] * 8, 1]


def test_quantiles_that_meet_give_way_to_the_whole_range():
    assert select([0.0] * 199 + [1.0], 2, n_strata=2).keep[-1]


def test_range_wider_than_a_number_can_hold():
    strata = Strata(-1.7e308, 1.7e308, 4)
    assert strata.of(np.array([-1.7e308, -1e308, 0.0, 1e308, 1.7e308])).tolist() == [0, 0, 2, 3, 3]
    with pytest.raises(CurateError, match="must be finite"):
        strata.of(np.array([np.nan]))


def test_no_rows():
    got = select([], 0)
    assert got.keep.tolist() == [] and got.budget.tolist() == [0] * 50


def test_refusals():
    with pytest.raises(BudgetError, match=r"4 rows asked for, there are 3 of 5 left after beta 0.4"):
        select(range(5), 4, beta=0.4, cutoff=np.arange(5.0))
    with pytest.raises(BudgetError, match="-1 rows asked for"):
        select(range(5), -1)
    with pytest.raises(BudgetError, match=r"select.beta must be in \[0, 1\], got 2"):
        select(range(5), 1, beta=2)
    with pytest.raises(RecipeError, match="needs a cutoff column of its own"):
        select(range(5), 1, beta=0.4)
    with pytest.raises(RecipeError, match=r"select.strata must be at least 1, got 0"):
        select(range(5), 1, n_strata=0)
    with pytest.raises(RecipeError, match=r"select\.ends must be two quantiles"):
        select(range(5), 1, ends=(0.9, 0.1))
    with pytest.raises(CurateError, match="must be finite"):
        select([0.0, np.nan], 1)
    with pytest.raises(BudgetError, match="at least 0"):
        strata_budgets(-1, np.array([1]))
