"""Scores by texts in a run: the run's own model reads the texts, once; a file of vectors is another fingerprint."""

import numpy as np
import polars as pl
import pytest

from curate.embedding import clip as clips
from curate.linalg import load_unit
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.runs.run import open_run
from curate.scores.clipn import out_of_distribution
from curate.scores.concept_share import share_inside, span_of
from curate.scores.prompts import text_contrast
from tests.fixtures.builders import DIM, planted, recipe_values, write_shards

LIKE, UNLIKE = ["a red house", "a red boat"], ["a blue tree"]
PROMPTS = {"prompts": {"name": "red", "like": LIKE, "unlike": UNLIKE}}
CLIPN = {"clipn": {"classes": ["house", "boat"], "no_templates": ["no {}", "not a {}"]}}
SHARE = {"concept_share": {"name": "boats", "concept": ["a boat", "a red boat"], "besides": ["a photo"]}}


def recipe(folder, scores):
    return parse_recipe(
        {
            "run": str(folder / "run"), "source": {"path": str(folder / "a.parquet"), "image": None}, "score": scores,
            "embed": {"model": "tiny"}, "cluster": {"concepts": 2}, "select": {"method": "all"}, "workers": 1,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on captions alone that is embedded."""
    folder = tmp_path_factory.mktemp("texts")
    colours, things = ("red", "blue", "small"), ("house", "tree", "boat", "cat")
    texts = [f"a {colour} {thing}" for colour in colours for thing in things]
    pl.DataFrame({"text": texts}).write_parquet(folder / "a.parquet")
    runner.run(recipe(folder, []), until="cluster")
    return folder


def table(folder, name):
    return pl.read_parquet(folder / f"run/3_scores/{name}/*.parquet")


def test_texts_are_read_once_by_the_model_of_the_run(folder, monkeypatch):
    loaded, load = [], clips.load

    def counted(*arguments, **settings):
        loaded.append(arguments)
        return load(*arguments, **settings)

    monkeypatch.setattr(clips, "load", counted)
    runner.run(recipe(folder, [PROMPTS, CLIPN, SHARE]), until="score")
    assert len(loaded) == 1
    runner.run(
        recipe(folder, [PROMPTS, {"prompts": {"name": "turned", "like": UNLIKE, "unlike": LIKE}}]),
        until="score",
    )
    assert len(loaded) == 1
    clip = load("tiny", None, device="cpu", precision="float32", batch_size=256)
    from curate.embedding.store import EmbeddingPart

    part = EmbeddingPart(next((folder / "run/1_embeddings").glob("part-*")))
    unit = load_unit(part.half("image", 0))
    like, unlike = clip.encode_texts(LIKE), clip.encode_texts(UNLIKE)
    red = table(folder, "red")
    assert red["uid"].to_list() == part.uids()
    assert red["red"].to_list() == text_contrast(unit, like, unlike).tolist()
    assert table(folder, "turned")["turned"].to_list() == (-red["red"]).to_list()
    said = pl.read_parquet(folder / "run/0_samples/*.parquet").select("uid", "caption").join(red, on="uid")
    assert said.sort("red")["caption"][-1] in ("a red house", "a red boat")
    yes = clip.encode_texts(["a photo of a house", "a photo of a boat"])
    no = (
        clip.encode_texts(["no house", "not a house", "no boat", "not a boat"]).reshape(2, 2, -1).mean(axis=1)
    )
    no /= np.linalg.norm(no, axis=1, keepdims=True)
    want = out_of_distribution(unit, yes, no, 0.01)
    ood = table(folder, "ood")
    np.testing.assert_allclose(ood["ood_ctw"].to_numpy(), want[0], atol=1e-4)
    np.testing.assert_allclose(ood["ood_atd"].to_numpy(), want[1], atol=1e-4)
    basis = span_of(clip.encode_texts(["a boat", "a red boat"]), clip.encode_texts(["a photo"]))
    np.testing.assert_allclose(
        table(folder, "boats")["boats"].to_numpy(), share_inside(unit, basis), atol=1e-6
    )


def test_another_file_of_vectors_is_computed_anew(folder):
    dim = 128
    found = []
    for seed in (1, 1, 2):
        np.save(folder / "like.npy", np.random.default_rng(seed).standard_normal((2, dim)).astype(np.float32))
        runner.run(
            recipe(folder, [{"prompts": {"name": "mine", "like": str(folder / "like.npy")}}]), until="score"
        )
        found.append((folder / "run/3_scores/mine/_done.json").stat().st_mtime_ns)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("n", [0, 1])
def test_no_row_and_one_row(tmp_path, n):
    """All scores by texts, heads and captions, on vectors of their own."""
    captions = pl.Series([], dtype=pl.String) if n == 0 else ["a cat"]
    glob = write_shards(tmp_path / "in", planted(1)[:n], shards=1, extra={"caption": captions})
    vectors, names = str(tmp_path / "t.npy"), str(tmp_path / "names.txt")
    np.save(vectors, planted(3).astype(np.float32))
    np.savez(tmp_path / "head.npz", weight=np.ones((1, DIM)))
    (tmp_path / "names.txt").write_text("cat", encoding="utf-8")
    scores = [
        "caption", {"metaclip": {"entries": names}}, {"mentions": {"names": names}}, {"target_clusters": {"target": vectors}},
        {"prompts": {"like": vectors}}, {"clipn": {"yes": vectors, "no": vectors}}, {"concept_share": {"concept": vectors}},
        {"linear": {"weights": str(tmp_path / "head.npz")}},
    ]  # fmt: skip
    values = recipe_values(glob, tmp_path / "run", score=scores, cluster={"concepts": 1}, dedup={})
    runner.run(parse_recipe(values | {"select": {"method": "metaclip", "count": n}}), until="select")
    assert open_run(tmp_path / "run").decisions()["keep"].to_list() == [True] * n
    folders = ["caption", "metaclip", "mentions", "target_clusters", "prompts", "ood", "unsafe", "linear"]
    for folder in folders:
        found = pl.read_parquet(tmp_path / f"run/3_scores/{folder}/*.parquet")
        assert found[f"{folder}_status"].to_list() == ["ok"] * n, folder
    assert pl.read_parquet(tmp_path / "run/3_scores/mentions/*.parquet")["mentions"].to_list() == [1.0] * n
