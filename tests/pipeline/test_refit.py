"""Concepts that are fitted on what conditions and dedup leave: the same as those of a run that has these rows alone."""

import json
import shutil

import numpy as np
import polars as pl
import pytest

import curate
from curate.analysis.explain import explain
from curate.analysis.summary.summary import summarize
from curate.analysis.verify.verify import check_run, decisions_digest
from curate.errors import RecipeError
from curate.pipeline import runner
from curate.pipeline.stages import refit
from curate.recipe.loading import load_recipe, parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate as command

N = 400


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refit")
    vectors = planted(N, copies=10, near=60)
    write_shards(folder / "in", vectors, extra={"good": list(range(N))})
    runner.run(parse_recipe(values(folder, "run")))
    return folder


def values(place, name, **changes):
    settings = {
        "dedup": {"epsilon": 0.004, "blocks": 5}, "cluster": {"concepts": "auto"}, "filter": ["good < 350"],
        "select": {"method": "density", "keep": 0.4, "of": "eligible"},
    }  # fmt: skip
    return recipe_values(f"{place}/in/*.parquet", place / name, **settings | changes)


def test_as_a_run_of_what_is_left(place, tmp_path):
    run = curate.open_run(place / "run")
    left = run.decisions().filter(pl.col("rank").is_not_null())["uid"].to_list()
    assert 250 < len(left) < 340, "conditions and dedup took some"
    source = pl.read_parquet(f"{place}/in/*.parquet")
    (tmp_path / "in").mkdir()
    for number, rows in enumerate(np.array_split(np.flatnonzero(source["id"].is_in(left)), 2)):
        source[rows].write_parquet(tmp_path / "in" / f"{number}.parquet")
    alone = recipe_values(
        f"{tmp_path}/in/*.parquet", tmp_path / "alone", cluster={"concepts": "auto"}, dedup={"exact": True},
        select={"method": "density", "keep": 0.4, "of": "eligible"},
    )  # fmt: skip
    runner.run(parse_recipe(alone))
    same = ["uid", "keep", "reason", "concept", "distance", "rank", "weight"]
    other = curate.open_run(tmp_path / "alone").decisions().select(same).sort("uid")
    assert run.decisions().filter(pl.col("uid").is_in(left)).select(same).sort("uid").equals(other)
    budgets = ["concept", "n_eligible", "d_intra", "d_inter", "complexity", "budget", "kept"]
    assert (
        run.concepts().select(budgets).equals(curate.open_run(tmp_path / "alone").concepts().select(budgets))
    )


def test_all_that_reads_a_run_goes_by_them(place):
    path, run = place / "run", curate.open_run(place / "run")
    assert check_run(path).violations == []
    blocks = pl.read_parquet(f"{path}/2_concepts/assignments/*.parquet")
    concepts = pl.read_parquet(f"{path}/4_concepts/assignments/*.parquet")
    assert blocks["concept"].n_unique() == 5 and concepts["concept"].n_unique() > 10
    scores, decisions = run.scores(), run.decisions().filter(pl.col("concept").is_not_null())
    assert scores.select("uid", "concept").sort("uid").equals(concepts.select("uid", "concept").sort("uid"))
    decided = decisions.select("uid", "concept").unique("uid").sort("uid")
    assert decided.equals(
        concepts.filter(pl.col("uid").is_in(decided["uid"].implode())).select("uid", "concept").sort("uid")
    )
    found = summarize(run.folder)
    assert len(found.concepts) == len(run.concepts()) and found.missing == []
    row = decisions.filter("keep").row(0, named=True)
    said = explain(path, row["uid"])
    assert said["concept"]["concept"] == row["concept"]
    assert {one["score"]: one["value"] for one in said["scores"]}["distance"] == row["distance"]
    answer = command("inspect", path, "--sql", "select count(distinct concept) n from blocks", "--json")
    assert json.loads(answer.out) == [{"n": 5}]
    hits = run.search(uid=row["uid"], top=3)
    assert hits["concept"].to_list() == [dict(decided.iter_rows())[uid] for uid in hits["uid"]]
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["stages"]["concepts"]["fitted_on"] == manifest["stages"]["select"]["eligible"]


