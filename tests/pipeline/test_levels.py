"""Concepts in levels in a run: those of the same vectors in memory, with any workers, when data grows, and when it goes on."""

import json
import shutil

import numpy as np
import polars as pl
import pytest

import curate
from curate.analysis.explain import explain
from curate.analysis.plan import plan
from curate.analysis.summary.summary import summarize
from curate.analysis.verify.verify import check_run
from curate.api.select import select
from curate.clustering.store import load_centroids, load_parents
from curate.errors import RecipeError
from curate.linalg import load_unit
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.selection.balanced import balanced_budgets
from curate.selection.spread import effective_number
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate as command

N, LEVELS = 300, [20, 6, 2]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("levels")
    write_shards(folder / "in", planted(N))
    go(folder, "run", until="report")
    return folder


def go(place, name, shards="in", *, until="select", **changes):
    settings = {"cluster": {"levels": LEVELS, "resamples": 3}, "dedup": {"exact": False}}
    select = {"select": {"method": "random", "keep": 0.4, "of": "eligible"}}
    recipe = parse_recipe(
        recipe_values(f"{place}/{shards}/*.parquet", place / name, **settings | select | changes)
    )
    runner.run(recipe, until=until)
    return curate.open_run(recipe.run)


def test_a_run_has_the_levels_of_its_vectors_in_memory(place):
    groups = curate.cluster(load_unit(planted(N)), levels=LEVELS, resamples=3)
    folder = place / "run" / "2_concepts"
    np.testing.assert_array_equal(load_centroids(folder / "centroids.parquet"), groups.centroids)
    for got, want in zip(load_parents(folder), groups.parents, strict=True):
        np.testing.assert_array_equal(got, want)
    rows = pl.read_parquet(f"{folder}/assignments/*.parquet").sort("uid")
    assert rows["concept"].to_list() == groups.concept.tolist()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_they_are_the_same_with_other_shards_and_workers(place, workers):
    name = f"other-{workers}"
    write_shards(place / f"in-{name}", planted(N), shards=5, order=np.random.default_rng(0).permutation(N))
    go(place, name, f"in-{name}", workers=workers, memory="1.5GB")
    same = ["uid", "keep", "reason", "concept", "distance", "rank"]
    one, other = (curate.open_run(place / run).decisions().select(same).sort("uid") for run in ("run", name))
    assert one.equals(other)
    one, other = (pl.read_parquet(place / run / "2_concepts/parents.parquet") for run in ("run", name))
    assert one.equals(other)


def test_data_that_grows_stays_with_them(place):
    shutil.copytree(place / "run", place / "grown")
    shutil.copytree(place / "in", place / "more")
    before = (place / "grown/2_concepts/parents.parquet").read_bytes()
    write_shards(place / "new", planted(60, seed=5), shards=1)
    rows = pl.read_parquet(f"{place}/new/*.parquet").with_columns(pl.format("t{}", "id").alias("id"))
    rows.write_parquet(place / "more" / "train-00007-of-00008.parquet")
    shutil.rmtree(place / "in", ignore_errors=True)
    (place / "more").rename(place / "in")
    try:
        run = go(place, "grown", until="report")
        assert (place / "grown/2_concepts/parents.parquet").read_bytes() == before
        assert run.decisions().height == N + 60
        assert check_run(place / "grown").violations == []
    finally:
        (place / "in" / "train-00007-of-00008.parquet").unlink()


def test_a_table_that_is_lost_is_made_again_and_other_levels_are_others(place):
    shutil.copytree(place / "run", place / "again")
    parents = place / "again/2_concepts/parents.parquet"
    before = pl.read_parquet(parents)
    parents.unlink()
    go(place, "again")
    assert pl.read_parquet(parents).equals(before)
    run = go(place, "again", cluster={"levels": [20, 3]})
    assert pl.read_parquet(parents).columns == ["concept", "concept_2"]
    assert summarize(run.folder).levels == [20, 3]
    run = go(place, "again", cluster={"concepts": 20})
    assert not parents.exists() and summarize(run.folder).levels is None


def test_what_is_left_has_levels_and_blocks_have_none(place):
    run = go(place, "left", until="report", dedup={"epsilon": 0.001, "blocks": 5})
    assert not (place / "left/2_concepts/parents.parquet").exists()
    assert load_centroids(place / "left/2_concepts/centroids.parquet").shape[0] == 5
    assert [len(one) for one in load_parents(run.folder.final_concepts)] == [20, 20]
    assert summarize(run.folder).levels == LEVELS
    assert check_run(place / "left").violations == []
    path = place / "left/4_concepts/parents.parquet"
    before = pl.read_parquet(path)
    path.unlink()
    go(place, "left", dedup={"epsilon": 0.001, "blocks": 5})
    assert pl.read_parquet(path).equals(before)


