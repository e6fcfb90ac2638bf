"""What lies where a source is: used, or passed over and said; members, folders and names that are not what they seem."""

import json
import os
import shlex
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import UsageError
from curate.io.found import Found, counting
from curate.pipeline.stages.read import find_shards
from curate.recipe import Source
from curate.runs.run import open_run
from curate.sources import registry
from curate.sources.base import Columns
from curate.sources.folder import folder
from curate.sources.tar.webdataset import FORMAT, WebDatasetReader
from tests.fixtures.builders import planted
from tests.fixtures.calls import own
from tests.fixtures.tars import pairs, read, save, tar


def put(root, *names, data=b"x"):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def found(path, form):
    with counting() as seen:
        registry.format_of(form).find(str(path))
    return seen


def test_folder_of_images(tmp_path):
    put(
        tmp_path,
        "a.jpg",
        "a.txt",
        "a.json",
        "b.HEIC",
        "c.avif",
        "d.jfif",
        "e.jxl",
        "lone.txt",
        "README.md",
        "v.mp4",
        "n/x.png",
    )
    put(tmp_path, ".DS_Store", ".git/config", "n/_tmp", "metadata/readme")
    seen = found(tmp_path, "folder")
    assert seen.used == {".jpg": 1, ".txt": 1, ".heic": 1, ".avif": 1, ".jfif": 1, ".jxl": 1, ".png": 1}
    assert seen.facts()["passed_over"] == {
        "beside an image; annotations are read from metadata.jsonl, .csv or .parquet": {".json": 1},
        "beside no image": {".txt": 1},
        "hidden": {".DS_Store": 1, "_tmp": 1, "folder": 1},
        "no image": {".md": 1, ".mp4": 1, "without ending": 1},
    }
    assert "README.md, v.mp4, readme (no image)" in str(seen)


def test_images_of_rules_before_stay_where_they_were(tmp_path):
    """A run made before HEIC files were rows still finds its rows by position."""
    put(tmp_path, "a.jpg", "b.heic", "c.jpg")
    [shard] = folder.find(str(tmp_path))
    assert folder.FolderReader(Columns()).count(shard) == 3
    put(tmp_path / "before", "a.jpg", "c.jpg")
    version = folder.find(str(tmp_path / "before"))[0]
    with pytest.raises(Exception, match="changed since it was read"):
        folder.check_unchanged(replace(shard, rules=1))  # its version is of three images
    assert folder.FolderReader(Columns()).count(replace(version, rules=1)) == 2


def test_parquet_folder(tmp_path):
    put(tmp_path, "notes.md", "x.json", "y.json", "z.json", "_SUCCESS", ".x.crc")
    pq.write_table(pa.table({"caption": ["a"]}), tmp_path / "a.parquet")
    seen = found(tmp_path, "parquet")
    assert seen.used == {".parquet": 1}
    said = "used 1 .parquet; passed over .x.crc, _SUCCESS (hidden); 3 .json, notes.md (not .parquet or .pq)"
    assert str(seen) == said
    assert str(Found()) == "used nothing"


def test_a_run_and_its_dry_run_say_it(tmp_path):
    put(tmp_path / "in", "README.md")
    table = pa.table({"embedding": planted(20).astype("f4").tolist(), "id": [f"s{i}" for i in range(20)]})
    for year in (2023, 2024):
        place = tmp_path / f"in/year={year}"
        place.mkdir()
        pq.write_table(table.slice(0 if year == 2023 else 10, 10), place / "part.parquet")
    line = "source: used 2 .parquet; passed over README.md (not .parquet or .pq)"
    dry = own(tmp_path / "in", tmp_path / "run", "--dry-run")
    assert dry.code == 0 and dry.err.splitlines().count(line) == 1, dry.err
    assert json.loads(own(tmp_path / "in", tmp_path / "run", "--dry-run", "--json").out)["found"] == {
        "source": {"used": {".parquet": 2}, "passed_over": {"not .parquet or .pq": {".md": 1}}}
    }
    done = own(tmp_path / "in", tmp_path / "run", "--set", "source.label=year", keep="1.0")
    assert done.code == 0 and done.err.splitlines().count(line) == 1, done.err
    assert open_run(tmp_path / "run").samples()["label"].value_counts(sort=True).sort("label").rows() == [
        ("2023", 10), ("2024", 10),
    ]  # fmt: skip
    written = pl.read_parquet(tmp_path / "run/6_filtered/*.parquet")
    assert dict(zip(written["id"], written["year"], strict=True)) == {
        f"s{i}": "2023" if i < 10 else "2024" for i in range(20)
    }


