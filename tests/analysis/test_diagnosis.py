"""Diagnosis: each number against its definition, then the edges, then of a run, and scores against a column."""

import json
import math
import shutil

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import select
from curate.analysis.diagnosis.agreement import auc, disagreements, threshold_inconsistency
from curate.analysis.diagnosis.diagnose import diagnose, score_meanings
from curate.analysis.diagnosis.sample import VectorSample, hash_limit
from curate.analysis.diagnosis.space import alignment, modality_gap, uniformity
from curate.analysis.explain import explain
from curate.errors import CurateError
from curate.linalg import load_unit
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.runs.run import open_run
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate


def unit(n, dim=5, seed=0):
    return load_unit(np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32))


# Vectors


def test_gap_alignment_and_uniformity_are_the_definitions():
    image, text = unit(700), unit(700, seed=1)
    x, y = image.astype(np.float64), text.astype(np.float64)
    assert modality_gap(image, text) == pytest.approx(np.linalg.norm(x.mean(0) - y.mean(0)), rel=1e-12)
    assert alignment(image, text) == pytest.approx(np.square(x - y).sum(axis=1).mean(), rel=1e-6)
    few = x[:60]
    pairs = [
        math.exp(-2 * np.square(a - b).sum()) for i, a in enumerate(few) for j, b in enumerate(few) if i != j
    ]
    assert uniformity(image[:60]) == pytest.approx(math.log(np.mean(pairs)), rel=1e-6)
    assert uniformity(image) == pytest.approx(uniformity(image[::-1]), rel=1e-9), "in blocks"


def test_vectors_of_no_and_of_one_row():
    none, one = np.empty((0, 3), np.float32), unit(1, 3)
    assert math.isnan(modality_gap(none, one))
    assert math.isnan(alignment(none, none))
    assert math.isnan(uniformity(one))
    assert uniformity(np.repeat(one, 4, axis=0)) == pytest.approx(0.0, abs=1e-6)
    assert modality_gap(one, one) == 0.0
    with pytest.raises(CurateError, match=r"pairs must be \(n, d\) alike, got \(1, 3\) and \(0, 3\)"):
        alignment(one, none)


# Scores


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.5, math.nan]), st.booleans()), max_size=30))
def test_auc_is_the_share_of_pairs(rows):
    score, truth = (np.array([row[i] for row in rows], kind) for i, kind in ((0, np.float64), (1, np.bool_)))
    known = [(value, true) for value, true in rows if not math.isnan(value)]
    pairs = [(a > b) + (a == b) / 2 for a, is_a in known if is_a for b, is_b in known if not is_b]
    got = auc(score, truth)
    assert math.isnan(got) if not pairs else got == pytest.approx(np.mean(pairs), abs=1e-12)


def test_scores_of_different_families_that_rank_unlike():
    rng = np.random.default_rng(0)
    hard = rng.random(50)
    scores = {
        "a": hard, "easy": -hard, "other": rng.random(50), "same family": -hard, "half": np.where(hard < 0.5, np.nan, hard),
        "constant": np.ones(50),
    }  # fmt: skip
    turned = {name: name == "easy" for name in scores}
    families = dict.fromkeys(scores, "one") | {
        "other": "two",
        "easy": "three",
        "half": "four",
        "constant": "five",
    }
    found = disagreements(scores, turned=turned, families=families, pairs=99)
    names = {(one.one, one.other) for one in found}
    assert not [pair for pair in names if "constant" in pair or pair == ("a", "same family")]
    by_name = {(one.one, one.other): one for one in found}
    assert by_name["a", "easy"].correlation == pytest.approx(1.0)
    assert by_name["easy", "same family"].correlation == pytest.approx(-1.0)
    assert [one.correlation for one in found] == sorted(one.correlation for one in found)
    place, a, b = by_name["a", "other"].rows[0]
    below = [(float((scores[name] < scores[name][place]).mean())) for name in ("a", "other")]
    assert [a, b] == pytest.approx(below)
    gaps = [abs((hard < hard[i]).mean() - (scores["other"] < scores["other"][i]).mean()) for i in range(50)]
    assert abs(a - b) == pytest.approx(max(gaps))
    assert len(by_name["a", "half"].rows) == 3
    assert disagreements({}, turned={}, families={}) == []


