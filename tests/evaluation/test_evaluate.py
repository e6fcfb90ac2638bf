"""`curate evaluate` on runs with planted faults: what is held out, what is trained on, what it says, what it leaves alone."""

import html
import io
import json
import re
import shutil
import warnings

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import curate
from curate.errors import RecipeError, RunError, UsageError
from curate.evaluation.evaluate import evaluate_run
from curate.evaluation.request import make_request
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import recipe_values, write_shards
from tests.fixtures.calls import curate as call
from tests.fixtures.folders import files_below

N, CLASSES, COPIES = 600, 3, 30
QUICK = {"steps": 80, "seeds": 2, "workers": 2}


def noisy():
    """Vectors of three classes; the last rows are copies; 40 % of the labels are wrong."""
    rng = np.random.default_rng(0)
    right = rng.integers(0, CLASSES, N)
    rows = 1.5 * np.eye(16)[right] + rng.standard_normal((N, 16)) * 0.6
    rows[N - COPIES :] = rows[:COPIES] + 1e-4
    right[N - COPIES :] = right[:COPIES]
    wrong = rng.random(N) < 0.4
    wrong[N - COPIES :] = wrong[:COPIES]
    labels = np.where(wrong, (right + rng.integers(1, CLASSES, N)) % CLASSES, right)
    return rows.astype(np.float16), labels, right


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run that cuts the noisiest rows and draws the others at random; rows of the last split have right labels."""
    folder = tmp_path_factory.mktemp("evaluate")
    rows, labels, right = noisy()
    clean = np.arange(N) % 4 == 0
    names = [f"class {one}" for one in np.where(clean, right, labels)]
    extra = {"label": names, "fold": ["test" if one else "train" for one in clean]}
    glob = write_shards(folder / "in", rows, extra=extra)
    heads = {"heads": {"kind": "linear", "seeds": 2, "epochs": 4, "folds": 3}}
    select = {"method": "random", "keep": 0.25, "drop_noise": 0.3}
    values = recipe_values(glob, folder / "run", score=[heads], select=select, dedup={"epsilon": 0.0005})
    return curate.run(values, progress=False)


@pytest.fixture(scope="module")
def found(made):
    """The rows with right labels judge."""
    before = {path: path.stat().st_mtime_ns for path in files_below(made.path)}
    evaluation = made.evaluate(split="fold=test", **QUICK, progress=False)
    after = {
        path: path.stat().st_mtime_ns for path in files_below(made.path) if "evaluation" not in path.parts
    }
    assert after == before
    return evaluation


def subset(found, name, share=None):
    rows = found.rows.filter(pl.col("subset") == name)
    return rows if share is None else rows.filter((pl.col("share") - share).abs() < 1e-6)


def test_what_is_held_out_is_trained_on_by_nobody(made, found):
    samples = made.samples().select("uid", "row", "shard")
    rows, _, _ = noisy()
    unit = rows.astype(float) / np.linalg.norm(rows.astype(float), axis=1, keepdims=True)
    held = {int(uid[1:]) for uid in subset(found, "held out")["uid"]}
    pool = {int(uid[1:]) for uid in subset(found, "all rows")["uid"]}
    assert held | pool <= set(range(N))
    assert all(one % 4 == 0 for one in held)
    assert pool == {one for one in range(N) if one % 4}
    near = (unit[::4] @ unit[[one for one in range(N) if one % 4]].T).max(axis=1) > 1 - 0.0005
    assert held == set((np.flatnonzero(~near) * 4).tolist())
    assert found.summary["held_out"]["near_copies"] == near.sum() > 0
    assert any("near-copy" in note for note in found.summary["notes"])
    for name in found.rows["subset"].unique():
        if name not in ("held out", "all rows"):
            assert set(subset(found, name)["uid"]) <= set(subset(found, "all rows")["uid"])
    assert len(samples) == N


def test_draws_are_of_the_size_that_the_run_keeps_and_are_all_others(found):
    sizes = found.rows.filter(pl.col("share").is_not_null()).group_by("subset").len()
    assert sizes["len"].n_unique() == 1
    assert sizes.height == 5 + 1 + 1
    sets = {name: frozenset(subset(found, name)["uid"]) for name in sizes["subset"]}
    assert len(set(sets.values())) == 7
    share = found.summary["shares"][0]
    assert share["rows"] == sizes["len"][0] == round(share["share"] * N * 3 / 4)


def test_the_noise_cut_is_better_than_random_and_scikit_learn_says_so_too(made, found):
    """The claim of the table, repeated by other models on the rows that were written."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    own = found.summary["shares"][0]["subsets"][-1]
    assert own["name"] == "random (this run)"
    assert own["metrics"]["accuracy"]["beyond"]
    assert own["metrics"]["accuracy"]["difference"] > 0.02
    assert any("better than random" in line for line in found.summary["says"])
    written = pl.read_parquet(f"{made.path}/evaluation/rows.parquet")
    vectors, _, _ = noisy()
    labels = dict(made.samples().select("uid", "label").iter_rows())

    def data(name):
        uids = written.filter(pl.col("subset") == name)["uid"].to_list()
        return vectors[[int(uid[1:]) for uid in uids]].astype(float), [labels[uid] for uid in uids]

    for model in (
        LogisticRegression(max_iter=200, C=100),
        MLPClassifier((32,), max_iter=300, random_state=0),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not converged after so few rounds
            scores = {
                name: model.fit(*data(name)).score(*data("held out"))
                for name in ("random (this run)", *(f"draw {one}" for one in range(5)))
            }
        assert scores.pop("random (this run)") > max(scores.values())


def test_cells_make_the_summary(found):
    cells, share = found.cells, found.summary["shares"][0]
    assert cells.height == (1 + 5 + 1 + 1) * 2
    draws = (
        cells.filter(pl.col("subset").str.starts_with("draw "))
        .group_by("subset")
        .agg(pl.col("accuracy").mean())
    )
    assert share["random"]["accuracy"]["value"] == pytest.approx(draws["accuracy"].mean())
    assert share["random"]["accuracy"]["sd"] == pytest.approx(draws["accuracy"].std())
    own = cells.filter(pl.col("subset") == "random (this run)")["accuracy"].mean()
    facts = share["subsets"][-1]["metrics"]["accuracy"]
    assert facts["difference"] == pytest.approx(own - draws["accuracy"].mean())
    whole = cells.filter(pl.col("subset") == "all rows")["accuracy"].mean()
    assert share["headroom"]["accuracy"] == pytest.approx(whole - draws["accuracy"].mean())
    assert share["saved_per_pass"] == pytest.approx(1 - share["rows"] / found.summary["all"]["rows"])
    assert share["subsets"][0]["name"] == "placebo"


def test_the_run_is_whole_and_workers_change_nothing(made, found):
    assert made.verify()["rows"] == N
    one, two = (
        evaluate_run(made.path, make_request(split="fold=test", steps=2, seeds=2, workers=workers))
        for workers in (1, 2)
    )
    assert one.cells.equals(two.cells)
    assert one.rows.equals(two.rows)
    assert one.rows.equals(found.rows)


def test_the_report_shows_what_was_found_and_says_where_it_is_of_another_decision(made, found, tmp_path):
    shutil.copytree(made.path, tmp_path / "run")
    run = curate.open_run(tmp_path / "run")
    assert '<section id="evaluation"' not in (tmp_path / "run/7_report/report.html").read_text()
    page = run.report().read_text()
    assert '<section id="evaluation"' in page
    assert "random (this run)" in page
    assert html.escape(found.summary["says"][0], quote=False) in page
    assert "an earlier decision" not in page
    page = run.select(keep=0.2, progress=False).write(progress=False).report().read_text()
    assert "an earlier decision" in page
    assert run.verify()["rows"] == N
    shutil.rmtree(tmp_path / "run/evaluation")
    assert '<section id="evaluation"' not in run.report().read_text()


def test_a_curve_of_methods_needs_one_command_and_leaves_the_run_alone(made, tmp_path):
    before = made.kept()
    said = call(
        "evaluate", made.path, "--keep", "0.1,30%", "--methods", "run,density,easiest:el2n", "--steps", "4", "--seeds", "2",
        "--out", tmp_path / "out", "--json", "-q",
    )  # fmt: skip
    assert said.code == 0, said.err
    summary = json.loads(said.out)
    assert [one["share"] for one in summary["shares"]] == [0.1, 0.3]
    names = ["placebo", "random (this run)", "density", "easiest:el2n"]
    assert all([one["name"] for one in share["subsets"]] == names for share in summary["shares"])
    assert summary["held_out"]["how"] == "holdout 10 %, seed 0"
    rows = pl.read_parquet(tmp_path / "out" / "rows.parquet")
    held = rows.filter(pl.col("subset") == "held out")
    assert held.height + summary["held_out"]["near_copies"] == N // 10
    assert not set(held["uid"]) & set(rows.filter(pl.col("subset") != "held out")["uid"])
    sizes = rows.filter(pl.col("share") == 0.1).group_by("subset").len()["len"].unique().to_list()
    assert sizes == [round(0.1 * N * 0.9)]
    assert made.kept().equals(before)
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "easiest:el2n" in page
    assert "where chance alone puts a random draw" in page


def test_what_flags_do_not_say_is_as_the_recipe_has_it(made, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "curate.evaluation.evaluate.evaluate_run", lambda run, request, progress: asked.append(request)
    )
    monkeypatch.setattr("curate.evaluation.files.write_evaluation", lambda *_: None)
    monkeypatch.setattr(
        "curate.pipeline.rescore.chosen_recipe", lambda run: parse_recipe(values), raising=True
    )
    section = {
        "split": "fold=test",
        "judge": "heads",
        "methods": ["random", "hardest:el2n"],
        "keep": [0.1],
        "draws": 7,
    }
    values = recipe_values("x.parquet", tmp_path / "run", evaluate=section)
    made.evaluate(progress=False)
    made.evaluate(holdout="20%", judge="pixels", methods=["run"], seeds=5, progress=False)
    first, second = asked
    assert (first.split, first.holdout, first.judge, first.draws, first.seeds) == (
        "fold=test",
        None,
        "heads",
        7,
        3,
    )
    assert [one.name for one in first.methods] == ["random", "hardest:el2n"]
    assert (second.split, second.holdout, second.judge, second.draws, second.seeds) == (
        None,
        0.2,
        "pixels",
        7,
        5,
    )
    assert [one.name for one in second.methods] == ["run"]


@pytest.mark.parametrize(
    ("section", "match"),
    [
        ({"split": "test", "holdout": 0.1}, "takes split or holdout, not both"),
        ({"methods": ["harder"]}, r"must name methods to compare \(run, .*got 'harder'"),
        ({"methods": ["all"]}, "must name methods to compare"),
        ({"draws": 2}, "draws"),
        ({"steps": 0}, "steps"),
        ({"holdout": 1.0}, "holdout"),
        ({"jugde": "heads"}, "did you mean 'judge'"),
    ],
)
def test_a_section_that_cannot_be_is_refused_when_the_recipe_is_read(section, match):
    with pytest.raises(RecipeError, match=match):
        parse_recipe(recipe_values("x.parquet", "run", evaluate=section))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--split", "fold=nowhere"], "no usable row has 'nowhere' in the column 'fold'; it has test, train"),
        (["--split", "test"], "the split train, and there is no column 'split'"),
        (["--split", "colour=red"], "no column 'colour'"),
        (["--split", "test", "--holdout", "0.1"], "exclude each other"),
        (["--holdout", "1.5"], r"--holdout must be in \(0, 1\), got 1.5"),
        (["--holdout", "some"], "--holdout takes shares such as"),
        (["--holdout", "0.5%"], "at least 20 are needed"),
        (["--keep", "0.001"], r"--keep 0.001 leaves 1 of .* fewer than there are classes \(3\)"),
        (["--methods", "hardness"], "'hardness' is no method; there are run"),
        (["--methods", "hardest"], "needs by"),
        (["--methods", "hardest:clip"], "clip"),
        (["--methods", "all"], "keeps all rows"),
        (["--judge", "eyes"], "--judge must be auto, heads, pixels, pairs, got 'eyes'"),
        (["--judge", "pairs"], "needs captions with vectors"),
        (["--judge", "pixels"], "no column of images"),
        (["--draws", "4"], "--draws must be at least 5, got 4"),
        (["--seeds", "1"], "--seeds must be at least 2, got 1"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--near", "2"], r"--near must be in \(0, 1\), got 2"),
    ],
)
def test_wrong_use_is_one_clear_error(made, arguments, match, monkeypatch):
    monkeypatch.setattr("curate.evaluation.judges.LabelJudge.measure", None)  # no model is trained
    said = call("evaluate", made.path, *arguments)
    assert said.code == 2
    assert re.search(match, said.error), said.error


