import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import BudgetError, SourceError, UsageError
from curate.pipeline.source_schemas import SourceSchemas
from curate.recipe import Write
from curate.recipe.loading import parse_recipe, parse_select
from curate.sources.base import Shard
from curate.writers.schema import JoinedSchema, output_schema, schemas_apart
from tests.fixtures.builders import recipe_values
from tests.fixtures.shards import READER, STRUCT, keep, make, write_all

SHARD = Shard("a.parquet", "a.parquet", "train", 0, "")
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
        (pa.timestamp("us"), pa.timestamp("us", "UTC")),
        (pa.bool_(), pa.int64()),
        (pa.binary(), pa.string()),
        (pa.list_(pa.int64()), pa.int64()),
        (pa.struct([("x", pa.int64())]), pa.struct([("x", pa.string())])),
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


NUMBERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
           pa.float16(), pa.float32(), pa.float64()]  # fmt: skip


def ends(kind):
    """The numbers of a type that are hardest to hold: the ends of whole numbers, the finest fractions of floats."""
    if pa.types.is_integer(kind):
        signed = pa.types.is_signed_integer(kind)
        bits = kind.bit_width - signed
        return [-(2**bits) if signed else 0, 2**bits - 1]
    return {16: [2049 / 2**11 * 2, 65504.0], 32: [1 + 2**-23], 64: [1 + 2**-52]}[kind.bit_width]


@pytest.mark.parametrize("a", NUMBERS, ids=str)
@pytest.mark.parametrize("b", NUMBERS, ids=str)
def test_numbers_are_joined_where_no_value_changes(a, b):
    joined = JoinedSchema()
    for kind in (a, b):
        joined.add(SHARD, pa.schema([("x", kind)]))
    kind, by_value = joined.fields["x"].type, "x" in joined.by_value
    held = True
    for one in (a, b):
        column = pa.array(ends(one), pa.float64() if pa.types.is_floating(one) else one).cast(one)
        try:
            held = held and column.cast(kind).cast(one).equals(column)
        except pa.ArrowInvalid:
            held = False
    assert held == (not by_value)


def test_a_column_of_several_types_is_told_with_the_one_it_is_written_as(tmp_path, caplog):
    """How texts are stored is nothing to tell; a column that is all null in a shard has no type of its own there."""
    columns = [
        {"n": pa.array([1]), "t": pa.array(["a"]), "s": pa.array([{"x": 1}]), "e": pa.nulls(1), "same": [1]},
        {"n": pa.array([1.5]), "t": pa.array(["b"], pa.large_string()), "s": pa.array([{"x": 1, "y": "b"}]), "e": [2], "same": [2]},
        {"n": pa.nulls(1), "t": pa.array(["b"]).dictionary_encode(), "s": pa.array([{"x": 2}]), "e": [3], "same": [3]},
    ]  # fmt: skip
    caplog.set_level("INFO", logger="curate")
    schemas = SourceSchemas(parse_recipe(recipe_values(str(tmp_path / "*.parquet"), tmp_path / "run")))
    for place, one in enumerate(columns):
        shard = make(tmp_path, one, f"{place}.parquet")
        schemas.add(shard, pq.read_schema(shard.url), 1)
    schemas.check()
    struct = "struct<x: int64, y: string>"
    assert [record.getMessage() for record in caplog.records] == [
        "source: column 'n' is int64 and double in different shards, and written as double",
        f"source: column 's' is struct<x: int64> and {struct} in different shards, and written as {struct}",
    ]


def test_values_that_a_joined_type_holds_are_written_and_others_named(tmp_path):
    times = [pa.array([1, None], pa.timestamp("s")), pa.array([1_500, 2], pa.timestamp("ms"))]
    structs = [pa.array([{"x": 1}, None]), pa.array([{"y": "b", "x": 2.5}, {"y": None, "x": None}])]
    columns = [
        {"n": pa.array([1, 2**53]), "t": times[0], "s": structs[0], "l": pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float32(), 2))},
        {"n": pa.array([1.5, None]), "t": times[1], "s": structs[1], "l": pa.array([[3.0], None])},
    ]  # fmt: skip
    shards = [make(tmp_path, one, f"{place}.parquet") for place, one in enumerate(columns)]
    (path,) = write_all([keep(shard, [0, 1]) for shard in shards], tmp_path / "out")
    got = pq.read_table(path)
    assert got["n"].to_pylist() == [1.0, float(2**53), 1.5, None]
    assert got["t"].cast(pa.int64()).to_pylist() == [1_000, None, 1_500, 2]
    rows = [{"x": 1.0, "y": None}, None, {"x": 2.5, "y": "b"}, {"x": None, "y": None}]
    assert got["s"].to_pylist() == rows
    assert got["l"].to_pylist() == [[1.0, 2.0], [1.0, 2.0], [3.0], None]
    recipe = parse_recipe(recipe_values(str(tmp_path / "*.parquet"), tmp_path / "run"))

    def checked(shards, **write):
        schemas = SourceSchemas(recipe.model_copy(update={"write": Write(**write)}))
        for shard in shards:
            schemas.add(shard, pq.read_schema(shard.url), 2)
        schemas.check()

    checked(shards)
    too_large = make(tmp_path, {"n": pa.array([0, 2**53 + 1])}, "large.parquet")
    with pytest.raises(
        SourceError, match=r"large\.parquet: column 'n' is int64 here and double together .*9007199254740993"
    ):
        checked([*shards, too_large])
    text = make(tmp_path, {"n": ["a", "b"]}, "text.parquet")
    with pytest.raises(
        SourceError,
        match=r"column 'n' is int64 in .*0\.parquet but string in .*text\.parquet.*schemas: apart",
    ):
        checked([*shards, text])
    checked([*shards, too_large, text], schemas="apart")
    checked([*shards, text], format="webdataset")
    recipe = recipe.model_copy(update={"select": parse_select({"count": 5})})
    with pytest.raises(BudgetError, match=r"select\.count 5 is more than the 4 rows of the source"):
        checked(shards)
    recipe = recipe.model_copy(update={"select": parse_select({"count": 5, "at_most": True})})
    checked(shards)


def test_shards_of_each_schema_are_groups_in_the_order_of_the_shards(tmp_path):
    kinds = [pa.int64(), pa.string(), pa.int32(), pa.float64(), pa.large_string()]
    shards = [
        make(tmp_path, {"x": pa.nulls(1, kind)}, f"{place}.parquet") for place, kind in enumerate(kinds)
    ]
    groups = schemas_apart(READER, shards)
    assert [sorted(names) for names, _ in groups] == [
        ["0.parquet", "2.parquet"], ["1.parquet", "4.parquet"], ["3.parquet"],
    ]  # fmt: skip
    assert [table.field("x").type for _, table in groups] == [pa.int64(), pa.string(), pa.float64()]


def test_features_say_the_joined_type(tmp_path):
    shards = [
        make(
            tmp_path,
            pa.table({"n": pa.array([1], kind)}, metadata={"huggingface": json.dumps(HF)}),
            f"{kind}.parquet",
        )
        for kind in (pa.int64(), pa.float64())
    ]
    declared = json.loads(output_schema(READER, shards).metadata[b"huggingface"])
    assert declared["info"]["features"]["n"]["dtype"] == "float64"


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
