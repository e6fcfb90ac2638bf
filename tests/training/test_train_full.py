"""Training open_clip models on pictures: resuming, what is written, and what a run scores by it."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import curate
from curate.embedding import clip
from curate.errors import UsageError
from curate.linalg import load_unit
from curate.runs.run import open_run
from curate.scores.dfn.formula import pair_scores
from curate.training.filter_recipe import parse_filter_recipe
from curate.training.train import train_recipe
from tests.fixtures.pictured import picture

N = 26


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Pairs of one colour each; the last two have no picture that can be decoded, and none."""
    folder = tmp_path_factory.mktemp("pictures")
    images = [picture(i, (16, 16)) for i in range(N)]
    images[N - 2], images[N - 1] = b"no picture", None
    table = {
        "id": [f"s{i:03d}" for i in range(N)],
        "image": images,
        "caption": [f"a thing\ncolour {i}" for i in range(N)],
    }
    pq.write_table(pa.table(table), folder / "train-0.parquet")
    return folder


def recipe(pairs, out, **changes):
    source = {"path": str(pairs / "*.parquet"), "uid": "id"}
    few = {"epochs": 2, "batch": 8, "rate": 1e-3, "background": 6, "memory": "2GB"}
    return parse_filter_recipe(
        {"out": str(out), "kind": "full", "model": "tiny", "set": {"source": source}, **few, **changes}
    )


def test_a_model_is_trained_and_a_run_scores_by_it(pairs, tmp_path, decoding_here):
    stored = train_recipe(recipe(pairs, tmp_path / "filter"))
    assert stored.facts["rows"] == N - 2
    curve = json.loads((tmp_path / "filter/loss.json").read_text())[0]
    assert curve[2]["train"] < curve[1]["train"]
    source = {"path": str(pairs / "*.parquet"), "uid": "id"}
    values = {
        "run": str(tmp_path / "run"), "source": source, "embed": {"model": "tiny"}, "cluster": {"concepts": 2},
        "score": [{"dfn": {"path": str(tmp_path / "filter")}}, "clip_score"], "select": {"method": "all"}, "memory": "2GB",
        "workers": 1, "limits": {"unusable": 0.1},
    }  # fmt: skip
    curate.run(values, until="score", progress=False)
    scores = open_run(tmp_path / "run").scores().sort("uid")
    assert scores["dfn_status"].to_list() == ["ok"] * (N - 2)
    assert scores["dfn_score"].mean() > scores["clip_score"].mean()
    # by definition: its own vectors of pictures and captions, against its background
    model = clip.load(f"local-dir:{tmp_path / 'filter'}")
    from curate.embedding.decode import decode

    pixels = np.stack(
        [decode(picture(i, (16, 16)), model.preprocess, max_pixels=10**6).array for i in range(N - 2)]
    )
    captions = [f"a thing\ncolour {i}" for i in range(N - 2)]
    image, text = (
        load_unit(x.astype(np.float16)) for x in (model.encode_images(pixels), model.encode_texts(captions))
    )
    back = [load_unit(stored.arrays[f"background_{name}"]) for name in ("image", "text")]
    score, loss = pair_scores(image, text, *back, stored.facts["scale"])
    np.testing.assert_array_equal(scores["dfn_score"].to_numpy(), score)
    np.testing.assert_array_equal(scores["dfn_loss"].to_numpy(), loss)


@pytest.mark.long
def test_a_training_that_was_killed_goes_on_with_the_same_weights(pairs, tmp_path, decoding_here):
    # new weights (norms over batches learn too), several wordings, altered pictures, batches of neighbours
    config = str(clip.__file__).replace("clip.py", "tiny/tiny.json")
    more = {
        "model": config,
        "wordings": True,
        "hard": 1.0,
        "augment": {"scale": 0.7, "flip": True, "colour": 0.2},
        "half": True,
    }
    whole = train_recipe(recipe(pairs, tmp_path / "whole", **more))

    def killed(stage, done, total, unit):
        if stage == "train" and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_recipe(recipe(pairs, tmp_path / "cut", **more), progress=killed)
    assert (tmp_path / "cut/.work/checkpoint-0.pt").exists()
    steps = []
    resumed = train_recipe(
        recipe(pairs, tmp_path / "cut", **more),
        progress=lambda stage, done, *_: steps.append(done) if stage == "train" else None,
    )
    assert steps == [4, 5, 6]
    assert resumed.identity == whole.identity
    assert list((tmp_path / "cut/.work").glob("checkpoint*")) == []


def test_models_that_are_not_there_are_said(pairs, tmp_path, decoding_here):
    with pytest.raises(UsageError, match=r"nothing\.json is not there; give the JSON configuration"):
        train_recipe(recipe(pairs, tmp_path / "a", model="nothing.json"))
    (tmp_path / "odd.json").write_text("[]")
    with pytest.raises(UsageError, match=r"odd\.json is no JSON configuration of an open_clip model"):
        train_recipe(recipe(pairs, tmp_path / "a", model=str(tmp_path / "odd.json")))
    with pytest.raises(UsageError, match="open_clip knows no 'tniy'"):
        train_recipe(recipe(pairs, tmp_path / "a", model="tniy"))
    assert not (tmp_path / "a").exists()  # nothing was read for it