def test_what_could_be_a_caption_or_label_is_said(tmp_path):
    columns = {
        "text": ["a"] * 20,
        "prompt": ["b"] * 20,
        "labels": [[1, 2]] * 20,
        "id": [f"s{i}" for i in range(20)],
    }
    pq.write_table(
        pa.table({"embedding": planted(20).astype("f4").tolist(), **columns}), tmp_path / "a.parquet"
    )
    said = own(tmp_path / "a.parquet", tmp_path / "run", "--dry-run").err.splitlines()
    assert said[1:3] == [
        "source: no caption is taken: text, prompt could be; name one with source.caption, or {of: [text, prompt]}",
        "source: no label is taken: labels holds lists; with source.label=labels the first of each counts",
    ]
    off = ("--set", "source.caption=none", "--set", "source.label=labels")
    assert "taken" not in own(tmp_path / "a.parquet", tmp_path / "run", "--dry-run", *off).err


def test_folders_that_are_columns(tmp_path):
    features = {"info": {"features": {"caption": {"dtype": "string", "_type": "Value"}}}}
    table = pa.table({"caption": ["a", "b", "c"]}).replace_schema_metadata(
        {"huggingface": json.dumps(features)}
    )
    for name in ("lang=en/tag=a%2Fb", "lang=__HIVE_DEFAULT_PARTITION__/tag=x", "caption=no/lang=fr"):
        (tmp_path / name).mkdir(parents=True)
        pq.write_table(table, tmp_path / name / "0.parquet")
    form = registry.format_of("parquet")
    shards = form.find(str(tmp_path))
    rows = {}
    for shard in shards:
        schema = registry.ShardReader().schema(shard)
        assert set(json.loads(schema.metadata[b"huggingface"])["info"]["features"]) == set(schema.names)
        reader = form.reader(Columns(image=None, caption="caption", label="lang"), False)
        [batch] = reader.batches(shard, images=False, batch_bytes=1 << 20, start=1)
        whole = pa.concat_tables(reader.read_rows(shard, np.array([0, 2]), batch_bytes=1))
        assert whole.schema.equals(schema, check_metadata=False) and whole["caption"].to_pylist() == [
            "a",
            "c",
        ]
        rows[shard.name.rpartition("/")[0]] = (
            batch.caption,
            batch.label,
            {n: whole[n][1].as_py() for n in schema.names},
        )
        before = replace(shard, rules=1)  # of a run made before: as it was
        assert registry.ShardReader().schema(before).names == ["caption"]
    assert rows["lang=en/tag=a%2Fb"] == (
        ["b", "c"],
        ["en", "en"],
        {"caption": "c", "lang": "en", "tag": "a/b"},
    )
    assert rows["lang=__HIVE_DEFAULT_PARTITION__/tag=x"][1:] == (
        [None] * 2,
        {"caption": "c", "lang": None, "tag": "x"},
    )
    assert rows["caption=no/lang=fr"] == (
        ["b", "c"],
        ["fr", "fr"],
        {"caption": "c", "lang": "fr"},
    )  # the file says more


