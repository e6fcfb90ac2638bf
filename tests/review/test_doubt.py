"""The interval of a share, and the cut that verdicts propose, against their definitions."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from curate.review.doubt import FEWEST, proposed_cut, wilson


@pytest.mark.parametrize("n", [1, 2, 10, 57, 1000])
def test_intervals_are_those_of_scipy(n):
    from scipy.stats import binomtest

    for right in {0, 1, n // 3, n - 1, n}:
        expected = binomtest(right, n).proportion_ci(method="wilson")
        assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nothing_seen_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


def gain(seen, cut, target, high_is_bad):
    """Return by the definition what a cut is worth: sum of (wrong - target) over the rows beyond it."""
    return sum(bad - target for value, bad in seen if (value >= cut if high_is_bad else value <= cut))


verdicts = some.lists(some.tuples(some.integers(0, 8).map(lambda n: n / 8), some.booleans()), max_size=40)


@given(verdicts, some.sampled_from([0.2, 0.5, 0.8]), some.booleans())
def test_no_other_cut_is_worth_more(seen, target, high_is_bad):
    found = proposed_cut(seen, target=target, high_is_bad=high_is_bad)
    worth = {cut: gain(seen, cut, target, high_is_bad) for cut, _ in seen}
    best = max(worth.values(), default=0.0)
    if len(seen) < FEWEST or best <= 1e-9:
        assert found is None
        return
    assert gain(seen, found.value, target, high_is_bad) == pytest.approx(best)
    beyond = [bad for value, bad in seen if (value >= found.value if high_is_bad else value <= found.value)]
    assert (found.looked, found.wrong) == (len(beyond), sum(beyond))
    assert found.open == (len(beyond) == len(seen))


def test_the_cut_lies_where_wrong_ones_end():
    seen = [(0.9, True)] * 6 + [(0.5, True)] * 3 + [(0.4, False)] * 6
    assert proposed_cut(seen, target=0.5, high_is_bad=True).value == 0.5
    assert proposed_cut(seen[:9], target=0.5, high_is_bad=True) is None  # too few
    assert proposed_cut([(value, not bad) for value, bad in seen], target=0.5, high_is_bad=False).value == 0.4
    assert proposed_cut([(0.1, False)] * 20, target=0.5, high_is_bad=True) is None
