import os

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import EmbeddingError, SourceError, UsageError
from curate.schema import OUTCOMES
from curate.sources import parquet as module
from curate.sources.base import Columns, Shard
from curate.sources.parquet import ParquetReader, find, guess_columns

BIG = 64 << 20
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def bad_utf8(kind=None):
    """A string column whose first value is not UTF-8."""
    data = pa.array([b"caf\xe9", b"ok", None])
    array = pa.Array.from_buffers(pa.string(), 3, data.buffers())
    return array if kind is None else array.cast(kind)


def write(folder, name="0.parquet", row_group_size=None, **columns):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return find(str(path))[0]


def read(shard, images=True, batch_bytes=BIG, allow_url=False, **columns):
    """Read all rows of a shard as one dict of lists."""
    batches = list(
        ParquetReader(Columns(**columns), allow_url=allow_url).batches(
            shard, images=images, batch_bytes=batch_bytes
        )
    )
    fields = ("key", "image", "image_ref", "caption", "label", "outcome", "reason")
    merged = {field: [value for batch in batches for value in getattr(batch, field)] for field in fields}
    merged["row"] = [int(row) for batch in batches for row in batch.row]
    merged["uid"] = None if "uid" not in columns else [uid for batch in batches for uid in batch.uid]
    assert merged["row"] == list(range(len(merged["row"])))
    assert set(merged["outcome"]) <= set(OUTCOMES)
    assert all((o == "ok") == (r is None) for o, r in zip(merged["outcome"], merged["reason"], strict=True))
    return merged


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
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_path_images(tmp_path, kind):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"1")
    (tmp_path.parent / "outside.png").write_bytes(b"x")
    (tmp_path / "link.png").symlink_to(tmp_path.parent / "outside.png")
    paths = [
        "a/1.png",
        "a/2.png",
        None,
        "",
        "/etc/passwd",
        "../outside.png",
        "link.png",
        "https://x.invalid/1.png",
    ]
    image = pa.array(paths).cast(kind) if pa.types.is_dictionary(kind) else pa.array(paths, kind)
    shard = write(tmp_path, image_path=image)
    got = read(shard, image="image_path")
    assert got["image"] == [b"1"] + [None] * 7
    assert got["image_ref"] == got["key"] == paths
    assert got["outcome"] == ["ok"] + ["missing_image"] * 3 + ["refused_path"] * 4
    unread = read(shard, images=False, image="image_path")
    assert unread["image"] == [None] * 8 and unread["image_ref"] == paths
    assert unread["outcome"] == ["ok"] * 2 + ["missing_image"] * 2 + ["refused_path"] * 2 + [
        "ok",
        "refused_path",
    ]


def test_path_beside_bytes_is_never_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(module.paths, "follow", lambda *_, **__: pytest.fail("opened"))
    image = pa.array([{"bytes": b"A", "path": "/etc/passwd"}, {"bytes": b"", "path": "a.png"}], STRUCT)
    assert read(write(tmp_path, image=image), image="image")["outcome"] == ["ok", "missing_image"]


