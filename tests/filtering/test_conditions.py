"""Conditions on frames: which rows pass, what may be asked, and what a recipe needs."""

import polars as pl
import pytest

from curate.errors import RecipeError, UsageError
from curate.filtering.conditions import needed_scores
from curate.pipeline.stages.filter import check_conditions, check_recipe, failed_condition
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import recipe_values

FRAME = pl.DataFrame(
    {
        "uid": ["a", "b", "c", "d"],
        "clip_score": [0.1, 0.3, None, 0.2],
        "clip_score_status": ["ok", "ok", "no_text", "ok"],
        "width": [10, 20, 30, 40],
    }
)


def reasons(conditions, needed=(), frame=FRAME):
    statuses = {name: f"{name}_status" if f"{name}_status" in frame.columns else "" for name in needed}
    found = failed_condition(frame, conditions, statuses)
    return found.to_list()


def test_null_does_not_pass():
    assert reasons(["clip_score >= 0.2"]) == [
        "filter:clip_score >= 0.2",
        None,
        "filter:clip_score >= 0.2",
        None,
    ]
    assert reasons(["clip_score < 0.2"]) == [None, *["filter:clip_score < 0.2"] * 3]
    assert reasons(["clip_score IS NULL"])[2] is None


def test_the_first_failing_condition_is_the_reason():
    one, two = "width > 15", "clip_score > 0.25"
    assert reasons([one, two]) == [f"filter:{one}", None, f"filter:{two}", f"filter:{two}"]
    assert reasons([two, one]) == [f"filter:{two}", None, f"filter:{two}", f"filter:{two}"]


def test_a_condition_comes_before_a_missing_score():
    found = reasons(["width < 25"], ["clip_score"])
    assert found == [None, None, "filter:width < 25", "filter:width < 25"]
    assert reasons([], ["clip_score"]) == [None, None, "no_score:no_text", None]
    assert reasons([], ["width"]) == [None] * 4


def test_no_condition_passes_all():
    assert reasons([]) == [None] * 4
    assert reasons(["1 = 2"]) == ["filter:1 = 2"] * 4
    assert reasons(["false"]) == ["filter:false"] * 4
    assert reasons(["1 = 1"]) == reasons(["true"]) == [None] * 4
    assert reasons(["1 = 2"], frame=FRAME.clear()) == []


@pytest.mark.parametrize("condition", ["width IN (10, 20)", "width BETWEEN 10 AND 20", "uid LIKE 'a%' OR uid = 'b'",
                                       "CASE WHEN width > 20 THEN false ELSE true END", "NOT width > 20"])  # fmt: skip
def test_conditions_may_be_any_sql_over_one_row(condition):
    check_conditions(FRAME.clear(), [condition])
    assert [reason is None for reason in reasons([condition])] == [True, True, False, False]


@pytest.mark.parametrize("condition", ["count(*) > 1", "width > avg(width)", "sum(width) > 3", "max(width) = width",
                                       "row_number() over (order by width) = 1"])  # fmt: skip
def test_conditions_over_several_rows_are_refused(condition):
    with pytest.raises(RecipeError, match="must look at one row alone"):
        check_conditions(FRAME.clear(), [condition])


def test_a_text_that_names_a_total_is_a_text():
    conditions = ["uid <> 'Len'", "uid <> 'Agg'", "length(uid) = 1"]
    check_conditions(FRAME.clear(), conditions)
    assert reasons(conditions) == [None] * 4


def test_unknown_columns_name_those_there():
    with pytest.raises(
        UsageError, match="no column 'wide'; there are uid, clip_score, clip_score_status, width"
    ):
        check_conditions(FRAME.clear(), ["wide > 3"])


def test_a_recipe_is_checked_without_data():
    values = recipe_values("x", "y", filter=["clip_score > 0.1 AND distance < 1 AND caption_length > 3"])
    check_recipe(parse_recipe(values))
    check_recipe(parse_recipe(values | {"select": {"keep": 1, "prefer": "score:clip_score"}}))
    with pytest.raises(
        UsageError, match=r"no column of numbers for 'score:caption'; there are .*distance, clip_score"
    ):
        check_recipe(parse_recipe(values | {"select": {"keep": 1, "prefer": "score:caption"}}))
    with pytest.raises(UsageError, match="no column of numbers for 'score:row'"):
        check_recipe(parse_recipe(values | {"select": {"keep": 1, "prefer": "score:row"}}))


def test_needed_scores():
    values = recipe_values("x", "y", select={"keep": 1, "prefer": "score:clip_score"})
    assert needed_scores(parse_recipe(values)) == {"clip_score": "clip_score_status"}
    values["dedup"] = {"prefer": "score:width", "epsilon": 0.1}
    assert needed_scores(parse_recipe(values)) == {"clip_score": "clip_score_status", "width": ""}
    values["dedup"]["epsilon"] = None
    assert list(needed_scores(parse_recipe(values))) == ["clip_score"]
    values["select"] = {"keep": 0.5, "method": "hardest", "by": "distance", "on_null": "drop"}
    assert needed_scores(parse_recipe(values)) == {"distance": ""}
    values["select"] |= {"method": "stratified", "beta": 0.1, "cutoff": "clip_score"}
    assert list(needed_scores(parse_recipe(values))) == ["clip_score", "distance"]
    values["select"]["on_null"] = "proportional"
    assert needed_scores(parse_recipe(values)) == {}
