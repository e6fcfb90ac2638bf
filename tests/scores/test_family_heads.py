"""Scores of heads in a run: against the library on arrays, then what must not change them, then the edges."""

import json

import numpy as np
import polars as pl
import pytest
from builders import recipe_values, write_shards
from folders import tables

from curate.errors import RunError, UsageError
from curate.linalg import load_unit, unit_rows
from curate.pipeline.runner import run
from curate.recipe import Heads
from curate.recipe.loading import parse_recipe
from curate.runs.run import open_run
from curate.scores.heads import labels as trained
from curate.scores.heads import parts as heads
from curate.scores.registry import columns_of

SMALL = {"seeds": 2, "epochs": 2, "folds": 2, "hidden": 8, "batch": 16, "min_class": 3}
N = 120


def clusters(n=N, dim=8, n_classes=3, seed=0):
    """Gaussian classes, a tenth of the labels flipped: float16 vectors and labels."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.standard_normal((n_classes, dim))
    code = rng.integers(0, n_classes, n)
    x = centres[code] + rng.standard_normal((n, dim))
    flip = rng.permutation(n)[: n // 10]
    code[flip] = (code[flip] + 1) % n_classes
    return x.astype(np.float16), [f"class {one}" for one in code]


def names(n=N):
    return [f"s{i:06d}" for i in range(n)]


class Made:
    """A run up to the scores, and what its family says."""

    def __init__(self, recipe, family="heads"):
        self.outcome = run(recipe, until="score")
        self.path, self.family = open_run(recipe.run).folder.path, family
        self.folder = self.path / "3_scores" / family

    @property
    def table(self):
        return pl.read_parquet(self.folder / "part-*.parquet").sort("uid")

    @property
    def facts(self):
        return json.loads((self.folder / "_done.json").read_text())["facts"]

    @property
    def bytes(self):
        return {k: v for k, v in tables(self.path).items() if k.startswith(f"3_scores/{self.family}/")}


def made(
    folder, vectors=None, labels=None, *, shards=2, order=None, settings=SMALL, extra=None, more=(), **changes
):
    """Score own vectors with labels by heads."""
    if vectors is None:
        vectors, labels = clusters()
    columns = {} if labels is None else {"label": labels}
    glob = write_shards(
        folder / "in", vectors, shards=shards, order=order, extra={**columns, **(extra or {})}
    )
    values = recipe_values(glob, folder / "run", score=[{"heads": settings}, *more], **changes)
    return Made(parse_recipe(values))


class Stored:
    """Vectors as a run stores and reads them."""

    status = None

    def __init__(self, vectors):
        self.rows = load_unit(unit_rows(vectors)[0].astype(np.float16))
        self.dim = self.rows.shape[1]

    def __len__(self):
        return len(self.rows)

    def take(self, positions):
        return self.rows[positions]


def directly(vectors, labels, **changes):
    """The same from the library, on arrays."""
    from curate.scores.heads.training import HeadSettings, train_heads

    values = {
        "n_seeds": 2,
        "epochs": 2,
        "cross_fit": 2,
        "hidden": 8,
        "batch": 16,
        "min_class": 3,
        "workers": 1,
    }
    return train_heads(Stored(vectors), names(len(vectors)), labels, HeadSettings(**values | changes))


def same_columns(table, want):
    """Whether every column of a table is what the library says, exactly; nulls where it has NaN."""
    for name in columns_of("heads"):
        got = table[name].to_numpy()
        np.testing.assert_array_equal(got, getattr(want, name), err_msg=name)
        assert not table[name].is_nan().any(), name
    assert table["n_obs"].to_list() == want.n_obs.tolist()
    predicted = [None if code < 0 else str(want.classes[code]) for code in want.pred_label]
    assert table["pred_label"].to_list() == predicted


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return made(tmp_path_factory.mktemp("base"))


# Against the library


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_columns_are_those_of_the_library(tmp_path, base, kind):
    vectors, labels = clusters()
    got = (
        base
        if kind == "mlp"
        else made(tmp_path, settings=SMALL | {"kind": kind, "seeds": 3, "first_seed": 4})
    )
    seeds = {} if kind == "mlp" else {"n_seeds": 3, "first_seed": 4}
    want = directly(vectors, labels, kind=kind, **seeds)
    assert got.table["uid"].to_list() == names()
    same_columns(got.table, want)
    assert set(got.table["heads_status"]) == {"ok"}
    facts = got.facts
    assert facts["accuracy"] == pytest.approx(want.accuracy.tolist(), abs=1e-6)
    assert facts["reliability_of_mean"] == pytest.approx(want.reliability_of_mean, abs=1e-6)
    assert facts["seeds"] == want.seeds and facts["scored"] == N and facts["label_source"] == "label"
    assert facts["class_names"] == ["class 0", "class 1", "class 2"] and facts["classes"] == 3


def test_all_settings_reach_the_library(tmp_path):
    vectors, labels = clusters()
    settings = {
        "kind": "linear", "seeds": 2, "first_seed": 3, "epochs": 3, "score_epochs": [1, 3], "folds": 3,
        "min_class": 40, "batch": 32, "rate": 0.5, "momentum": 0.5, "normalise": "l2",
    }  # fmt: skip
    got = made(tmp_path, settings=settings, seed=11)
    want = directly(
        vectors, labels, kind="linear", n_seeds=2, first_seed=3, epochs=3, score_epochs=(1, 3), cross_fit=3,
        min_class=40, batch=32, rate=0.5, momentum=0.5, normalise="l2", seed=11,
    )  # fmt: skip
    same_columns(got.table, want)
    assert "class_too_small" in set(got.table["heads_status"])


def test_concepts_by_definition(tmp_path):
    vectors, _ = clusters()
    got = made(tmp_path, vectors, settings={"kind": "concepts"}, cluster={"concepts": 4})
    centroids = np.array(pl.read_parquet(got.path / "2_concepts/centroids.parquet")["centroid"].to_list())
    concept = pl.read_parquet(got.path / "2_concepts/assignments/*.parquet").sort("uid")["concept"].to_numpy()
    x = load_unit(unit_rows(vectors)[0].astype(np.float16)).astype(np.float64)
    logits = 100 * x @ centroids.T
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    want = np.linalg.norm(p - np.eye(4)[concept], axis=1)
    np.testing.assert_allclose(got.table["el2n"].to_numpy(), want, atol=2e-4)
    np.testing.assert_allclose(got.table["p_label"].to_numpy(), p[np.arange(N), concept], atol=2e-4)
    assert got.table["pred_label"].to_list() == [str(one) for one in p.argmax(axis=1)]
    assert got.table["forgetting"].is_null().all() and got.facts["label_source"] == "cluster"
    assert got.facts["warnings"] == []


# What must not change a score


def test_any_split_and_order_give_the_same_scores(tmp_path, base):
    order = np.random.default_rng(1).permutation(N)
    other = made(tmp_path, shards=5, order=order)
    assert other.table.equals(base.table)
    assert {k: v for k, v in other.facts.items() if k != "parts"} == {
        k: v for k, v in base.facts.items() if k != "parts"
    }


@pytest.mark.parametrize("changes", [{"workers": 2}, {"memory": "1GB"}, {"memory": "4GB"}])
def test_machine_settings_change_no_byte(tmp_path, base, changes):
    assert made(tmp_path, **changes).bytes == base.bytes


def test_scores_are_made_again_only_where_labels_change(tmp_path):
    vectors, labels = clusters()
    for name, given, expected in [("with", labels, False), ("without", None, True)]:
        folder = tmp_path / name
        before = made(folder, vectors, given, cluster={"concepts": 3}).bytes
        again = made(folder, vectors, given, cluster={"concepts": 5})
        assert (again.bytes != before) is expected, name
        assert made(folder, vectors, given, cluster={"concepts": 5}).outcome.worked == ()


# Labels


def test_concepts_stand_in_for_labels(tmp_path, caplog):
    caplog.set_level("INFO", "curate")
    vectors, _ = clusters()
    got = made(tmp_path, vectors, [None] * N, cluster={"concepts": 3})
    assert got.facts["label_source"] == "cluster" and got.facts["scored"] == N
    assert "no sample has a label, concepts stand in for it" in caplog.text
    concept = pl.read_parquet(got.path / "2_concepts/assignments/*.parquet").sort("uid")["concept"].to_list()
    same_columns(got.table, directly(vectors, concept))


def test_concepts_on_demand_although_there_are_labels(tmp_path):
    got = made(tmp_path, settings=SMALL | {"labels": "concept"}, cluster={"concepts": 2})
    assert got.facts["label_source"] == "cluster" and got.facts["class_names"] == ["0", "1"]


def test_samples_without_label_and_of_small_classes(tmp_path):
    vectors, labels = clusters()
    labels[:3], labels[3], labels[4:6] = [None] * 3, "once", ["twice"] * 2
    got = made(tmp_path, vectors, labels)
    same_columns(got.table, directly(vectors, labels))
    assert got.table["heads_status"].to_list()[:7] == ["no_label"] * 3 + ["class_too_small"] * 3 + ["ok"]
    assert got.table["el2n"].null_count() == 6 == got.table["pred_label"].null_count()
    assert got.facts["status"] == {"ok": N - 6, "no_label": 3, "class_too_small": 3}
    assert any("3 samples are in classes of fewer than 3 samples" in text for text in got.facts["warnings"])


@pytest.mark.parametrize(
    ("labels", "status", "said"),
    [
        (["same"] * 30, "single_class", "one class is left and nothing to tell it from: 30 samples"),
        ([f"row {i}" for i in range(30)], "class_too_small", "30 samples are in classes of fewer than 3"),
    ],
    ids=["one class", "a class per row"],
)
def test_labels_that_cannot_be_learned(tmp_path, labels, status, said):
    got = made(tmp_path, clusters(30)[0], labels)
    assert set(got.table["heads_status"]) == {status} and got.facts["scored"] == 0
    assert all(got.table[name].is_null().all() for name in columns_of("heads"))
    assert any(said in text for text in got.facts["warnings"]), got.facts["warnings"]


def test_zero_is_an_ordinary_label_and_seed(tmp_path):
    vectors, labels = clusters()
    codes = [int(label[-1]) for label in labels]
    got = made(tmp_path, vectors, codes, seed=0)
    same_columns(got.table, directly(vectors, [str(code) for code in codes]))
    assert set(got.table["heads_status"]) == {"ok"} and "0" in got.facts["class_names"]


def test_labels_of_several_types(tmp_path):
    vectors, labels = clusters()
    codes = [int(label[-1]) for label in labels]
    folder = tmp_path / "in"
    write_shards(folder, vectors, shards=1, order=np.arange(60), extra={"label": codes})
    (folder / "train-00000-of-00001.parquet").rename(folder / "a.parquet")
    write_shards(folder, vectors, shards=1, order=np.arange(60, N), extra={"label": list(map(str, codes))})
    recipe = recipe_values(str(folder / "*.parquet"), tmp_path / "run", score=[{"heads": SMALL}])
    same_columns(Made(parse_recipe(recipe)).table, directly(vectors, list(map(str, codes))))


def test_a_label_that_is_no_value_is_refused(tmp_path):
    vectors, labels = clusters(30)
    extra = {"label": [{"name": label} for label in labels]}
    with pytest.raises(UsageError, match="column 'label' cannot be used as label: its type is struct"):
        made(tmp_path, vectors, None, extra=extra, source={
            "path": str(tmp_path / "in/*.parquet"), "uid": "id", "label": "label"
        })  # fmt: skip


@pytest.mark.parametrize("labels", [[None] * 30, None], ids=["all null", "no column"])
def test_labels_that_are_not_there(tmp_path, labels):
    with pytest.raises(
        UsageError, match=r"heads.labels is label, but no usable sample has a label .*source.label"
    ):
        made(tmp_path, clusters(30)[0], labels, settings=SMALL | {"labels": "label"})


# Small inputs


@pytest.mark.parametrize("kind", ["mlp", "linear", "concepts"])
@pytest.mark.parametrize("n", [0, 1])
def test_no_sample_and_one(tmp_path, kind, n):
    vectors, labels = clusters()
    got = made(tmp_path, vectors[:n], labels[:n], settings=SMALL | {"kind": kind}, shards=1)
    assert len(got.table) == n and got.facts["scored"] == 0
    assert got.table.columns == ["uid", *columns_of("heads"), "pred_label", "n_obs", "heads_status"]
    assert got.table.schema["el2n"] == pl.Float32 and got.table.schema["n_obs"] == pl.Int32
    assert n == 0 or got.table["heads_status"][0] in ("class_too_small", "single_class")


@pytest.mark.parametrize("kind", ["mlp", "linear", "concepts"])
def test_vectors_that_are_all_the_same(tmp_path, kind):
    vectors, labels = clusters(40)
    vectors[:] = vectors[0]
    got = made(tmp_path, vectors, labels, settings=SMALL | {"kind": kind}, dedup={"exact": False})
    assert set(got.table["heads_status"]) == {"single_class" if kind == "concepts" else "ok"}
    if kind != "concepts":  # all that can be told is how frequent a class is
        assert got.table.group_by("pred_label").len().height <= 2 and got.table["el2n"].null_count() == 0


# Requests that cannot be served


@pytest.mark.parametrize(
    ("settings", "source", "said"),
    [
        ({"kind": "zeroshot"}, {}, r"zeroshot needs a model that reads class names.*embed.column"),
        ({"kind": "concepts", "labels": "label"}, {}, "must be auto or concept for kind concepts, got label"),
        ({"labels": "label"}, {"label": "none"}, r"source\.label is none: name the column"),
    ],
)
def test_requests_that_contradict_themselves(tmp_path, settings, source, said):
    vectors, labels = clusters(30)
    glob = write_shards(tmp_path / "in", vectors, extra={"label": labels})
    values = recipe_values(glob, tmp_path / "run", score=[{"heads": settings}])
    values["source"] |= source
    with pytest.raises(UsageError, match=said):
        run(parse_recipe(values), until="score")
    assert not (tmp_path / "run").exists()


def test_models_that_do_not_fit(tmp_path):
    with pytest.raises(RunError, match=r"heads of 3 classes need .* GB, memory 1GB leaves them 0.8 GB"):
        made(tmp_path, settings=SMALL | {"hidden": 10_000_000}, memory="1GB")


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


def test_zero_shot_of_the_shipped_model(tmp_path):
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    from curate.embedding import clip as clips
    from curate.embedding.store import EmbeddingPart
    from curate.scores.heads.batches import PartRows
    from curate.scores.heads.zeroshot import zero_shot

    def png(row):
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(row).integers(0, 255, (28, 28), np.uint8)).save(file, "PNG")
        return file.getvalue()

    labels = ["0", "1", None, "0", "2"]
    table = {"image": [png(row) for row in range(5)], "label": labels, "id": names(5)}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    settings = {
        "kind": "zeroshot",
        "class_names": {"0": "a boot", "7": "a hat"},
        "templates": ["{}", "one {}"],
    }
    values = recipe_values(
        str(tmp_path / "a.parquet"), tmp_path / "run", embed={"model": "tiny"}, score=[{"heads": settings}],
        cluster={"concepts": 2},
    )  # fmt: skip
    got = Made(parse_recipe(values))
    clip = clips.load("tiny", device="cpu")
    vectors = heads.class_vectors(clip, ["a boot", "1", "2"], ("{}", "one {}"))
    (part,) = (got.path / "1_embeddings").glob("part-*.arrow")
    rows = PartRows([EmbeddingPart(part)])
    want = zero_shot(rows, names(5), labels, ["0", "1", "2"], vectors, scale=1 / clip.temperature)
    same_columns(got.table, want)
    assert got.table["heads_status"].to_list() == ["ok", "ok", "no_label", "ok", "ok"]
    assert got.facts["warnings"] == ["class_names names 1 labels that no sample has: '7'"]


# What the manifest says


@pytest.fixture(scope="module")
def scores():
    return directly(*clusters())


def said(scores, **changes):
    import dataclasses

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
