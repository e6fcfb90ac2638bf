"""Folders of images: labels, captions, metadata, and files that are not what they seem."""

import json
import os

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import SourceError, UsageError
from curate.schema import OUTCOMES
from curate.sources import registry
from curate.sources.folder import folder, tree

AUTO = {"image": "auto", "caption": "auto", "label": "auto", "uid": None}


def make(root, **contents):
    """Write files; names have / for __ and . for a last _."""
    for name, data in contents.items():
        put(root, name.replace("__", "/")[::-1].replace("_", ".", 1)[::-1], data)


def put(root, name, data):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def read(shard, *, images=True, batch_bytes=1 << 20, start=0, stop=None, **roles):
    schema = registry.ShardReader().schema(shard)
    reader = folder.FORMAT.reader(folder.FORMAT.columns(schema, **(AUTO | roles)), False)
    batches = list(reader.batches(shard, images=images, batch_bytes=batch_bytes, start=start, stop=stop))
    names = ("row", "key", "image", "image_ref", "caption", "label", "outcome", "reason")
    merged = {name: [value for batch in batches for value in getattr(batch, name)] for name in names}
    merged["uid"] = [uid for batch in batches for uid in batch.uid or ()]
    assert set(merged["outcome"]) <= set(OUTCOMES)
    if start == 0 and stop is None:
        assert merged["row"] == list(range(reader.count(shard)))
    return merged


def whole(shard, batch_bytes=1 << 20):
    reader = registry.ShardReader()
    rows = np.arange(folder.FORMAT.reader(folder.Columns(), False).count(shard))
    table = pa.concat_tables(reader.read_rows(shard, rows, batch_bytes=batch_bytes))
    assert table.schema == reader.schema(shard)
    return table.to_pylist()


def test_labels_and_captions(tmp_path):
    make(
        tmp_path,
        cat__1_jpg="1",
        cat__1_txt="one\n",
        cat__2_PNG="2",
        cat__2_caption="two",
        dog__big__1_jpg="3",
    )
    shards = folder.find(str(tmp_path))
    assert [s.name for s in shards] == ["cat/00000", "dog/big/00000"]
    cat, dog = (read(shard) for shard in shards)
    assert cat["image"] == [b"1", b"2"] and cat["image_ref"] == cat["key"] == ["cat/1.jpg", "cat/2.PNG"]
    assert cat["caption"] == ["one", "two"] and cat["label"] == ["cat", "cat"]
    assert dog["label"] == ["big"] and dog["caption"] == [None]
    assert whole(shards[0], batch_bytes=1) == [
        {
            "image": {"bytes": b"1", "path": "cat/1.jpg"},
            "caption": "one",
            "label": "cat",
            "file_name": "cat/1.jpg",
        },
        {
            "image": {"bytes": b"2", "path": "cat/2.PNG"},
            "caption": "two",
            "label": "cat",
            "file_name": "cat/2.PNG",
        },
    ]
    unread = read(shards[0], images=False)
    assert unread["image"] == [None, None] and unread["caption"] == cat["caption"]
    assert registry.detect([str(tmp_path)]) == "folder"


def test_ends_of_side_files_in_capitals(tmp_path):
    """As cameras and Windows write them; where both are there, it is the usual one."""
    make(
        tmp_path, a_JPG="1", a_TXT="large", b_jpg="2", b_TXT="large", b_txt="small", c_jpg="3", c_CAPTION="c"
    )
    [shard] = folder.find(str(tmp_path))
    assert read(shard)["caption"] == ["large", "small", "c"]


def test_splits_are_no_labels_and_a_class_called_train_is_no_split(tmp_path):
    make(tmp_path / "a", train__1_jpg="1", test__k__1_jpg="2", Val__1_jpg="3")
    found = {shard.split: read(shard)["label"] for shard in folder.find(str(tmp_path / "a"))}
    assert found == {"train": [None], "test": ["k"], "Val": [None]}
    make(tmp_path / "b", train__1_jpg="1", bus__1_jpg="2")
    shards = folder.find(str(tmp_path / "b"))
    assert [(shard.split, read(shard)["label"]) for shard in shards] == [
        ("train", ["bus"]),
        ("train", ["train"]),
    ]
    (only,) = folder.find(str(tmp_path / "a" / "test"))
    assert only.split == "test" and read(only)["label"] == ["k"]


