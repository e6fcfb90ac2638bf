"""Scores of the user's own in a run: joined by uid, whatever the order, the files and the memory."""

import json
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import SourceError, UsageError
from curate.execution.context import Context
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.scores.external import uid_join
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.folders import again, changed, files_below, tables

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


#: Types of numbers, and of uids.
NUMBERS = (
    pa.int8(),
    pa.uint64(),
    pa.float16(),
    pa.bool_(),
    pa.decimal128(5, 2),
    pa.dictionary(pa.int8(), pa.int32()),
)
NAMES = (pa.int64(), pa.uint16(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string()))
PRESENT = [i for i in range(N) if i not in (0, 11, 40)]


def of_kind(kind):
    """Numbers 0 and 1 as values of a type."""
    makers = {pa.bool_(): bool, pa.float16(): np.float16}
    make = Decimal if pa.types.is_decimal(kind) else makers.get(kind, int)
    return [make(i % 2) for i in range(N)]


class Finished:
    """A run up to the scores that has many files at once: its tables, what was noted of each, and what was logged."""

    def __init__(self, values):
        runner.run(values, until="score")
        self.path = Path(values.run)
        self.log = "".join(log.read_text() for log in files_below(self.path / "logs"))

    def table(self, name):
        return pl.read_parquet(self.path / f"3_scores/{name}/part-*").sort("uid")

    def facts(self, name):
        return json.loads((self.path / f"3_scores/{name}/_done.json").read_text())["facts"]


@pytest.fixture(scope="module")
def finished(glob, tmp_path_factory):
    """Every file that is taken as it is; columns of different files have different names."""
    folder = tmp_path_factory.mktemp("finished")
    columns, order = scores(), np.random.default_rng(1).permutation(N)
    some = {f"some_{name}": values for name, values in columns.items()}
    empty = {"empty_a": pa.float32(), "uid": pa.string()}
    families = [
        {"file": write(folder / "mine.parquet", columns, order)},
        {"file": write(folder / "some.parquet", some, PRESENT), "on_missing": "null"},
        {"file": write(folder / "more.parquet", {"more_a": list(range(N + 3))}, uid=[*UIDS, "x", "y", "z"])},
        {
            "file": write(folder / "empty.parquet", {"empty_a": []}, uid=[], kinds=empty),
            "on_missing": "null",
        },
    ]
    for number, kind in enumerate(NUMBERS):
        given = {f"number_{number}": of_kind(kind)}
        families.append(
            {"file": write(folder / f"kind-{number}.parquet", given, kinds={f"number_{number}": kind})}
        )
    return Finished(parse_recipe(recipe_values(glob, folder / "run", score=families)))


def test_each_sample_has_its_values(finished):
    found = finished.table("mine")
    assert found.schema == {"uid": pl.String, "a": pl.Float32, "b": pl.Float32, "mine_status": pl.String}
    assert found.rows() == by_definition(scores())
    assert finished.facts("mine")["nonfinite"] == {"a": 2, "b": 2}
    assert finished.facts("mine")["scored"] == N - 5
    assert "score: mine: 2 values of a are not finite (as float32); they count as missing" in finished.log


def test_files_order_and_shards_change_nothing(finished, tmp_path, monkeypatch):
    columns = scores()
    monkeypatch.setattr(uid_join, "BATCH_ROWS", 7)
    order = np.random.default_rng(1).permutation(N)
    (tmp_path / "several").mkdir()
    for place, some in enumerate(np.array_split(order, 4)):
        write(tmp_path / "several" / f"{place}.parquet", columns, some)
    shuffled = write_shards(tmp_path / "in2", planted(N), shards=5, order=order)
    two = recipe(shuffled, tmp_path / "two", str(tmp_path / "several" / "*.parquet"))
    monkeypatch.setattr(Context, "task_memory", 20_000)  # a few buckets
    assert scored(two).equals(finished.table("mine"))


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


