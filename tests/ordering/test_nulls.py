import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import BudgetError, CurateError, RecipeError
from curate.ordering.nulls import NullPlan, null_plan
from curate.ordering.span import rows_of

shares = st.sampled_from([0, 0.018, 0.1, 0.25, "0.5", 0.75, 1])
sizes = st.integers(0, 1000)


@given(sizes, sizes, shares)
def test_a_share_is_rounded_for_null_rows_by_themselves(scored, null, share):
    n_scored = rows_of(share, scored)
    assert null_plan("proportional", scored, null, share=share) == NullPlan(n_scored, rows_of(share, null))
    assert null_plan("keep", scored, null, share=share) == NullPlan(n_scored, null)
    assert null_plan("drop", scored, null, share=share) == NullPlan(n_scored, 0)


@given(sizes, sizes, st.data())
def test_a_count_is_met_exactly(scored, null, data):
    count = data.draw(st.integers(0, scored + null))
    got = null_plan("proportional", scored, null, count=count)
    assert got.n_scored + got.n_null == count
    assert 0 <= got.n_scored <= scored and 0 <= got.n_null <= null
    if scored + null:
        assert abs(got.n_null - count * null / (scored + null)) <= 0.5


def test_by_hand():
    assert null_plan("proportional", 5, 3, share=0.5) == NullPlan(3, 2)
    assert null_plan("keep", 10, 4, count=6) == NullPlan(2, 4)
    assert null_plan("drop", 10, 4, count=6) == NullPlan(6, 0)
    assert null_plan("error", 10, 0, share=0.5) == NullPlan(5, 0)


def test_refusals():
    with pytest.raises(CurateError, match=r"3 of 8 rows have no score \(class_too_small: 1, no_label: 2\)"):
        null_plan("error", 5, 3, share=1, statuses={"no_label": 2, "class_too_small": 1})
    with pytest.raises(BudgetError, match="6 rows asked for; 5 have a score, 0 of 4 without one are kept"):
        null_plan("drop", 5, 4, count=6)
    with pytest.raises(BudgetError, match="3 rows asked for; 5 have a score, 4 of 4"):
        null_plan("keep", 5, 4, count=3)
    with pytest.raises(BudgetError, match="10 rows asked for"):
        null_plan("proportional", 5, 4, count=10)
    with pytest.raises(BudgetError, match=r"select.keep must be in \[0, 1\], got 3/2"):
        null_plan("drop", 5, 4, share="3/2")
    with pytest.raises(RecipeError, match=r"on_null must be .*, got 'random'"):
        null_plan("random", 5, 4, share=1)
    for both in ({}, {"share": 1, "count": 1}):
        with pytest.raises(RecipeError, match="exactly one"):
            null_plan("drop", 5, 4, **both)
