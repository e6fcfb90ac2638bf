"""Samples by what their data call them: file names, keys, paths, URLs."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.analysis.explain import opened
from curate.analysis.row_lookup import find
from curate.errors import UsageError
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.tars import member, save, tar

N = 40
#: What the image column of the first rows holds; the others have names of their own.
NAMES = [
    "cats/IMG_0003.JPG", "dogs/IMG_0003.JPG", "cats/only.png", "./cats/dotted.png", "win\\cats\\slash.png",
    "https://example.com/a/photo.jpg?w=100", "7", "tars/sample.17", "0042", "s00003", "ümläut name.jpg", None, "",
]  # fmt: skip
KEYS = NAMES + [f"plain/{i:03d}.webp" for i in range(len(NAMES), N)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lookup")
    glob = write_shards(folder / "in", planted(N), shards=2, extra={"image": KEYS})
    values = recipe_values(glob, folder / "run", cluster={"concepts": 3})
    runner.run(parse_recipe(values))
    return folder


@pytest.fixture(scope="module")
def context(folder):
    return opened(folder / "run")


def uid(number):
    return f"s{number:06d}"


@pytest.mark.parametrize(
    ("which", "number"),
    [
        ("cats/IMG_0003.JPG", 0), ("dogs/IMG_0003.JPG", 1), ("only.png", 2), ("only", 2), ("cats/only", 2),
        ("./cats/only.png", 2), ("cats/dotted.png", 3), ("./cats/dotted.png", 3), ("slash.png", 4),
        ("win/cats/slash.png", 4), ("win\\cats\\slash.png", 4), ("https://example.com/a/photo.jpg?w=100", 5),
        ("https://example.com/a/photo.jpg", 5), ("photo.jpg", 5), ("example.com/a/photo.jpg?w=100", 5),
        ("tars/sample.17", 7), ("tars/sample.17.jpg", 7), ("0042", 8), ("ümläut name.jpg", 10), ("021.webp", 21),
        ("021", 21), ("plain/021.webp", 21), ("30", 30), ("030", 30),
    ],
)  # fmt: skip
def test_a_sample_is_found_by_its_name(context, which, number):
    assert find(context, which)["uid"] == uid(number)


def test_a_sample_is_found_by_its_path_on_this_machine(context, folder, monkeypatch):
    place = folder / "in"
    for which in (
        place / "cats/only.png",
        f"file://{place}/cats/only.png",
        f"{place}/./cats/../cats/only.png",
    ):
        assert find(context, str(which))["uid"] == uid(2)
    assert find(context, str(place / "cats/dotted.png"))["uid"] == uid(3)
    (folder / "link").symlink_to(place)
    assert find(context, str(folder / "link/cats/IMG_0003.JPG"))["uid"] == uid(0)
    monkeypatch.chdir(place / os.pardir)
    assert find(context, "in/dogs/IMG_0003.JPG")["uid"] == uid(1)


@pytest.mark.parametrize(
    ("which", "said"),
    [
        (
            "IMG_0003.JPG",
            r"fits several samples; .*: s000000 \(cats/IMG_0003.JPG\), s000001 \(dogs/IMG_0003.JPG\)$",
        ),
        ("IMG_0003", r"fits several samples; .*: s000000 .*, s000001"),
        (
            "7",
            r"'7' is the number of a row and the key of other samples; .*: s000007 \(train-.*:7\), s000006 \(7\)",
        ),
        ("only.jpg", r"no sample 'only.jpg'; .* such as 'cats/IMG_0003.JPG'"),
        ("s00003", ""),
        ("nly.png", "no sample"),
        ("ats/only.png", "no sample"),
        ("/elsewhere/cats/IMG_0003.JPG", "no sample"),
        ("/", "no sample"),
        ("x:3", "no shard 'x'"),
    ],
)
def test_several_or_none_are_said(context, which, said):
    if not said:
        assert find(context, which)["uid"] == uid(9), "a key as it stands comes before how a uid begins"
        return
    with pytest.raises(UsageError, match=said):
        find(context, which)


def address(row):
    """Where the image of a row of the sources below came from; two rows differ in the query alone."""
    return f"https://x.invalid/{3 if row == 4 else row}.jpg?w={row}"


def came_from(folder, form, rows=12):
    """Write a source whose images stand in it, with their addresses beside; return what names it."""
    keys = [f"{row:09d}" for row in range(rows)]
    told = [{"key": key, "url": address(row), "status": "success"} for row, key in enumerate(keys)]
    if form == "parquet":
        table = pa.table(
            {"image": [b"%d" % row for row in range(rows)], "URL": list(map(address, range(rows)))}
        )
        pq.write_table(table, folder / "a.parquet")
        return folder / "a.parquet"
    members = [member(f"{key}.jpg", key.encode()) for key in keys]
    if form == "webdataset":
        beside = [member(f"{one['key']}.json", json.dumps(one).encode()) for one in told]
        members = [one for pair in zip(members, beside, strict=True) for one in pair]
    save(folder, tar(*members), "00000.tar")
    if form == "img2dataset":
        told.append({"key": "000000099", "url": address(99), "status": "failed_to_download"})
        pq.write_table(pa.Table.from_pylist(told), folder / "00000.parquet")
        (folder / "00000_stats.json").write_text("{}")
    return folder if form == "img2dataset" else folder / "00000.tar"


@pytest.mark.parametrize("form", ["img2dataset", "webdataset", "parquet"])
def test_a_sample_is_found_by_the_address_its_image_came_from(tmp_path, form):
    (tmp_path / "in").mkdir()
    path = str(came_from(tmp_path / "in", form))
    rows = 13 if form == "img2dataset" else 12
    np.save(tmp_path / "vectors.npy", planted(rows, clusters=2))
    values = recipe_values(path, tmp_path / "run", cluster={"concepts": 2})
    values |= {
        "source": {"path": path},
        "embed": {"files": str(tmp_path / "vectors.npy")},
        "limits": {"unusable": 1},
    }
    runner.run(parse_recipe(values), until="select")
    context = opened(tmp_path / "run")
    for row in (0, 7, 11):
        for which in (address(row), f"https://x.invalid/{row}.jpg"):
            assert find(context, which)["row"] == row
    assert find(context, address(4))["row"] == 4
    with pytest.raises(UsageError, match=r"fits several samples; .*3\.jpg\?w=3.*3\.jpg\?w=4"):
        find(context, "https://x.invalid/3.jpg")
    with pytest.raises(UsageError, match="no sample"):
        find(context, "https://x.invalid/77.jpg")
    if form == "img2dataset":
        assert find(context, address(99))["row"] == 12  # it was not had
