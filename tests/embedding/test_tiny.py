"""The CLIP that ships with the package: loads as any open_clip model does, means something, keeps copies near."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "curate/embedding/tiny"
SHARED = Path(os.environ.get("CURATE_SHARED_DATA", ROOT.parent / "shared/data"))
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "data")]

import scenes
import tiny_quality
from make_sample import near_copy

from curate.embedding import torchvision_guard


@pytest.fixture(scope="module")
def tiny():
    return tiny_quality.Tiny(TINY)


def test_open_clip_imports_whichever_torchvision_is_installed():
    open_clip = torchvision_guard.import_open_clip()
    assert torchvision_guard.import_open_clip() is open_clip
    assert callable(sys.modules["torchvision"].transforms.functional.resize)


def test_other_import_errors_are_not_hidden(monkeypatch):
    def broken(name):
        raise RuntimeError(f"{name}: libfoo.so is missing")

    monkeypatch.setattr(torchvision_guard.importlib, "import_module", broken)
    with pytest.raises(RuntimeError, match="libfoo"):
        torchvision_guard.import_open_clip()


def test_weights_are_small_and_in_half_precision():
    assert (TINY / "model.safetensors").stat().st_size <= 12_000_000
    from safetensors import safe_open

    with safe_open(TINY / "model.safetensors", "pt") as weights:
        dtypes = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    assert dtypes <= {"F16", "I64"}


def test_vectors_are_finite_unit_and_of_the_declared_width(tiny):
    width = json.loads((TINY / "tiny.json").read_text())["embed_dim"]
    pictures = [Image.new("RGB", (70, 50), colour) for colour in ("black", "white", "red")]
    for vectors in (tiny.images(pictures), tiny.texts(["a picture of a tree", "", "tree " * 500])):
        assert vectors.shape == (3, width)
        assert np.isfinite(vectors).all()
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_result_does_not_change_between_calls_or_with_neighbours_in_the_batch(tiny):
    pictures = [scenes.scene(name, scenes.HELD_OUT).image for name in scenes.NAMES]
    together = tiny.images(pictures)
    assert np.array_equal(together, tiny.images(pictures))
    alone = np.concatenate([tiny.images([picture]) for picture in pictures])
    assert (together * alone).sum(1).min() > 0.9999


def test_names_of_concepts_classify_scenes_it_never_saw(tiny):
    accuracy, per_concept = tiny_quality.zero_shot(tiny, per_concept=12)
    assert accuracy >= 0.9
    assert min(per_concept.values()) >= 0.5


def test_captions_find_their_own_picture_among_scenes_of_one_concept(tiny):
    drawn = [scenes.scene("flower", scenes.HELD_OUT + i, difficulty=0.2) for i in range(40)]
    similarity = tiny.images(s.image for s in drawn) @ tiny.texts([s.caption for s in drawn]).T
    assert (similarity.argmax(1) == np.arange(40)).mean() >= 0.5  # by chance: 0.025


@pytest.mark.long
def test_near_copies_are_nearest_to_their_original(tiny):
    share, _, _ = tiny_quality.near_copies(tiny, ROOT / "data/sample")
    assert share >= 0.95


def test_scenes_of_one_concept_stay_apart_while_copies_do_not(tiny):
    rng = np.random.Generator(np.random.Philox(key=5))
    for name in ("stop sign", "flower"):
        originals = [scenes.scene(name, scenes.HELD_OUT + 500 + i).image for i in range(30)]
        vectors = tiny.images(originals)
        copies = (vectors * tiny.images(near_copy(image, rng) for image in originals)).sum(1)
        others = (vectors @ vectors.T)[np.triu_indices(30, 1)]
        assert np.median(copies) > np.quantile(others, 0.99)


@pytest.mark.long
@pytest.mark.parametrize(
    ("data", "shards", "least"),
    [("fashion_mnist", 1, 0.8), ("clothing", 4, 0.5)],
)
def test_neighbours_agree_on_classes_of_real_pictures(tiny, data, shards, least):
    """Small galleries for speed, so lower bars than the full measurement in benchmarks/tiny_quality.py."""
    if not (SHARED / data).is_dir():
        pytest.skip(f"{SHARED / data} is missing (set CURATE_SHARED_DATA)")
    vectors, labels = {}, {}
    for split, n in (("train", 1500), ("test", 400)):
        files = sorted((SHARED / data).glob(f"{split}-*.parquet"))
        table = pq.read_table(files[:shards], columns=["image", "label"])
        rows = np.random.default_rng(0).permutation(len(table))[:n]
        table = table.take(rows)
        vectors[split] = tiny.images(tiny_quality.opened(r["bytes"].as_py() for r in table["image"]))
        labels[split] = table["label"].to_numpy()
    found = tiny_quality.neighbours_accuracy(
        vectors["train"], labels["train"], vectors["test"], labels["test"]
    )
    assert found >= least


def test_neighbours_accuracy_counts_the_majority_and_breaks_ties_by_the_nearest():
    gallery = np.eye(6, dtype=np.float32)
    labels = np.array([0, 0, 0, 1, 1, 1])
    query = np.array([[6, 5, 1, 4, 3, 2], [1, 2, 3, 6, 5, 4]], np.float32)
    assert tiny_quality.neighbours_accuracy(gallery, labels, query, np.array([1, 1])) == 1.0
    assert tiny_quality.neighbours_accuracy(gallery, labels, query[:1], np.array([0]), k=2) == 1.0
    assert tiny_quality.neighbours_accuracy(gallery, labels, query[:1], np.array([0]), k=4) == 1.0
