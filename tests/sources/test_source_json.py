"""JSON files of one value: lists of objects, COCO; and lists that are found by their columns."""

import json

import pytest
from PIL import Image

from curate.errors import CurateError
from curate.pipeline.stages.read import find_shards
from curate.recipe import Source
from curate.sources import registry
from curate.sources.base import Columns
from curate.sources.text import json_stream

IMAGES = [{"id": n, "file_name": f"{n:012}.jpg", "width": 8, "height": 8} for n in range(3)]
CAPTIONS = {
    "info": {"about": 'brackets ]} and "quotes", ü'},
    "annotations": [{"id": n, "image_id": n // 2, "caption": f"c{n}"} for n in range(5)],
    "images": IMAGES,
}
INSTANCES = {
    "images": IMAGES,
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    "annotations": [
        {"image_id": image, "category_id": category} for image, category in ((0, 1), (0, 1), (1, 1), (1, 2))
    ],
}


@pytest.fixture
def coco(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    for image in IMAGES[:2]:
        Image.new("RGB", (8, 8)).save(tmp_path / "val2017" / image["file_name"])
    return tmp_path


def read(path, **roles):
    """Return (format, rows) of a file with the columns found by themselves."""
    [shard] = find_shards(Source(path=str(path)))
    form = registry.format_of(shard.format)
    columns = form.columns(form.reader(Columns(), False).schema(shard))
    batches = form.reader(columns, False).batches(shard, images=True, batch_bytes=100)
    rows = [
        row
        for batch in batches
        for row in zip(batch.image_ref, batch.caption, batch.label, batch.outcome, strict=True)
    ]
    assert len(rows) == form.reader(columns, False).count(shard)
    return shard.format, rows


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("chunk", [7, 1 << 20])
def test_coco(coco, indent, chunk, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    (coco / "annotations/captions_val2017.json").write_text(json.dumps(CAPTIONS, indent=indent))
    (coco / "annotations/instances_val2017.json").write_text(json.dumps(INSTANCES, indent=indent))
    names = [image["file_name"] for image in IMAGES]
    captions = [
        (names[n // 2], f"c{n}", None, "ok" if n < 4 else "missing_image") for n in range(5)
    ]  # the third image is not there
    assert read(coco / "annotations/captions_val2017.json") == ("json", captions)
    labels = zip(names, [None] * 3, ["cat", None, None], ["ok", "ok", "missing_image"], strict=True)
    assert read(coco / "annotations/instances_val2017.json") == ("json", list(labels))


def test_a_list_of_objects(coco):
    rows = [
        {"image": f"val2017/{IMAGES[0]['file_name']}", "text": "a"},
        3,
        {"image": "no.png", "text": "ü\ud800"},
    ]
    (coco / "llava.json").write_text(json.dumps(rows, indent=2))
    form, found = read(coco / "llava.json")
    assert form == "json"
    assert found[0] == (rows[0]["image"], "a", None, "ok")
    assert [row[3] for row in found] == ["ok", "bad_row", "missing_image"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"image": "a"}, {"image"', "not valid JSON, or cut short"),
        ('[{"image": "a"}', "the file ends within a list"),
        ("[", "the file ends within a list"),
        ('{"a": 1,\n "b": 2}', "nor in the form of COCO"),
        ("[" * 100_000, "nested too deeply|not valid JSON"),
        ('["' + "a" * (17 << 20), "more than 16,777,216 bytes"),
    ],
)
def test_json_that_cannot_be_read_is_one_line(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CurateError, match=message):
        read(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("name", "text", "form"),
    [
        ("lines.json", '{"image": "a.png", "text": "x"}\n{"image": "b.png"}\n', "jsonl"),
        ("captions.txt", 'image,caption\n000000000000.jpg,"x"\n000000000001.jpg,"y"\n', "csv"),
        ("train.csv", "filepath\ttitle\nval2017/000000000000.jpg\tx\nb.jpg\ty\n", "csv"),
    ],
)
def test_lists_are_found_by_what_stands_in_them(coco, name, text, form):
    (coco / "val2017").rename(coco / "Images") if name == "captions.txt" else None
    (coco / name).write_text(text)
    found, rows = read(coco / name)
    assert found == form and rows[0][1] == "x"
    assert form == "jsonl" or rows[0][3] == "ok"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("kind", ["list", "coco"])
def test_other_encodings_of_unicode(tmp_path, encoding, kind):
    """What editors on Windows save; the mark at the beginning says which."""
    made = {
        "list": [{"image": "a.png", "caption": "é"}],
        "coco": {
            "images": [{"id": 1, "file_name": "a.png"}],
            "annotations": [{"id": 1, "image_id": 1, "caption": "é"}],
        },
    }
    (tmp_path / "a.json").write_text(json.dumps(made[kind], ensure_ascii=False), encoding=encoding)
    found, rows = read(tmp_path / "a.json")
    assert found == "json" and [row[1] for row in rows] == ["é"]


def test_a_usual_name_of_captions_comes_before_a_title(coco):
    (coco / "a.csv").write_text("filepath,title,text\na.png,no,yes\n")
    assert read(coco / "a.csv")[1][0][1] == "yes"
