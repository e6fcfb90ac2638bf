"""Rows whose labels look wrong: what `explain` says, how people name them, and what became of those whose label is right by now."""

import logging
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from curate import open_run
from curate.analysis.explain import explain
from curate.errors import UsageError
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.report.explained import lines
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate as command

N, WRONG = 120, 6
KINDS = ("cat", "dog")


@pytest.fixture(scope="module", autouse=True)
def _fast(no_flush):
    """Flush nothing."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two kinds far apart, the first rows of which have the label of the other kind."""
    folder = tmp_path_factory.mktemp("labels")
    kind = np.arange(N) % 2
    vectors = planted(N)
    half = vectors.shape[1] // 2
    vectors[:, :half] = np.random.default_rng(0).normal(np.where(kind, 1, -1)[:, None], 0.5, (N, half))
    labels = [KINDS[k] if i >= WRONG else KINDS[1 - k] for i, k in enumerate(kind)]
    extra = {"label": labels, "image": [f"{label}/{i:03d}.jpg" for i, label in enumerate(labels)]}
    heads = {"kind": "linear", "seeds": 2, "epochs": 10, "folds": 5}
    values = recipe_values(
        write_shards(folder / "in", vectors, extra=extra), folder / "run", score=[{"heads": heads}],
        select={"method": "random", "keep": 0.4, "drop_noise": 2 * WRONG / N}, cluster={"concepts": 4},
    )  # fmt: skip
    values["source"] |= {"label": "label"}
    runner.run(parse_recipe(values))
    return open_run(folder / "run")


@pytest.fixture(autouse=True)
def _nothing_decided(run):
    yield
    while run.overrides.undo():
        pass


def test_explain_says_which_label_the_heads_give(run):
    facts = explain(run.path, "dog/000.jpg")
    assert facts["decision"]["reason"] == "cutoff:neg_aum"
    assert facts["predicted"]["label"] == "cat"
    assert facts["predicted"]["p_label"] < 0.5
    said = list(lines(facts))
    assert said[1] == "  label: dog"
    assert said[2].startswith("  heads that never saw it say cat, not dog, which is ")
    assert "predicted" not in explain(run.path, "cat/008.jpg")


def test_rows_are_decided_about_by_file_name_path_or_key(run):
    run.overrides.wrong_label("dog/000.jpg", "002.jpg", label="cat")
    assert run.overrides.current()["uid"].to_list() == ["s000000", "s000002"]
    assert run.overrides.decide({"drop": ["s000009", "cat/008.jpg"]}) == {"drop": 2}
    assert set(run.overrides.current().filter(pl.col("what") == "drop")["uid"]) == {"s000008", "s000009"}


@pytest.mark.parametrize("name", ["17", "s0000", "nothere.jpg"])
def test_a_number_of_a_row_and_the_beginning_of_a_uid_decide_about_nothing(run, name):
    with pytest.raises(
        UsageError, match=rf"1 of 2 samples are not in .*, such as {name}; name them by uid, file name"
    ):
        run.overrides.drop("s000009", name)
    assert run.overrides.current().is_empty()


def test_what_two_names_of_one_row_say_must_hold_together(run):
    with pytest.raises(UsageError, match="s000000 cannot be both"):
        run.overrides.decide({"keep": ["s000000"], "drop": ["dog/000.jpg"]})


def test_rows_whose_right_label_is_known_are_no_noise_and_the_share_that_goes_is_whole(run, caplog):
    def noise():
        return set(run.decisions().filter(pl.col("reason") == "cutoff:neg_aum")["uid"])

    run.select()
    before, order = noise(), run.scores().sort("neg_aum", descending=True)["uid"].to_list()
    assert before == set(order[: 2 * WRONG])
    put_right, right, called_wrong = order[:3], order[3:5], order[5:7]
    run.overrides.wrong_label(*put_right, label="cat")
    run.overrides.right_label(*right)
    run.overrides.wrong_label(*called_wrong)
    assert any("people decided since" in text for text in run.summary()["warnings"])
    with caplog.at_level(logging.INFO, logger="curate"):
        run.select(write=True)
    assert noise() == set(order[5 : 2 * WRONG + 5])
    assert not any("people decided since" in text for text in run.summary()["warnings"])
    [said] = [text for text in caplog.messages if text.startswith("labels: people")]
    assert said.startswith(
        "labels: people judged 7 and gave 3 new ones; 2 of these rows stay out as cutoff:neg_aum"
    )
    assert f"curate overrides {run.path} --keep UIDS" in said
    assert pl.read_parquet(Path(run.path) / "overrides.parquet").equals(run.overrides.current())
    run.overrides.keep(*put_right)
    run.select(write=True)
    written = pl.read_parquet(Path(run.path) / "6_filtered" / "*.parquet")
    assert written.filter(pl.col("label_corrected") == "cat").height == len(put_right)


def test_a_label_that_no_row_has_is_taken_and_said(run):
    said = command("overrides", run.path, "--wrong-label", "dog/000.jpg", "--label", "catt")
    assert said.code == 0 and "warning: no row has the label 'catt'; did you mean 'cat'?" in said.err
    assert run.overrides.current()["to"].to_list() == ["catt"]
    said = command("overrides", run.path, "--wrong-label", "dog/000.jpg", "--label", "cat")
    assert "warning" not in said.err and "wrong_label: 1" in said.err
