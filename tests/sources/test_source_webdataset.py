import io
import json
import tarfile

import fsspec
import numpy as np
import pytest

from curate.errors import SourceError, UsageError
from curate.io.found import counting
from curate.pipeline.stages.read import find_shards
from curate.recipe import Source
from curate.sources.base import Columns
from curate.sources.registry import detect
from curate.sources.tar import samples
from curate.sources.tar.samples import IMAGES
from curate.sources.tar.webdataset import FORMAT, WebDatasetReader, find
from tests.fixtures.tars import BIG, guessed, member, pairs, read, save, tar


@pytest.mark.parametrize("name", ["0.tar", "0.tar.gz", "0.tgz"])
def test_rows_are_samples_in_order_whatever_the_batches(tmp_path, name):
    shard = save(tmp_path, tar(*pairs(50, size=1000)), name)
    for batch_bytes in (1, 5000, BIG):
        found = read(shard, batch_bytes)
        assert found["key"] == [f"{row:05d}" for row in range(50)]
        assert found["image"] == [bytes([row]) * 1000 for row in range(50)]
        assert found["caption"] == [f"caption {row}" for row in range(50)]
        assert found["outcome"] == ["ok"] * 50
    assert read(shard, start=10, stop=13)["row"] == [10, 11, 12]
    batches = list(guessed(shard).batches(shard, images=False, batch_bytes=10_000))
    assert max(map(len, batches)) == 9


def test_repeated_split_and_cut_samples_are_rows_of_their_own(tmp_path):
    data = tar(
        ("a.jpg", b"1"), ("a.txt", b"one"),
        ("a.jpg", b"2"), ("a.txt", b"two"),
        ("b.jpg", b"3"), ("c.jpg", b"4"), ("b.txt", b"late"),
        ("d.JPG", b"5"), ("d.jpg", b"6"),
        ("e.jpg", b"7" * 600), end=b"",
    )  # fmt: skip
    found = read(save(tmp_path, data[:-700]))
    assert found["key"] == ["a", "a", "b", "c", "b", "d", "d", "e"]
    assert found["outcome"] == [
        "ok", "duplicate_key", "ok", "ok", "split_sample", "ok", "duplicate_key", "truncated",
    ]  # fmt: skip
    assert found["reason"][1] == "key 'a': row 0 has jpg, txt already"
    assert found["reason"][4] == "key 'b': row 2 began, and other samples are between"
    assert "within 'e.jpg'" in found["reason"][7]
    assert found["caption"][:3] == ["one", "two", None] and found["caption"][4] == "late"
    assert [image is None for image in found["image"]] == [one != "ok" for one in found["outcome"]]
    whole = read(save(tmp_path, data, "1.tar"))
    assert whole["outcome"][7] == "truncated" and "without the end mark" in whole["reason"][7]