def test_a_threshold_that_treats_groups_alike_and_one_that_does_not():
    rng = np.random.default_rng(1)
    score, group = rng.random(3_000), rng.integers(0, 3, 3_000)
    fair = threshold_inconsistency(score, group)
    shifted = threshold_inconsistency(score + 0.3 * (group == 2), group)
    assert fair.variance < 0.001
    assert shifted.variance > 0.01
    assert (shifted.group, round(shifted.share, 1)) == (2, 0.7)
    cuts = [0.3, 0.6]
    want = []
    for cut in cuts:
        threshold = sorted(score)[math.ceil(cut * len(score)) - 1]
        passes = [np.mean(score[group == one] > threshold) for one in range(3)]
        want.append(np.mean([(one - np.mean(passes)) ** 2 for one in passes]))
    assert threshold_inconsistency(score, group, cuts).variance == pytest.approx(np.mean(want))
    assert threshold_inconsistency(score, np.where(group == 0, 0, -1)) is None
    assert threshold_inconsistency(score[:30], np.arange(30)) is None, "groups of a few rows are chance"
    assert threshold_inconsistency(np.empty(0), np.empty(0, np.int64)) is None


# Of a sample


def test_a_sample_is_by_hash_whatever_the_parts():
    hashes = np.array([5, 1, 9], np.uint64)
    image = unit(3)
    parts = [VectorSample(hashes[i : i + 1], image[i : i + 1], image[i : i + 1]) for i in range(3)]
    one, two = parts[0] + parts[1] + parts[2], VectorSample() + parts[2] + (parts[1] + parts[0])
    assert one.hashes.tolist() == two.hashes.tolist() == [1, 5, 9]
    assert (one.image == two.image).all()
    assert one.facts()["alignment"] == 0.0
    assert VectorSample().facts() is None
    assert hash_limit(0) == hash_limit(1_000) == (1 << 64) - 1
    assert hash_limit(4_000_000) / 2**64 == pytest.approx(0.0005)


def test_sections_that_there_is_nothing_for_are_left_out():
    meanings = score_meanings(
        {"run": "r", "source": {"path": "a"}, "select": {"keep": 0.5}, "score": ["heads"]}
    )
    assert meanings["p_label"] == ("easier", "heads")
    assert diagnose(VectorSample(), pl.DataFrame(), meanings, {}, {}) == {}
    assert "el2n" in score_meanings({"score": [{"gone": {}}]}), "of a plug-in that is gone"


# Of a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("diagnosed")
    vectors = planted(300, clusters=3)
    side = vectors.astype(np.float32) @ np.random.default_rng(1).standard_normal(vectors.shape[1]) > 0
    wrong = np.arange(300) % 17 == 0
    extra = {
        "label": ["right" if one else "left" for one in side ^ wrong], "wrong": [None, *wrong[1:].tolist()],
        "number": [int(one) for one in wrong], "many": list(range(300)),
    }  # fmt: skip
    glob = write_shards(place / "in", vectors, extra=extra)
    heads = {"kind": "linear", "seeds": 2, "epochs": 4, "dynamics": ["calibrated"]}
    values = recipe_values(
        glob, place / "run", score=[{"heads": heads}, {"triage": {"uncertainty": "distance"}}],
        select={"method": "random", "keep": 0.5},
    )  # fmt: skip
    values["source"]["label"] = "label"
    asked = parse_recipe(values)
    runner.run(asked)
    return open_run(asked.run), wrong


def test_a_run_says_what_looks_wrong(run):
    opened, _ = run
    found = json.loads(curate("inspect", str(opened.folder.path), "--json").out)["diagnosis"]
    vectors = load_unit(np.array(planted(300, clusters=3), np.float16))
    assert found["space"]["rows"] == 300 - 0
    assert found["space"]["uniformity_image"] == pytest.approx(uniformity(vectors), abs=1e-3)
    assert found["space"]["pairs"] == 0
    assert {one["group"] for one in found["uneven"]} <= {"left", "right"}
    assert found["disagree"][0]["one"] == "distance"
    heads = found["calibration"]
    assert heads["rows"] == 300
    assert 0 <= heads["error"] < 0.5
    shown = curate("inspect", str(opened.folder.path)).out
    assert f"at temperature {heads['temperature']:.3g}" in shown
    assert "error and uncertainty" in shown
    page = (opened.folder.report / "report.html").read_text()
    assert 'id="diagnosis"' in page
    assert 'id="quadrant-table"' in page