def test_there_must_be_a_decision_and_something_to_learn(tmp_path):
    rows, _, _ = noisy()
    glob = write_shards(tmp_path / "in", rows[:120])
    values = recipe_values(glob, tmp_path / "run")
    run = curate.run(values, until="cluster", progress=False)
    with pytest.raises(RunError, match="nothing is decided yet; first: curate run"):
        run.evaluate()
    run = curate.run(values, until="select", progress=False)
    with pytest.raises(UsageError, match="needs labels of two classes, or captions"):
        run.evaluate()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file; name a folder"):
        run.evaluate(out=tmp_path / "file")


def test_what_keeps_fewer_than_asked_for_and_rows_without_a_label_are_said(tmp_path):
    rows, labels, _ = noisy()
    names = [None if one % 10 == 0 else f"class {label}" for one, label in enumerate(labels)]
    glob = write_shards(tmp_path / "in", rows, extra={"label": names})
    (tmp_path / "pin.txt").write_text("".join(f"s{one:06d}\n" for one in range(1, 300)))
    values = recipe_values(
        glob,
        tmp_path / "run",
        select={"method": "all"},
        filter=["distance <= 0.5"],
        pin=[str(tmp_path / "pin.txt")],
    )
    run = curate.run(values, until="select", progress=False)
    found = run.evaluate(steps=2, seeds=2, keep=[0.9], methods=["random"], progress=False)
    held = {int(uid[1:]) for uid in found.rows.filter(pl.col("subset") == "held out")["uid"]}
    assert held
    assert all(one >= 300 and one % 10 for one in held)
    share = found.summary["shares"][0]
    assert share["subsets"][1]["rows"] < share["rows"] == round(0.9 * found.summary["all"]["rows"])
    assert any("which are not as many" in line for line in found.summary["says"])
    assert any(
        note.startswith("60 rows of the pool have nothing to train on") for note in found.summary["notes"]
    )
    with pytest.raises(UsageError, match="keeps all that passes"):
        run.evaluate(keep=[0.5], progress=False)
    own = run.evaluate(steps=2, seeds=2, progress=False).summary["shares"][0]
    assert own["subsets"][1]["name"] == "all (this run)"
    assert own["subsets"][1]["rows"] == own["rows"]


