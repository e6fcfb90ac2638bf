"""Scores of heads on vectors in memory, as `curate.score` gives them: against the trainer, then the edges."""

import dataclasses

import numpy as np
import polars as pl
import pytest

from curate.recipe import Heads
from curate.scores.heads import labels as trained
from curate.scores.heads import parts as heads
from curate.scores.heads.heads import FAST
from curate.scores.heads.training import HeadSettings
from curate.scores.in_memory import score
from curate.scores.registry import columns_of
from tests.fixtures.trained_heads import SMALL, N, clusters, directly, names, same_columns


def scored(vectors=None, labels=None, *, seed=0, **settings):
    """Score vectors with labels by heads."""
    if vectors is None:
        vectors, given = clusters()
        labels = given if labels is None else labels
    family = Heads(**{**SMALL, **settings})
    return score(vectors, family, labels=labels, uids=names(len(vectors)), seed=seed)


# Against the trainer


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_columns_are_those_of_the_trainer(kind):
    changes = {} if kind == "mlp" else {"seeds": 3, "first_seed": 4}
    got = scored(kind=kind, **changes)
    seeds = {} if kind == "mlp" else {"n_seeds": 3, "first_seed": 4}
    assert got["uid"].to_list() == names()
    same_columns(got, directly(*clusters(), kind=kind, **seeds))
    assert set(got["heads_status"]) == {"ok"}


def test_all_settings_reach_the_trainer():
    vectors, labels = clusters()
    settings = {
        "kind": "linear", "seeds": 2, "first_seed": 3, "epochs": 3, "score_epochs": [1, 3], "folds": 3,
        "min_class": 40, "batch": 32, "rate": 0.5, "momentum": 0.5, "normalise": "l2",
    }  # fmt: skip
    got = scored(seed=11, **settings)
    want = directly(
        vectors, labels, kind="linear", n_seeds=2, first_seed=3, epochs=3, score_epochs=(1, 3), cross_fit=3,
        min_class=40, batch=32, rate=0.5, momentum=0.5, normalise="l2", seed=11,
    )  # fmt: skip
    same_columns(got, want)
    assert "class_too_small" in set(got["heads_status"])


def test_the_fast_preset_is_short_for_settings_that_can_be_overridden():
    fast = Heads.model_validate({"preset": "fast"})
    assert (fast.kind, fast.seeds, fast.epochs, fast.folds) == ("linear", 5, 3, 5)
    written_out = Heads(kind="linear", seeds=5, epochs=3)
    assert fast.fingerprinted() == written_out.fingerprinted() != Heads().fingerprinted()
    assert Heads.model_validate({"preset": "fast", "seeds": 2, "kind": "mlp"}).seeds == 2
    assert Heads.model_validate(fast.model_dump()) == fast
    labels, uids = clusters()[1], names()
    got, want = (
        score(clusters()[0], one, labels=labels, uids=uids)
        for one in ({"heads": {"preset": "fast", "folds": 2}}, {"heads": {**FAST, "folds": 2}})
    )
    assert got.equals(want)


@pytest.mark.parametrize(("n", "batch"), [(0, 32), (2_000, 32), (3_068, 64), (20_000, 512), (10**6, 1024)])
def test_a_minibatch_is_the_power_of_two_nearest_to_50_steps(n, batch):
    assert HeadSettings().batch_for(n) == batch


def test_any_order_gives_the_same_scores():
    vectors, labels = clusters()
    order = np.random.default_rng(1).permutation(N)
    moved = score(
        vectors[order], Heads(**SMALL), labels=[labels[i] for i in order], uids=[names()[i] for i in order]
    )
    assert moved.sort("uid").equals(scored())


# Labels


def test_samples_without_label_and_of_small_classes():
    vectors, labels = clusters()
    labels[:3], labels[3], labels[4:6] = [None] * 3, "once", ["twice"] * 2
    got = scored(vectors, labels)
    same_columns(got, directly(vectors, labels))
    assert got["heads_status"].to_list()[:7] == ["no_label"] * 3 + ["class_too_small"] * 3 + ["ok"]
    assert got["el2n"].null_count() == 6 == got["pred_label"].null_count()


