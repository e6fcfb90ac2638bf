"""How unevenly a temperature divides rows, and the temperature that divides them as asked."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import RecipeError
from curate.selection.spread import said_of, spread, temperature_for


def brute(values, temperature):
    """exp(entropy) of softmax, from the definition."""
    weights = [math.exp((v - max(values)) / temperature) for v in values]
    shares = [w / sum(weights) for w in weights]
    return math.exp(-sum(p * math.log(p) for p in shares if p > 0))


values = st.lists(st.floats(0, 1), min_size=2, max_size=30, unique_by=lambda v: round(v, 3))


@given(values, st.floats(0.3, 0.97))
@settings(max_examples=80, deadline=None)
def test_the_temperature_gives_the_share_asked_for(found, share):
    value = np.array(found)
    got = temperature_for(value, share)
    reached = spread(value, got).effective_share
    least = 1 / len(found)
    if share > least + 1e-6:
        assert reached == pytest.approx(share, abs=0.01)
    assert spread(value, got).effective == pytest.approx(brute(found, got), rel=1e-9)


@given(values, st.floats(0.001, 1000), st.floats(-5, 5))
@settings(max_examples=50, deadline=None)
def test_it_has_no_scale(found, scale, shift):
    """Complexities times a number need the temperature times it; added to, the same."""
    value = np.array(found)
    one, other = temperature_for(value, 0.8), temperature_for(value * scale + shift * scale, 0.8)
    assert other == pytest.approx(one * scale, rel=0.02)


def test_equal_complexities_and_shares_out_of_range():
    assert temperature_for(np.full(5, 0.3), 0.9) == 1.0
    assert temperature_for(np.empty(0), 0.9) == 1.0
    assert temperature_for(np.array([0.3]), 0.9) == 1.0
    for wrong in (0, 1, 1.5, -1):
        with pytest.raises(RecipeError, match=r"select\.effective_share must be between 0 and 1"):
            temperature_for(np.array([0.1, 0.2]), wrong)


def test_where_many_share_the_largest_the_smallest_temperature_is_returned():
    value = np.array([1.0, 1.0, 1.0, 0.0])
    got = temperature_for(value, 0.5)
    assert spread(value, got).effective_share == pytest.approx(0.75)


def test_facts_hold_what_json_can():
    sharp = spread(np.array([0.0, 10.0]), 0.001)
    assert sharp.ratio == math.inf and sharp.facts["ratio"] is None
    assert "by far more than" in said_of(sharp.facts)
    assert spread(np.empty(0), 0.1).effective_share == 1.0