def test_members_about_a_tar_are_no_samples(tmp_path):
    about = (
        ("README.md", b"#"),
        ("__index__.json", b"{}"),
        ("sub/LICENSE.txt", b"L"),
        ("__MACOSX/._a.jpg", b"m"),
    )
    data = tar(about[0], *pairs(2)[:2], *about[1:], ("a/.DS_Store", b""), *pairs(2)[2:], ("Thumbs.db", b"t"))
    shard = save(tmp_path, data)
    with counting() as seen:
        rows = read(shard)
    assert rows["key"] == ["00000", "00001"] and rows["caption"] == ["caption 0", "caption 1"]
    assert rows["outcome"] == ["ok", "ok"]
    assert registry.ShardReader().schema(shard).names == ["__key__", "jpg", "txt"]
    reasons = seen.facts()["passed_over"]
    assert reasons["in tars: hidden"] == {".DS_Store": 1, ".jpg": 1}
    assert sum(reasons["in tars: about the tar, not of a sample"].values()) == 4
    before = read(replace(shard, rules=1))  # of a run made before: its rows stay where they were
    assert before["key"] == ["README", "00000", "__index__", "sub/LICENSE", "00001", "Thumbs"]
    image = save(
        tmp_path, tar(("readme.jpg", b"I"), ("readme.txt", b"a book"), ("license.txt", b"x")), "1.tar"
    )
    assert read(image)["key"] == ["readme"] and read(image)["caption"] == ["a book"]
    only = save(tmp_path, tar(("__index__.json", b"{}"), *pairs(1)), "2.tar")
    assert read(only, start=0, stop=1)["key"] == ["00000"]


def columns_of(shard, **named):
    return FORMAT.columns(WebDatasetReader(Columns()).schema(shard), **named)


def test_images_behind_names(tmp_path):
    both = [(f"{i}.image.jpg", b"I") for i in range(3)] + [("4.image.png", b"P")]
    named = save(
        tmp_path,
        tar(
            *[
                one
                for i in range(2)
                for one in ((f"{i}.image.jpg", b"I"), (f"{i}.caption.txt", b"c"), (f"{i}.label.cls", b"3"))
            ]
        ),
    )
    got = columns_of(named)
    assert (got.image, got.caption, got.label) == ("image.jpg", "caption.txt", "label.cls")
    assert columns_of(save(tmp_path, tar(*both), "1.tar")).image == "image.jpg;image.png"
    masks = save(tmp_path, tar(("0.mask.png", b"M"), ("0.image.jpg", b"I"), ("1.image.jpg", b"I")), "2.tar")
    assert columns_of(masks).image == "image.jpg"
    two = save(tmp_path, tar(("0.left.jpg", b"L"), ("0.right.jpg", b"R")), "3.tar")
    with pytest.raises(
        UsageError, match=r"there are left\.jpg, right\.jpg; name it, such as source\.image=left\.jpg"
    ):
        columns_of(two)
    assert columns_of(two, image="right.jpg").image == "right.jpg"
    plain = save(tmp_path, tar(("0.jpg", b"I"), ("0.caption.txt", b"c")), "4.tar")
    assert columns_of(plain).caption is None  # as before: the image has no name in front


def test_names_that_are_not_utf8(tmp_path):
    """Files, side files, folders and shards whose names are bytes, and one with the same letters."""
    odd = os.fsdecode(b"\x83t\x83H.jpg")
    put(tmp_path, f"{odd}", "plain.jpg", os.fsdecode(b"\xe9t\xe9/1.jpg"), data=b"I")
    put(tmp_path, os.fsdecode(b"\x83t\x83H.txt"), data=b"a caption")
    put(tmp_path, r"sub/a\x83.jpg", os.fsdecode(b"sub/a\x83.jpg"), data=b"J")
    rows = {}
    for shard in folder.find(str(tmp_path)):
        schema = registry.ShardReader().schema(shard)
        reader = folder.FORMAT.reader(folder.FORMAT.columns(schema), False)
        for batch in reader.batches(shard, images=True, batch_bytes=1):
            for key, *values in zip(
                batch.key, batch.image, batch.caption, batch.label, batch.outcome, strict=True
            ):
                rows[key] = tuple(values)
        shard.name.encode()
        whole = pa.concat_tables(
            registry.ShardReader().read_rows(shard, np.arange(reader.count(shard)), batch_bytes=1)
        )
        assert all(one["bytes"] in (b"I", b"J") for one in whole["image"].to_pylist())
    assert rows == {
        r"\x83t\x83H.jpg": (b"I", "a caption", None, "ok"),
        "plain.jpg": (b"I", None, None, "ok"),
        r"\xe9t\xe9/1.jpg": (b"I", None, r"\xe9t\xe9", "ok"),
        r"sub/a\\x83.jpg": (b"J", None, "sub", "ok"),
        r"sub/a\x83.jpg": (b"J", None, "sub", "ok"),
    }


