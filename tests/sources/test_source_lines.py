"""JSON lines and CSV: every record a row, whatever its neighbours hold."""

import gzip
import json

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from curate import open_run
from curate.errors import SourceError, UsageError
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.schema import OUTCOMES
from curate.sources.base import Columns
from curate.sources.registry import detect
from curate.sources.text import delimited, jsonl, lines
from tests.fixtures.builders import planted, recipe_values

BIG = 64 << 20


def shard_of(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    module = jsonl if "jsonl" in name else delimited
    return module.FORMAT, module.find(str(path))[0]


def read(form, shard, *, images=False, batch_bytes=BIG, start=0, stop=None, allow_url=False, **roles):
    reader = form.reader(Columns(**roles), allow_url)
    batches = list(reader.batches(shard, images=images, batch_bytes=batch_bytes, start=start, stop=stop))
    merged = {
        name: [value for batch in batches for value in getattr(batch, name)]
        for name in ("row", "key", "image", "image_ref", "caption", "label", "outcome", "reason")
    }
    merged["uid"] = [uid for batch in batches for uid in batch.uid or ()]
    assert set(merged["outcome"]) <= set(OUTCOMES)
    return merged


def rows_of(form, shard, rows, batch_bytes=BIG):
    reader = form.reader(Columns(), False)
    return pa.concat_tables(reader.read_rows(shard, np.array(rows), batch_bytes=batch_bytes)).to_pylist()


CSV = (
    b"\xef\xbb\xbfimage,caption,label\r\n"
    b'a.png,"two\nlines, and ""quotes""",1\r\n'
    b'b.png,"never closed,2\n'
    b"c.png,fine,3\n"
    b"\n"
    b"d.png,too,many,4\n"
    b"e.png\n"
    b'f.png,5" pipe,\n'
    b"g.png,caf\xe9,7"
)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("batch_bytes", [1, BIG])
def test_csv_rows(tmp_path, name, batch_bytes):
    form, shard = shard_of(tmp_path, name, CSV)
    reader = form.reader(Columns(), False)
    assert reader.count(shard) == 7 and reader.schema(shard).names == ["image", "caption", "label"]
    got = read(form, shard, batch_bytes=batch_bytes, image="image", caption="caption", label="label")
    assert got["row"] == list(range(7))
    assert got["key"] == ["a.png", None, "c.png", None, None, "f.png", "g.png"]
    assert got["caption"] == ['two\nlines, and "quotes"', None, "fine", None, None, '5" pipe', "café"]
    assert got["label"] == ["1", None, "3", None, None, None, "7"]
    assert [o == "bad_row" for o in got["outcome"]] == [False, True, False, True, True, False, False]
    assert [r.split(":")[0] for r in got["reason"] if r] == ["line 4", "line 7", "line 8"]
    assert len({ref for ref in got["image_ref"]}) == 7


def test_a_quote_at_the_end_of_a_large_file_spoils_its_line_only(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "MAX_RECORD_BYTES", 1000)
    data = b"image,n\n" + b'"open,1\n' + b"".join(b"%d.png,%d\n" % (i, i) for i in range(5000))
    form, shard = shard_of(tmp_path, "a.csv", data)
    got = read(form, shard, image="image", label="n")
    assert got["outcome"] == ["bad_row"] + ["ok"] * 5000 and got["label"][1:] == [str(i) for i in range(5000)]


def test_tabs_and_semicolons(tmp_path):
    for name, data in (("a.tsv", b"image\tcaption\na\tx,y\n"), ("a.csv", b"image;caption\na;x,y\n")):
        form, shard = shard_of(tmp_path, name, data)
        assert rows_of(form, shard, [0]) == [{"image": "a", "caption": "x,y"}]


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"a,b,a\n", "several columns are called 'a'"),
        ("a.csv", b"PK\x03\x04\0,\n", "no CSV header"),
        ("a.jsonl", b"", "the file is empty"),
        ("a.jsonl", b"x\n[1]\n", "none of its 2 lines is a JSON object"),
    ],
)
def test_files_that_are_something_else(tmp_path, name, data, match):
    form, shard = shard_of(tmp_path, name, data)
    with pytest.raises(SourceError, match=match):
        form.reader(Columns(), False).schema(shard)


