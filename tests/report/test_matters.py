"""What matters: the numbers in its sentences against the tables of a run, and each sentence where it applies."""

import json
import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import curate
from curate.analysis.summary.matters import (
    evaluation_of,
    say_auto,
    say_chance,
    say_copies,
    say_imbalance,
    say_rows,
    say_spread,
    say_unusable,
    what_matters,
)
from curate.analysis.summary.summary import summarize
from curate.recipe.loading import parse_recipe
from curate.runs.folder import RunFolder
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate as command

N = 240


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with exact copies, near-duplicates, vectors that cannot be used and two classes of unequal size."""
    folder = tmp_path_factory.mktemp("matters")
    vectors = planted(N, copies=6, near=12)
    vectors[50:54] = 0
    labels = ["rare" if i % 9 == 0 else "often & <b>" for i in [*range(N - 6), *range(6)]]
    glob = write_shards(folder / "in", vectors, uid=False, extra={"label": labels})
    values = recipe_values(glob, folder / "run", source={"path": glob}, dedup={"epsilon": 0.01})
    curate.run(parse_recipe(values))
    return folder / "run"


def numbers(text):
    """Return the whole numbers of a sentence."""
    return [int(one.replace(",", "")) for one in re.findall(r"(?<![\d.])\d[\d,]*(?![\d.%]| %)", text)]


def test_numbers_are_those_of_the_tables(run):
    samples = pl.read_parquet(run / "0_samples" / "*.parquet")
    decisions = pl.read_parquet(run / "5_decisions" / "*.parquet")
    said = json.loads(command("inspect", run, "--json").out)["matters"]
    first, unusable, copies, labels, balance, budgets, last = (one["text"] for one in said)
    kept = decisions["keep"].sum()
    dropped = decisions.filter(~pl.col("keep"))["reason"].value_counts().sort("count")
    assert numbers(first) == [len(samples), kept, len(samples) - kept, dropped["count"][-1]]
    assert dropped["reason"][-1] in first and f"{100 * kept / len(samples):.1f} %" in first
    broken = samples.filter(pl.col("outcome") != "ok")["outcome"].value_counts().sort("outcome")
    assert numbers(unusable) == [broken["count"].sum(), *broken["count"]]
    assert all(name in unusable for name in broken["outcome"])
    of = {name: decisions.filter(reason=name).height for name in ("exact_duplicate", "near_duplicate")}
    assert numbers(copies)[:2] == [of["exact_duplicate"], of["near_duplicate"]] and "epsilon 0.01" in copies
    assert "2 classes" in labels and said[3]["command"] == f"curate score {run} heads"
    read = samples.hstack([decisions["keep"]]).filter(outcome="ok").group_by("label")
    sizes = read.agg(pl.len(), pl.col("keep").sum()).sort("len", "label", descending=[True, False])
    most, least = sizes["keep"].max(), sizes["keep"].min()
    assert numbers(balance) == [2, sizes["len"][0], sizes["len"][-1], most, least]
    assert f"{most / least:.1f} times ({most} : {least})" in balance
    table = pl.read_parquet(run / "5_decisions" / "_concepts" / "*.parquet")
    aimed = np.exp(-(table["probability"] * table["probability"].log()).sum())
    assert f"{aimed:.1f} effective concepts of {len(table)}" in budgets
    assert last.startswith("Next") and said[-1]["command"] == f"curate evaluate {run}"


def test_inspect_and_the_page_say_the_same(run):
    said = what_matters(RunFolder(run), summarize(RunFolder(run)))
    shown = command("inspect", run)
    page = (run / "7_report" / "report.html").read_text()
    assert 5 <= len(said) <= 10
    for one in said:
        assert f"- {one.text}" in shown.out and (
            not one.command or f"{one.text}: {one.command}\n" in shown.out
        )
        assert f"<code>{one.command}</code>" in page or not one.command
    assert page.index('id="matters"') < page.index('id="funnel"')
    assert page.count(said[0].text) == 1
    assert "often &amp; &lt;b&gt;, has" in page


def test_the_page_shows_copies_and_unusable_rows(run):
    page = (run / "7_report" / "report.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    samples = pl.read_parquet(run / "0_samples" / "*.parquet")
    uid = data["samples"]["uid"]
    reason = pl.read_parquet(run / "5_decisions" / "*.parquet")["reason"]
    copied = samples.filter(reason == "exact_duplicate")
    places = {
        f"copy in {shard}, row {row:,}": of
        for shard, row, of in copied.select("shard", "row", "copy_of").iter_rows()
    }
    assert {note: uid[kept] for kept, _, note in data["copies"]} == places and 6 <= len(places) <= 12
    broken = samples.filter(pl.col("outcome") != "ok")
    shown = {uid[place]: note for place, note in data["unusable"]}
    assert sorted(shown) == sorted(set(broken["uid"]))
    for row in broken.iter_rows(named=True):
        if broken.filter(uid=row["uid"]).height == 1:
            assert (
                shown[row["uid"]].endswith(f"{row['shard']}, row {row['row']}")
                and row["reason"][:40] in shown[row["uid"]]
            )
    assert all(data["reasons"][data["samples"]["reason"][place]] for place, _ in data["unusable"])


def test_what_evaluate_found_is_said(run):
    folder, path = RunFolder(run), run / "evaluation" / "evaluation.json"
    path.parent.mkdir()
    try:
        for decisions, stale in ((folder.fingerprint(folder.decisions), False), ("others", True)):
            path.write_text(
                json.dumps({"version": 1, "decisions": decisions, "says": ["density: +1.2 points", "more"]})
            )
            assert evaluation_of(folder)["stale"] == stale
            said = [one.text for one in what_matters(folder, summarize(folder))]
            old = " (found of an earlier decision)" if stale else ""
            assert f"Against random draws{old}: density: +1.2 points" in said
            assert ("the present decision is better than a random draw" in said[-1]) == stale
        path.write_text(json.dumps({"version": 0}))  # laid out otherwise
        assert evaluation_of(folder) == {}
    finally:
        path.unlink()
        path.parent.rmdir()


def test_what_is_wrong_or_missing_is_said(run):
    folder, found = RunFolder(run), summarize(RunFolder(run))
    assert what_matters(folder, replace(found, counts=None)) == []
    unfinished = what_matters(folder, replace(found, missing=["write", "report"]))[-1]
    assert unfinished.text == "Next: finish write" and unfinished.command == f"curate run {folder.recipe}"
    errors = {
        "rows": 200,
        "count": 30,
        "rate": 0.15,
        "low": 0.107,
        "high": 0.206,
        "pairs": [["cat", "dog", 20]],
    }
    said = what_matters(folder, replace(found, label_errors=errors, warnings=["odd", "bad"]))
    assert "Labels: 30 of 200 (15.0 %, between 10.7 and 20.6 %) look wrong" in said[3].text and said[3].warns
    assert said[3].command.startswith("curate review ") and said[3].text.endswith(
        "; look at them, and put them right"
    )
    known = what_matters(folder, replace(found, label_errors={**errors, "differ": 80}))
    assert known[3].text.endswith(
        "; 80 to look at (heads say another class), about 30 of them wrong by the estimate"
    )
    assert "2 warnings, the first: odd" in [one.text for one in said]
    assert (
        what_matters(folder, replace(found, groups={}))[-1].command == f"curate plan {run}"
    )  # nothing to judge by


def test_edges_of_sentences():
    counts = {"rows": 0, "kept": 0, "dropped": {}, "unusable": {}}
    assert say_rows(counts) == "0 rows came in, 0 (\u2013) are kept"
    assert say_unusable(counts) == say_copies(counts, None, None) == []
    one = {"rows": 100, "unusable": {"bad_row": 1}}
    assert say_unusable(one) == [] and say_unusable({**one, "rows": 99}) == [
        "1 rows (1.0 %) are unusable: bad_row (1)"
    ]
    sampled = say_copies({"rows": 4, "dropped": {}}, None, {"rows": 4, "within": {"0.01": 0.5}})
    assert sampled[0].startswith(
        "0 rows (0.0 %) are exact copies of others; near-duplicates stay; of 4 rows 50.0 % have"
    )
    classes = [{"group": "a", "rows": 5, "kept": 1}, {"group": "b", "rows": 5, "kept": 0}]
    assert say_imbalance(classes)[0].endswith("(5 : 5, copies included); 1 class keeps no row")
    assert say_imbalance(classes[:1]) == say_imbalance(classes, cut_off=True) == []
    assert say_spread(None, None) == say_chance({}) == say_auto(None) == []
    assert say_spread(None, {"effective": 2.0, "concepts": 3}) == [
        "The kept rows are spread as over 2.0 equal concepts, of 3 that have rows"
    ]
