"""COCO JSON of the kept samples: ids stay, and what is left is what the decisions say."""

import gzip
import json

import numpy as np
import pytest

from curate import open_run
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.sources.text import json_stream
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate

IMAGES = [
    {"id": 7 * n, "file_name": f"{n:012}.jpg", "width": 640, "height": 480, "license": n % 2}
    for n in range(40)
]
ABOUT = {
    "info": {"year": 2017, "about": 'brackets ]} "quotes", ü \ud800', "version": 1.10},
    "licenses": [{"id": 0, "name": "CC BY"}, {"id": 1, "name": "CC0"}],
    "type": None,
}
CAPTIONS = ABOUT | {  # annotations before images, two each, not in the order of the images
    "annotations": [{"id": 100 + n, "image_id": 7 * (n * 3 % 40), "caption": f"ü {n}"} for n in range(80)],
    "images": IMAGES,
}
INSTANCES = ABOUT | {
    "images": IMAGES,
    "annotations": [
        {"id": n, "image_id": 7 * (n % 30), "category_id": n % 3, "bbox": [0.5, 1e-7, n, 2],
         "segmentation": [[n, 1, 2, 3]], "iscrowd": 0}
        for n in range(75)
    ],
    "categories": [{"id": n, "name": name, "supercategory": ""} for n, name in enumerate("abc")],
}  # fmt: skip


def run_on(folder, files, rows):
    """Return a finished run over COCO files of so many rows together, with vectors of their own."""
    (folder / "in").mkdir(parents=True)
    for name, content in files.items():
        text = json.dumps(content).encode()
        (folder / "in" / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    np.save(folder / "vectors.npy", planted(rows, clusters=4))
    path = str(folder / "in" / "*")
    values = recipe_values(
        path, folder / "run", cluster={"concepts": 3}, select={"method": "random", "keep": 0.4}
    )
    values |= {"source": {"path": path, "format": "json"}, "embed": {"files": str(folder / "vectors.npy")}}
    runner.run(parse_recipe(values))
    return folder / "run"


def kept_rows(run, shard):
    rows = open_run(run).decisions()
    return set(rows.filter(rows["keep"] & (rows["shard"] == shard))["row"].to_list())


def expected(content, rows, *, captions):
    """Return what a file must hold when these rows are kept, from the definition."""
    left = dict(content)
    if captions:
        left["annotations"] = [one for row, one in enumerate(content["annotations"]) if row in rows]
        ids = {one["image_id"] for one in left["annotations"]}
        left["images"] = [one for one in content["images"] if one["id"] in ids]
    else:
        left["images"] = [one for row, one in enumerate(content["images"]) if row in rows]
        ids = {one["id"] for one in left["images"]}
        left["annotations"] = [one for one in content["annotations"] if one["image_id"] in ids]
    return left


@pytest.fixture(scope="module")
def instances(tmp_path_factory):
    return run_on(tmp_path_factory.mktemp("instances"), {"instances.json": INSTANCES}, 40)


@pytest.mark.parametrize("chunk", [11, 1 << 20])
def test_instances(instances, tmp_path, chunk, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    out = tmp_path / "kept.json"
    said = curate("export", instances, "--format", "coco", "--out", out)
    assert said.code == 0, said.err
    found = json.loads(out.read_text(encoding="utf-8"))
    rows = kept_rows(instances, "instances.json")
    assert len(found["images"]) == len(rows) == 16 and "16 rows in 1 files" in said.err
    assert found == expected(INSTANCES, rows, captions=False) and list(found) == list(INSTANCES)
    assert 0 < len(found["annotations"]) < 75
    again = curate("export", instances, "--format", "coco", "--out", tmp_path / "kept.json.gz")
    assert again.code == 0
    assert json.loads(gzip.decompress((tmp_path / "kept.json.gz").read_bytes())) == found


def test_an_index_as_pycocotools_makes_it_finds_every_id(instances, tmp_path):
    open_run(instances).export("coco", tmp_path / "a.json")
    found = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    images = {one["id"]: one for one in found["images"]}
    categories = {one["id"]: one for one in found["categories"]}
    assert len(images) == len(found["images"]) and len(categories) == 3
    assert all(one["image_id"] in images and one["category_id"] in categories for one in found["annotations"])


def test_captions_and_several_files_make_a_folder(tmp_path):
    others = [one | {"caption": f"other {one['id']}"} for one in CAPTIONS["annotations"]]
    files = {
        "captions_train.json": CAPTIONS,
        "captions_val.json.gz": CAPTIONS | {"info": 1, "annotations": others},
    }
    run = run_on(tmp_path, files, 160)
    out = tmp_path / "out"
    assert curate("export", run, "--format", "coco", "--out", out).code == 0
    assert sorted(one.name for one in out.iterdir() if one.name[0] != ".") == sorted(files)
    train = json.loads((out / "captions_train.json").read_text(encoding="utf-8"))
    val = json.loads(gzip.decompress((out / "captions_val.json.gz").read_bytes()))
    for found, name in ((train, "captions_train.json"), (val, "captions_val.json.gz")):
        rows = kept_rows(run, name)
        assert len(found["annotations"]) == len(rows) > 0
        assert found == expected(files[name], rows, captions=True)
    said = curate("export", run, "--format", "coco", "--out", tmp_path / "one.json")
    assert (
        said.code == 2 and "the source has 2 files (captions_train.json, captions_val.json.gz" in said.error
    )
    assert "name a folder" in said.error and not (tmp_path / "one.json").exists()


@pytest.mark.parametrize("form", ["parquet", "list"])
def test_a_source_that_is_not_coco_is_refused_in_one_line(tmp_path, form):
    if form == "list":
        rows = [{"image": f"{n}.png", "text": str(n)} for n in range(20)]
        run = run_on(tmp_path, {"llava.json": rows}, 20)
    else:
        write_shards(tmp_path / "in", planted(20, clusters=2))
        runner.run(parse_recipe(recipe_values(str(tmp_path / "in" / "*.parquet"), tmp_path / "run")))
        run = tmp_path / "run"
    said = curate("export", run, "--format", "coco", "--out", tmp_path / "out.json")
    assert said.code == 2 and "sources in the form of COCO" in said.error
    assert ("a JSON list of objects" if form == "list" else "is parquet") in said.error
    assert not (tmp_path / "out.json").exists()


def test_a_source_that_changed_is_not_taken_for_the_one_that_was_read(tmp_path):
    run = run_on(tmp_path, {"instances.json": INSTANCES}, 40)
    (tmp_path / "in" / "instances.json").write_text(json.dumps(INSTANCES | {"images": IMAGES[1:]}))
    said = curate("export", run, "--format", "coco", "--out", tmp_path / "out.json")
    assert said.code == 1 and "instances.json" in said.error and not (tmp_path / "out.json").exists()