def test_an_error_names_the_run_and_not_its_copy(tmp_path):
    rows, labels, _ = noisy()
    glob = write_shards(tmp_path / "in", rows[:120], extra={"label": [f"class {one}" for one in labels]})
    run = curate.run(recipe_values(glob, tmp_path / "run"), until="select", progress=False)
    write_shards(tmp_path / "in", rows[:130], extra={"label": [f"class {one}" for one in labels]})
    with pytest.raises(
        UsageError,
        match=re.escape(f"{tmp_path}/run: ") + ".* first: curate run " + re.escape(f"{tmp_path}/run/"),
    ):
        run.evaluate()


def test_pairs_are_judged_by_their_captions_and_weights_count(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((300, 16)).astype(np.float16)
    texts = (images + 0.5 * rng.standard_normal((300, 16))).astype(np.float16)
    extra = {"text": texts.tolist(), "caption": [f"caption {one}" for one in range(300)]}
    glob = write_shards(tmp_path / "in", images, extra=extra)
    run = curate.run(
        recipe_values(
            glob, tmp_path / "run", embed={"column": "embedding", "text_column": "text"}, score=["clip_score"],
            weight={"method": "extremes", "by": "clip_score"},
        ),
        until="select", progress=False,
    )  # fmt: skip
    found = run.evaluate(steps=3, seeds=2, progress=False)
    assert found.summary["judge"] == "pairs"
    assert found.summary["main"] == "recall_1"
    assert {"recall_5", "text_to_image_10", "image_to_text_1"} <= set(found.cells.columns)
    assert found.cells.filter(pl.col("weighted"))["subset"].unique().to_list() == ["density (this run)"]
    weights = found.rows.filter(pl.col("subset") == "density (this run)")["weight"]
    assert weights.n_unique() > 1


def pictures(folder, names):
    """Write pictures of two classes into files of these names, with vectors that say nothing; return the glob."""
    rng = np.random.default_rng(0)

    def drawn(label):
        pixels = rng.integers(0, 90, (12, 12, 3), np.uint8)
        pixels[:, : 6 if label else 12] += 120
        packed = io.BytesIO()
        Image.fromarray(pixels).save(packed, "PNG")
        return packed.getvalue()

    folder.mkdir()
    for number, name in enumerate(names):
        labels = [one % 2 for one in range(80)]
        vectors = pa.FixedSizeListArray.from_arrays(
            pa.array(rng.standard_normal(80 * 8).astype(np.float16)), 8
        )
        columns = {
            "id": [f"s{number}-{one}" for one in range(80)], "image": [drawn(one) for one in labels], "label": labels,
            "embedding": vectors,
        }  # fmt: skip
        if number:
            columns["image"][0] = b"no picture %d" % number
        pq.write_table(pa.table(columns), folder / name)
    return str(folder / "*.parquet")


@pytest.mark.long
def test_a_network_on_pixels_is_judged_by_the_split_of_the_files(tmp_path, decoding_here):
    names = ("test-00000-of-00001.parquet", "train-00000-of-00002.parquet", "train-00001-of-00002.parquet")
    glob = pictures(tmp_path / "in", names)
    values = recipe_values(glob, tmp_path / "run", cluster={"concepts": 2}, dedup={})
    run = curate.run(values, until="select", progress=False)
    found = run.evaluate(split="test", judge="pixels", steps=12, seeds=2, progress=False)
    assert found.summary["all"]["metrics"]["accuracy"]["value"] > 0.9
    assert set(found.rows.filter(pl.col("subset") == "held out")["uid"]) == {f"s0-{one}" for one in range(80)}
    assert found.summary["all"]["rows"] == 160 - 2
    assert "2 images cannot be decoded, and are left out" in found.summary["notes"]
    heads = run.evaluate(split="test", judge="heads", steps=12, seeds=2, progress=False)
    assert heads.summary["all"]["metrics"]["accuracy"]["value"] < 0.8


@pytest.mark.long
def test_small_pictures_are_judged_by_pixels_unless_told_otherwise(tmp_path, decoding_here):
    glob = pictures(tmp_path / "in", ["a.parquet"])
    values = recipe_values(glob, tmp_path / "run", embed={"model": "tiny"}, cluster={"concepts": 2}, dedup={})
    run = curate.run(values, until="select", progress=False)
    assert run.evaluate(holdout=0.4, steps=2, seeds=2, near=1e-9, progress=False).summary["judge"] == "pixels"
