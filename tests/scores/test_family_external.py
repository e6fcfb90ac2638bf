"""Scores of the user's own: which columns of a file are taken, and what no file may be."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import UsageError
from curate.pipeline.stages.score import SOURCES
from curate.recipe import External
from curate.recipe.loading import parse_recipe
from curate.scores.registry import check_recipe, score_columns
from tests.fixtures.builders import recipe_values


def write(path, columns):
    pq.write_table(pa.table({"uid": ["x"], **columns}), path)
    return str(path)


def recipe(file, **settings):
    score = [{"file": file, "name": "mine", **settings}]
    return parse_recipe(recipe_values("in/*.parquet", "run", score=score))


def checked(file, **settings):
    values = recipe(file, **settings)
    check_recipe(values, SOURCES)
    return list(score_columns(values))


def test_columns_are_found_or_named(tmp_path):
    file = write(tmp_path / "x.parquet", {"a": [1], "b": [True], "c": ["text"], "d": [[1.0]]})
    assert checked(file) == ["distance", "a", "b", "mine_status"]
    assert checked(file, columns="b") == ["distance", "b", "mine_status"]
    assert score_columns(recipe(file, higher_is="better"))["a"].higher_is == "better"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": ["c"]}, "x.parquet: column 'c' must hold numbers or truth values, it is string"),
        (
            {"columns": ["d"]},
            "x.parquet: column 'd' must hold numbers or truth values, it is list<element: double>",
        ),
        (
            {"columns": ["e"]},
            r"x.parquet: no column 'e'; there are uid \(string\), a \(int64\), c \(string\), d",
        ),
        ({"on": "key"}, r"x.parquet: no column 'key'; there are uid \(string\)"),
        ({"on": "d"}, "column 'd' must hold uids, text or whole numbers, it is list<element: double>"),
        ({"on": "c", "columns": ["uid"]}, "column 'uid' must hold numbers or truth values, it is string"),
    ],
)
def test_columns_that_are_no_scores(tmp_path, settings, message):
    file = write(tmp_path / "x.parquet", {"a": [1], "c": ["text"], "d": [[1.0]]})
    with pytest.raises(UsageError, match=message):
        checked(file, **settings)


def test_files_that_do_not_fit(tmp_path):
    with pytest.raises(UsageError, match=r"score: file .*nothing.parquet: no such file"):
        checked(str(tmp_path / "nothing.parquet"))
    (tmp_path / "no.parquet").write_text("text")
    with pytest.raises(UsageError, match=r"no.parquet is no Parquet file"):
        checked(str(tmp_path / "no.parquet"))
    text = write(tmp_path / "t.parquet", {"c": ["x"]})
    with pytest.raises(UsageError, match="no column of numbers besides 'uid'; there are uid"):
        checked(text)
    mine = write(tmp_path / "w.parquet", {"width": [1]})
    with pytest.raises(
        UsageError, match="curate has a column 'width' of its own; rename that one, or name the ones"
    ):
        checked(mine)
    (tmp_path / "two").mkdir()
    write(tmp_path / "two/0.parquet", {"a": [1]})
    write(tmp_path / "two/1.parquet", {"a": [1], "b": [1]})
    with pytest.raises(
        UsageError, match=r"1.parquet has the columns a, b, 0.parquet has a; name the ones to take"
    ):
        checked(str(tmp_path / "two/*.parquet"))
    assert checked(str(tmp_path / "two/*.parquet"), columns="a") == ["distance", "a", "mine_status"]


def test_settings_name_the_folder(tmp_path):
    assert External.model_validate({"file": str(tmp_path / "my scores.parquet")}).folder == "my_scores"
