"""Scores of the user's own: joined by uid, whatever the order, the files and the memory."""

import gzip
import json
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import planted, recipe_values, write_shards
from folders import changed, tables

from curate.errors import SourceError, UsageError
from curate.execution.context import Context
from curate.pipeline import runner
from curate.pipeline.stages.score import SOURCES
from curate.recipe import External
from curate.recipe.loading import parse_recipe
from curate.scores.external import files, uid_join
from curate.scores.registry import check_recipe, score_columns

N = 60
UIDS = [f"s{i:06d}" for i in range(N)]


def scores(seed=0):
    """Values of two columns for every uid, some null, some not finite."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, N)).tolist()
    a[3], b[5], a[7], b[8], b[7] = None, float("nan"), math.inf, -math.inf, None
    a[9] = 1e300
    return {"a": a, "b": b}


def write(path, columns, order=None, uid=UIDS, on="uid", kinds=None):
    order = range(len(uid)) if order is None else order
    named = {on: [uid[i] for i in order]} | {k: [v[i] for i in order] for k, v in columns.items()}
    kinds = kinds or {}
    table = pa.table({name: pa.array(values, kinds.get(name)) for name, values in named.items()})
    pq.write_table(table, path, row_group_size=17)
    return str(path)


def recipe(glob, out, file, **settings):
    rest = {name: settings.pop(name) for name in ("workers", "memory", "source") if name in settings}
    return parse_recipe(recipe_values(glob, out, score=[{"file": file, "name": "mine", **settings}], **rest))


def scored(values, until="score"):
    runner.run(values, until=until)
    return pl.read_parquet(f"{values.run}/3_scores/mine/part-*").sort("uid")


def facts(values):
    return json.loads((Path(values.run) / "3_scores/mine/_done.json").read_text())["facts"]


@pytest.fixture(scope="module")
def glob(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("in"), planted(N), shards=3)


def by_definition(columns):
    """One row at a time, from the words of the documentation."""
    rows = []
    for i, uid in enumerate(UIDS):
        values = [columns[name][i] for name in columns]
        narrow = [None if v is None else float(np.float32(v)) if abs(v) < 3e38 else math.inf for v in values]
        finite = [v if v is not None and math.isfinite(v) else None for v in narrow]
        status = "missing" if None in values else "ok" if None not in finite else "nonfinite"
        rows.append((uid, *finite, status))
    return rows


def test_each_sample_has_its_values(glob, tmp_path, caplog):
    columns = scores()
    order = np.random.default_rng(1).permutation(N)
    values = recipe(glob, tmp_path / "run", write(tmp_path / "x.parquet", columns, order))
    found = scored(values)
    assert found.schema == {"uid": pl.String, "a": pl.Float32, "b": pl.Float32, "mine_status": pl.String}
    assert found.rows() == by_definition(columns)
    assert facts(values)["nonfinite"] == {"a": 2, "b": 2}
    assert facts(values)["scored"] == N - 5
    assert "score: mine: 2 values of a are not finite (as float32); they count as missing" in caplog.text


def test_files_order_shards_and_workers_change_nothing(glob, tmp_path, monkeypatch):
    columns = scores()
    one = recipe(glob, tmp_path / "one", write(tmp_path / "x.parquet", columns))
    want = scored(one)
    monkeypatch.setattr(uid_join, "BATCH_ROWS", 7)
    order = np.random.default_rng(1).permutation(N)
    (tmp_path / "several").mkdir()
    for place, some in enumerate(np.array_split(order, 4)):
        write(tmp_path / "several" / f"{place}.parquet", columns, some)
    shuffled = write_shards(tmp_path / "in2", planted(N), shards=5, order=order)
    two = recipe(shuffled, tmp_path / "two", str(tmp_path / "several" / "*.parquet"))
    monkeypatch.setattr(Context, "task_memory", 20_000)  # a few buckets
    assert scored(two).equals(want)


@pytest.mark.long
def test_workers_and_memory_give_the_same_bytes(glob, tmp_path, monkeypatch):
    file = write(tmp_path / "x.parquet", scores())
    scored(recipe(glob, tmp_path / "one", file))
    scored(recipe(glob, tmp_path / "two", file, workers=2))
    monkeypatch.setattr(Context, "task_memory", 20_000)
    scored(recipe(glob, tmp_path / "small", file, memory="1GB"))
    one, two, small = (tables(tmp_path / name) for name in ("one", "two", "small"))
    assert any("mine" in name for name in one)
    assert not changed(one, two)
    assert not changed(one, small)


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.float16(), pa.bool_(), pa.decimal128(5, 2),
                                  pa.dictionary(pa.int8(), pa.int32())])  # fmt: skip
def test_all_kinds_of_numbers(glob, tmp_path, kind):
    numbers = [i % 2 for i in range(N)]
    given = [Decimal(i) for i in numbers] if pa.types.is_decimal(kind) else numbers
    if kind == pa.bool_():
        given = [bool(i) for i in numbers]
    if kind == pa.float16():
        given = [np.float16(i) for i in numbers]
    file = write(tmp_path / "x.parquet", {"a": given}, kinds={"a": kind})
    assert scored(recipe(glob, tmp_path / "run", file))["a"].to_list() == numbers


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint16(), pa.large_string(), pa.binary(),
                                  pa.dictionary(pa.int32(), pa.string())])  # fmt: skip
def test_all_kinds_of_uids(tmp_path, kind):
    rows = planted(N)
    folder = tmp_path / "in"
    glob = write_shards(folder, rows, uid=False, extra={"number": [str(i) for i in range(N)]})
    given = [i if pa.types.is_integer(kind) else str(i) for i in range(N)]
    if kind == pa.binary():
        given = [text.encode() for text in given]
    file = write(tmp_path / "x.parquet", {"a": list(range(N))}, uid=given, on="id", kinds={"id": kind})
    source = {"path": glob, "uid": "number"}
    found = scored(recipe(glob, tmp_path / "run", file, on="id", source=source))
    assert found["a"].to_list() == [float(uid) for uid in found["uid"]]


def test_samples_without_a_row(glob, tmp_path):
    columns, some = scores(), [i for i in range(N) if i not in (0, 11, 40)]
    file = write(tmp_path / "x.parquet", columns, some)
    with pytest.raises(
        SourceError,
        match=r"3 of 60 samples have no row, such as s000000, s000011, s000040; add them, or set on_m",
    ):
        scored(recipe(glob, tmp_path / "run", file))
    found = scored(values := recipe(glob, tmp_path / "run", file, on_missing="null"))
    for i in (0, 11, 40):
        assert found.row(i) == (UIDS[i], None, None, "missing")
    assert [row for i, row in enumerate(found.rows()) if i in some] == [
        by_definition(columns)[i] for i in some
    ]
    assert facts(values)["missing"] == 3
    assert facts(values)["scored"] == N - 5 - 3


def test_rows_of_no_sample_are_counted(glob, tmp_path):
    columns = {"a": [float(i) for i in range(N + 3)]}
    file = write(tmp_path / "x.parquet", columns, uid=[*UIDS, "x", "y", "z"])
    found = scored(values := recipe(glob, tmp_path / "run", file))
    assert (len(found), facts(values)["extra"], facts(values)["missing"]) == (N, 3, 0)


def test_a_uid_twice_is_refused(glob, tmp_path):
    file = write(tmp_path / "x.parquet", {"a": [1.0] * (N + 3)}, uid=[*UIDS, "s000007", "z", "z"])
    match = (
        r"x.parquet: 2 uids \(column 'uid'\) have more than one row, such as s000007, z; each must have one"
    )
    with pytest.raises(SourceError, match=match):
        scored(recipe(glob, tmp_path / "run", file))


def test_a_null_uid_is_refused(glob, tmp_path):
    file = write(tmp_path / "x.parquet", {"a": [1.0] * (N + 1)}, uid=[*UIDS, None])
    with pytest.raises(SourceError, match=r"row 60: the uid \(column 'uid'\) is null"):
        scored(recipe(glob, tmp_path / "run", file))


def test_an_empty_file(glob, tmp_path):
    file = write(tmp_path / "x.parquet", {"a": []}, uid=[], kinds={"a": pa.float32(), "uid": pa.string()})
    found = scored(recipe(glob, tmp_path / "run", file, on_missing="null"))
    assert found["mine_status"].to_list() == ["missing"] * N


def test_one_sample(tmp_path):
    glob = write_shards(tmp_path / "in", planted(1), shards=1)
    file = write(tmp_path / "x.parquet", {"a": [2.5]}, uid=["s000000"])
    values = parse_recipe(
        recipe_values(glob, tmp_path / "run", score=[{"file": file}], cluster={"concepts": 1})
    )
    runner.run(values, until="score")
    assert pl.read_parquet(tmp_path / "run/3_scores/x/part-*").rows() == [("s000000", 2.5, "ok")]


def test_copies_of_a_sample_need_no_row(tmp_path):
    glob = write_shards(tmp_path / "in", planted(20, copies=4))
    samples = parse_recipe(recipe_values(glob, tmp_path / "run", score=[]))
    runner.run(samples, until="embed")
    usable = (
        pl.read_parquet(tmp_path / "run/0_samples/part-*")
        .filter(pl.col("copy_of").is_null())["uid"]
        .to_list()
    )
    assert len(usable) == 16
    file = write(tmp_path / "x.parquet", {"a": [1.0] * 16}, uid=usable)
    assert len(scored(recipe(glob, tmp_path / "run", file))) == 16


# --- what the files may hold --------------------------------------------------------------------------------


def checked(file, **settings):
    values = recipe("in/*.parquet", "run", file, **settings)
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


def test_a_run_takes_scores_from_csv(glob, tmp_path):
    columns = scores() | {"c": list(range(N))}
    path = write(tmp_path / "x.parquet", columns)
    pl.read_parquet(path).reverse().write_csv(tmp_path / "x.csv")
    one = scored(recipe(glob, tmp_path / "one", path))
    assert one.equals(scored(recipe(glob, tmp_path / "two", str(tmp_path / "x.csv"))))


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
    file = write(tmp_path / "x.parquet", {"a": [1], "b": [True], "c": ["text"], "d": [[1.0]]}, uid=["x"])
    assert checked(file) == ["distance", "a", "b", "mine_status"]
    assert checked(file, columns="b") == ["distance", "b", "mine_status"]
    assert score_columns(recipe("i", "r", file, higher_is="better"))["a"].higher_is == "better"


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
    file = write(tmp_path / "x.parquet", {"a": [1], "c": ["text"], "d": [[1.0]]}, uid=["x"])
    with pytest.raises(UsageError, match=message):
        checked(file, **settings)


def test_files_that_do_not_fit(tmp_path):
    with pytest.raises(UsageError, match=r"score: file .*nothing.parquet: no such file"):
        checked(str(tmp_path / "nothing.parquet"))
    (tmp_path / "no.parquet").write_text("text")
    with pytest.raises(UsageError, match=r"no.parquet is no Parquet file"):
        checked(str(tmp_path / "no.parquet"))
    text = write(tmp_path / "t.parquet", {"c": ["x"]}, uid=["x"])
    with pytest.raises(UsageError, match="no column of numbers besides 'uid'; there are uid"):
        checked(text)
    mine = write(tmp_path / "w.parquet", {"width": [1]}, uid=["x"])
    with pytest.raises(
        UsageError, match="curate has a column 'width' of its own; rename that one, or name the ones"
    ):
        checked(mine)
    (tmp_path / "two").mkdir()
    write(tmp_path / "two/0.parquet", {"a": [1]}, uid=["x"])
    write(tmp_path / "two/1.parquet", {"a": [1], "b": [1]}, uid=["y"])
    with pytest.raises(
        UsageError, match=r"1.parquet has the columns a, b, 0.parquet has a; name the ones to take"
    ):
        checked(str(tmp_path / "two/*.parquet"))
    assert checked(str(tmp_path / "two/*.parquet"), columns="a") == ["distance", "a", "mine_status"]


def test_nothing_is_done_before_the_check(glob, tmp_path):
    file = write(tmp_path / "x.parquet", {"c": ["text"]}, uid=["x"])
    with pytest.raises(UsageError, match="no column of numbers"):
        runner.run(recipe(glob, tmp_path / "run", file))
    assert not (tmp_path / "run").exists()


def test_another_content_is_computed_anew(glob, tmp_path):
    file = write(tmp_path / "x.parquet", {"a": [1.0] * N})
    values = recipe(glob, tmp_path / "run", file)
    assert set(scored(values)["a"]) == {1.0}
    assert runner.run(values, until="score").worked == ()
    write(tmp_path / "x.parquet", {"a": [2.0] * N})
    assert runner.run(values, until="score").worked == ("score",)
    assert set(scored(values)["a"]) == {2.0}


def test_settings_name_the_folder(tmp_path):
    assert External.model_validate({"file": str(tmp_path / "my scores.parquet")}).folder == "my_scores"
