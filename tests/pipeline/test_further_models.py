"""Scores by a further CLIP model: against the model called directly, then what embeds again and what does not."""

import json
import shutil
import urllib.error
import urllib.request
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import curate.embedding
from curate.errors import ModelError, RecipeError, UsageError
from curate.pipeline import runner
from curate.pipeline.stages import further_models
from curate.recipe.loading import parse_recipe
from tests.fixtures.folders import times
from tests.fixtures.pictured import picture

pytestmark = pytest.mark.usefixtures("no_flush", "decoding_here")

ROWS = 24
PAIR = {"batch": 8, "repeats": 2}
#: A row whose image is broken, one without a caption, a copy of another.
BROKEN, SILENT, COPY = 3, 5, 23


def images():
    found = [picture(i, (80, 64)) for i in range(ROWS)]
    found[BROKEN], found[COPY] = b"no picture", found[0]
    return found


def captions():
    found = [f"a picture with number {i}" for i in range(ROWS)]
    found[SILENT], found[COPY] = None, found[0]
    return found


def write(folder, first, stop):
    folder.mkdir(parents=True, exist_ok=True)
    rows = slice(first, stop)
    frame = pl.DataFrame({"id": [f"s{i:03d}" for i in range(ROWS)], "image": images(), "caption": captions()})
    frame[rows].write_parquet(folder / f"train-{first:05d}.parquet")


def settings(source, out, /, *score, **changes):
    return {
        "run": str(out), "source": {"path": f"{source}/*.parquet", "uid": "id"}, "embed": {"model": "tiny"},
        "cluster": {"concepts": 2}, "score": list(score), "select": {"method": "all"}, "memory": "2GB", "workers": 1,
        "limits": {"unusable": 0.5}, **changes,
    }  # fmt: skip


def scored(source, out, /, *score, **changes):
    runner.run(parse_recipe(settings(source, out, *score, **changes)), until="score")
    return Path(out)


