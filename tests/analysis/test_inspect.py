"""`curate inspect`: facts against counts made by hand, SQL against Polars, and what it says where it cannot."""

import csv
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from curate import open_run
from curate.analysis.sql import connect, table_files, view
from curate.analysis.summary import scan
from curate.analysis.summary.concepts import typical_samples
from curate.analysis.summary.report_data import report_data, summarize_for_report
from curate.analysis.summary.said import say_labels
from curate.analysis.summary.score_stats import BINS
from curate.analysis.summary.summary import stage_warnings, summarize
from curate.cli.sparkline import ASCII, sparkline
from curate.execution.context import Context
from curate.execution.engines.local import LocalEngine
from curate.execution.parts import with_parts
from curate.pipeline import runner
from curate.recipe.loading import load_recipe, parse_recipe
from curate.report.groups import compared
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate

#: Rows of the class "rare" are far from all others and near each other: selection keeps few of them.
N, RARE = 360, 60


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run with labels, near-duplicates, heads of two seeds and weights; and one that stopped early."""
    folder = tmp_path_factory.mktemp("inspected")
    vectors = planted(N, near=20)
    labels = ["rare" if i < RARE else "often" if i % 3 else "other" for i in range(N)]
    really = [float(i >= RARE) + i / 10_000 for i in range(N)]
    glob = write_shards(
        folder / "in", vectors, extra={"label": labels, "caption": [f"caption {i}" for i in range(N)]}
    )
    pl.DataFrame({"id": [f"s{i:06d}" for i in range(N)], "mine": really}).write_parquet(
        folder / "mine.parquet"
    )
    given = {
        "file": str(folder / "mine.parquet"),
        "on": "id",
        "name": "mine",
        "higher_is": "better",
    }
    values = recipe_values(
        glob, folder / "run", dedup={"epsilon": 0.01}, weight={"method": "concept"},
        score=["clip_score", {"heads": {"kind": "linear", "seeds": 2, "epochs": 2}}, given],
        select={"method": "top", "by": "mine", "keep": 0.5},
    )  # fmt: skip
    values["source"] |= {"label": "label", "caption": "caption"}
    runner.run(parse_recipe(values))
    shutil.copytree(folder / "run", folder / "early")
    for stage in ("3_scores/*", "4_*", "5_*", "6_*", "7_*"):
        for mark in (folder / "early").glob(f"{stage}/_done.json"):
            mark.unlink()
    (folder / "early/manifest.json").unlink()
    return folder


@pytest.fixture(scope="module")
def facts(made):
    """What `inspect --json` says of the finished run."""
    said = curate("inspect", made / "run", "--concepts", "3", "--json")
    assert (said.code, said.err) == (0, "")
    return json.loads(said.out)


def run_of(made):
    return open_run(made / "run")


def test_counts_are_those_of_the_manifest(made, facts):
    assert facts["counts"] == run_of(made).manifest()["counts"]
    assert facts["missing"] == facts["changed"] == facts["bad_shards"] == []


def test_concepts_are_in_their_order(made, facts):
    table = run_of(made).concepts()
    rows = table.with_columns(share=pl.col("kept") / pl.col("n_eligible")).to_dicts()
    for name, key in (
        ("concepts", lambda row: (-row["n_eligible"], row["concept"])),
        ("most_complex", lambda row: (-row["complexity"], -row["n_eligible"], row["concept"])),
        ("most_pruned", lambda row: (row["share"], -row["n_eligible"], row["concept"])),
    ):
        wanted = [row["concept"] for row in sorted(rows, key=key)[:3]]
        assert [row["concept"] for row in facts[name]] == wanted
    assert facts["n_concepts"] == len(table) == 8


def test_the_typical_sample_is_the_nearest(made, facts):
    near = run_of(made).scores().sort("distance", "uid").unique("concept", keep="first", maintain_order=True)
    wanted = dict(near.select("concept", "uid").iter_rows())
    found = {row["concept"]: row["typical"]["uid"] for row in facts["concepts"]}
    assert found == {concept: wanted[concept] for concept in found}
    one = facts["concepts"][0]["typical"]
    assert one["caption"] == f"caption {int(one['uid'][1:])}"
    folder = run_of(made).folder
    assert typical_samples(folder, scan.scan_parts(folder, whole=False).nearest, [10_000]).is_empty()


def test_score_quantiles_and_histograms(made, facts):
    run = run_of(made)
    scores = run.scores().join(run.decisions().select("uid", "keep"), on="uid")
    rows = {row["score"]: row for row in facts["scores"]}
    assert set(rows) >= {"distance", "mine", "el2n", "clip_score"}
    for name in ("distance", "mine", "el2n"):
        known = scores[name].drop_nulls().to_numpy().astype(float)
        kept = scores.filter("keep")[name].drop_nulls().to_numpy().astype(float)
        row = rows[name]
        assert (row["n"], row["missing"]) == (len(known), N - len(known))
        for q in (0.0, 0.25, 0.5, 1.0):
            assert row[f"p{round(100 * q):02d}"] == np.quantile(known, q, method="nearest")
        counts, edges = np.histogram(known, BINS)
        assert row["histogram"] == counts.tolist()
        shares = [k / n if n else None for k, n in zip(np.histogram(kept, edges)[0], counts, strict=True)]
        assert row["kept"] == pytest.approx(shares)
    assert (rows["clip_score"]["n"], rows["clip_score"]["p50"]) == (0, None)


def test_a_large_run_is_sampled_for_quantiles_only(made, monkeypatch):
    folder = run_of(made).folder
    exact = {row["score"]: row for row in summarize(folder).as_dict()["scores"]}
    monkeypatch.setattr(scan, "SAMPLE", 60)
    some = {row["score"]: row for row in summarize(folder).as_dict()["scores"]}
    for name in ("n", "missing", "p00", "p100"):
        assert some["mine"][name] == exact["mine"][name]
    assert sum(some["mine"]["histogram"]) == 60
    assert some["mine"]["p50"] == pytest.approx(exact["mine"]["p50"], abs=0.1)


def test_a_class_that_shrinks_is_warned_of(made, facts):
    run = run_of(made)
    both = run.samples().select("uid", "label").join(run.decisions().select("uid", "keep"), on="uid")
    rows = {row["group"]: row for row in facts["groups"]["label"]}
    for label, keep in both.group_by("label").agg("keep").iter_rows():
        assert (rows[label]["rows"], rows[label]["kept"]) == (len(keep), sum(keep))
    assert [label for label, row in rows.items() if row["shrunk"]] == ["rare"]
    assert "source" not in facts["groups"], "there is one source"
    [told] = [text for text in facts["warnings"] if "rare" in text]
    assert told.startswith("label 'rare' keeps 0.0% where the rest keeps ")


def test_duplicates_weights_and_reliability(made, facts):
    run = run_of(made)
    near = pl.read_parquet(run.folder.duplicates / "part-*.parquet").filter(
        pl.col("duplicate_of").is_not_null()
    )
    found = facts["duplicates"]
    assert found["dropped"] == len(near) == facts["counts"]["dropped"]["near_duplicate"] > 10
    spread = [found["similarity"][name] for name in ("least", "mean", "most")]
    column = near["similarity"].cast(pl.Float64)
    assert spread == pytest.approx([column.min(), column.mean(), column.max()])
    weight = run.decisions().filter("keep")["weight"].to_numpy().astype(float)
    weights = facts["weights"]
    assert weights["rows"] == facts["counts"]["kept"] == len(weight)
    assert weights["effective"] == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    assert (weights["least"], weights["most"]) == pytest.approx((weight.min(), weight.max()))
    [heads] = facts["reliability"]
    assert heads["family"] == "heads"
    noted = run.folder.marker(run.folder.scores("heads"))["facts"]
    assert heads["reliability_of_mean"] == noted["reliability_of_mean"]


def test_every_section_is_shown(made, facts):
    said = curate("inspect", made / "run")
    assert said.code == 0
    first = [block.splitlines()[0].split()[0] for block in said.out.split("\n\n")]
    assert first == [
        "rows",
        "largest",
        "most",
        "least",
        "score",
        "near-duplicates",
        "label",
        "labels:",
        "label",
        "weights",
        "vectors",
        "heads:",
        "scores",
        "one",
        "seeds",
        "stage",
        "what",
    ]
    assert "warning: label 'rare' keeps 0.0% where the rest keeps" in said.err
    kept = next(line for line in said.out.splitlines() if line.startswith("kept "))
    assert kept.split()[:2] == ["kept", str(facts["counts"]["kept"])]


def test_a_terminal_without_unicode_gets_ascii(made):
    command = [sys.executable, "-m", "curate", "inspect", str(made / "run")]
    done = subprocess.run(
        command,
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    shown = done.stdout.decode("ascii")
    [line] = [line for line in shown.splitlines() if line.startswith("mine ")]
    spread, *kept = line.split()[10:]
    assert (len(spread), spread[-1]) == (BINS, ASCII[-1])
    assert kept[0] == ASCII[0], "of the rare class nothing is kept"


def test_sparklines():
    assert sparkline([]) == ""
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([1e-9, 1.0]) == "▂█", "a little is not nothing"
    assert sparkline([None, float("nan"), 3.0], top=1.0) == "  █"


def test_an_unfinished_run_shows_what_there_is(made):
    said = curate("inspect", made / "early")
    assert said.code == 0
    assert said.out.splitlines()[1].split()[:3] == ["rows", "in", str(N)]
    assert "largest of 8 concepts" in said.out
    missing = "not there yet: score/clip_score, score/heads, score/mine, filter, dedup, select, write, report; to go on"
    assert missing in said.err
    facts = json.loads(curate("inspect", made / "early", "--json").out)
    assert (facts["counts"], facts["outcomes"]) == (None, {"ok": N})
    assert facts["scores"][0]["kept"] is None


def test_a_run_that_has_only_begun(made, tmp_path):
    (tmp_path / "recipe.yaml").write_bytes((made / "run/recipe.yaml").read_bytes())
    said = curate("inspect", tmp_path)
    assert (said.code, said.out) == (0, "")
    assert (
        "not there yet: read, embed, cluster, score/clip_score, score/heads, score/mine, filter, " in said.err
    )
    assert summarize(open_run(tmp_path).folder, concepts=3).as_dict()["groups"] == {}
    said = curate("inspect", tmp_path, "--sql", "select * from samples")
    assert said.code == 2
    assert "tables: none yet" in said.error


# --- SQL ----------------------------------------------------------------------------------------------


def asked(made, sql, *more, run="run"):
    return curate("inspect", made / run, "--sql", sql, *more)


def test_every_table_can_be_asked(made):
    wanted = {
        "samples": N, "embeddings": N, "assignments": N, "scores": N, "filters": N, "duplicates": N, "decisions": N,
        "concepts": 8, "budgets": 8, "centroids": 8,
    }  # fmt: skip
    assert set(table_files(run_of(made).folder, "")) == set(wanted)
    for name, rows in wanted.items():
        assert json.loads(asked(made, f"select count(*) n from {name}", "--json").out) == [{"n": rows}], name


def test_scores_are_joined(made):
    sql = "select * from scores order by uid"
    found = pl.DataFrame(json.loads(asked(made, sql, "--json").out), infer_schema_length=None)
    wanted = run_of(made).scores().sort("uid")
    assert found.columns == wanted.columns
    for name in ("uid", "concept", "mine", "el2n", "pred_label"):
        assert found[name].to_list() == pytest.approx(wanted[name].to_list()) if wanted[name].dtype.is_float() else (
            found[name].to_list() == wanted[name].to_list()
        )  # fmt: skip


def test_an_answer_as_table_json_and_csv(made):
    sql = "select reason, count(*) as n from decisions group by reason order by n desc, reason"
    reasons = (
        run_of(made).decisions()["reason"].value_counts().sort("count", "reason", descending=[True, False])
    )
    wanted = [[reason, str(count)] for reason, count in reasons.iter_rows()]
    assert [line.split() for line in asked(made, sql).out.splitlines()] == [["reason", "n"], *wanted]
    assert [list(map(str, row.values())) for row in json.loads(asked(made, sql, "--json").out)] == wanted
    assert list(csv.reader(io.StringIO(asked(made, sql, "--csv").out))) == [["reason", "n"], *wanted]


@pytest.mark.parametrize(
    ("flags", "rows", "told"),
    [
        ((), 50, True),
        (("--limit", "7"), 7, True),
        (("--limit", "0"), N, False),
        (("--limit", str(N)), N, False),
    ],
)
def test_a_terminal_is_given_some_rows_and_told_so(made, flags, rows, told):
    said = asked(made, "select uid from samples order by uid", *flags)
    assert said.out.splitlines() == ["uid", *(f"s{i:06d}" for i in range(rows))]
    assert ("--limit N" in said.err) is told


def test_data_is_given_whole_unless_limited(made):
    sql = "select uid from samples order by uid"
    assert len(asked(made, sql, "--csv").out.splitlines()) == 1 + N
    assert len(json.loads(asked(made, sql, "--json").out)) == N
    assert json.loads(asked(made, sql, "--json", "--limit", "1").out) == [{"uid": "s000000"}]
    assert asked(made, "select uid from samples where row < 0", "--csv").out == "uid\n"
    assert json.loads(asked(made, "select uid from samples where row < 0", "--json").out) == []


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("select nope from budgets", 'Referenced column "nope" not found'),
        ("select * from nope", "Table with name nope does not exist"),
        ("select uid from", "--sql: Parser Error: syntax error"),
        ("select sum(caption) + 1 / label from samples", "--sql: "),
        ("drop table samples", "must be one SELECT statement, got 'drop table samples'"),
        ("", "must be one SELECT statement, got ''"),
        ("select 1; drop view samples", "must be one SELECT statement, got 'select 1; drop view samples'"),
    ],
)
def test_what_is_no_question_is_one_line(made, sql, said):
    answer = asked(made, sql)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.error
    if "must be" not in said:
        assert "tables: assignments, budgets, centroids, concepts, decisions, duplicates, " in answer.error
    if "budgets" in sql:
        assert "budgets has concept, n_eligible, d_intra, d_inter, " in answer.error


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_csv('{file}')",
        "select * from '{file}'",
        "select * from read_parquet('{file}')",
        "select * from read_text('{file}')",
        "select * from glob('{file}')",
        "copy samples to '{file}'",
        "from samples; copy samples to '{file}'",
        "attach '{file}'",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "with a as (select 1) select * from read_csv('{file}')",
    ],
)
def test_nothing_but_the_run_is_read_or_written(made, tmp_path, sql):
    file = tmp_path / "other.csv"
    file.write_text("secret\n1\n")
    answer = asked(made, sql.format(file=file))
    assert (answer.code, answer.out) == (2, "")
    assert answer.error.startswith("--sql") and len(answer.err.splitlines()) == 1
    assert file.read_text() == "secret\n1\n" and [path.name for path in tmp_path.iterdir()] == ["other.csv"]


def test_sums_and_vectors_are_plain_numbers(made):
    [row] = json.loads(asked(made, "select sum(row) n, avg(row) a from samples", "--json").out)
    assert row == {"n": sum(range(120)) * 3, "a": 59.5}
    sql = "select e.uid, image from embeddings e join decisions using (uid) where keep order by uid limit 2"
    rows = json.loads(asked(made, sql, "--json").out)
    part = pl.concat([pl.read_ipc(path) for path in sorted((made / "run/1_embeddings").glob("*.arrow"))])
    wanted = dict(part.select("uid", pl.col("image").arr.to_list()).iter_rows())
    assert len(rows) == 2 and all(row["image"] == wanted[row["uid"]] for row in rows)


def test_nothing_that_is_not_finite_leads_an_order(tmp_path):
    pl.DataFrame({"a": [1.0, float("nan"), 3.0, None]}).write_parquet(tmp_path / "x.parquet")
    file = tmp_path / "x.parquet"
    with connect(10**9, tmp_path, [file]) as connection:
        found = [a for (a,) in connection.sql(view([[file]])).fetchall()]
    assert found == [1.0, None, 3.0, None]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--csv",), "--csv is about an answer: give --sql too"),
        (("--no-formulas",), "--no-formulas is about CSV: give --csv too"),
        (("--limit", "3"), "--limit is about an answer: give --sql too"),
        (("--sql", "select 1", "--csv", "--json"), "--csv and --json exclude each other"),
    ],
)
def test_flags_that_say_nothing_together(made, flags, said):
    answer = curate("inspect", made / "run", *flags)
    assert (answer.code, answer.error) == (2, said)


def test_a_family_older_than_the_source(made):
    folder = run_of(made).folder
    part = next(folder.scores("mine").glob("part-*"))
    away = part.rename(part.with_name("away"))
    try:
        said = asked(made, "select mine from scores")
        assert said.code == 1
        assert "the scores are older than the source; first: curate score" in said.error
    finally:
        away.rename(part)


def test_a_terminal_is_not_given_orders_by_csv(made, monkeypatch):
    sql = "select 'a\x1b[31mb' as note from samples limit 1"
    assert asked(made, sql, "--csv").out == "note\na\\x1b[31mb\n"
    terminal = SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("curate.cli.sql_output.sys", terminal)
    assert asked(made, sql, "--csv").out == "note\na\\x1b[31mb\n"


def test_what_stages_noted_is_warned_of(made, tmp_path):
    folder = open_run(shutil.copytree(made / "run", tmp_path / "run")).folder
    for mark, noted in (
        ("1_embeddings", {"unusable": 40, "rows": 360}),
        ("2_concepts", {"empty": 3, "warnings": ["new rows are far"]}),
        ("3_scores/heads", {"warnings": ["seeds disagree"]}),
        (
            "5_decisions",
            {
                "without_score": {"rows": 9, "kept": 4},
                "weights": {"method": "x", "rows": 100, "effective": 49.0},
            },
        ),
    ):
        stage = folder.path / mark
        folder.mark(stage, folder.fingerprint(stage), {**folder.marker(stage)["facts"], **noted})
    assert stage_warnings(folder) == [
        "embed: 11.1% of the rows are unusable; limits.unusable allows 5.0%",
        "cluster: new rows are far",
        "heads: seeds disagree",
        "cluster: 3 concepts have no sample",
        "select: 9 samples have no mine; 4 of them are kept",
        "select: the weights make 100 kept samples worth 49: the effective sample size",
    ]


ARTIFACTS = """
import json, sys
from pathlib import Path
from curate.analysis.summary.summary import summarize
from curate.flows import artifacts
from curate.runs.folder import RunFolder
found = summarize(RunFolder(Path(sys.argv[1])), concepts=artifacts.LARGEST, whole=False)
print(json.dumps([artifacts.counts_table("run", found.counts), artifacts.concept_rows(found), list(found.said)]))
"""


def test_inspect_and_report_agree(made, facts):
    """What sums up a run has one source: every number is the same wherever it is shown."""
    run = run_of(made)
    with LocalEngine(1) as engine:
        context = with_parts(Context(load_recipe(run.folder.recipe), run.folder, engine))
        summary, asked = summarize_for_report(context)
        report = report_data(context, summary, asked)
    counts = facts["counts"]
    errors = facts["label_errors"]
    noted = json.loads((run.folder.scores("heads") / "_done.json").read_text())["facts"]["label_errors"]
    assert errors == {name: value for name, value in noted.items() if name != "calibration"}
    said = say_labels(errors)
    assert f"{errors['count']} of {N}" in said[0] and report.label_errors == errors
    assert json.loads((run.folder.report / "summary.json").read_text()) == {**counts, "label_errors": errors}
    assert (report.rows_in, report.kept) == (counts["rows"], counts["kept"])
    assert report.reasons == {**counts["dropped"], "kept": counts["kept"]}
    assert report.warnings == facts["warnings"]
    for one, row in zip(report.scores, facts["scores"], strict=True):
        assert (one.name, one.n, one.missing) == (row["score"], row["n"], row["missing"])
        for page, plain in (("min", "p00"), ("p25", "p25"), ("median", "p50"), ("max", "p100")):
            assert one.quantiles[page] == row[plain]
        assert sum(one.kept) + sum(one.dropped) == sum(row["histogram"])
    [labels] = [compared(one.frame).to_dicts() for one in report.groups if one.by == "class"]
    assert labels == facts["groups"]["label"]
    assert report.weights.items() >= facts["weights"].items()
    for one, row in zip(report.reliability, facts["reliability"], strict=True):
        assert one == {
            **{name: row[name] for name in one if name != "accuracy_mean"},
            "accuracy_mean": row["accuracy"],
        }
    for stage in report.stages:
        assert (stage.seconds, stage.rows) == (
            facts["times"][stage.name]["seconds"],
            facts["times"][stage.name]["rows"],
        )
    largest = report.concepts.sort("n_eligible", "concept", descending=[True, False]).head(3).to_dicts()
    done = subprocess.run(
        [sys.executable, "-c", ARTIFACTS, str(run.folder.path)], capture_output=True, check=True, text=True
    )
    table, concepts, lines = json.loads(done.stdout)
    assert list(report.said) == lines == said
    notebook = " ".join(run._repr_html_().replace("</td>", " ").split())
    assert all(html.escape(line) in notebook for line in said)
    for page, plain, artifact in zip(largest, facts["concepts"], concepts, strict=False):
        for name in ("concept", "n_eligible", "budget", "kept"):
            assert page[name] == plain[name] == artifact[name]
        assert round(page["complexity"], 4) == round(plain["complexity"], 4) == artifact["complexity"]
        assert f">{plain['budget']} " in notebook and f">{plain['complexity']:.4f} " in notebook
    for name, n in (("in", counts["rows"]), ("kept", counts["kept"]), *counts["dropped"].items()):
        shown = name if name in ("in", "kept") else f"dropped: {name}"
        assert f"| {shown} | {n} |" in table
        assert re.search(rf">{'rows in' if name == 'in' else name} <td [^>]*>{n} ", notebook)
