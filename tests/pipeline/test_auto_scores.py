"""What method auto takes for noise where it chose the scores itself: with and without labels, captions and rows."""

import dataclasses
import json

import numpy as np
import polars as pl
import pytest

from curate import open_run, score
from curate.errors import UsageError
from curate.io.yaml import read_yaml
from curate.pipeline.rescore import scored_recipe
from curate.pipeline.runner import run
from curate.recipe.loading import parse_recipe
from curate.recipe.recipe import AUTO_SCORE
from curate.scores.heads import parts as heads_parts
from curate.scores.heads.label_errors import LabelErrors
from tests.fixtures.builders import recipe_values, write_shards
from tests.fixtures.calls import curate


def pool(n=240, seed=0):
    """Vectors of three classes, the classes, and vectors of captions that fit but for every fifth row."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 3, n)
    vectors = rng.standard_normal((n, 12)) + 5 * np.eye(3, 12)[true]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    captions = np.where(np.arange(n)[:, None] % 5, vectors, np.roll(vectors, n // 2 + 1, 0))
    return vectors.astype(np.float16), true, captions.astype(np.float16)


def made(folder, label=None, captions=False, n=240, scores=AUTO_SCORE, until="select", **select):
    vectors, true, texts = pool(n)
    extra, embed = {}, {"column": "embedding"}
    if label is not None:
        extra["label"] = label(true)
    if captions:
        extra |= {"caption": [f"words {row}" for row in range(n)], "text": texts.tolist()}
        embed["text_column"] = "text"
    glob = write_shards(folder / "in", vectors, extra=extra)
    given = {"method": "auto", "keep": 0.3, **select}
    changes = {"cluster": {"concepts": 3}, "dedup": {"epsilon": None}, "embed": embed}
    run(
        parse_recipe(recipe_values(glob, folder / "run", score=list(scores), select=given, **changes)),
        until=until,
    )
    return open_run(folder / "run")


def flipped(true):
    rng = np.random.default_rng(1)
    return [f"c{one}" for one in np.where(rng.random(len(true)) < 0.2, (true + 1) % 3, true)]


def senseless(true):
    return [str(one) for one in np.random.default_rng(2).integers(2015, 2018, len(true))]


def facts(opened, family):
    return json.loads((opened.folder.scores(family) / "_done.json").read_text())["facts"]


def noise(opened):
    first = opened.summary()["first"]
    return first["noise_by"], first["noise"], opened.summary()["auto"]["why"]


@pytest.fixture
def no_training(monkeypatch):
    def trained(*_):
        raise AssertionError("nothing is to be learnt here")

    monkeypatch.setattr(heads_parts, "_compute", trained)


def test_photos_alone_are_a_draw_and_nothing_is_said_of_scores(tmp_path, caplog, no_training):
    opened = made(tmp_path, until="report")
    by, dropped, why = noise(opened)
    assert (by, dropped) == (None, 0)
    said = "auto: there are no labels and no captions: nothing says which rows are noise, none are dropped"
    assert why[0] == said
    assert [one.message for one in caplog.records if one.levelname == "WARNING"] == []
    for family, status in (("heads", "no_label"), ("pair", "no_text")):
        assert facts(opened, family)["scored"] == 0 and not facts(opened, family).get("warnings")
        table = pl.read_parquet(opened.folder.scores(family) / "part-*.parquet")
        assert set(table[f"{family}_status"]) == {status}
        assert table.drop("uid", f"{family}_status").null_count().row(0) == (240,) * (table.width - 2)
    asked = scored_recipe(opened.folder.path, ["heads", "pair"]).score  # what did nothing may be asked for
    assert [one.family for one in asked] == ["clip_score", "heads", "pair"]
    assert all(one.needed for one in asked) and asked[1].labels == "auto"
    page = (opened.folder.report / "report.html").read_text().partition("score:")[0]
    shown = [page, curate("inspect", opened.folder.path).out]
    shown.append(curate("explain", opened.folder.path, "s000003").out)
    assert all("distance" in one and "neg_aum" not in one and "nce_" not in one for one in shown)
    assert read_yaml(opened.summary()["auto"]["recipe"]) == {"select": {"method": "random", "keep": 0.3}}


def test_labels_that_are_wrong_go_and_the_recipe_it_names_has_the_score_for_it(tmp_path):
    opened = made(tmp_path / "a", flipped)
    by, dropped, _ = noise(opened)
    wrong = np.array(flipped(pool()[1])) != np.array([f"c{one}" for one in pool()[1]])
    out = opened.decisions().filter(pl.col("reason") == "cutoff:neg_aum")["uid"]
    assert by == "neg_aum" and dropped == len(out) > 0.8 * wrong.sum()
    assert wrong[[int(uid[1:]) for uid in out]].mean() > 0.9
    assert facts(opened, "heads")["warnings"] == []
    assert not scored_recipe(opened.folder.path, ["heads"]).score[1].required  # it stays as it is
    named = read_yaml(opened.summary()["auto"]["recipe"])
    assert [next(iter(one)) if isinstance(one, dict) else one for one in named["score"]] == [
        "clip_score",
        "heads",
    ]
    again = made(tmp_path / "b", flipped, scores=named["score"], **named["select"])
    assert set(again.kept()["uid"]) == set(opened.kept()["uid"])


def test_labels_that_are_not_visible_drop_none(tmp_path):
    opened = made(tmp_path, senseless, until="report")
    by, dropped, why = noise(opened)
    assert (by, dropped) == (None, 0) and facts(opened, "heads")["label_errors"]["count"] > 0
    assert why[0].startswith(
        "labels: not visible in the pictures (heads that never saw them are right about "
    )
    assert why[1].startswith("auto: 3 groups by label")
    page = (opened.folder.report / "report.html").read_text()
    assert "look wrong" not in page and "none is taken for wrong" in page and "argue against" not in page


@pytest.mark.parametrize(
    ("label", "by"),
    [(None, "nce"), (senseless, "nce"), (flipped, "neg_aum")],
    ids=["none", "senseless", "seen"],
)
def test_captions_say_it_where_labels_do_not(tmp_path, label, by):
    opened = made(tmp_path, label, captions=True)
    found, dropped, _ = noise(opened)
    assert found == by and dropped > 30
    reasons = dict(opened.decisions()["reason"].value_counts().iter_rows())
    assert reasons[f"cutoff:{by}"] == dropped and not {"cutoff:nce", "cutoff:neg_aum"} - {
        f"cutoff:{by}"
    } & set(reasons)
    if by == "nce":
        out = opened.decisions().filter(pl.col("reason") == "cutoff:nce")["uid"]
        assert np.mean([int(uid[1:]) % 5 == 0 for uid in out]) > 0.6
    assert curate("explain", opened.folder.path, opened.decisions()["uid"][0]).code == 0


def test_labels_of_half_of_the_rows_judge_that_half(tmp_path):
    opened = made(tmp_path, lambda true: [one if row % 2 else None for row, one in enumerate(flipped(true))])
    by, dropped, _ = noise(opened)
    assert by == "neg_aum" and facts(opened, "heads")["scored"] == 120
    out = opened.decisions().filter(pl.col("reason") == "cutoff:neg_aum")["uid"]
    assert dropped == len(out) > 10 and all(int(uid[1:]) % 2 for uid in out)


@pytest.mark.parametrize(
    ("label", "n", "status", "said"),
    [
        (lambda true: ["a"] * len(true), 240, "single_class", "auto: 1 class found, too little to tell which are wrong"),
        (lambda true: list("ababa"), 5, "class_too_small", "auto: 2 classes found, too few rows of each to tell"),
    ],
    ids=["one class", "five rows"],
)  # fmt: skip
def test_labels_that_teach_nothing_break_nothing(tmp_path, no_training, label, n, status, said):
    opened = made(tmp_path, label, n=n)
    by, dropped, why = noise(opened)
    assert (by, dropped) == (None, 0) and why[0].startswith(said)
    assert facts(opened, "heads")["scored"] == 0
    table = pl.read_parquet(opened.folder.scores("heads") / "part-*.parquet")
    assert set(table["heads_status"]) == {status}


def test_heads_that_do_not_fit_into_memory_are_left_out_where_they_are_not_required(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(heads_parts, "_ROW_BYTES", 10**9)
    with caplog.at_level("INFO"):
        opened = made(tmp_path, flipped)
    assert "no row is scored, for heads are not required" in caplog.text
    assert facts(opened, "heads")["scored"] == 0 and noise(opened)[:2] == (None, 0)


@pytest.mark.parametrize(
    ("rate", "accuracy", "largest", "rows", "unseen"),
    [
        (0.2, 0.8, 0.34, 300, False),
        (0.4, 0.6, 0.5, 3000, False),  # 40 % of two classes are wrong
        (0.3, 0.52, 0.5, 3000, True),
        (0.3, 0.57, 0.5, 40, True),  # so few rows: chance explains it
        (0.55, 0.3, 0.1, 3000, True),
        (0.02, 0.97, 0.95, 3000, False),
        (0.3, None, None, 3000, False),  # made before
    ],
)
def test_labels_are_unseen_where_heads_hardly_know_more_than_the_largest_class(
    rate, accuracy, largest, rows, unseen
):
    found = LabelErrors(rows, round(rate * rows), rate, 0.0, 1.0, ())
    assert dataclasses.replace(found, accuracy=accuracy, largest=largest).unseen == unseen


def test_in_memory_what_is_not_required_is_null_without_labels_and_captions():
    vectors, _, _ = pool(30)
    found = score(vectors, [AUTO_SCORE[1], AUTO_SCORE[2]])
    assert set(found["heads_status"]) == {"no_label"} and set(found["pair_status"]) == {"no_text"}
    assert found["neg_aum"].null_count() == found["nce"].null_count() == 30
    with pytest.raises(UsageError, match="heads needs labels"):
        score(vectors, "heads")