@pytest.mark.parametrize(
    ("labels", "status", "said"),
    [
        (["same"] * 30, "single_class", "one class is left and nothing to tell it from: 30 samples"),
        ([f"row {i}" for i in range(30)], "class_too_small", "30 samples are in classes of fewer than 3"),
    ],
    ids=["one class", "a class per row"],
)
def test_labels_that_cannot_be_learned(labels, status, said):
    vectors = clusters(30)[0]
    got = scored(vectors, labels)
    assert set(got["heads_status"]) == {status}
    assert all(got[name].is_null().all() for name in columns_of("heads"))
    read = trained.Labels(np.arange(30, dtype=np.int32) % len(set(labels)), sorted(set(labels)), "label")
    stats = trained.label_stats(directly(vectors, labels), read, Heads(**SMALL))
    assert stats["scored"] == 0
    assert any(said in text for text in stats["warnings"]), stats["warnings"]


def test_zero_is_an_ordinary_label_and_seed():
    vectors, labels = clusters()
    codes = [int(label[-1]) for label in labels]
    got = scored(vectors, codes, seed=0)
    same_columns(got, directly(vectors, [str(code) for code in codes]))
    assert set(got["heads_status"]) == {"ok"} and "0" in set(got["pred_label"])


# Small inputs


@pytest.mark.parametrize("kind", ["mlp", "linear"])
@pytest.mark.parametrize("n", [0, 1])
def test_no_sample_and_one(kind, n):
    vectors, labels = clusters()
    got = scored(vectors[:n], labels[:n], kind=kind)
    assert len(got) == n and got["el2n"].null_count() == n
    assert got.columns == ["uid", *columns_of("heads"), "pred_label", "n_obs", "heads_status"]
    assert got.schema["el2n"] == pl.Float32 and got.schema["n_obs"] == pl.Int32
    assert n == 0 or got["heads_status"][0] in ("class_too_small", "single_class")


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_vectors_that_are_all_the_same(kind):
    vectors, labels = clusters(40)
    vectors[:] = vectors[0]
    got = scored(vectors, labels, kind=kind)
    assert set(got["heads_status"]) == {"ok"}
    # all that can be told is how frequent a class is
    assert got.group_by("pred_label").len().height <= 2 and got["el2n"].null_count() == 0


# Class names


class Words:
    """A model that reads texts of one word and a letter."""

    dim = 3

    def __init__(self):
        self.asked = []

    def encode_texts(self, texts):
        self.asked.append(texts)
        return np.array([[len(text), 1, "x" in text] for text in texts], np.float32)


def test_class_vectors_by_definition():
    clip = Words()
    got = heads.class_vectors(clip, ["ab", "{x}"], ("a {}", "{}, {}"))
    assert clip.asked == [["a ab", "a {x}"], ["ab, ab", "{x}, {x}"]]
    mean = np.array([[4 + 6, 2, 0], [5 + 8, 2, 2]]) / 2
    np.testing.assert_allclose(got, mean / np.linalg.norm(mean, axis=1, keepdims=True), rtol=1e-6)


# What the manifest says


@pytest.fixture(scope="module")
def scores():
    return directly(*clusters())


def said(scores, **changes):
    labels = trained.Labels(np.zeros(N, np.int32), ["a"], "label")
    settings = Heads(**SMALL | changes.pop("settings", {}))
    return trained.label_stats(dataclasses.replace(scores, **changes), labels, settings)["warnings"]


def test_warning_of_seeds_that_disagree(scores):
    fine = {"reliability": 0.9, "reliability_of_mean": 0.947, "grand_el2n": 0.99}
    assert said(scores, **fine) == []
    (text,) = said(scores, **fine | {"reliability": 0.485, "reliability_of_mean": 0.653})
    assert text == "el2n of 2 seeds has a reliability of 0.65, less than 0.8; set heads.seeds to 10 for 0.9"
    assert "train longer" in said(scores, **fine | {"reliability": -0.1, "reliability_of_mean": 0.0})[0]
    (one,) = said(scores, **fine | {"reliability": float("nan"), "seeds": [0]}, settings={"seeds": 1})
    assert one.startswith("one seed cannot tell how reliable el2n is")
    assert "seeds [1] left the finite numbers" in said(scores, **fine | {"seeds": [0]})[0]


def test_warning_of_a_column_that_says_nothing_more(scores):
    fine = {"reliability": 0.9, "reliability_of_mean": 0.947}
    (text,) = said(scores, **fine, grand_el2n=0.9995, settings={"kind": "linear"})
    assert "grand ranks as el2n does (Spearman 0.9995)" in text and "kind mlp" in text
    assert said(scores, **fine, grand_el2n=0.999, settings={"kind": "linear"}) == []


def test_labels_are_a_sequence():
    labels = trained.Labels(np.array([1, -1, 0], np.int32), ["a", "b"], "label")
    assert list(labels) == ["b", None, "a"] == [labels[place] for place in range(3)]
    assert list(labels[1:]) == [None, "a"] and len(labels) == 3
