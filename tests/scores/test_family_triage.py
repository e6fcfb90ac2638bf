"""Quadrants of error and uncertainty: against the definition, then the edges, then as a family."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import CurateError, RecipeError, UsageError
from curate.recipe.loading import parse_recipe
from curate.scores.in_memory import score
from curate.scores.registry import families_of, require_score
from curate.scores.triage import QUADRANTS, Triage, quadrants

VALUES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=40)


def by_definition(error, uncertainty, error_at, uncertainty_at):
    """A value is high where more than a share of all values is smaller than, or equal to, a smaller value."""

    def threshold(values, share):
        for value in sorted(values):
            if sum(other <= value for other in values) >= share * len(values) - 1e-12:
                return value
        return None

    e, u = threshold(error, error_at), threshold(uncertainty, uncertainty_at)
    names = {(1, 1): "harmful", (1, 0): "misconception", (0, 0): "redundant", (0, 1): "calibration"}
    return [names[int(a > e), int(b > u)] for a, b in zip(error, uncertainty, strict=True)]


@settings(max_examples=50, deadline=None)
@given(VALUES, st.sampled_from([0.1, 0.5, 0.75]), st.sampled_from([0.25, 0.5, 0.9]))
def test_quadrants_are_the_definition(rows, error_at, uncertainty_at):
    error, uncertainty = (np.array([row[i] for row in rows], np.float64) for i in (0, 1))
    got = quadrants(error, uncertainty, error_at=error_at, uncertainty_at=uncertainty_at)
    want = by_definition(error.tolist(), uncertainty.tolist(), error_at, uncertainty_at)
    assert [QUADRANTS[code] for code in got] == want


def test_rows_without_a_value_have_no_quadrant_and_count_for_none():
    error, uncertainty = np.array([1.0, np.nan, 2.0, 9.0]), np.array([1.0, 1.0, 2.0, np.inf])
    assert quadrants(error, uncertainty).tolist() == [0, -1, 3, -1]
    assert quadrants(np.empty(0), np.empty(0)).tolist() == []
    assert quadrants(np.ones(3), np.ones(3)).tolist() == [0, 0, 0]
    assert quadrants(np.ones(1), np.ones(1)).tolist() == [0]


def test_refusals():
    with pytest.raises(CurateError, match=r"must be \(n,\) alike, got \(2,\) and \(3,\)"):
        quadrants(np.ones(2), np.ones(3))
    with pytest.raises(RecipeError, match=r"error_at must be in \(0, 1\), got 1"):
        quadrants(np.ones(2), np.ones(2), error_at=1)


def test_the_family_names_them_and_says_why_a_row_has_none():
    frame = pl.DataFrame({"loss": [0.1, 0.2, 3.0, 2.0, None], "entropy": [0.1, 0.9, 0.2, 0.8, 1.0]})
    found = score(frame, "triage")
    assert found["eu_quadrant"].to_list() == ["redundant", "calibration", "misconception", "harmful", None]
    assert found["triage_status"].to_list() == ["ok"] * 4 + ["nonfinite"]
    moved = score(frame, Triage(error_at=0.75))
    assert moved["eu_quadrant"].to_list()[2:4] == ["misconception", "calibration"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"error": "p_label"}, "triage.error must be a column of which more is worse"),
        ({"uncertainty": "loss"}, "triage needs two scores, got 'loss' for error and uncertainty"),
        ({"error": "los"}, "score: triage needs the column 'los', which no family in score gives"),
    ],
)
def test_columns_are_checked_before_any_work(settings, said):
    values = {"run": "r", "source": {"path": "a.parquet"}, "select": {"keep": 0.3}}
    recipe = parse_recipe(values | {"score": ["heads", {"triage": settings}]})
    family = next(one for one in recipe.score if one.family == "triage")
    with pytest.raises(UsageError, match=said):
        family.check_columns(lambda column, setting: require_score(recipe, column, setting))


def test_it_needs_the_heads():
    recipe = parse_recipe(
        {"run": "r", "source": {"path": "a.parquet"}, "select": {"keep": 0.3}, "score": ["triage"]}
    )
    with pytest.raises(UsageError, match=r"triage needs the column 'loss', .* \(heads has it\)"):
        families_of(recipe)