def test_addresses_are_fetched_only_when_allowed(tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(module.paths, "_open_url", lambda url: fetched.append(url) or open(os.devnull, "rb"))  # noqa: PTH123, SIM115
    shard = write(tmp_path, url=["http://x.invalid/1.png"])
    assert read(shard, image="url")["outcome"] == ["refused_path"] and not fetched
    assert read(shard, image="url", allow_url=True)["outcome"] == ["missing_image"] and len(fetched) == 1


def test_followed_images_come_in_bounded_batches(tmp_path):
    for row in range(50):
        (tmp_path / f"{row}.png").write_bytes(bytes([row]) * 1000)
    shard = write(tmp_path, image=[f"{row}.png" for row in range(50)])
    reader = ParquetReader(Columns(image="image"))
    batches = list(reader.batches(shard, images=True, batch_bytes=16_000))
    assert [len(batch) for batch in batches] == [16, 16, 16, 2]
    assert b"".join(data[:1] for batch in batches for data in batch.image) == bytes(range(50))


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
    assert got["caption"] == ["a", None, None, None]
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
    assert got["caption"] == got["label"] == got["key"] == ["caf\ufffd", "ok", None]
    listed = pa.ListArray.from_arrays([0, 1, 3], bad_utf8())
    assert read(write(tmp_path, "1.parquet", c=listed), caption="c")["caption"] == ["caf\ufffd", "ok"]
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


def test_vectors(tmp_path):
    values = [None] * 1500 + [[1.0, 2.0], [3.0], [0.0, 0.0], [3.0, 4.0]]
    shard = write(tmp_path, vector=pa.array(values, pa.list_(pa.float32())), image=["a"] * len(values))
    reader = ParquetReader(Columns(vector="vector", image="image"))
    assert reader.vector_length(shard) == 2
    batches = list(reader.batches(shard, images=True, batch_bytes=BIG))
    vectors = np.concatenate([batch.vector for batch in batches])
    assert vectors.dtype == np.float32 and vectors.shape == (1504, 2)
    assert [o for batch in batches for o in batch.outcome] == ["bad_vector"] * 1500 + [
        "ok",
        *["bad_vector"] * 2,
        "ok",
    ]
    assert all(reason for reason in batches[0].reason)
    np.testing.assert_array_equal(vectors[[1500, 1503]], [[1, 2], [3, 4]])
    assert np.isnan(vectors[:1500]).all()
    longer = ParquetReader(Columns(vector="vector"), vector_dim=1)
    assert [o for batch in longer.batches(shard, images=True, batch_bytes=BIG) for o in batch.outcome].count(
        "ok"
    ) == 1
    with pytest.raises(EmbeddingError, match="'image' must hold lists"):
        list(ParquetReader(Columns(vector="image")).batches(shard, images=True, batch_bytes=BIG))


def test_all_rows_once_whatever_the_batches(tmp_path):
    images = [bytes([row % 256]) * (row % 700) or None for row in range(5000)]
    shard = write(tmp_path, row_group_size=1300, image=images, caption=[str(row) for row in range(5000)])
    for batch_bytes in (1, 1000, 10_000, BIG):
        got = read(shard, batch_bytes=batch_bytes, image="image", caption="caption")
        assert got["image"] == images and got["caption"] == [str(row) for row in range(5000)]
    reader = ParquetReader(Columns(image="image"))
    sizes = [
        sum(len(x or b"") for x in batch.image)
        for batch in reader.batches(shard, images=True, batch_bytes=9_000)
    ]
    assert max(sizes) < 20_000


@pytest.mark.parametrize("groups", [1, 3])
def test_count_schema_and_empty_shards(tmp_path, groups):
    shard = write(tmp_path, row_group_size=groups, caption=pa.array([], pa.string()))
    assert ParquetReader(Columns(caption="caption")).count(shard) == 0
    assert read(shard, caption="caption")["row"] == []
    reader = ParquetReader(Columns(caption="caption"))
    assert list(reader.read_rows(shard, np.arange(0), batch_bytes=BIG)) == []
    assert reader.schema(shard).names == ["caption"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"the file is empty \(0 bytes\)"),
        (b"PAR1", "cut short"),
        (b"hello, world! " * 50, "not a Parquet file"),
        ("cut", "cut short"),
        ("encrypted", "encrypted"),
        ("page", "damaged"),
        ("footer", "damaged"),
    ],
)
def test_files_that_are_not_whole(tmp_path, content, message):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"caption": [str(row) * 20 for row in range(1000)]}), path, compression="zstd")
    raw = path.read_bytes()
    changed = {
        "cut": raw[: len(raw) // 2],
        "encrypted": raw[:-4] + b"PARE",
        "page": raw[:30] + b"\xff" * 60 + raw[90:],
        "footer": raw[:-40] + b"\xff" * 32 + raw[-8:],
    }
    path.write_bytes(changed.get(content, content))
    shard = find(str(path))[0]
    with pytest.raises(SourceError, match=message) as caught:
        read(shard, caption="caption")
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(SourceError, match="no such file"):
        ParquetReader(Columns(caption="caption")).count(shard)


def test_wrong_columns(tmp_path):
    shard = write(tmp_path, caption=["x"], n=[1.5], tags=[[1]])
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


def test_find_gives_splits_and_keeps_secrets_unresolved(tmp_path):
    for name in ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet", "val/0.pq"):
        write(tmp_path, name, caption=["x"])
    shards = find(str(tmp_path), storage_options={"key": "${NOT_SET}"}, source="mine")
    assert [(shard.name, shard.split) for shard in shards] == [
        ("test-00000-of-00001.parquet", "test"),
        ("train-00000-of-00001.parquet", "train"),
        ("val/0.pq", "val"),
    ]
    assert {shard.source for shard in shards} == {"mine"}
    assert shards[0].storage_options == {"key": "${NOT_SET}"}
    assert isinstance(shards[0], Shard)


def test_read_rows_keeps_every_type(tmp_path):
    n = 40
    columns = {
        "image": pa.array([{"bytes": bytes([i]), "path": None} if i % 3 else None for i in range(n)], STRUCT),
        "dictionary": pa.array([f"v{i % 4}" if i % 5 else None for i in range(n)]).dictionary_encode(),
        "views": pa.array([f"{i}" for i in range(n)], pa.string_view()),
        "nested": pa.array([[{"a": [i]}] if i % 7 else None for i in range(n)]),
        "fixed": pa.array([[i, i] if i % 2 else None for i in range(n)], pa.list_(pa.float16(), 2)),
        "large": pa.array([bytes(i) for i in range(n)], pa.large_binary()),
        "map": pa.array([[("k", i)] for i in range(n)], pa.map_(pa.string(), pa.int32())),
        "null": pa.nulls(n),
        "list_view": pa.array(
            [[f"{i}"] * (i % 4) if i % 3 else None for i in range(n)], pa.list_view(pa.string())
        ),
        "broken": pa.chunked_array([bad_utf8()] * 13 + [pa.array(["x"])]).combine_chunks(),
    }
    shard = write(tmp_path, row_group_size=7, **columns)
    reader = ParquetReader(Columns(image="image"))
    whole = pa.table(columns)
    for rows in ([], [0], [39], [3, 4, 5], [0, 6, 7, 13, 14, 39], list(range(n))):
        wanted = np.array(rows, np.int64)
        for batch_bytes in (1, BIG):
            tables = list(reader.read_rows(shard, wanted, batch_bytes=batch_bytes))
            if not rows:
                assert tables == []
                continue
            got = pa.concat_tables(tables)
            assert got.schema == reader.schema(shard)
            for name in columns:
                kind = {"broken": pa.binary(), "views": pa.string()}.get(name, got.schema.field(name).type)
                expected = [whole.column(name).cast(kind).to_pylist()[row] for row in rows]
                assert got.column(name).cast(kind).to_pylist() == expected, name


def test_read_rows_with_views_inside(tmp_path):
    kind = pa.struct([("a", pa.string_view())])
    shard = write(tmp_path, x=pa.array([{"a": f"{i}"} for i in range(9)], kind))
    (table,) = ParquetReader(Columns()).read_rows(shard, np.array([1, 4]), batch_bytes=BIG)
    assert table.schema.field("x").type == kind and table.column("x").to_pylist() == [{"a": "1"}, {"a": "4"}]


def test_read_rows_touches_only_the_groups_it_needs(tmp_path, monkeypatch):
    shard = write(tmp_path, row_group_size=10, caption=[str(i) for i in range(100)])
    touched = []
    scan = module._scan
    monkeypatch.setattr(
        module, "_scan", lambda file, group, *rest: touched.append(group) or scan(file, group, *rest)
    )
    list(ParquetReader(Columns(caption="caption")).read_rows(shard, np.array([5, 77, 79]), batch_bytes=BIG))
    assert touched == [0, 7]


@pytest.mark.parametrize("rows", [[-1, 0], [0, 3]])
def test_read_rows_beyond_the_shard(tmp_path, rows):
    shard = write(tmp_path, caption=["a", "b", "c"])
    with pytest.raises(SourceError, match="has 3 rows"):
        list(ParquetReader(Columns(caption="caption")).read_rows(shard, np.array(rows), batch_bytes=BIG))


def test_memory_file_system(tmp_path):
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    write(tmp_path, image=["a.png", "b.png"], caption=["x", "y"])
    fs.pipe("/bucket/train/0.parquet", (tmp_path / "0.parquet").read_bytes())
    fs.pipe("/bucket/train/a.png", b"png")
    (shard,) = find("memory://bucket/train/*.parquet")
    got = read(shard, image="image", caption="caption")
    assert got["image"] == [b"png", None] and got["outcome"] == ["ok", "missing_image"]
    assert shard.split == "train"
    fs.pipe("/bucket/train/0.parquet", b"PAR1 not really")
    with pytest.raises(SourceError, match=r"memory://.*0\.parquet: the Parquet file is cut short"):
        ParquetReader(Columns(caption="caption")).count(shard)
    fs.store.clear()


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("fashion_mnist", 70_000, Columns("image", "caption", "label")),
        ("noto_emoji", 3_530, Columns("image", "caption")),
        ("clothing", 3_781, Columns("image", "caption", "label")),
    ],
)
def test_shared_data(shared_data, name, rows, columns):
    if not (shared_data / name).is_dir():
        pytest.skip(f"no {name} in the shared data")
    shards = find(str(shared_data / name))
    reader = ParquetReader(Columns())
    assert guess_columns(reader.schema(shards[0])) == columns
    reader = ParquetReader(columns)
    assert sum(map(reader.count, shards)) == rows
    assert {shard.split for shard in shards} <= {"train", "test", "validation"}
    (batch, *_) = reader.batches(shards[0], images=True, batch_bytes=1 << 20)
    assert set(batch.outcome) == {"ok"} and all(batch.image) and all(batch.caption)