def test_equal_names_in_two_folders_are_two_samples(tmp_path):
    make(tmp_path, train__1_jpg="1", test__1_jpg="2")
    shards = folder.find(f"{tmp_path}/train::{tmp_path}/test", prefix="s/")
    assert [(s.name, s.split) for s in shards] == [
        ("s/test/unlabelled-00000", "test"), ("s/train/unlabelled-00000", "train"),
    ]  # fmt: skip
    got = [read(shard) for shard in shards]
    assert [one["image_ref"] for one in got] == [["s/test/1.jpg"], ["s/train/1.jpg"]]
    assert [one["image"] for one in got] == [[b"2"], [b"1"]]
    with pytest.raises(UsageError, match="lies in this one"):
        folder.find([str(tmp_path), f"{tmp_path}/test"])


def test_bad_files_cost_their_own_row_only(tmp_path):
    outside = tmp_path / "secret.jpg"
    outside.write_bytes(b"secret")
    root = tmp_path / "root"
    make(root, k__a_jpg="a", k__b_jpg="", k__zz_jpg="z")
    (root / "k" / "c.jpg").mkdir()
    (root / "k" / "d.jpg").symlink_to(outside)
    (root / "k" / "d.txt").symlink_to("/etc/passwd")
    (root / "k" / "e.jpg").symlink_to("nowhere")
    (root / "k" / "f.jpg").symlink_to("f.jpg")
    (root / "k" / "g.jpg").symlink_to("a.jpg")
    (shard,) = folder.find(str(root))
    got = read(shard)
    assert dict(zip([key[2:] for key in got["key"]], got["outcome"], strict=True)) == {
        "a.jpg": "ok", "b.jpg": "missing_image", "c.jpg": "refused_path", "d.jpg": "refused_path",
        "e.jpg": "missing_image", "f.jpg": "missing_image", "g.jpg": "ok", "zz.jpg": "ok",
    }  # fmt: skip
    assert got["caption"] == [None] * 8 and b"secret" not in got["image"]
    assert [row["image"]["bytes"] for row in whole(shard)] == got["image"]


def test_chunks_and_parts_and_bounded_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(tree, "CHUNK", 40)
    for number in range(100):
        put(tmp_path, f"{number:03d}.jpg", bytes([number]) * 1000)
    shards = folder.find(str(tmp_path))
    assert [len(read(shard)["row"]) for shard in shards] == [40, 40, 20]
    every = b"".join(data[:1] for shard in shards for data in read(shard)["image"])
    assert every == bytes(range(100))
    part = read(shards[1], start=3, stop=5)
    assert part["row"] == [3, 4] and [data[0] for data in part["image"]] == [43, 44]
    reader = folder.FORMAT.reader(folder.Columns(image="image"), False)
    sizes = [len(batch) for batch in reader.batches(shards[0], images=True, batch_bytes=16_000)]
    assert sizes == [16, 16, 8]


@pytest.mark.parametrize("change", ["content", "caption", "gone", "more"])
def test_changes_are_noticed(tmp_path, change):
    make(tmp_path, **{"1_jpg": "1", "1_txt": "one", "2_jpg": "2"})
    (shard,) = folder.find(str(tmp_path))
    registry.check_unchanged(shard)
    before = registry.format_of(shard.format).fingerprint(shard)
    if change == "content":
        put(tmp_path, "1.jpg", "9")
        os.utime(tmp_path / "1.jpg", ns=(1, 1))
    elif change == "caption":
        put(tmp_path, "1.txt", "other")
    elif change == "gone":
        (tmp_path / "2.jpg").unlink()
    else:
        put(tmp_path, "3.jpg", "3")
    with pytest.raises(SourceError, match="changed since it was read"):
        registry.check_unchanged(shard)
    assert registry.format_of(shard.format).fingerprint(folder.find(str(tmp_path))[0]) != before


