import multiprocessing
import os
import pickle
import sys
from concurrent.futures import ProcessPoolExecutor

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import RunError, SourceError, UsageError
from curate.sources.base import Columns, Shard
from curate.sources.parquet import ParquetReader, find
from curate.writers import parquet as module
from curate.writers.parquet import tasks, write_file
from curate.writers.schema import output_schema
from curate.writers.shard_plan import KeptRows, OutputFile, Slice, plan
from tests.fixtures.shards import READER, STRUCT, keep, make, write_all


def planned(sizes, limit, split="train", name="s"):
    shard = Shard(name, name, split, 0, "")
    sizes = np.asarray(sizes, np.int64)
    return KeptRows(shard, np.arange(len(sizes)), sizes), limit


def layout(files):
    return [[(part.start, part.stop) for part in file.slices] for file in files]


@pytest.mark.parametrize(
    ("sizes", "limit", "expected"),
    [
        ([5, 5, 5], 10, [[(0, 2)], [(2, 3)]]),
        ([5, 5, 5], 15, [[(0, 3)]]),
        ([5, 5, 5], 14, [[(0, 2)], [(2, 3)]]),
        ([5, 5, 5], 1, [[(0, 1)], [(1, 2)], [(2, 3)]]),
        ([50, 1, 50], 10, [[(0, 1)], [(1, 2)], [(2, 3)]]),
        ([0, 0, 0], 1, [[(0, 3)]]),
        ([1, 50, 0, 0], 10, [[(0, 1)], [(1, 2)], [(2, 4)]]),
        ([], 10, []),
    ],
)
def test_plan_of_one_shard(sizes, limit, expected):
    assert layout(plan([planned(sizes, limit)[0]], limit)) == expected


def test_plan_keeps_order_and_splits_apart():
    kept = [
        planned([4, 4], 0, "train", "a")[0],
        planned([4], 0, "test", "b")[0],
        planned([], 0, "train", "c")[0],
        planned([4, 4], 0, "train", "d")[0],
    ]
    files = plan(kept, 12)
    assert [file.name for file in files] == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
        "test-00000-of-00001.parquet",
    ]
    assert files[0].slices == (Slice("a", 0, 2), Slice("d", 0, 1))
    assert [file.n_rows for file in files] == [3, 1, 1]


def test_plan_of_nothing():
    assert plan([], 10) == []
    assert plan([planned([], 0)[0]], 10, empty=True) == [
        OutputFile("train-00000-of-00001.parquet", "train", ())
    ]
    with pytest.raises(UsageError, match="max_shard_size must be at least 1 byte, got 0"):
        plan([], 0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), max_size=12), max_size=6), st.integers(1, 60))
def test_plan_holds_every_row_once_and_fills_files(shards, limit):
    kept = [planned(sizes, 0, "train", f"s{number}")[0] for number, sizes in enumerate(shards)]
    files = plan(kept, limit)
    sizes = {item.shard.name: item.sizes for item in kept}
    rows = [[(p.shard, row) for p in file.slices for row in range(p.start, p.stop)] for file in files]
    assert sum(rows, []) == [(f"s{n}", row) for n, s in enumerate(shards) for row in range(len(s))]  # noqa: RUF017
    totals = [sum(int(sizes[shard][row]) for shard, row in file) for file in rows]
    assert all(rows) and all(t <= limit or len(file) == 1 for t, file in zip(totals, rows, strict=True))
    for total, following in zip(totals, rows[1:], strict=False):
        assert total + sizes[following[0][0]][following[0][1]] > limit


