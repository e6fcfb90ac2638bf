"""What method auto says of itself: its numbers against the tables, and that the recipe it names keeps the same rows."""

import html
import json

import numpy as np
import polars as pl
import pytest

from curate import open_run
from curate.analysis.explain import explain
from curate.analysis.verify.verify import check_run
from curate.io.yaml import read_yaml
from curate.overrides.store import Decision, Overrides
from curate.pipeline.runner import run
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import recipe_values, write_shards
from tests.fixtures.calls import curate

HEADS = {"heads": {"seeds": 2, "folds": 3, "hidden": 32, "epochs": 8}}


def blobs(n=600, share=0.2, seed=0):
    """Vectors of three uneven classes, their labels of which a share is wrong, and which."""
    rng = np.random.default_rng(seed)
    true = np.where(rng.random(n) < 0.06, 2, rng.integers(0, 2, n))
    vectors = rng.standard_normal((n, 12)) + 3.5 * np.eye(3, 12)[true]
    wrong = rng.random(n) < share
    return vectors, np.where(wrong, (true + rng.integers(1, 3, n)) % 3, true), wrong


def made(folder, labels=True, share=0.2, score=(HEADS,), until="report", **select):
    vectors, label, wrong = blobs(share=share)
    extra = {"label": [f"class <{one}>" for one in label]} if labels else {}
    glob = write_shards(folder / "in", vectors.astype(np.float16), extra=extra)
    given = {"method": "auto", "keep": 0.3, **select}
    values = recipe_values(glob, folder / "run", score=list(score), select=given, dedup={"epsilon": None})
    run(parse_recipe(values), until=until)
    return open_run(folder / "run"), wrong


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    return made(tmp_path_factory.mktemp("auto"))


def kept(opened):
    return set(opened.kept()["uid"].to_list())


def test_the_numbers_are_those_of_the_tables(noisy):
    opened, wrong = noisy
    found = opened.summary()
    errors, first, why = found["label_errors"], found["first"], found["auto"]["why"]
    reasons = dict(opened.decisions()["reason"].value_counts().iter_rows())
    assert first["noise"] == errors["count"] == reasons["cutoff:neg_aum"]
    assert not errors["few_sure"] and abs(errors["count"] - wrong.sum()) < 0.2 * wrong.sum()
    labels = opened.decisions().join(opened.samples().select("uid", "label"), on="uid")
    left = labels.filter(pl.col("reason") != "cutoff:neg_aum").group_by("label").len()["len"]
    assert first["floor"] == 180 // 6 and first["groups"] == 3
    assert why[0].startswith(f"labels: {errors['count']} of 600 ({100 * errors['rate']:.1f} %, between ")
    assert why[1].startswith("labels: most often class <") and f"({errors['pairs'][0][2]})" in why[1]
    assert why[2].startswith(f"auto: {errors['count']} of 600 rows (")
    assert f"of {left.min()} to {left.max()} rows ({left.max() / left.min():.1f} : 1)" in why[3]
    assert "keeps at least 30 rows" in why[3] and f"({first['floor_rows']} rows)" in why[3]
    assert why[4] == "auto: near-duplicates were not looked for: dedup.epsilon is none" and len(why) == 5


def test_the_recipe_it_names_keeps_the_same_rows(noisy, tmp_path):
    opened, _ = noisy
    chosen = read_yaml(opened.summary()["auto"]["recipe"])["select"]
    assert chosen == {
        "method": "random", "keep": 0.3, "noise_by": "neg_aum", "floor": 30, "floor_per": "label",
        "drop_noise": chosen["drop_noise"],
    }  # fmt: skip
    again, _ = made(tmp_path, until="select", **chosen)
    assert kept(again) == kept(opened)
    assert again.summary()["auto"] is None