def metadata(kind, rows):
    if kind == "csv":
        return "file_name,text,n\n" + "".join(f"{r['file_name']},{r['text']},{r['n']}\n" for r in rows)
    if kind == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_metadata(tmp_path, kind):
    names = ["b.jpg", "sub/c.jpg", "gone.jpg", "../secret.jpg", "b.jpg"]
    rows = [{"file_name": name, "text": f"t{n}", "n": n} for n, name in enumerate(names)]
    root = tmp_path / "train"
    make(root, a_jpg="a", a_txt="side", b_jpg="b", sub__c_jpg="c")
    put(root, f"metadata.{kind}", metadata(kind, rows))
    put(tmp_path, "secret.jpg", "secret")
    (shard,) = folder.find(str(root))
    assert registry.detect([str(root)]) == "folder" and shard.split == "train"
    got = read(shard)
    assert got["key"] == ["b.jpg", "sub/c.jpg", "gone.jpg", "../secret.jpg", "b.jpg", "a.jpg"]
    assert got["image"] == [b"b", b"c", None, None, b"b", b"a"]
    assert got["outcome"] == ["ok", "ok", "missing_image", "refused_path", "ok", "ok"]
    assert got["caption"] == ["t0", "t1", "t2", "t3", "t4", None]
    assert got["label"] == [None, "sub", None, None, None, None]
    table = whole(shard, batch_bytes=1)
    assert [str(row["n"]) for row in table] == ["0", "1", "2", "3", "4", "None"]
    assert [row["file_name"] for row in table] == [*names, "a.jpg"]
    assert [row["image"]["bytes"] for row in table] == got["image"]
    for start, stop in ((0, 2), (4, 6), (5, 6), (2, 2)):
        assert read(shard, start=start, stop=stop)["key"] == got["key"][start:stop]


def test_bad_lines_of_metadata_and_uids(tmp_path):
    make(tmp_path, a_jpg="a", b_jpg="b")
    put(
        tmp_path, "metadata.jsonl", '{"file_name": "a.jpg", "id": 1}\nnope\n{"file_name": "b.jpg", "id": 2}\n'
    )
    (shard,) = folder.find(str(tmp_path))
    got = read(shard, uid="id")
    assert got["outcome"] == ["ok", "bad_row", "ok"] and got["reason"][1].startswith("line 2:")
    assert got["uid"] == ["1", "metadata.jsonl:line 2", "2"]
    put(tmp_path, "c.jpg", "c")
    with pytest.raises(SourceError, match="uid"):
        read(folder.find(str(tmp_path))[0], uid="id")


def test_the_nearest_metadata_file_counts(tmp_path):
    make(tmp_path, train__1_jpg="1", test__1_jpg="2")
    for split in ("train", "test"):
        put(tmp_path, f"{split}/metadata.csv", f"file_name,text\n1.jpg,{split}\n")
    shards = folder.find(str(tmp_path))
    assert [(s.split, read(s)["image_ref"], read(s)["caption"]) for s in shards] == [
        ("test", ["test/1.jpg"], ["test"]), ("train", ["train/1.jpg"], ["train"]),
    ]  # fmt: skip
    put(tmp_path, "metadata.csv", "file_name,text\n")
    with pytest.raises(UsageError, match="above the split folders"):
        folder.find(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "match"), [("name,text\n", "no column 'file_name'"), ("file_name,image\n", "called 'image'")]
)
def test_metadata_that_cannot_be_used(tmp_path, text, match):
    make(tmp_path, a_jpg="a")
    put(tmp_path, "metadata.csv", text)
    with pytest.raises(SourceError, match=match):
        registry.ShardReader().schema(folder.find(str(tmp_path))[0])
    put(tmp_path, "metadata.jsonl", "")
    with pytest.raises(SourceError, match=r"metadata\.csv and metadata\.jsonl"):
        folder.find(str(tmp_path))


def test_what_is_no_folder_of_images(tmp_path):
    put(tmp_path, "notes/readme.md", "x")
    put(tmp_path, "one.jpg", "x")
    for path, match in (("notes", "no image below"), ("none", "no such folder"), ("*.jpg", "not a folder")):
        with pytest.raises(UsageError, match=match):
            folder.find(f"{tmp_path}/{path}")


def test_anywhere():
    fs = fsspec.filesystem("memory")
    fs.pipe({"/imgs/cat/1.jpg": b"1", "/imgs/cat/1.txt": b"one", "/imgs/cat/2.jpg": b""})
    (shard,) = folder.find("memory://imgs")
    got = read(shard)
    assert got["image"] == [b"1", None] and got["outcome"] == ["ok", "missing_image"]
    assert got["caption"] == ["one", None] and got["label"] == ["cat", "cat"]
    registry.check_unchanged(shard)
    assert registry.detect(["memory://imgs"]) == "folder"