def all_types(n):
    return pa.table(
        {
            "n": pa.array(range(n), pa.int16()),
            "image": pa.array(
                [{"bytes": os.urandom(i), "path": None} if i % 3 else None for i in range(n)], STRUCT
            ),
            "dictionary": pa.array([f"v{i % 4}" if i % 5 else None for i in range(n)]).dictionary_encode(),
            "views": pa.array([f"{i}" if i % 2 else None for i in range(n)], pa.string_view()),
            "nested": pa.array([[{"a": [i]}] if i % 7 else None for i in range(n)]),
            "fixed": pa.array([[i, i] if i % 2 else None for i in range(n)], pa.list_(pa.float16(), 2)),
            "large": pa.array([bytes(i) for i in range(n)], pa.large_binary()),
            "tags": pa.array([["x"] * (i % 3) for i in range(n)]),
            "deep": pa.array([[b"x" * i, None] if i % 2 else [] for i in range(n)]),
            "map": pa.array([[("k", i)] for i in range(n)], pa.map_(pa.string(), pa.int32())),
            "time": pa.array(range(n), pa.timestamp("us", "UTC")),
            "fixed_bytes": pa.array([bytes([i]) * 3 for i in range(n)], pa.binary(3)),
            "null": pa.nulls(n),
            "list_view": pa.array(
                [["a"] * (i % 3) if i % 4 else None for i in range(n)], pa.list_view(pa.string())
            ),
        }
    ).replace_schema_metadata({"huggingface": '{"info": {}}', "mine": "x"})


@pytest.mark.parametrize("rows", [[0], [59], list(range(60)), list(range(0, 60, 7)), [3, 4, 5, 40]])
def test_types_and_values_survive(tmp_path, rows):
    table = all_types(60)
    shard = make(tmp_path, table, row_group_size=25)
    (path,) = write_all([keep(shard, rows)], tmp_path / "out")
    got = pq.read_table(path)
    source = pq.read_schema(shard.url)
    assert got.schema.equals(source, check_metadata=True)
    for name in table.column_names:
        values = table.column(name).to_pylist()
        assert got.column(name).to_pylist() == [values[row] for row in rows], name


def test_dictionaries_hold_kept_values_only(tmp_path):
    column = pa.array([f"secret{i}" for i in range(50)]).dictionary_encode()
    (path,) = write_all([keep(make(tmp_path, {"d": column}), [7])], tmp_path / "out")
    assert b"secret7" in path.read_bytes() and b"secret8" not in path.read_bytes()


def test_text_that_is_not_utf8_survives(tmp_path):
    raw = pa.array([b"caf\xe9", b"ok"])
    text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    shard = make(tmp_path, {"text": text, "d": text.dictionary_encode()})
    (path,) = write_all([keep(shard, [0, 1])], tmp_path / "out")
    got = pq.read_table(path)
    assert [got.column(name).cast(pa.binary()).to_pylist() for name in ("text",)] == [[b"caf\xe9", b"ok"]]
    assert got.column("d").cast(pa.string()).cast(pa.binary()).to_pylist() == [b"caf\xe9", b"ok"]


def test_bytes_depend_on_the_rows_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROW_GROUP_BYTES", 4000)
    monkeypatch.setattr(module, "ROW_GROUP_ROWS", 30)
    table = all_types(200)
    rows = np.arange(0, 200, 3)
    whole = make(tmp_path, table, "whole.parquet", row_group_size=200)
    parts = make(tmp_path, table, "parts.parquet", row_group_size=11)
    contents = set()
    for number, (shard, batch_bytes) in enumerate(
        [(whole, 1), (whole, 3000), (whole, 10**8), (parts, 10**8)]
    ):
        (path,) = write_all([keep(shard, rows)], tmp_path / str(number), batch_bytes=batch_bytes)
        contents.add(path.read_bytes())
    assert len(contents) == 1
    groups = pq.read_metadata(path)
    assert groups.num_row_groups > 2
    assert max(groups.row_group(g).num_rows for g in range(groups.num_row_groups)) <= 30


def test_row_groups_end_by_bytes_and_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROW_GROUP_BYTES", 100)
    monkeypatch.setattr(module, "ROW_GROUP_ROWS", 4)
    sizes = [10, 10, 10, 10, 10, 90, 50, 50, 500, 1, 1]
    shard = make(tmp_path, {"b": [b"x" * size for size in sizes]})
    (path,) = write_all([keep(shard, range(11))], tmp_path / "out")
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
    assert groups == [4, 2, 2, 1, 2]
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_rows_go_where_the_plan_says(tmp_path):
    shards = [
        make(tmp_path, {"n": list(range(10))}, "train-00000-of-00002.parquet"),
        make(tmp_path, {"n": list(range(10, 20))}, "train-00001-of-00002.parquet"),
        make(tmp_path, {"n": list(range(20, 30))}, "test-00000-of-00001.parquet"),
    ]
    kept = [keep(shards[0], [1, 5, 9]), keep(shards[1], [0, 1]), keep(shards[2], [9])]
    found = write_all(kept, tmp_path / "out", max_shard_size=40)
    assert {path.name: pq.read_table(path)["n"].to_pylist() for path in found} == {
        "train-00000-of-00002.parquet": [1, 5, 9, 10],
        "train-00001-of-00002.parquet": [11],
        "test-00000-of-00001.parquet": [29],
    }
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in found)


