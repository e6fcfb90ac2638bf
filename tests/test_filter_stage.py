"""Conditions and the order of reasons, against the definitions."""

import numpy as np
import polars as pl
import pytest
from builders import DIM, planted, recipe_values, write_shards

from curate import open_run, pipeline
from curate.config import parse_recipe
from curate.errors import BudgetError, RecipeError, UsageError
from curate.stages.filter import check_conditions, check_recipe, failed_condition, needed_scores

FRAME = pl.DataFrame(
    {
        "uid": ["a", "b", "c", "d"],
        "clip_score": [0.1, 0.3, None, 0.2],
        "clip_score_status": ["ok", "ok", "no_text", "ok"],
        "width": [10, 20, 30, 40],
    }
)


def reasons(conditions, needed=(), frame=FRAME):
    found = failed_condition(frame, conditions, needed)
    return found.to_list()


def run(glob, out, **changes):
    pipeline.run(parse_recipe(recipe_values(glob, out, **changes)))
    return open_run(out)


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
    assert reasons([]) in ([None], [None] * 4)


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
    check_conditions(FRAME.clear(), ["uid = 'Len'", "uid = 'Agg'", "length(uid) > 1"])


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


def test_needed_scores():
    values = recipe_values("x", "y", select={"keep": 1, "prefer": "score:clip_score"})
    assert needed_scores(parse_recipe(values)) == ("clip_score",)
    values["dedup"] = {"prefer": "score:width", "epsilon": 0.1}
    assert needed_scores(parse_recipe(values)) == ("clip_score", "width")
    values["dedup"]["epsilon"] = None
    assert needed_scores(parse_recipe(values)) == ("clip_score",)


@pytest.mark.parametrize(("condition", "n_kept"), [("1 = 1", 30), ("true", 30), ("false", 0), ("1 = 2", 0)])
def test_conditions_without_columns(tmp_path, condition, n_kept):
    glob = write_shards(tmp_path / "in", planted(100))
    select = {"keep": 0.3, "at_most": True}
    decisions = run(glob, tmp_path / "run", filter=condition, select=select).decisions()
    assert decisions["keep"].sum() == n_kept
    if not n_kept:
        assert decisions["reason"].unique().to_list() == [f"filter:{condition}"]


def test_reasons_by_precedence(tmp_path):
    """A broken row, copies, rows that fail, near-copies and the rest: each has the reason that comes first."""
    rows = planted(60, copies=4)  # rows 56 to 59 copy 0 to 3
    rows[10] = np.nan
    rows[56] = rows[0]
    rows[20] = rows[21] + np.float16(0.002)
    glob = write_shards(tmp_path / "in", rows, uid=False, extra={"label": [str(i % 56) for i in range(60)]})
    source = {"path": glob, "label": "label"}
    found = run(glob, tmp_path / "run", source=source, filter=["label != '2'", "label != '30'"],
                dedup={"epsilon": 0.001}, select={"count": 20})  # fmt: skip
    both = found.decisions().join(found.samples().select("shard", "row", "label"), on=["shard", "row"])
    assert both.height == 60
    reason = {}
    for label, occurrence, why in both.select("label", "occurrence", "reason").iter_rows():
        reason[label, occurrence] = why
    assert reason["10", 0] == "unusable:bad_vector"
    assert [reason[str(i), 1] for i in range(4)] == ["exact_duplicate"] * 4, "also where its original fails"
    assert reason["2", 0] == "filter:label != '2'"
    assert reason["30", 0] == "filter:label != '30'"
    assert sorted({reason["20", 0], reason["21", 0]} & {"near_duplicate"}) == ["near_duplicate"]
    rest = [why for why in reason.values() if why in ("kept", "over_budget")]
    assert (len(rest), rest.count("kept")) == (60 - 1 - 4 - 2 - 1, 20)
    copies = both.filter(pl.col("occurrence") == 1)
    originals = both.filter(pl.col("occurrence") == 0).select("uid", "label")
    joined = copies.join(originals, left_on="duplicate_of", right_on="uid")
    assert joined["label"].to_list() == joined["label_right"].to_list()


def test_a_duplicate_names_a_row_that_passed(tmp_path):
    rows = planted(40)
    rows[30] = rows[5] + np.float16(0.001)
    rows[31] = rows[5] + np.float16(0.0015)
    glob = write_shards(tmp_path / "in", rows)
    found = run(
        glob, tmp_path / "run", filter="uid != 's000005'", dedup={"epsilon": 0.001}, select={"keep": 0.5}
    )
    near = found.decisions().filter(pl.col("reason") == "near_duplicate")
    assert set(near["duplicate_of"]) <= {"s000030", "s000031"}
    assert near.height == 1


def test_too_few_pass(tmp_path):
    glob = write_shards(tmp_path / "in", planted(50))
    with pytest.raises(
        BudgetError, match=r"select.keep 0.5 of 50 usable rows = 25, but only 10 rows .* 40 filtered"
    ):
        run(glob, tmp_path / "run", filter="uid < 's000010'", select={"keep": 0.5})


def test_not_finite_scores_do_not_pass(tmp_path):
    """Own vectors have no captions, so that the score is null: neither side of a comparison holds."""
    glob = write_shards(tmp_path / "in", planted(30, dim=DIM))
    for condition in ("clip_score >= -9", "clip_score < 9", "NOT clip_score > 0"):
        found = run(glob, tmp_path / "run", filter=condition, select={"keep": 1, "at_most": True})
        assert found.decisions()["keep"].sum() == 0