def table(run, name):
    return pl.read_parquet(run / f"3_scores/{name}/part-*").sort("uid")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another model: the one that ships with other weights, as a folder."""
    from safetensors.torch import load_file, save_file

    tiny, folder = Path(curate.embedding.__file__).parent / "tiny", tmp_path_factory.mktemp("other")
    config = {
        "model_cfg": json.loads((tiny / "tiny.json").read_text()),
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = load_file(tiny / "model.safetensors")
    turned = {
        name: value * 1.1 if name.startswith("visual") and value.is_floating_point() else value
        for name, value in weights.items()
    }
    save_file(turned, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    write(folder, 0, 12)
    write(folder, 12, ROWS)
    return folder


@pytest.fixture(scope="module")
def run(source, other, tmp_path_factory):
    return scored(
        source, tmp_path_factory.mktemp("run") / "run", "clip_score", {"pair": PAIR},
        {"clip": {"model": "tiny", "pair": PAIR}}, {"clip": {"model": other, "name": "other", "pair": PAIR}},
        {"fuse": {"name": "both", "columns": {"clip_score": 1, "other_score": 1}, "higher_is": "better"}},
    )  # fmt: skip


def test_by_the_model_itself(run, other):
    from curate.embedding import clip
    from curate.embedding.decode import to_array
    from curate.linalg import load_unit, row_dots

    model = clip.load(other)
    found = table(run, "other")
    assert found["uid"].to_list() == [f"s{i:03d}" for i in range(ROWS) if i not in (BROKEN, COPY)]
    rows = [int(uid[1:]) for uid in found["uid"]]
    assert found["other_status"].to_list() == ["no_text" if row == SILENT else "ok" for row in rows]
    rows.remove(SILENT)
    opened = [Image.open(BytesIO(images()[row])).convert("RGB") for row in rows]
    pixels = np.stack([to_array(one, model.preprocess) for one in opened])
    halves = model.encode_images(pixels), model.encode_texts([captions()[row] for row in rows])
    expected = row_dots(*(load_unit(one.astype(np.float16)) for one in halves)).astype(np.float32)
    assert found["other_score"].drop_nulls().to_list() == expected.tolist()
    assert not np.allclose(
        found["other_score"].drop_nulls(), table(run, "clip_score")["clip_score"].drop_nulls()
    )


def test_the_model_of_the_run_costs_nothing(run):
    mine = table(run, "tiny")
    assert mine["tiny_score"].equals(table(run, "clip_score")["clip_score"], check_names=False)
    pair = table(run, "pair")
    for name in [one for one in pair.columns if one not in ("uid", "pair_status")]:
        assert mine[f"tiny_{name}"].equals(pair[name], check_names=False), name
    assert len(list((run / "1_embeddings_more").iterdir())) == 1
    assert not table(run, "other")["other_nce"].equals(pair["nce"], check_names=False)


def test_scores_have_their_direction_and_can_be_fused(run, source, other, tmp_path):
    assert table(run, "both")["both"].null_count() == 1
    again = shutil.copytree(run, tmp_path / "run")
    recipe = parse_recipe(
        settings(
            source, again, {"clip": {"model": other, "name": "other"}}, select={"method": "hardest", "by": "other_score", "count": 5},
            filter=["other_score > -1", {"by": "other_score", "top": 0.9}],
        )
    )  # fmt: skip
    runner.run(recipe, until="select")
    kept = pl.read_parquet(again / "5_decisions/part-*").filter("keep")["uid"]
    worst = table(again, "other").drop_nulls().sort("other_score", descending=True)
    best = worst.head(round(0.9 * len(worst)))
    assert sorted(kept) == sorted(best["uid"].tail(5))


def test_what_is_there_is_not_embedded_again(run, source, other, tmp_path, monkeypatch):
    again = shutil.copytree(run, tmp_path / "run", copy_function=shutil.copy2)
    before = times(again / "1_embeddings_more")
    monkeypatch.setattr(further_models, "_embed_parts", None)
    scored(source, again, {"clip": {"model": other, "name": "renamed"}})
    assert times(again / "1_embeddings_more") == before
    assert table(again, "renamed")["renamed_score"].equals(
        table(run, "other")["other_score"], check_names=False
    )


def test_it_goes_on_where_it_was_stopped_and_grows(source, other, run, tmp_path, monkeypatch):
    grown, out = tmp_path / "in", tmp_path / "run"
    write(grown, 0, 12)
    made, score = further_models.write_part, {"clip": {"model": other, "name": "other", "pair": PAIR}}
    scored(grown, out, score)
    before = times(out / "1_embeddings_more")
    write(grown, 12, ROWS)

    def stopped(path, *given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(further_models, "write_part", stopped)
    with pytest.raises(KeyboardInterrupt):
        scored(grown, out, score)
    names = []
    monkeypatch.setattr(
        further_models,
        "write_part",
        lambda path, *given, **more: (names.append(path.name), made(path, *given, **more)),
    )
    scored(grown, out, score)
    after = times(out / "1_embeddings_more")
    assert len(names) == 1
    assert [one for one in before if ".arrow" in one and after.get(one) != before[one]] == []
    assert table(out, "other").equals(table(run, "other"))


def test_a_pair_whose_image_cannot_be_read_again(source, other, tmp_path):
    vectors = np.eye(ROWS, 8, dtype=np.float32) + 0.1
    folder = tmp_path / "in"
    folder.mkdir()
    frame = pl.DataFrame({"id": [f"s{i:03d}" for i in range(ROWS)], "image": images(), "caption": captions()})
    frame = frame.with_columns(pl.Series("embedding", vectors.tolist()))
    frame.write_parquet(folder / "a.parquet")
    run = scored(
        folder, tmp_path / "run", {"clip": {"model": other, "name": "other"}}, embed={"column": "embedding"}
    )
    found = dict(table(run, "other").select("uid", "other_status").rows())
    assert (found[f"s{BROKEN:03d}"], found[f"s{SILENT:03d}"], found["s000"]) == ("no_vector", "no_text", "ok")
    facts = json.loads((run / "3_scores/other/_done.json").read_text())["facts"]
    assert facts["statuses"] == {"no_text": 1, "no_vector": 1, "ok": ROWS - 3}
    assert "1 pairs have no vector of local-dir:" in facts["warnings"][0]


def test_what_cannot_be_is_refused_before_anything_is_embedded(source, other, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    out = tmp_path / "run"
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("HF_HOME", "/nonexistent")
    for score, error, message in (
        ({"model": "ViT-B-9"}, ModelError, "score: vit_b_9: no model is called 'ViT-B-9'"),
        ({"model": "ViT-B-32", "pretrained": "/no/such.pt"}, ModelError, "score: vit_b_32: pretrained '/no/such.pt' is neither"),
        ({"model": "ViT-B-16", "pretrained": "datacomp_xl_s13b_b90k", "name": "b16"}, ModelError, "score: b16: cannot get ViT-B-16 .*no route"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            scored(source, out, {"clip": score})
    assert not out.exists()
    with pytest.raises(RecipeError, match="must name each family once, got two twice"):
        scored(source, out, *({"clip": {"model": one, "name": "two"}} for one in ("tiny", other)))
    with pytest.raises(RecipeError, match="no family of curate, got 'pair'"):
        scored(source, out, {"clip": {"model": other, "name": "pair"}})
    alone = {"path": f"{source}/*.parquet", "uid": "id", "image": None}
    with pytest.raises(
        UsageError, match="score: other compares images with captions, and source has no images"
    ):
        scored(source, out, {"clip": {"model": other, "name": "other"}}, source=alone)


def test_vectors_without_images_are_refused(other, tmp_path):
    pl.DataFrame(
        {"id": ["a", "b"], "embedding": [[1.0, 0.0], [0.0, 1.0]], "caption": ["x", "y"]}
    ).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="no column of images is known"):
        scored(
            tmp_path,
            tmp_path / "run",
            {"clip": {"model": other, "name": "other"}},
            embed={"column": "embedding"},
        )
