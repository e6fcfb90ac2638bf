"""Scores of the user's own: which columns of a file are taken, and what no file may be."""

import gzip
import math

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import SourceError, UsageError
from curate.pipeline.stages.score import SOURCES
from curate.recipe import External
from curate.recipe.loading import parse_recipe
from curate.scores.external import files
from curate.scores.registry import check_recipe, score_columns
from tests.fixtures.builders import recipe_values

N = 60


def scores(seed=0):
    """Values of two columns, some null, some not finite."""
    a, b = np.random.default_rng(seed).standard_normal((2, N)).tolist()
    a[3], b[5], a[7], b[8], b[7] = None, float("nan"), math.inf, -math.inf, None
    a[9] = 1e300
    return {"a": a, "b": b}


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


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.csv.gz"])
def test_csv_gives_what_parquet_gives(tmp_path, name, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_BYTES", 400)  # many blocks
    kept = pl.DataFrame(scores() | {"uid": [f"{i:03d}" for i in range(N)], "n": range(N)}).with_columns(
        late=pl.when(pl.col("n") > 50).then(pl.col("n") * 0.5)
    )
    text = kept.write_csv(separator="\t" if "tsv" in name else ",", line_terminator="\n")
    text = "\ufeff" + text
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    kept.write_parquet(tmp_path / "x.parquet")
    columns = ["late", "a", "n", "b"]
    table, csv = (pl.concat(map(pl.DataFrame, files.batches(tmp_path / one, "uid", columns, 7)))
                  for one in ("x.parquet", name))  # fmt: skip
    floats = pl.col(columns).cast(pl.Float64)
    assert csv.select("uid", *columns).equals(table.select("uid", *columns).with_columns(floats))
    assert files.count(tmp_path / name) >= N == files.count(tmp_path / "x.parquet")
    assert checked(str(tmp_path / name), columns=columns) == checked(
        str(tmp_path / "x.parquet"), columns=columns
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "", "x.csv is empty: it needs a line with the names of columns"),
        ("x.csv", "uid,a\nx,1,2\n", r"x.csv is no CSV file: .*Expected 2 columns, got 3"),
        ("x.csv", "id,a\nx,1\n", r"no column 'uid'; there are id \(string\), a \(double\)"),
        ("x.jsonl", "{}", r"\(.parquet, .pq, .csv.*\); write it as polars.read_ndjson"),
        ("x.npy", "x", "because an array says not whose they are"),
    ],
)
def test_tables_that_are_none_say_what_to_do(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        checked(str(tmp_path / name))


def test_csv_that_is_damaged_further_down_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_BYTES", 100)
    (tmp_path / "x.csv").write_text("uid,a\n" + "x,1\n" * 100 + "y,many\n")
    assert "a" in checked(str(tmp_path / "x.csv"))
    with pytest.raises(SourceError, match=r"x\.csv: cannot be read: .*many"):
        list(files.batches(tmp_path / "x.csv", "uid", ["a"], 10))


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
