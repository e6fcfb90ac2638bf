"""Search by words and by a picture in `curate review`, by the model that ships with curate, on pictures of the sample."""

import io

import polars as pl
import pytest
from PIL import Image

import curate
from curate.recipe.loading import parse_recipe
from tests.fixtures.reviewed import client_of

ROWS = 120


@pytest.fixture(scope="module")
def pictures():
    """The first pictures of the sample that can be decoded, with their labels."""
    first = min(curate.sample_path().glob("*.parquet"))
    frame = pl.read_parquet(first)
    return frame.filter(pl.col("image").struct.field("bytes").bin.size() > 500).head(ROWS)


@pytest.fixture(scope="module")
def client(pictures, decoding_here, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    pictures.write_parquet(folder / "in.parquet")
    values = {
        "run": str(folder / "run"), "source": {"path": str(folder / "in.parquet")}, "embed": {"model": "tiny"},
        "cluster": {"concepts": 4}, "score": [], "dedup": {"exact": False}, "select": {"method": "all"}, "workers": 1,
    }  # fmt: skip
    curate.run(parse_recipe(values))
    with client_of(folder / "run") as (client, _):
        yield client


def test_words_find_pictures_that_show_them(client):
    assert client.get("/api/about").json()["searchable"] is True
    found = client.get("/api/search", params={"text": "a red car", "top": 5, "any": "1"}).json()
    captions = [row["caption"] for row in found["rows"]]
    assert len(captions) == 5 and found["empty"] is None
    assert sum("car" in caption for caption in captions) >= 4, captions
    fits = [row["relevance"] for row in found["rows"]]
    assert fits == sorted(fits, reverse=True)
    strict = client.get("/api/search", params={"text": "zzz", "top": 5}).json()
    assert strict["rows"] == [] and "no image is nearer" in strict["empty"]


def test_a_dropped_picture_finds_itself_whatever_its_format(client, pictures):
    place = 7
    data = pictures["image"].struct.field("bytes")[place]
    found = client.post("/api/search?any=1", content=data).json()["rows"]
    assert found[0]["caption"] == pictures["caption"][place] and found[0]["similarity"] == pytest.approx(
        1, abs=1e-3
    )
    saved = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(saved, "PNG")
    again = client.post("/api/search?any=1", content=saved.getvalue()).json()["rows"]
    assert again[0]["uid"] == found[0]["uid"]
    answer = client.post("/api/search", content=b"no picture at all")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(
        "the picture cannot be searched for: broken_image: not a readable image"
    )
