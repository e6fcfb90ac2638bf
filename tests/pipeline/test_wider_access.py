"""More places for images: `source.allow` and `source.root` of a run grow, and only what was refused is embedded."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from curate.errors import UsageError
from curate.pipeline import runner
from curate.pipeline.retry import retry_run
from curate.recipe.loading import parse_recipe

N = 12


def recipe(source, out, **more):
    """Return a recipe that embeds with the small model as far as the decisions."""
    values = {
        "run": str(out), "source": source, "embed": {"model": "tiny"}, "cluster": {"concepts": 2}, "workers": 1,
        "select": {"method": "random", "keep": 1.0}, "limits": {"unusable": 1}, "memory": "2GB",
    }  # fmt: skip
    return parse_recipe(values | more)


def run(source, out):
    runner.run(recipe(source, out), until="select")
    return outcomes(out)


def outcomes(out):
    return pl.read_parquet(f"{out}/0_samples/*.parquet").sort("shard", "row")["outcome"].to_list()


def vectors(out):
    """Return {uid: its stored vector} of a run."""
    frame = pl.read_ipc(f"{out}/1_embeddings/*.arrow")
    return {uid: np.array(image) for uid, image in frame.select("uid", "image").rows()}


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def places(tmp_path):
    """Rows by name in two shards: the first half below the shards, of the rest some elsewhere, behind .. and links."""
    data = tmp_path / "data"
    names = [f"in/{n}.png" for n in range(6)] + [str(tmp_path / f"far/{n}.png") for n in (6, 7)]
    names += [f"../far/{n}.png" for n in (8, 9)] + ["in/link.png", "away/11.png"]
    for n in range(6):
        picture(data / f"in/{n}.png", n)
    for n in range(6, N):
        picture(tmp_path / ("roots/away" if n == 11 else "far") / f"{n}.png", n)
    (data / "in/link.png").symlink_to(tmp_path / "far/10.png")
    for shard, rows in (("a", names[::2]), ("b", names[1::2])):
        lines = [json.dumps({"image": name, "caption": f"c {name[-6:]}"}) for name in rows]
        (data / f"{shard}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_what_was_refused_is_tried_again_and_the_rest_keeps_its_vectors(places, caplog):
    source = {"path": str(places / "data/*.jsonl")}
    out = places / "run"
    before = run(source, out)
    assert (
        before.count("ok") == 6 and before.count("refused_path") == 5 and before.count("missing_image") == 1
    )
    kept = vectors(out)
    caplog.set_level("INFO", "curate")
    steps = (
        ({"allow": ["links"]}, 7, 2),
        ({"allow": ["outside", "links"]}, 11, 5),
        ({"allow": ["links", "outside", "url"], "root": [str(places / "roots")]}, 12, 1),
    )
    for more, usable, looked_at in steps:
        caplog.clear()
        assert run(source | more, out).count("ok") == usable
        assert f"retry: {looked_at} rows tried" in caplog.text
        now = vectors(out)
        assert len(now) == usable and all((now[uid] == vector).all() for uid, vector in kept.items())
        kept = now
    fresh = places / "fresh"
    assert run(source | steps[-1][0], fresh) == outcomes(out) == ["ok"] * N
    assert all((vectors(fresh)[uid] == vector).all() for uid, vector in kept.items())
    marks = {path: path.stat().st_mtime_ns for path in out.rglob("_done.json")}
    run(source | steps[-1][0], out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("_done.json")} == marks


def test_an_interrupted_try_goes_on(places, monkeypatch):
    source, out = {"path": str(places / "data/*.jsonl")}, places / "run"
    run(source, out)
    wider = source | {"allow": ["outside", "links"]}

    def broken(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner, "embed_again", broken)
        with pytest.raises(KeyboardInterrupt):
            run(wider, out)
    assert run(wider, out).count("ok") == 11
    assert not retry_run(recipe(wider, out)).repaired


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        ({"allow": ["outside", "links"]}, {"allow": ["links"]}, r"source\.allow was \['outside', 'links'\], is \['links'\]"),
        ({"root": ["roots"]}, {"root": []}, r"source\.root was \['roots'\], is \[\]"),
        ({"root": ["roots"]}, {"root": ["far", "roots"]}, r"source\.root was \['roots'\], is \['far', 'roots'\]"),
        ({}, {"root": ["other"]}, r"source\.root gets other, in which in/0\.png is another image"),
        ({}, {"root": ["s3://bucket/x"]}, r"source\.root gets s3://bucket/x, in which \d images that were read may be others"),
    ],
)  # fmt: skip
def test_what_takes_places_away_or_changes_images_is_refused(places, first, then, said, monkeypatch):
    monkeypatch.chdir(places)
    picture(places / "other/in/0.png", 99)
    source, out = {"path": "data/*.jsonl"}, places / "run"
    run(source | first, out)
    before = vectors(out).keys(), Path("run/recipe.yaml").read_text()
    with pytest.raises(UsageError, match=f"{said}.*name another folder, or replace it with --force"):
        run(source | then, out)
    assert (vectors(out).keys(), Path("run/recipe.yaml").read_text()) == before


def test_equal_images_in_a_new_root_are_no_others(places, monkeypatch):
    monkeypatch.chdir(places)
    source, out = {"path": "data/*.jsonl"}, places / "run"
    run(source, out)
    shutil.copytree(places / "data/in", places / "copy/in", symlinks=True)
    shutil.copy(places / "roots/away/11.png", places / "copy/11.png")
    (places / "copy/away").mkdir()
    os.link(places / "copy/11.png", places / "copy/away/11.png")
    assert run(source | {"root": ["copy"]}, out).count("ok") == 7