def test_quadrants_are_counted_exactly(run):
    opened, _ = run
    found = json.loads(curate("inspect", str(opened.folder.path), "--json").out)["quadrants"]
    rows = opened.scores().join(opened.decisions().select("uid", "keep"), on="uid")
    for one in found:
        mine = rows.filter(eu_quadrant=one["quadrant"])
        assert (one["rows"], one["kept"]) == (len(mine), mine["keep"].sum())
    assert sum(one["rows"] for one in found) == len(rows)


def test_every_score_against_a_column_of_the_source(run):
    opened, wrong = run
    found = json.loads(curate("inspect", str(opened.folder.path), "--against", "wrong", "--json").out)
    truth = {f"s{i:06d}": bool(one) for i, one in enumerate(wrong) if i}
    scores = opened.scores().filter(pl.col("uid").is_in(list(truth)))
    positive = np.array([truth[uid] for uid in scores["uid"]])
    assert found["rows"] == len(scores)
    assert found["positive"] == pytest.approx(positive.mean(), abs=1e-6)
    for one in found["scores"]:
        want = auc(scores[one["score"]].to_numpy().astype(np.float64), positive)
        assert one["auc"] == pytest.approx(want, abs=1e-4), one["score"]
    assert found["scores"][0]["auc"] > 0.9 or found["scores"][0]["auc"] < 0.1
    names = {one["score"]: one["auc"] for one in found["scores"]}
    assert names["neg_aum"] > 0.9
    number = json.loads(curate("inspect", str(opened.folder.path), "--against", "number", "--json").out)
    assert number["rows"] == len(scores) + 1
    kept = curate("inspect", str(opened.folder.path), "--against", "keep").out
    assert kept.startswith("keep is true of 50")


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("wrnog", "--against: there is no column 'wrnog'; did you mean 'wrong'?"),
        ("note", "column 'note' must be true or false (or 1 and 0), it is"),
        ("many", "column 'many' must be true or false (or 1 and 0), train-00000-of-00003.parquet has 2"),
    ],
)
def test_columns_that_say_neither_yes_nor_no(run, column, said):
    refused = curate("inspect", str(run[0].folder.path), "--against", column)
    assert refused.code == 2
    assert said in refused.err


def test_flags_that_say_nothing_together(run):
    refused = curate("inspect", str(run[0].folder.path), "--against", "wrong", "--sql", "select 1")
    assert "--against and --sql exclude each other" in refused.err


def test_explain_names_the_keep_at_which_triage_decides_otherwise(run, tmp_path):
    shutil.copytree(run[0].folder.path, tmp_path / "run")
    asked = (
        "--method",
        "triage",
        "--set",
        "select.uncertainty=distance",
        "--set",
        "select.misconception=true",
    )
    done = curate("select", tmp_path / "run", *asked, "--keep", "0.2")
    assert done.code == 0, done.err
    opened = open_run(tmp_path / "run")
    rows = opened.scores().join(opened.decisions().select("uid", "keep", "reason"), on="uid")

    def kept(count):
        found = select(
            rows.drop("keep", "reason"), "triage", count=count, uncertainty="distance", misconception=True
        )
        return set(found.filter("keep")["uid"])

    assert kept(60) == set(rows.filter("keep")["uid"])
    flips = 0
    for uid in rows.sort("uid")["uid"][:12]:
        flip = explain(tmp_path / "run", uid)["flip"]
        if flip["keep"] is None:
            assert uid not in kept(60)
            assert flip["why"] == "it is in no corner that method triage keeps, at any number of rows"
            continue
        flips += 1
        assert (uid in kept(flip["count"])) == flip["kept"] != (uid in kept(60))
        assert (uid in kept(flip["count"] + (1 if flip["count"] < 60 else -1))) == (uid in kept(60))
    assert flips > 2
