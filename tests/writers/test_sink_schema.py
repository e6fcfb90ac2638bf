import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import SourceError, UsageError
from curate.writers.schema import output_schema
from tests.fixtures.shards import READER, STRUCT, keep, make, write_all

HF = {"info": {"features": {"n": {"dtype": "int64", "_type": "Value"}}}, "fingerprint": "x"}


def test_extra_columns(tmp_path):
    shards = [
        make(tmp_path, pa.table({"n": [0, 1, 2]}, metadata={"huggingface": json.dumps(HF)}), name)
        for name in ("a.parquet", "b.parquet")
    ]
    extra = [
        pa.table({"weight": pa.array(w, pa.float32()), "uid": u})
        for w, u in (([0.5, 2], ["x", "y"]), ([1], ["z"]))
    ]
    kept = [keep(shards[0], [0, 2], extra=extra[0]), keep(shards[1], [1], extra=extra[1])]
    found = write_all(kept, tmp_path / "out", max_shard_size=20, extra=extra[0].schema)
    got = pa.concat_tables([pq.read_table(path) for path in found])
    assert got.to_pydict() == {"n": [0, 2, 1], "weight": [0.5, 2.0, 1.0], "uid": ["x", "y", "z"]}
    declared = json.loads(got.schema.metadata[b"huggingface"])
    assert declared["fingerprint"] == "x"
    assert declared["info"]["features"] == {
        **HF["info"]["features"],
        "weight": {"dtype": "float32", "_type": "Value"},
        "uid": {"dtype": "string", "_type": "Value"},
    }
    with pytest.raises(UsageError, match=r"write\.columns: the source already has a column 'n'"):
        output_schema(READER, shards, pa.schema([("n", pa.int64())]))


def test_shards_are_matched_by_name(tmp_path):
    shards = [
        make(tmp_path, {"a": pa.array([1], pa.int32()), "b": ["x"], "z": pa.nulls(1)}, "0.parquet"),
        make(
            tmp_path,
            {"b": pa.array(["y"], pa.large_string()), "c": [[1]], "a": pa.array([2], pa.int64()), "z": ["z"]},
            "1.parquet",
        ),
        make(
            tmp_path, {"z": pa.array(["d"]).dictionary_encode(), "a": pa.array([3], pa.int8())}, "2.parquet"
        ),
    ]
    (path,) = write_all([keep(shard, [0]) for shard in shards], tmp_path / "out")
    got = pq.read_table(path)
    assert got.to_pydict() == {
        "a": [1, 2, 3],
        "b": ["x", "y", None],
        "z": [None, "z", "d"],
        "c": [None, [1], None],
    }
    assert [str(kind) for kind in got.schema.types] == ["int64", "string", "string", "list<element: int64>"]


def test_struct_children_are_matched(tmp_path):
    kinds = [STRUCT, pa.struct([("bytes", pa.large_binary()), ("path", pa.null())])]
    shards = [
        make(tmp_path, {"image": pa.array([{"bytes": b"x", "path": None}], kind)}, f"{n}.parquet")
        for n, kind in enumerate(kinds)
    ]
    (path,) = write_all([keep(shard, [0]) for shard in shards], tmp_path / "out")
    assert pq.read_schema(path).field("image").type == STRUCT
    assert pq.read_table(path)["image"].to_pylist() == [{"bytes": b"x", "path": None}] * 2


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (pa.int64(), pa.string()),
        (pa.int64(), pa.float64()),
        (pa.uint8(), pa.int64()),
        (pa.binary(), pa.string()),
        (pa.list_(pa.int64()), pa.int64()),
        (pa.struct([("x", pa.int64())]), pa.struct([("y", pa.int64())])),
        (pa.list_(pa.int64()), pa.list_(pa.string())),
    ],
)
def test_types_that_do_not_fit_name_both_files(tmp_path, a, b):
    first = make(tmp_path, {"x": pa.nulls(1, a)}, "first.parquet")
    second = make(tmp_path, {"x": pa.nulls(1, b)}, "second.parquet")
    with pytest.raises(
        SourceError, match=r"column 'x' is .* in .*first\.parquet but .* in .*second\.parquet"
    ):
        output_schema(READER, [first, second])


def test_many_small_dictionaries_have_room(tmp_path):
    kind = pa.dictionary(pa.int8(), pa.string())
    shards = [
        make(tmp_path, {"d": pa.array([f"{n}-{i}" for i in range(100)]).cast(kind)}, f"{n}.parquet")
        for n in range(3)
    ]
    (path,) = write_all([keep(shard, range(100)) for shard in shards], tmp_path / "out")
    assert pq.read_table(path)["d"].to_pylist() == [f"{n}-{i}" for n in range(3) for i in range(100)]
    (path,) = write_all([keep(shards[0], range(100))], tmp_path / "one")
    assert pq.read_schema(path).field("d").type == kind


def test_two_columns_of_one_name(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(SourceError, match="several columns are called 'a'"):
        output_schema(READER, [make(tmp_path, table)])