def test_a_broken_gzip_keeps_what_came_before(tmp_path):
    noise = np.random.default_rng(0)
    shard = save(tmp_path, tar(*((name, noise.bytes(3000)) for name, _ in pairs(30))), "0.tgz")
    packed = (tmp_path / "0.tgz").read_bytes()
    (tmp_path / "0.tgz").write_bytes(packed[: len(packed) // 2])
    shard = find(shard.url)[0]
    found = read(shard)
    assert 5 < len(found["row"]) < 30
    assert set(found["outcome"][:-1]) == {"ok"} and found["outcome"][-1] == "truncated"
    assert "gzip is broken" in found["reason"][-1]


def test_members_that_nobody_should_trust(tmp_path, caplog):
    data = tar(
        member("__MACOSX/a.jpg", b"x"), member("d/._a.jpg", b"x"), member("LICENSE", b"x"),
        member("d", kind=tarfile.DIRTYPE), member("link", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        member("PaxHeaders.1/a.jpg", b"x"),
        ("a.jpg", b"A"), member("._a.jpg", b"x"), ("a.txt", b"one"),
        member("b.jpg", kind=tarfile.SYMTYPE, link="/etc/passwd"), ("b.txt", b"two"),
        member("c.jpg", kind=tarfile.LNKTYPE, link="a.jpg"),
        ("/etc/d.jpg", b"D"), ("../e.jpg", b"E"), ("x/../../f.jpg", b"F"), ("C:\\g.jpg", b"G"),
        ("h.jpg", b""), ("i.txt", b"alone"), ("z.jpg", b"Z"),
    )  # fmt: skip
    with counting() as seen:
        found = read(save(tmp_path, data))
    outcome = dict(zip(found["key"], found["outcome"], strict=True))
    assert outcome == {
        "a": "ok", "b": "bad_row", "c": "bad_row", "/etc/d": "bad_row", "../e": "bad_row", "x/../../f": "bad_row",
        "C:\\g": "bad_row", "h": "missing_image", "i": "missing_image", "z": "ok",
    }  # fmt: skip
    assert found["image"] == [b"A"] + [None] * 8 + [b"Z"]
    assert "symbolic link" in found["reason"][1] and "absolute" in found["reason"][3]
    assert "no member jpg; it has txt" in found["reason"][8]
    assert seen.passed == {("in tars: hidden", ".jpg"): 3} and "hidden" not in caplog.text
    assert "1 symbolic link (link)" in caplog.text and "1 without an ending (LICENSE)" in caplog.text


def test_an_unusable_sample_is_never_the_copy_that_stands_for_a_sound_one(tmp_path):
    found = read(save(tmp_path, tar(("a.jpg", b"1"), ("a.jpg", b"2"), ("b.jpg", b"2"))))
    assert found["outcome"] == ["ok", "duplicate_key", "ok"]
    assert found["image"] == [b"1", None, b"2"] and found["image_ref"] == [None, "a.jpg", None]


def test_captions_and_labels(tmp_path):
    about = {"caption": "in json", "label": 3.0, "meta": {"id": 7}}
    data = tar(
        ("a.jpg", b"A"), ("a.txt", b"caf\xe9 \x01"), ("a.cls", b"5\n"), ("a.json", json.dumps(about).encode()),
        ("b.jpg", b"B"), ("b.json", json.dumps(about).encode()),
        ("c.jpg", b"C"), ("c.json", b'{"text": ["first", "second"], "label": true, "meta": {"id": 8}}'),
        ("d.jpg", b"D"), ("d.json", b"[" * 100_000),
        ("e.jpg", b"E"), ("e.json", b"[1]"),
        ("f.jpg", b"F"), ("f.json", b'{"caption": "\\ud800"}'),
    )  # fmt: skip
    shard = save(tmp_path, data)
    found = read(shard)
    assert found["caption"] == ["café \x01", "in json", "first", None, None, "?"]
    assert found["label"] == ["5", "3", "true", None, None, None]
    assert found["outcome"] == ["ok"] * 3 + ["bad_row"] + ["ok"] * 2
    assert "'d.json' is not JSON" in found["reason"][3]
    assert read(shard, caption="json.meta.id", label=None)["caption"][:3] == ["7", "7", "8"]
    assert read(shard, caption=None, label=None)["outcome"] == ["ok"] * 6
    assert read(shard, caption=None, label=None, uid="__key__")["uid"] == list("abcdef")
    with pytest.raises(SourceError, match=r"row 4 \('e'\) has no uid in json.meta.id"):
        read(shard, label=None, uid="json.meta.id")


def test_fields_of_the_one_json_member_whatever_it_is_called(tmp_path):
    about = b'{"caption": "in json", "label": 3}'
    shard = save(tmp_path, tar(("a.img.jpg", b"A"), ("a.meta.json", about)))
    assert (read(shard)["caption"], read(shard)["label"]) == (["in json"], ["3"])
    text = save(tmp_path, tar(("a.img.jpg", b"A"), ("a.meta.json", about), ("a.cap.txt", b"text")), "1.tar")
    assert read(text)["caption"] == ["text"]
    two = save(tmp_path, tar(("a.img.jpg", b"A"), ("a.meta.json", about), ("a.boxes.json", b"{}")), "2.tar")
    assert read(two)["caption"] == [None]


def test_uids_of_unsound_rows_are_their_places(tmp_path):
    found = read(save(tmp_path, tar(("a.jpg", b"1"), ("a.jpg", b"2"))), uid="__key__")
    assert found["uid"] == ["a", "0.tar#1"]


def test_images_of_several_suffixes(tmp_path):
    mixed = save(tmp_path, tar(("a.jpg", b"A"), ("b.PNG", b"B"), ("c.webp", b"C")))
    assert guessed(mixed).columns.image == "jpg;png;webp"
    assert read(mixed)["image"] == [b"A", b"B", b"C"]
    masks = save(tmp_path, tar(("a.jpg", b"A"), ("a.png", b"mask"), ("b.png", b"mask")), "1.tar")
    assert guessed(masks).columns.image == "jpg"
    assert read(masks)["outcome"] == ["ok", "missing_image"]
    assert read(masks, image="png")["image"] == [b"mask", b"mask"]
    text = save(tmp_path, tar(("a.txt", b"words"), ("b.txt", b" ")), "2.tar")
    assert guessed(text).columns.image == IMAGES[0]
    assert read(text, image=None)["outcome"] == ["ok", "no_caption"]
    assert guessed(text, ids_only=True).columns.image is None


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"image": "png"}, "no member 'png' .for image.*there are __key__, jpg, npy, txt"),
        ({"image": "txt"}, "cannot be used as image"),
        ({"caption": "json.caption"}, "no member 'json'"),
        ({"label": "npy"}, "cannot be used as label"),
        ({"vector": "npy"}, "embed.files"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path, named, message):
    shard = save(tmp_path, tar(("a.jpg", b"A"), ("a.txt", b""), ("a.npy", b"N")))
    with pytest.raises(UsageError, match=message):
        guessed(shard, **named)


def test_an_empty_tar_has_no_rows_and_any_columns(tmp_path):
    shard = save(tmp_path, tar())
    assert read(shard)["row"] == [] and read(shard, image="png", caption="txt")["row"] == []
    assert list(guessed(shard).read_rows(shard, np.arange(0), batch_bytes=BIG)) == []


@pytest.mark.parametrize("name", ["0.tar", "0.tgz"])
def test_rows_come_back_with_every_member_as_it_stands(tmp_path, name):
    items = [*pairs(8), ("x.jpg", b"X"), ("x.txt", b"caf\xe9"), ("x.seg.PNG", b"S"), ("x.json", b"{")]
    shard = save(tmp_path, tar(*items), name)
    reader = WebDatasetReader(Columns())
    rows = np.array([1, 5, 8])
    for batch_bytes in (1, BIG):
        tables = list(reader.read_rows(shard, rows, batch_bytes=batch_bytes))
        assert len(tables) == (3 if batch_bytes == 1 else 1)
        got = [row for table in tables for row in table.cast(binary(table.schema)).to_pylist()]
        assert [row["__key__"] for row in got] == [b"00001", b"00005", b"x"]
        assert got[2] == {"__key__": b"x", "jpg": b"X", "json": b"{", "seg.png": b"S", "txt": b"caf\xe9"}
        assert got[0]["json"] is None and got[0]["jpg"] == bytes([1]) * 100
    assert [str(kind) for kind in reader.schema(shard).types] == [
        "string",
        "binary",
        "string",
        "binary",
        "string",
    ]
    with pytest.raises(SourceError, match="row 9 is asked for"):
        list(reader.read_rows(shard, np.array([9]), batch_bytes=BIG))


def binary(schema):
    """Return a schema whose columns are all bytes."""
    import pyarrow as pa

    return pa.schema([(name, pa.binary()) for name in schema.names])


def test_limits_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "MAX_SAMPLE_BYTES", 1000)
    found = read(save(tmp_path, tar(("a.jpg", b"A" * 600), ("a.txt", b"t" * 600), ("b.jpg", b"B"))))
    assert found["outcome"] == ["too_large", "ok"] and "600 bytes" in found["reason"][0]
    monkeypatch.setattr(samples, "MAX_SUFFIXES", 10)
    dotted = save(tmp_path, tar(*((f"a.{place}.jpg", b"") for place in range(11))), "1.tar")
    with pytest.raises(SourceError, match="more than 10 kinds of members"):
        read(dotted)
    monkeypatch.setattr(samples, "MAX_KEY_BYTES", 10 * samples.KEY_OVERHEAD)
    many = save(tmp_path, tar(*pairs(11)), "2.tar")
    with pytest.raises(SourceError, match="too many samples"):
        read(many)