def test_all_that_sums_up_a_run_says_the_same(noisy):
    opened, _ = noisy
    facts = opened.summary()
    said = curate("inspect", opened.folder.path)
    page = (opened.folder.report / "report.html").read_text()
    notebook = opened._repr_html_()
    for line in facts["auto"]["why"]:
        assert line in said.out
        assert html.escape(line) in notebook
        assert html.escape(line).replace("&quot;", "&#34;") in page
    assert facts["auto"]["recipe"] in said.out and "noise_by: neg_aum" in page
    assert json.loads(curate("inspect", opened.folder.path, "--json").out)["auto"] == facts["auto"]
    short = json.loads((opened.folder.report / "summary.json").read_text())
    for name in ("auto", "first", "label_errors"):
        assert short[name] == facts[name], name
    for one, other, rows in facts["label_errors"]["pairs"][:3]:
        cells = [html.escape(one), html.escape(other), str(rows)]
        assert all(cell in page.partition('id="label-pairs"')[2].partition("</table>")[0] for cell in cells)


def test_no_other_row_goes_for_one_that_people_judged_right(noisy):
    opened, _ = noisy
    shut = opened.decisions().filter(pl.col("reason") == "cutoff:neg_aum")["uid"].sort()
    before, n_kept = opened.decisions(), len(kept(opened))
    keep, right, put_right, wrong, drop = shut[:5], shut[5:9], shut[9:12], shut[12:14], shut[14:20]
    left = before.filter(pl.col("reason") == "over_budget")["uid"]
    people = Overrides(opened.folder, "ann")
    people.decide(
        [
            *(Decision(uid, "keep") for uid in keep),
            *(Decision(uid, "right_label") for uid in right),
            *(Decision(uid, "wrong_label", None, "class <1>") for uid in put_right),
            *(Decision(uid, "wrong_label") for uid in wrong),
            *(Decision(uid, "drop") for uid in (*drop, left[1])),
            Decision(left[0], "right_label"),
        ]
    )
    opened.select()
    after = opened.decisions()
    assert set(after.filter(pl.col("reason") == "cutoff:neg_aum")["uid"]) == set(shut[12:14]) | set(shut[20:])
    assert set(after.filter(pl.col("reason") == "kept:override")["uid"]) == set(keep)
    assert len(kept(opened)) == n_kept
    facts = opened.summary()
    noted = [facts["first"][name] for name in ("noise", "noise_held", "noise_gone")]
    assert noted == [len(shut) - 18, 12, 6]
    assert (
        "; 12 more stay: they are pinned or kept, or somebody said which label is right; people dropped 6 more"
        in facts["auto"]["why"][2]
    )
    assert check_run(opened.path).violations == []
    assert explain(opened.path, right[0])["decision"]["reason"] in ("kept", "over_budget")
    people.undo()
    opened.select()
    assert opened.decisions().equals(before) and "noise_held" not in opened.summary()["first"]


def test_labels_without_heads_are_said_to_want_them(tmp_path):
    opened, _ = made(tmp_path, score=(), until="select")
    why = opened.summary()["auto"]["why"]
    assert why[0] == "auto: 3 classes found, but no score that says which are wrong: add heads to score"
    assert "drop_noise" not in opened.summary()["auto"]["recipe"]


def test_without_labels_it_is_a_draw_and_says_so(tmp_path):
    opened, _ = made(tmp_path, labels=False, score=(), until="select")
    why = opened.summary()["auto"]["why"]
    assert (
        why[0]
        == "auto: there are no labels and no captions: nothing says which rows are noise, none are dropped"
    )
    assert why[1] == "auto: no row has a label, so there are no floors"
    assert read_yaml(opened.summary()["auto"]["recipe"]) == {"select": {"method": "random", "keep": 0.3}}


def test_clean_labels_are_left_alone_with_a_reason(tmp_path):
    opened, _ = made(tmp_path, share=0.0, until="select")
    why = opened.summary()["auto"]["why"]
    assert why[0].endswith("; so few (up to 6 %) are taken for hard samples")
    assert "auto: 0 of 600 rows (0.0 %) with the worst neg_aum are dropped as noise" in why