def test_inspect_and_sql_know_them(place):
    said = "concepts in levels: 20, then 6, then 2"
    assert said in command("inspect", place / "run").out
    assert summarize(curate.open_run(place / "run").folder).said == [said]
    asked = "select count(*) n, max(concept_2) two, max(concept_3) three from parents"
    answer = command("inspect", place / "run", "--sql", asked, "--json")
    assert json.loads(answer.out) == [{"n": 20, "two": 5, "three": 1}]


def test_verify_finds_parents_that_are_wrong(place):
    shutil.copytree(place / "run", place / "wrong")
    path = place / "wrong/2_concepts/parents.parquet"
    table = pl.read_parquet(path)
    first = pl.when(pl.int_range(pl.len()) == 0)
    table.with_columns(
        first.then(1 - pl.col("concept_3")).otherwise("concept_3").alias("concept_3")
    ).write_parquet(path)
    lines = check_run(place / "wrong").violations
    assert any("parents.parquet" in line for line in lines)


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"levels": [5, 9]}, "cluster.levels must get fewer from level to level, the first of the rows, got [5, 9]"),
        ({"levels": 5}, "cluster.levels must be a list of numbers of concepts such as [1000, 100, 10], got 5"),
        ({"levels": [5, "x"]}, "cluster.levels must be whole numbers of at least 1, got [5, 'x']"),
        ({"levels": [5], "concepts": 5}, "cluster takes one of levels and concepts"),
        ({"levels": [5], "given": "a.npy"}, "cluster takes one of levels and given"),
        ({"levels": [5], "resamples": -1}, "cluster.resamples"),
    ],
)  # fmt: skip
def test_levels_that_cannot_be(place, cluster, message):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(recipe_values("in/*.parquet", place / "none", cluster=cluster))
    assert message in str(caught.value)


def test_settings_of_levels_count_with_levels_only():
    def of_fit(**cluster):
        return parse_recipe(recipe_values("a", "b", cluster=cluster)).cluster.of_fit()

    assert of_fit(concepts=8, resamples=3) == {"concepts": 8, "on": "image", "seed": 0}
    assert of_fit(levels=[8, 2])["resamples"] == 10
    assert of_fit(levels=[8, 2]) != of_fit(levels=[8, 2], resample_members=3)


def test_more_levels_than_samples(place, caplog):
    write_shards(place / "few", planted(5), shards=1)
    go(place, "few-run", "few", cluster={"levels": [50, 10, 3]})
    assert "5 concepts instead of 50 on level 1: there are only so many different samples" in caplog.text
    assert (
        "5 concepts instead of 10 on level 2: there are only so many different concepts below" in caplog.text
    )
    assert pl.read_parquet(place / "few-run/2_concepts/parents.parquet").height == 5


def test_balanced_goes_from_the_top_down(place):
    """A run evens out the concepts of each level, as `balanced_budgets` divides the sizes of its concepts."""
    run = go(place, "balanced", select={"method": "balanced", "count": 60})
    concepts, parents = run.concepts(), load_parents(place / "balanced/2_concepts")
    want = balanced_budgets(concepts["n_eligible"].to_numpy(), 60, parents)
    assert concepts["kept"].to_list() == want.tolist()
    top = np.bincount(parents[1], weights=concepts["kept"].to_numpy())
    assert top.tolist() == [30, 30]
    frame = run.decisions().join(pl.read_parquet(place / "balanced/2_concepts/parents.parquet"), on="concept")
    again = select(frame.drop("keep", "reason", "rank", "inclusion_prob"), "balanced", count=60)
    assert again["keep"].to_list() == frame["keep"].to_list()
    found = summarize(run.folder)
    assert found.balance["effective"] == pytest.approx(effective_number(want))
    assert any("the kept rows are spread as over" in text for text in found.said)
    planned = plan(place / "balanced", keep=[0.2])
    assert next(one for one in planned["keep"] if one["kept"] == 60)["budgets"] == want.tolist()
    row = frame.filter(~pl.col("keep")).sort("rank").row(0, named=True)
    needed = explain(place / "balanced", row["uid"])["flip"]["count"]
    at = balanced_budgets(concepts["n_eligible"].to_numpy(), needed, parents)[row["concept"]]
    before = balanced_budgets(concepts["n_eligible"].to_numpy(), needed - 1, parents)[row["concept"]]
    assert before < row["rank"] <= at