def test_tars_are_found_by_name_anywhere(tmp_path):
    fs = fsspec.filesystem("memory")
    for place in range(3):
        fs.pipe(f"/wds/train/{place:05d}.tar", tar(*pairs(2 + place)))
    url = "memory://wds/train/{00000..00002}.tar"
    assert detect([url]) == "webdataset" and detect(["memory://wds"]) == "webdataset"
    shards = find_shards(Source(path=url))
    assert [FORMAT.reader(Columns(), False).count(shard) for shard in shards] == [2, 3, 4]
    assert read(shards[1])["caption"] == ["caption 0", "caption 1", "caption 2"]
    assert [shard.format for shard in shards] == ["webdataset"] * 3
    joined = f"{save(tmp_path, tar(*pairs(1)), 'a.tar').url}::{save(tmp_path, tar(*pairs(1)), 'b.tgz').url}"
    assert [shard.name for shard in find(joined)] == ["a.tar", "b.tgz"]
    fs.rm("/wds", recursive=True)


def test_tars_of_tarfile_and_what_it_reads_are_the_same(tmp_path):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w|") as written:
        for name, data in pairs(5):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            written.addfile(info, io.BytesIO(data))
    assert read(save(tmp_path, file.getvalue())) == read(save(tmp_path, tar(*pairs(5)), "1.tar"))
