import logging
import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import BudgetError, RecipeError
from curate.ordering.keys import priority_key
from curate.ordering.span import (
    Span,
    easiest,
    first_rows,
    hardest,
    key_value,
    middle,
    rows_of,
    span_cuts,
    take,
    window,
)


def rows(n, seed, values=5):
    """Scores with many ties, ties that repeat, uids in no order."""
    rng = np.random.default_rng(seed)
    score = rng.integers(-values, values, n).astype(np.float64) / 4
    tie = rng.integers(0, 3, n).astype(np.uint64)
    return score, tie, rng.permutation(np.array([f"u{i:03d}" for i in range(n)], object))


def by_definition(score, tie, uid, span):
    sign = -1 if span.prefer == "hardest" else 1
    order = sorted(range(len(score)), key=lambda i: (sign * score[i], tie[i], uid[i]))
    return sorted(order[span.start : span.stop])


@pytest.mark.parametrize(
    ("total", "share", "want"),
    [
        (5, 0.5, 3),
        (3, 0.5, 2),
        (10, 0.25, 3),
        (7, 0.1, 1),
        (9, 0, 0),
        (9, 1, 9),
        (750, 0.018, 14),
        (0, 0.3, 0),
    ],
)
def test_rounding(total, share, want):
    assert rows_of(share, total) == want
    assert rows_of(Fraction(str(share)), total) == want
    if total:
        assert rows_of(np.float32(share), total) == want


@pytest.mark.parametrize("share", [-0.1, 1.01, math.nan, math.inf, "half"])
def test_share_out_of_range(share):
    with pytest.raises(BudgetError, match=r"in \[0, 1\], got|a number or a percentage, got"):
        rows_of(share, 10)


@given(st.integers(0, 30), st.integers(0, 10**6), st.data())
@settings(max_examples=60, deadline=None)
def test_every_span_by_definition_in_memory_and_from_shards(n, seed, data):
    score, tie, uid = rows(n, seed)
    n_keep = data.draw(st.integers(0, n))
    share = data.draw(st.sampled_from(["0", "0.1", "0.5", "1"]))
    skipped = min(rows_of(share, n), n - n_keep)
    spans = [
        hardest(n_keep, n),
        easiest(n_keep, n),
        window(n_keep, n, offset=skipped),
        middle(n_keep, n, share),
    ]
    if rows_of(share, n) + n_keep <= n:
        spans.append(window(n_keep, n, drop_hardest=share))
    for span in spans:
        keep, rank = take(score, tie, uid, span)
        assert np.flatnonzero(keep).tolist() == by_definition(score, tie, uid, span)
        assert keep.sum() == n_keep and sorted(rank.tolist()) == list(range(1, n + 1))
        moved = np.random.default_rng(seed).permutation(n)
        again = take(score[moved], tie[moved], uid[moved], span)
        assert again[0].tolist() == keep[moved].tolist() and again[1].tolist() == rank[moved].tolist()
        unique = np.random.default_rng(seed).permutation(n).astype(np.uint64)
        key = priority_key(score, span.prefer)
        shards = [*zip(np.array_split(key, 3), np.array_split(unique, 3), strict=True)]
        cuts = span_cuts(lambda shards=shards: iter(shards), span)
        assert cuts.holds(key, unique).tolist() == take(score, unique, uid, span)[0].tolist()


@given(st.integers(1, 30), st.integers(0, 10**6), st.sampled_from([hardest, easiest]))
@settings(max_examples=50, deadline=None)
def test_nested_and_apart(n, seed, method):
    score, tie, uid = rows(n, seed)
    masks = [take(score, tie, uid, method(k, n))[0] for k in range(n + 1)]
    assert all((less <= more).all() for less, more in pairwise(masks))
    assert not masks[0].any() and masks[n].all()


def test_window_of_ten():
    score, tie, uid = np.arange(10.0), np.zeros(10, np.uint64), np.array(list("abcdefghij"))
    assert np.flatnonzero(take(score, tie, uid, window(4, 10, offset=5))[0]).tolist() == [5, 6, 7, 8]
    assert np.flatnonzero(take(score, tie, uid, window(4, 10, drop_hardest=0.1))[0]).tolist() == [5, 6, 7, 8]
    with pytest.raises(BudgetError, match="4 rows asked for after 8 others, there are 10"):
        window(4, 10, offset=8)
    with pytest.raises(BudgetError, match="after 7 others"):
        window(4, 10, drop_hardest="70%")
    with pytest.raises(BudgetError, match="at least 0, got 4 and -1"):
        window(4, 10, offset=-1)
    for both in ({}, {"offset": 1, "drop_hardest": 0.1}):
        with pytest.raises(RecipeError, match="exactly one"):
            window(4, 10, **both)


@pytest.mark.parametrize(
    ("n_keep", "center", "want"),
    [(4, 0.5, 3), (3, 0.5, 4), (5, 0.5, 3), (10, 0.5, 0), (0, 0.5, 5), (4, 0, 0), (4, 1, 6), (2, "0.25", 2)],
)
def test_middle_of_ten(n_keep, center, want):
    assert middle(n_keep, 10, center) == Span("easiest", want, want + n_keep)


def test_middle_refuses():
    with pytest.raises(RecipeError, match=r"select.center must be in \[0, 1\], got 1.5"):
        middle(1, 2, 1.5)
    with pytest.raises(BudgetError, match="3 rows asked for, there are 2"):
        middle(3, 2)


def test_too_many_rows():
    score, tie, uid = rows(3, 0)
    with pytest.raises(BudgetError, match="4 rows asked for, there are 3"):
        hardest(4, 3)
    with pytest.raises(BudgetError, match="5 rows asked for, there are 3"):
        take(score, tie, uid, Span("hardest", 0, 5))
    for wrong in (-1, 4):
        with pytest.raises(BudgetError, match="there are 3"):
            first_rows(tie, tie, uid, wrong)


def test_all_scores_equal_is_the_order_of_ties():
    score, tie, uid = np.full(5, -2.0), np.array([3, 1, 0, 2, 1], np.uint64), np.array(list("abcde"))
    for method in (hardest, easiest):
        assert np.flatnonzero(take(score, tie, uid, method(3, 5))[0]).tolist() == [1, 2, 4]


def test_hardest_below_half_warns(caplog):
    with caplog.at_level(logging.WARNING):
        hardest(5, 10), easiest(1, 10), hardest(0, 10)
    assert not caplog.records
    hardest(4, 10)
    assert "stratified with beta" in caplog.text


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1),
    st.sampled_from(["hardest", "easiest"]),
)
def test_keys_become_values_again(values, prefer):
    keys = priority_key(np.array(values), prefer)
    assert [key_value(key, prefer) for key in keys.tolist()] == values