@pytest.mark.parametrize("number", range(len(NUMBERS)), ids=[str(kind) for kind in NUMBERS])
def test_all_kinds_of_numbers(finished, number):
    assert finished.table(f"kind-{number}")[f"number_{number}"].to_list() == [i % 2 for i in range(N)]


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A run whose uids are numbers, with a file for every type of them."""
    folder = tmp_path_factory.mktemp("numbered")
    glob = write_shards(folder / "in", planted(N), uid=False, extra={"number": [str(i) for i in range(N)]})
    families = []
    for number, kind in enumerate(NAMES):
        given = [i if pa.types.is_integer(kind) else str(i) for i in range(N)]
        if kind == pa.binary():
            given = [text.encode() for text in given]
        values = {f"a_{number}": list(range(N))}
        file = write(folder / f"uids-{number}.parquet", values, uid=given, on="id", kinds={"id": kind})
        families.append({"file": file, "on": "id"})
    source = {"path": glob, "uid": "number"}
    return Finished(parse_recipe(recipe_values(glob, folder / "run", score=families, source=source)))


@pytest.mark.parametrize("number", range(len(NAMES)), ids=[str(kind) for kind in NAMES])
def test_all_kinds_of_uids(numbered, number):
    found = numbered.table(f"uids-{number}")
    assert len(found) == N
    assert found[f"a_{number}"].to_list() == [float(uid) for uid in found["uid"]]


def test_samples_without_a_row(finished):
    found, columns = finished.table("some"), scores()
    for i in (0, 11, 40):
        assert found.row(i) == (UIDS[i], None, None, "missing")
    assert [row for i, row in enumerate(found.rows()) if i in PRESENT] == [
        by_definition(columns)[i] for i in PRESENT
    ]
    assert finished.facts("some")["missing"] == 3
    assert finished.facts("some")["scored"] == N - 5 - 3


def test_rows_of_no_sample_are_counted(finished):
    facts = finished.facts("more")
    assert (len(finished.table("more")), facts["extra"], facts["missing"]) == (N, 3, 0)


def test_an_empty_file(finished):
    assert finished.table("empty")["empty_status"].to_list() == ["missing"] * N


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the run with nothing scored yet."""
    return again(finished.path, tmp_path / "run")


@pytest.mark.parametrize(
    ("rows", "uids", "said"),
    [
        (PRESENT, UIDS, r"3 of 60 samples have no row, such as s000000, s000011, s000040; add them, or set on_m"),
        (None, [*UIDS, "s000007", "z", "z"],
         r"x.parquet: 2 uids \(column 'uid'\) have more than one row, such as s000007, z; each must have one"),
        (None, [*UIDS, None], r"row 60: the uid \(column 'uid'\) is null"),
    ],
    ids=["no row", "twice", "null"],
)  # fmt: skip
def test_uids_that_are_refused(glob, copied, tmp_path, rows, uids, said):
    file = write(tmp_path / "x.parquet", {"a": [1.0] * len(uids)}, rows, uid=uids)
    with pytest.raises(SourceError, match=said):
        scored(recipe(glob, copied, file))


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


def test_nothing_is_done_before_the_check(glob, tmp_path):
    file = write(tmp_path / "x.parquet", {"c": ["text"]}, uid=["x"])
    with pytest.raises(UsageError, match="no column of numbers"):
        runner.run(recipe(glob, tmp_path / "run", file))
    assert not (tmp_path / "run").exists()


def test_another_content_is_computed_anew(glob, copied, tmp_path):
    file = write(tmp_path / "x.parquet", {"a": [1.0] * N})
    values = recipe(glob, copied, file)
    assert set(scored(values)["a"]) == {1.0}
    assert runner.run(values, until="score").worked == ()
    write(tmp_path / "x.parquet", {"a": [2.0] * N})
    assert runner.run(values, until="score").worked == ("score",)
    assert set(scored(values)["a"]) == {2.0}


def test_a_run_takes_scores_from_csv(glob, tmp_path):
    columns = scores() | {"c": list(range(N))}
    path = write(tmp_path / "x.parquet", columns)
    pl.read_parquet(path).reverse().write_csv(tmp_path / "x.csv")
    one = scored(recipe(glob, tmp_path / "one", path))
    assert one.equals(scored(recipe(glob, tmp_path / "two", str(tmp_path / "x.csv"))))