def test_empty_file_has_the_schema(tmp_path):
    shard = make(tmp_path, all_types(5))
    (path,) = write_all([keep(shard, [])], tmp_path / "out")
    assert path.name == "train-00000-of-00001.parquet"
    got = pq.read_table(path)
    assert got.num_rows == 0 and got.schema.equals(pq.read_schema(shard.url), check_metadata=True)


def test_changed_source_is_refused(tmp_path):
    shard = make(tmp_path, {"n": [1, 2]})
    os.utime(shard.url, ns=(1, 1))
    with pytest.raises(SourceError, match=r"0\.parquet: the file changed since it was read"):
        write_all([keep(shard, [0])], tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))
    os.remove(shard.url)  # noqa: PTH107
    with pytest.raises(SourceError, match="no longer there"):
        write_all([keep(shard, [0])], tmp_path / "out")


class Changing(ParquetReader):
    """A reader whose shard changes while it is being read, or that loses rows."""

    def read_rows(self, shard, rows, *, batch_bytes):
        for table in super().read_rows(shard, rows, batch_bytes=batch_bytes):
            if self.allow_url:
                os.utime(shard.url, ns=(1, 1))
                yield table
            else:
                yield table.slice(1)


@pytest.mark.parametrize(
    ("touches", "error", "message"),
    [(True, SourceError, "changed since"), (False, RunError, "2 rows were planned, but 1 were read")],
)
def test_nothing_is_left_when_writing_fails(tmp_path, touches, error, message):
    shard = make(tmp_path, {"n": [1, 2]})
    (tmp_path / "out").mkdir()
    with pytest.raises(error, match=message):
        write_all([keep(shard, [0, 1])], tmp_path / "out", reader=Changing(Columns(), allow_url=touches))
    assert not list((tmp_path / "out").iterdir())


def test_tasks_are_picklable_and_independent(tmp_path):
    shards = [make(tmp_path, {"n": list(range(k, k + 10))}, f"{k}.parquet") for k in (0, 10)]
    extra = pa.table({"w": pa.array(np.arange(10.0))})
    kept = {shard.name: keep(shard, range(10), extra=extra) for shard in shards}
    files = plan(kept.values(), 70)
    schema = output_schema(READER, shards, extra.schema)
    loads = []
    listed = list(
        tasks(files, lambda name: loads.append(name) or kept[name], READER, tmp_path / "out", schema)
    )
    assert loads == ["0.parquet", "10.parquet"]
    assert max(len(pickle.dumps(task)) for task in listed) < 5000
    if sys.platform != "win32":
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            assert list(pool.map(write_file, reversed(listed))) == [6, 7, 7]
    got = pa.concat_tables([pq.read_table(tmp_path / "out" / file.name) for file in files])
    assert got.to_pydict() == {"n": list(range(20)), "w": [*map(float, range(10))] * 2}


def test_memory_file_system(tmp_path):
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    make(tmp_path, {"n": [1, 2, 3]})
    fs.pipe("/b/test/0.parquet", (tmp_path / "0.parquet").read_bytes())
    (shard,) = find("memory://b/test")
    (path,) = write_all([keep(shard, [0, 2])], tmp_path / "out")
    assert path.name == "test-00000-of-00001.parquet" and pq.read_table(path)["n"].to_pylist() == [1, 3]
    fs.pipe("/b/test/0.parquet", (tmp_path / "0.parquet").read_bytes() + b" ")
    with pytest.raises(SourceError, match="changed since"):
        write_all([keep(shard, [0])], tmp_path / "out")
    fs.store.clear()


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
    patch.setenv("HF_DATASETS_OFFLINE", "1")
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    yield pytest.importorskip("datasets")
    patch.undo()


def load(datasets, paths, cache):
    files = [str(path) for path in paths]
    return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(cache))


