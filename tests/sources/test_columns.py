import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import SourceError, UsageError
from curate.sources.base import Columns
from curate.sources.columns import guess_columns
from curate.sources.parquet import find
from tests.fixtures.shards import STRUCT, bad_utf8, read, write


@pytest.mark.parametrize("data", [pa.binary(), pa.large_binary(), pa.binary_view()])
@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.string_view(), pa.null()])
def test_struct_images(tmp_path, data, text):
    (tmp_path / "b.png").write_bytes(b"B")
    path = None if pa.types.is_null(text) else "b.png"
    rows = [{"bytes": b"A", "path": path}, {"bytes": None, "path": path}, {"bytes": b"", "path": path}, None]
    image = pa.array(rows, pa.struct([("path", text), ("bytes", data)]))
    got = read(write(tmp_path, image=image), image="image")
    if path is None:
        assert got["image"] == [b"A", None, None, None]
        assert got["outcome"] == ["ok", *["missing_image"] * 3]
        return
    assert got["image"] == [b"A", b"B", None, None]
    assert got["image_ref"] == [None, "b.png", None, None]
    assert got["key"] == ["b.png", "b.png", "b.png", None]
    assert got["outcome"] == ["ok", "ok", "missing_image", "missing_image"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(2)])
def test_binary_images(tmp_path, kind):
    got = read(write(tmp_path, x=pa.array([b"ab", None, b"cd"], kind)), image="x")
    assert got["image"] == [b"ab", None, b"cd"]
    assert got["outcome"] == ["ok", "missing_image", "ok"]
    assert got["key"] == got["image_ref"] == [None] * 3


def test_dictionary_of_images(tmp_path):
    image = pa.array([b"a", b"a", None, b"b"]).dictionary_encode()
    assert read(write(tmp_path, x=image), image="x")["image"] == [b"a", b"a", None, b"b"]


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
        pa.dictionary(pa.int32(), pa.string()),
    ],
)
def test_captions(tmp_path, kind):
    texts = pa.array(["a", "", None, "  ", "ü"])
    got = read(write(tmp_path, caption=texts.cast(kind)), caption="caption")
    assert got["caption"] == ["a", "", None, "  ", "ü"]
    assert got["outcome"] == ["ok", "no_caption", "no_caption", "no_caption", "ok"]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.binary()),
    ],
)
def test_lists_of_captions_give_the_first(tmp_path, kind):
    values = pa.array([["a", "b"], [], None, [None, "x"]], pa.list_(pa.string()))
    got = read(write(tmp_path, caption=values.cast(kind)), caption="caption")
    assert got["caption"] == ["a", None, None, "x"]
    view = pa.array([["a", "b"], [], None, ["c"]], pa.list_view(pa.string()))
    got = read(write(tmp_path, "2.parquet", caption=view), caption="caption")
    assert got["caption"] == ["a", None, None, "c"]
    fixed = pa.array([["a", "b"], None], pa.list_(pa.string(), 2))
    assert read(write(tmp_path, "1.parquet", caption=fixed), caption="caption")["caption"] == ["a", None]


@pytest.mark.parametrize("kind", [None, pa.large_string(), pa.string_view()])
def test_text_that_is_not_utf8(tmp_path, kind):
    text = bad_utf8(kind)
    columns = {"caption": text, "label": text, "image": text, "uid": ["a", "b", "c"]}
    got = read(write(tmp_path, **columns), caption="caption", label="label", image="image")
    assert got["caption"] == got["label"] == ["café", "ok", None]  # Windows-1252, and said to be
    assert got["key"] == ["caf\ufffd", "ok", None]
    listed = pa.ListArray.from_arrays([0, 1, 3], bad_utf8())
    assert read(write(tmp_path, "1.parquet", c=listed), caption="c")["caption"] == ["café", "ok"]
    with pytest.raises(SourceError, match=r"2\.parquet: column 'uid' holds a uid that is not valid UTF-8"):
        read(
            write(tmp_path, "2.parquet", uid=bad_utf8(kind), caption=["a"] * 3), caption="caption", uid="uid"
        )


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([3, None, -1], pa.int8()), ["3", None, "-1"]),
        (pa.array([3, None], pa.uint64()), ["3", None]),
        (pa.array(["cat", None, ""]), ["cat", None, ""]),
        (pa.array(["cat", None]).dictionary_encode(), ["cat", None]),
        (pa.array([True, None, False]), ["true", None, "false"]),
        (pa.array([3.0, 0.5, None, float("nan"), float("inf")]), ["3", "0.5", None, None, "inf"]),
        (pa.array([2.0], pa.float16()), ["2"]),
        (pa.nulls(2), [None, None]),
    ],
)
def test_labels(tmp_path, values, texts):
    shard = write(tmp_path, caption=["x"] * len(values), label=values)
    assert read(shard, caption="caption", label="label")["label"] == texts


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (["b", " a ", "é"], ["b", " a ", "é"]),
        (pa.array(["b", "a"], pa.large_string()), ["b", "a"]),
        (pa.array(["b", "b"]).dictionary_encode(), ["b", "b"]),
        (pa.array([2**63, 7], pa.uint64()), ["9223372036854775808", "7"]),
        (pa.array([-5], pa.int32()), ["-5"]),
    ],
)
def test_uids(tmp_path, values, texts):
    shard = write(tmp_path, caption=["x"] * len(values), id=values)
    assert read(shard, caption="caption", uid="id")["uid"] == texts


