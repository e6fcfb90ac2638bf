import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import EmbeddingError, SourceError
from curate.sources import parquet as module
from curate.sources import references
from curate.sources.base import Columns, Shard
from curate.sources.columns import guess_columns
from curate.sources.parquet import ParquetReader, find
from tests.fixtures.shards import BIG, STRUCT, bad_utf8, read, write


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
    monkeypatch.setattr(references, "follow", lambda *_, **__: pytest.fail("opened"))
    image = pa.array([{"bytes": b"A", "path": "/etc/passwd"}, {"bytes": b"", "path": "a.png"}], STRUCT)
    assert read(write(tmp_path, image=image), image="image")["outcome"] == ["ok", "missing_image"]


def test_addresses_are_fetched_only_when_allowed(tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(references, "fetch", lambda url, **_: fetched.append(url) or b"")
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
    longer = ParquetReader(Columns(vector="vector", vector_dim=1))
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
