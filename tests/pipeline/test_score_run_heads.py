"""Scores of heads in a run: against the library on arrays, then what must not change them, then the edges."""

import json

import numpy as np
import polars as pl
import pytest

from curate.errors import RunError, UsageError
from curate.linalg import load_unit, unit_rows
from curate.pipeline.runner import run
from curate.recipe.loading import parse_recipe
from curate.runs.run import open_run
from curate.scores.heads import parts as heads
from curate.scores.registry import columns_of
from tests.fixtures.builders import recipe_values, write_shards
from tests.fixtures.folders import again, files_below, tables
from tests.fixtures.trained_heads import SMALL, N, clusters, directly, names, same_columns


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


def rescored(before, folder, *, settings=SMALL, **changes):
    """Score the samples of a run again, in a copy of it that has no scores yet."""
    copy = again(before.path, folder / "run")
    glob = str(before.path.parent / "in/*.parquet")
    return Made(parse_recipe(recipe_values(glob, copy, score=[{"heads": settings}], **changes)))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return made(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    """A run whose source has no column of labels."""
    settings = SMALL | {"labels": "concept"}
    return made(
        tmp_path_factory.mktemp("unlabelled"), clusters()[0], settings=settings, cluster={"concepts": 3}
    )


@pytest.fixture(scope="module")
def unnamed(tmp_path_factory):
    """A run whose labels are all null."""
    return made(tmp_path_factory.mktemp("unnamed"), clusters()[0], [None] * N, cluster={"concepts": 3})


@pytest.fixture(scope="module", params=[0, 1])
def few(request, tmp_path_factory):
    """A run of no sample, or of one."""
    vectors, labels = clusters()
    n = request.param
    return n, made(tmp_path_factory.mktemp("few"), vectors[:n], labels[:n], shards=1)


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    """A run whose vectors are all the same."""
    vectors, labels = clusters(40)
    vectors[:] = vectors[0]
    return made(tmp_path_factory.mktemp("alike"), vectors, labels, dedup={"exact": False})


# Against the library


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_columns_are_those_of_the_library(tmp_path, base, kind):
    vectors, labels = clusters()
    got = (
        base
        if kind == "mlp"
        else rescored(base, tmp_path, settings=SMALL | {"kind": kind, "seeds": 3, "first_seed": 4})
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


def test_all_settings_reach_the_library(tmp_path, base):
    vectors, labels = clusters()
    settings = {
        "kind": "linear", "seeds": 2, "first_seed": 3, "epochs": 3, "score_epochs": [1, 3], "folds": 3,
        "min_class": 40, "batch": 32, "rate": 0.5, "momentum": 0.5, "normalise": "l2",
    }  # fmt: skip
    got = rescored(base, tmp_path, settings=settings, seed=11)
    want = directly(
        vectors, labels, kind="linear", n_seeds=2, first_seed=3, epochs=3, score_epochs=(1, 3), cross_fit=3,
        min_class=40, batch=32, rate=0.5, momentum=0.5, normalise="l2", seed=11,
    )  # fmt: skip
    same_columns(got.table, want)
    assert "class_too_small" in set(got.table["heads_status"])


def test_concepts_by_definition(tmp_path, unlabelled):
    vectors, _ = clusters()
    got = rescored(unlabelled, tmp_path, settings={"kind": "concepts"}, cluster={"concepts": 4})
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
    assert rescored(base, tmp_path, **changes).bytes == base.bytes


@pytest.mark.parametrize("labelled", [True, False])
def test_scores_are_made_again_only_where_labels_change(tmp_path, base, unlabelled, labelled):
    before = rescored(base if labelled else unlabelled, tmp_path, cluster={"concepts": 3})
    bytes_before = before.bytes
    glob = str((base if labelled else unlabelled).path.parent / "in/*.parquet")
    values = recipe_values(glob, before.path, score=[{"heads": SMALL}], cluster={"concepts": 5})
    assert (Made(parse_recipe(values)).bytes != bytes_before) is not labelled
    assert Made(parse_recipe(values)).outcome.worked == ()


# Labels


def test_concepts_stand_in_for_labels(unnamed):
    vectors, _ = clusters()
    assert unnamed.facts["label_source"] == "cluster" and unnamed.facts["scored"] == N
    log = "".join(path.read_text() for path in files_below(unnamed.path / "logs"))
    assert "no sample has a label, concepts stand in for it" in log
    assignments = pl.read_parquet(unnamed.path / "2_concepts/assignments/*.parquet")
    same_columns(unnamed.table, directly(vectors, assignments.sort("uid")["concept"].to_list()))


def test_concepts_on_demand_although_there_are_labels(tmp_path, base):
    got = rescored(base, tmp_path, settings=SMALL | {"labels": "concept"}, cluster={"concepts": 2})
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
    apart = {"schemas": "apart"}
    recipe = recipe_values(str(folder / "*.parquet"), tmp_path / "run", score=[{"heads": SMALL}], write=apart)
    got = Made(parse_recipe(recipe))
    same_columns(got.table, directly(vectors, list(map(str, codes))))
    assert got.facts["class_names"] == ["0", "1", "2"] and set(got.table["heads_status"]) == {"ok"}


def test_a_label_that_is_no_value_is_refused(tmp_path):
    vectors, labels = clusters(30)
    extra = {"label": [{"name": label} for label in labels]}
    with pytest.raises(UsageError, match="column 'label' cannot be used as label: its type is struct"):
        made(tmp_path, vectors, None, extra=extra, source={
            "path": str(tmp_path / "in/*.parquet"), "uid": "id", "label": "label"
        })  # fmt: skip


@pytest.mark.parametrize("which", ["unnamed", "unlabelled"])
def test_labels_that_are_not_there(tmp_path, which, request):
    with pytest.raises(
        UsageError, match=r"heads.labels is label, but no usable sample has a label .*source.label"
    ):
        rescored(
            request.getfixturevalue(which), tmp_path, settings=SMALL | {"labels": "label"},
            cluster={"concepts": 3},
        )  # fmt: skip


# Small inputs


@pytest.mark.parametrize("kind", ["mlp", "linear", "concepts"])
def test_no_sample_and_one(tmp_path, few, kind):
    n, made_of_few = few
    got = made_of_few if kind == "mlp" else rescored(made_of_few, tmp_path, settings=SMALL | {"kind": kind})
    assert len(got.table) == n and got.facts["scored"] == 0
    assert got.table.columns == ["uid", *columns_of("heads"), "pred_label", "n_obs", "heads_status"]
    assert got.table.schema["el2n"] == pl.Float32 and got.table.schema["n_obs"] == pl.Int32
    assert n == 0 or got.table["heads_status"][0] in ("class_too_small", "single_class")


@pytest.mark.parametrize("kind", ["mlp", "linear", "concepts"])
def test_vectors_that_are_all_the_same(tmp_path, alike, kind):
    settings = SMALL | {"kind": kind}
    got = alike if kind == "mlp" else rescored(alike, tmp_path, settings=settings, dedup={"exact": False})
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


def test_models_that_do_not_fit(tmp_path, base):
    with pytest.raises(RunError, match=r"heads of 3 classes need .* GB, memory 1GB leaves them 0.8 GB"):
        rescored(base, tmp_path, settings=SMALL | {"hidden": 10_000_000}, memory="1GB")


# Class names


def test_zero_shot_of_the_shipped_model(tmp_path, decoding_here):
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