texts = st.none() | st.text(max_size=5)
datas = st.none() | st.binary(max_size=5)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(datas, texts, texts, st.none() | st.integers(-9, 9)), max_size=30),
    group=st.integers(1, 12),
    batch_bytes=st.integers(1, 200),
)
def test_what_is_written_is_read(tmp_path_factory, rows, group, batch_bytes):
    folder = tmp_path_factory.mktemp("given")
    images, files, captions, labels = map(list, zip(*rows, strict=True)) if rows else ([], [], [], [])
    image = pa.array([{"bytes": i, "path": p} for i, p in zip(images, files, strict=True)], STRUCT)
    columns = {
        "image": image,
        "caption": pa.array(captions, pa.string()),
        "label": pa.array(labels, pa.int64()),
    }
    shard = write(folder, row_group_size=group, **columns)
    roles = {"image": "image", "caption": "caption", "label": "label"}
    got = read(shard, images=False, batch_bytes=batch_bytes, **roles)
    assert got["image"] == [image or None for image in images]
    assert got["caption"] == captions and got["key"] == files
    assert got["label"] == [None if label is None else str(label) for label in labels]
    assert all(o == "ok" for o, i in zip(got["outcome"], images, strict=True) if i)


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 10), (3, 4), (4, 9), (9, 10), (0, None), (7, None)])
def test_a_range_of_rows_reads_only_its_row_groups(tmp_path, start, stop):
    path = tmp_path / "0.parquet"
    pq.write_table(pa.table({"caption": [f"c{i}" for i in range(10)]}), path, row_group_size=3)
    reader = ParquetReader(Columns(caption="caption"))
    batches = list(reader.batches(find(str(path))[0], images=True, batch_bytes=BIG, start=start, stop=stop))
    wanted = list(range(10))[start:stop]
    assert [row for batch in batches for row in batch.row] == wanted
    assert [text for batch in batches for text in batch.caption] == [f"c{i}" for i in wanted]


def test_ids_alone_can_be_read_where_vectors_come_from_elsewhere(tmp_path):
    shard = write(tmp_path, id=["a", "b"], n=[1.5, 2.5])
    columns = guess_columns(ParquetReader(Columns()).schema(shard), uid="id", ids_only=True)
    assert columns == Columns(uid="id")
    (rows,) = ParquetReader(columns).batches(shard, images=False, batch_bytes=BIG)
    assert list(rows.uid) == ["a", "b"]
    (rows,) = ParquetReader(Columns()).batches(shard, images=False, batch_bytes=BIG)
    assert len(rows) == 2 and rows.uid is None