@pytest.mark.parametrize(("name", "step"), [("clothing", 3), ("noto_emoji", 5), ("fashion_mnist", 10)])
def test_datasets_reads_the_same_features_and_bytes(shared_data, tmp_path, datasets, name, step):
    if not (shared_data / name).is_dir():
        pytest.skip(f"no {name} in the shared data")
    shards = find(str(shared_data / name / "train-*"))[:2]
    kept = []
    for shard in shards:
        rows = np.arange(0, READER.count(shard), step)
        extra = pa.table({"weight": pa.array(rows, pa.float32()), "concept": pa.array(rows, pa.int32())})
        kept.append(keep(shard, rows, extra=extra))
    found = write_all(kept, tmp_path / "out", max_shard_size=2500, extra=extra.schema)
    assert len(found) >= 2
    before = load(datasets, [shard.url for shard in shards], tmp_path / "cache")
    after = load(datasets, found, tmp_path / "cache")
    value = datasets.Value
    assert after.features == {**before.features, "weight": value("float32"), "concept": value("int32")}
    assert list(after.features) == [*before.features, "weight", "concept"]
    assert isinstance(after.features["image"], datasets.Image)
    starts = np.cumsum([0, *map(READER.count, shards)])
    wanted = np.concatenate([item.rows + start for item, start in zip(kept, starts, strict=False)])
    names = list(before.features)
    expected = before.data.table.select(names).combine_chunks().take(pa.array(wanted))
    assert after.data.table.select(names).to_pylist() == expected.to_pylist()


def test_datasets_reads_arrays_and_class_labels(tmp_path, datasets):
    features = datasets.Features(
        {
            "kind": datasets.ClassLabel(names=["a", "b"]),
            "grid": datasets.Array2D((2, 2), "float32"),
            "tags": datasets.List(datasets.Value("string")),
        }
    )
    rows = {
        "kind": [0, 1, 1],
        "grid": [[[i, 1.0], [2.0, 3.0]] for i in range(3)],
        "tags": [["x"], [], ["y", "z"]],
    }
    source = tmp_path / "0.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(source)
    (path,) = write_all([keep(find(str(source))[0], [0, 2])], tmp_path / "out")
    got = load(datasets, [path], tmp_path / "cache")
    assert got.features == features
    assert got[1] == {"kind": 1, "grid": [[2.0, 1.0], [2.0, 3.0]], "tags": ["y", "z"]}


def test_pandas_reads_what_pandas_wrote(tmp_path):
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"n": [1, 2, 3]}).to_parquet(tmp_path / "0.parquet")
    (path,) = write_all([keep(find(str(tmp_path / "0.parquet"))[0], [0, 2])], tmp_path / "out")
    assert pandas.read_parquet(path)["n"].tolist() == [1, 3]


small = st.none() | st.text(max_size=4)


@st.composite
def tables(draw):
    n = draw(st.integers(1, 40))

    def column(values, kind):
        return pa.array(draw(st.lists(values, min_size=n, max_size=n)), kind)

    images = st.none() | st.fixed_dictionaries({"bytes": st.none() | st.binary(max_size=9), "path": small})
    text = column(small, pa.string())
    return pa.table(
        {
            "image": column(images, STRUCT),
            "text": text,
            "words": text.dictionary_encode(),
            "tags": column(st.none() | st.lists(small, max_size=3), pa.list_(pa.string())),
            "number": column(st.none() | st.floats(allow_nan=False), pa.float64()),
            "flag": column(st.none() | st.booleans(), pa.bool_()),
        }
    )


@settings(max_examples=40, deadline=None)
@given(table=tables(), data=st.data())
def test_what_is_kept_is_written(tmp_path_factory, table, data):
    folder = tmp_path_factory.mktemp("given")
    n = table.num_rows
    rows = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))
    shard = make(folder, table, row_group_size=data.draw(st.integers(1, n)))
    limit = data.draw(st.integers(1, 300))
    found = write_all([keep(shard, rows)], folder / "out", limit, batch_bytes=data.draw(st.integers(1, 500)))
    got = pa.concat_tables([pq.read_table(path) for path in found])
    assert got.schema == pq.read_schema(shard.url)
    assert got.to_pylist() == table.take(pa.array(rows)).to_pylist()