def test_another_share_fits_nothing_and_other_rows_do(place, monkeypatch):
    shutil.copytree(place / "run", place / "more")
    fits = []
    inner = refit.fit
    monkeypatch.setattr(refit, "fit", lambda *given, **named: fits.append(1) or inner(*given, **named))
    for changes, wanted in (
        (["select.keep=0.2"], 0), (["select.method=random"], 0), (["filter=['good < 340']"], 1),
        (["filter=['good < 340']"], 1), (["cluster.seed=4"], 2),
    ):  # fmt: skip
        runner.run(
            load_recipe(place / "more" / "recipe.yaml", [f"run={place}/more", *changes]), until="select"
        )
        assert len(fits) == wanted, changes
    recipe = load_recipe(
        place / "more" / "recipe.yaml", [f"run={place}/more", "dedup.blocks=none", "cluster.concepts=5"]
    )
    runner.run(recipe)
    assert not (place / "more" / "4_concepts").exists()
    assert len(curate.open_run(place / "more").concepts()) == 5
    assert check_run(place / "more").violations == []


@pytest.mark.long
def test_the_same_bytes_after_an_interruption_and_on_two_workers(place, tmp_path, monkeypatch):
    digest = decisions_digest(place / "run")
    runner.run(parse_recipe(values(place, "two", workers=2, memory="3GB")), until="select")
    assert decisions_digest(place / "two") == digest

    done = []

    def stopped(task):
        if done:
            raise KeyboardInterrupt
        done.append(assign(task))

    assign = refit.assign_part
    monkeypatch.setattr(refit, "assign_part", stopped)
    with pytest.raises(KeyboardInterrupt):
        runner.run(parse_recipe(values(place, "again")), until="select")
    monkeypatch.setattr(refit, "assign_part", assign)
    runner.run(parse_recipe(values(place, "again")))
    assert decisions_digest(place / "again") == digest
    assert check_run(place / "again").violations == []


def test_a_run_that_grows(place, tmp_path):
    rows = planted(N, copies=10, near=60)
    write_shards(tmp_path / "in", rows[:250], shards=2, extra={"good": list(range(250))})
    recipe = parse_recipe(values(tmp_path, "run"))
    runner.run(recipe)
    before = curate.open_run(tmp_path / "run").concepts()
    more = pl.read_parquet(f"{place}/in/*.parquet").filter(pl.col("id") >= "s000250")
    more.write_parquet(tmp_path / "in" / "z.parquet")
    runner.run(recipe)
    run = curate.open_run(tmp_path / "run")
    assert check_run(tmp_path / "run").violations == []
    assert len(run.concepts()) > len(before)
    assert run.concepts()["n_eligible"].sum() == run.decisions()["rank"].is_not_null().sum()


def test_other_vectors_under_the_same_names_fit_anew(tmp_path):
    """Concepts are those of what is there: not of vectors that were."""
    rows = planted(200, seed=1)
    for folder, vectors in (("run", planted(200, seed=2)), ("run", rows), ("fresh", rows)):
        shutil.rmtree(tmp_path / "in", ignore_errors=True)
        write_shards(tmp_path / "in", vectors, shards=2, extra={"good": list(range(200))})
        recipe = parse_recipe(values(tmp_path, folder, dedup={"blocks": 5}, filter=[]))
        runner.run(recipe, until="select", force=True, refit=True)
    assert decisions_digest(tmp_path / "run") == decisions_digest(tmp_path / "fresh")
    assert centroids_of(tmp_path / "run") == centroids_of(tmp_path / "fresh")


def centroids_of(run):
    return pl.read_parquet(run / "4_concepts" / "centroids.parquet")["centroid"].to_list()


def test_damage_is_found(place):
    shutil.copytree(place / "run", place / "damaged")
    path = min((place / "damaged" / "4_concepts" / "assignments").glob("part-*"))
    path.write_bytes(path.read_bytes()[:-1])
    (said,) = [line for line in check_run(place / "damaged").violations if "4_concepts" in line]
    assert "its size must be" in said


def test_where_nothing_is_left_to_fit_on(place):
    runner.run(
        parse_recipe(values(place, "none", filter=["good < 0"], select={"method": "density", "count": 0}))
    )
    assert curate.open_run(place / "none").decisions()["keep"].sum() == 0


def test_given_clusters_serve_as_both(place):
    given = values(place, "given", cluster={"given": "x/*.npy"})
    with pytest.raises(RecipeError, match=r"dedup\.blocks must be none with cluster\.given"):
        parse_recipe(given)