def test_null_uid_names_file_and_row(tmp_path):
    shard = write(tmp_path, caption=["x"] * 3000, id=[*range(2500), None, *range(2501, 3000)])
    with pytest.raises(SourceError, match=r"0\.parquet: row 2500: the uid \(column 'id'\) is null"):
        read(shard, caption="caption", uid="id")


def test_wrong_columns(tmp_path):
    shard = write(tmp_path, caption=["x"], n=[1.5], tags=[{"a": 1}])
    with pytest.raises(
        UsageError, match=r"0\.parquet: no column 'img' \(for image\); columns: caption \(string\), n"
    ):
        read(shard, image="img")
    with pytest.raises(UsageError, match="column 'n' cannot be used as image: its type is double"):
        read(shard, image="n")
    with pytest.raises(UsageError, match="column 'tags' cannot be used as label"):
        read(shard, caption="caption", label="tags")
    with pytest.raises(UsageError, match="column 'n' cannot be used as uid"):
        read(shard, caption="caption", uid="n")
    twice = tmp_path / "twice.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["c", "c"]), twice)
    with pytest.raises(SourceError, match="2 columns are called 'c'"):
        read(find(str(twice))[0], caption="c")


def test_names_with_dots(tmp_path):
    got = read(write(tmp_path, **{"a": ["1"], "a.b": ["2"]}), caption="a.b", label="a")
    assert (got["caption"], got["label"]) == (["2"], ["1"])


def schema(**columns):
    return pa.schema(list(columns.items()))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"image": STRUCT, "label": pa.int64(), "caption": pa.string()}, ("image", "caption", "label")),
        ({"image": STRUCT, "caption": pa.string(), "keywords": pa.string()}, ("image", "caption", None)),
        ({"jpg": pa.binary(), "TEXT": pa.string(), "url": pa.string()}, ("jpg", "TEXT", None)),
        ({"url": pa.string(), "TEXT": pa.string()}, ("url", "TEXT", None)),
        ({"image_path": pa.string(), "url": pa.string()}, ("image_path", None, None)),
        ({"photo_1": STRUCT, "cls": pa.string()}, ("photo_1", None, "cls")),
        ({"left": STRUCT, "right": STRUCT, "text": pa.string()}, (None, "text", None)),
        ({"left": STRUCT, "image": STRUCT}, ("image", None, None)),
        ({"jpg": pa.binary(), "png": pa.binary(), "txt": pa.string()}, (None, "txt", None)),
        ({"bytes": pa.large_binary(), "labels": pa.list_(pa.int64())}, ("bytes", None, None)),
        (
            {"caption": pa.list_(pa.string()), "label": pa.int8(), "class": pa.string()},
            (None, "caption", "label"),
        ),
        ({"text": pa.string(), "txt": pa.string(), "img": pa.string()}, ("img", None, None)),
        ({"caption": pa.string(), "mask": pa.binary()}, (None, "caption", None)),
    ],
)
def test_guess_columns(columns, expected):
    got = guess_columns(schema(**columns))
    assert (got.image, got.caption, got.label) == expected
    assert got.uid is None and got.vector is None


def test_guess_columns_by_declared_class():
    features = b'{"info": {"features": {"kind": {"_type": "ClassLabel"}, "text": {"_type": "Value"}}}}'
    declared = schema(text=pa.string(), kind=pa.int64()).with_metadata({b"huggingface": features})
    assert guess_columns(declared).label == "kind"
    assert guess_columns(declared.with_metadata({b"huggingface": b"not json"})).label is None


def test_explicit_columns_override_and_none_turns_off():
    given_schema = schema(image=STRUCT, alt=pa.string(), caption=pa.string(), label=pa.int64(), id=pa.int64())
    got = guess_columns(given_schema, caption="alt", label=None, uid="id")
    assert got == Columns(image="image", caption="alt", label=None, uid="id")
    with pytest.raises(UsageError, match="no column 'nope'"):
        guess_columns(given_schema, label="nope")
    with pytest.raises(UsageError, match="no image, caption or vector column found"):
        guess_columns(given_schema, image=None, caption=None)
    with pytest.raises(UsageError, match=r"columns: a \(int64\), b \(double\)"):
        guess_columns(schema(a=pa.int64(), b=pa.float64()))