def test_a_run_on_a_shard_whose_name_is_not_utf8(tmp_path):
    place = tmp_path / os.fsdecode(b"in\xff")
    place.mkdir()
    table = pa.table({"embedding": planted(20).astype("f4").tolist(), "id": [f"s{i}" for i in range(20)]})
    pq.write_table(table, tmp_path / "plain.parquet")
    (tmp_path / "plain.parquet").rename(place / os.fsdecode(b"\xe9t\xe9.parquet"))
    done = own(place, tmp_path / "run", keep="0.5")
    assert done.code == 0, done.err
    assert open_run(tmp_path / "run").samples()["shard"].unique().to_list() == [r"\xe9t\xe9.parquet"]
    assert len(pl.read_parquet(tmp_path / "run/6_filtered/*.parquet")) == 10
    again = own(place, tmp_path / "run", keep="0.5")
    assert again.code == 0 and "nothing to do" in again.err, again.err
    for path in (tmp_path / "run/logs").glob("*.jsonl"):
        assert all(json.loads(line)["message"] for line in path.read_text().splitlines())


COCO = {
    "info": {},
    "images": [{"id": n, "file_name": f"{n}.png"} for n in range(3)],
    "annotations": [{"image_id": n, "caption": f"c{n}"} for n in range(3)],
}
LLAVA = [{"image": f"pictures/{n}.png", "text": f"c{n}"} for n in range(3)]
CSV = "image,caption\n" + "".join(f"{n}.png,c{n}\n" for n in range(3))


@pytest.mark.parametrize(
    ("table", "images", "text", "rooted"),
    [
        ("annotations/captions_val2017.json", "val2017", json.dumps(COCO), False),
        ("annotations/captions_val2017.json", "images/val2017", json.dumps(COCO), False),
        ("annotations/captions_all.json", "images", json.dumps(COCO, indent=1), False),
        ("captions.json", "", json.dumps(COCO), False),
        ("la bels.json", "it's/data", json.dumps(COCO), True),
        ("captions.txt", "Images", CSV, False),
        ("llava.json", "data/pictures", json.dumps(LLAVA), True),
        ("lines.json", "", "".join(json.dumps(one | {"image": f"{n}.png"}) + "\n" for n, one in enumerate(LLAVA)), False),
    ],
)  # fmt: skip
def test_a_table_beside_images_is_said_with_what_to_type(tmp_path, table, images, text, rooted):
    """What the line says, typed, reads every image with its caption."""
    put(tmp_path / images, "0.png", "1.png", "2.png")
    put(tmp_path, table, data=text.encode())
    put(tmp_path, "README.txt", "conf.json", data=b'{"a": 1}')
    lines = [line for line in found(tmp_path, "folder").hints if "name it in place" in line]
    assert len(lines) == 1 and lines[0].startswith(f"{table} is ")
    program, command, path, *settings = shlex.split(lines[0].partition("folder: ")[2])
    assert (program, command, bool(settings)) == ("curate", "filter", rooted)
    roots = [one.removeprefix("source.root=") for one in settings[1:]]
    [shard] = find_shards(Source(path=path, root=tuple(roots)))
    form = registry.format_of(shard.format)
    columns = form.columns(form.reader(Columns(), False).schema(shard))
    batches = form.reader(columns, False).batches(shard, images=True, batch_bytes=1 << 20)
    rows = [row for batch in batches for row in zip(batch.outcome, batch.caption, batch.image, strict=True)]
    assert rows == [("ok", f"c{n}", b"x") for n in range(3)]


def test_many_tables_beside_images_take_few_lines(tmp_path):
    put(tmp_path, "0.png", "0.json", data=b'{"info": {}}')
    put(tmp_path, *(f"annotations/{n}.json" for n in range(9)), data=json.dumps(COCO).encode())
    lines = list(found(tmp_path, "folder").hints)
    assert [line.partition(" is ")[0] for line in lines] == [
        *(f"annotations/{n}.json" for n in range(3)), "and 6 more such files",
    ]  # fmt: skip