def test_not_gzip(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(b"{}")
    with pytest.raises(SourceError, match=r"a\.jsonl\.gz: cannot be read"):
        jsonl.FORMAT.reader(Columns(), False).count(jsonl.find(str(tmp_path / "a.jsonl.gz"))[0])


JSONL = (
    b'{"image": "a.png", "n": 1, "x": 1, "ok": true, "tags": ["a"], "mix": "text"}\n'
    b"\n"
    b'{"image": "b.png", "n": 2, "x": 0.5, "mix": 3, "none": null}\n'
    b'{"image": "c.png", "n": 3\n'
    b'["image"]\n'
    b'{"image": "d\\ud800.png", "n": 9223372036854775807, "ok": false, "mix": {"a": 1}}\n'
    b'{"image": "e\xff.png"}\n' + b"[" * 100_000 + b"\n"
    b'{"image": ' + b"1" * 5000 + b"}"
)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_jsonl_types_and_rows(tmp_path, name):
    form, shard = shard_of(tmp_path, name, JSONL)
    reader = form.reader(Columns(), False)
    assert {field.name: str(field.type) for field in reader.schema(shard)} == {
        "image": "string", "n": "int64", "x": "double", "ok": "bool", "tags": "string", "mix": "string", "none": "null",
    }  # fmt: skip
    assert reader.count(shard) == 8
    got = read(form, shard, image="image", label="n")
    assert got["outcome"] == ["ok", "ok", "bad_row", "bad_row", "ok", "ok", "bad_row", "bad_row"]
    assert got["label"] == ["1", "2", None, None, "9223372036854775807", None, None, None]
    assert got["key"][4:6] == ["d?.png", "eÿ.png"]
    assert [r.split(":")[0] for r in got["reason"] if r] == ["line 4", "line 5", "line 8", "line 9"]
    table = rows_of(form, shard, [0, 1, 2, 4], batch_bytes=1)
    assert [row["mix"] for row in table] == ["text", "3", None, '{"a": 1}']
    assert [row["tags"] for row in table] == ['["a"]', None, None, None]
    assert [row["x"] for row in table] == [1.0, 0.5, None, None]


def test_any_part_of_a_shard(tmp_path):
    for name, data in (("a.csv", CSV), ("a.jsonl", JSONL)):
        form, shard = shard_of(tmp_path, name, data)
        whole = read(form, shard, image="image")
        for start, stop in ((0, 0), (0, 1), (2, 5), (6, 7)):
            part = read(form, shard, image="image", start=start, stop=stop, batch_bytes=1)
            assert part["row"] == list(range(start, stop)) and part["reason"] == whole["reason"][start:stop]
        with pytest.raises(SourceError, match="fewer rows"):
            rows_of(form, shard, [99])


def test_a_broken_gzip_keeps_the_rows_before(tmp_path):
    rng = np.random.default_rng(0)
    data = b"".join(
        b'{"image": "%d.png", "x": "%s"}\n' % (i, rng.bytes(40).hex().encode()) for i in range(4000)
    )
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(data)[:-40_000])
    got = read(jsonl.FORMAT, jsonl.find(str(path))[0], image="image")
    assert 100 < len(got["row"]) < 4000
    assert set(got["outcome"][:-1]) == {"ok"} and got["outcome"][-1] == "truncated"


def test_a_line_without_end_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_RECORD_BYTES", 1000)
    for name, data in (("a.jsonl", b'{"image": "%s"}\n{"image": "b"}\n'), ("a.csv", b"image\n%s\nb\n")):
        form, shard = shard_of(tmp_path, name, data % (b"x" * 3_000_000))
        got = read(form, shard, image="image")
        assert got["outcome"] == ["bad_row", "ok"] and "more than 1,000 bytes" in got["reason"][0]


def test_a_caption_of_a_megabyte(tmp_path):
    for name, data in (
        ("a.jsonl", b'{"image": "a", "caption": "%s"}\n'),
        ("a.csv", b"image,caption\na,%s\n"),
    ):
        form, shard = shard_of(tmp_path, name, data % (b"x" * 1_000_000))
        assert len(read(form, shard, image="image", caption="caption")["caption"][0]) == 1_000_000


def test_images_are_followed_below_the_file_only(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"A")
    (tmp_path / "out.png").write_bytes(b"secret")
    data = b"image\na.png\nnone.png\n../out.png\n/etc/passwd\nhttp://x.invalid/a.png\n"
    form, shard = shard_of(tmp_path / "in", "a.csv", data)
    got = read(form, shard, images=True, image="image")
    assert got["image"] == [b"A"] + [None] * 4
    assert got["outcome"] == ["ok", "missing_image", *["refused_path"] * 3]
    allowed = read(form, shard, image="image", allow_url=True)
    assert allowed["outcome"][4] == "ok"


def test_uids(tmp_path):
    form, shard = shard_of(tmp_path, "a.jsonl", b'{"image": "a", "id": 7}\nbad\n{"image": "b", "id": 8}\n')
    assert read(form, shard, image="image", uid="id")["uid"] == ["7", "a.jsonl:line 2", "8"]
    form, shard = shard_of(tmp_path, "b.jsonl", b'{"image": "a", "id": 7}\n{"image": "b"}\n')
    with pytest.raises(SourceError, match=r"line 2: the uid \(column 'id'\) is null"):
        read(form, shard, image="image", uid="id")
    with pytest.raises(UsageError, match="no column 'nope'"):
        read(form, shard, image="nope")


def test_anywhere(tmp_path):
    fs = fsspec.filesystem("memory")
    fs.pipe("/lines/a.jsonl", b'{"image": "img/a.png"}\n')
    fs.pipe("/lines/img/a.png", b"A")
    shard = jsonl.find("memory://lines/a.jsonl")[0]
    assert read(jsonl.FORMAT, shard, images=True, image="image")["image"] == [b"A"]
    assert detect(["memory://lines/*.jsonl"]) == "jsonl"


def test_found_by_name(tmp_path):
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_bytes(b"image\na\n")
    shards = delimited.find(str(tmp_path), prefix="x/")
    assert [(s.name, s.split, s.format) for s in shards] == [
        ("x/test.csv", "test", "csv"), ("x/train.csv", "train", "csv"),
    ]  # fmt: skip
    assert detect([str(tmp_path)]) == "csv"


def test_a_line_that_cannot_be_read_has_no_vector_either(tmp_path):
    """Vectors in files belong to lines by place; a broken line is unusable, whatever stands at its place."""
    lines = [json.dumps({"name": f"n{i}", "caption": f"c{i}"}) for i in range(30)]
    lines[7] = '{"name": "n7", '
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    np.save(tmp_path / "v.npy", planted(30))
    values = recipe_values(
        str(tmp_path / "rows.jsonl"), tmp_path / "run", embed={"files": str(tmp_path / "v.npy")}
    )
    values |= {
        "source": str(tmp_path / "rows.jsonl"),
        "limits": {"unusable": "10%"},
        "cluster": {"concepts": 3},
    }
    runner.run(parse_recipe(values))
    samples = open_run(tmp_path / "run").samples().sort("row")
    assert samples["outcome"].to_list() == ["ok"] * 7 + ["bad_row"] + ["ok"] * 22
