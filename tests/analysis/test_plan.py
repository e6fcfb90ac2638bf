"""Every number of a plan is what the stages themselves give at that setting."""

import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from curate import open_run
from curate.analysis.explain import opened
from curate.analysis.plan import pairs, plan
from curate.deduplication.semantic import find_duplicates, threshold_of
from curate.deduplication.similarity import pair_similarities
from curate.deduplication.thresholds import Keeping, keeping_threshold, largest_epsilon
from curate.errors import BudgetError
from curate.ordering.shares import n_keep
from curate.pipeline import runner
from curate.pipeline.stages import dedup, select
from curate.recipe.loading import parse_recipe
from curate.selection.budget import softmax
from curate.selection.density import floor_sums
from curate.selection.rows.whatif import share_for
from curate.selection.spread import spread
from curate.weighting.effective_size import effective_sample_size
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate

N = 240


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A finished run with near-duplicates and pinned rows: the folder, and the run in it."""
    folder = tmp_path_factory.mktemp("plan")
    glob = write_shards(folder / "in", planted(N, near=15, clusters=6), shards=2)
    (folder / "pin.txt").write_text("s000003\ns000004\n")
    values = recipe_values(glob, folder / "run", cluster={"concepts": 6}, pin=[str(folder / "pin.txt")])
    values |= {"dedup": {"epsilon": 0.005}, "weight": {"method": "concept"}}
    runner.run(parse_recipe(values), until="select")
    return folder


@pytest.fixture(scope="module")
def found(place):
    return plan(place / "run", keep=[0.05, 0.2, 0.3, 0.61, 1.0], epochs=3)


def again(place, name, **changes):
    """Return a copy of the run, and its context with some settings changed."""
    if not (place / name).exists():
        shutil.copytree(place / "run", place / name)
    context = opened(place / name)
    values = context.recipe.model_dump(mode="json")
    for section, settings in changes.items():
        values[section] = {**values[section], **settings} if values[section] else settings
    return replace(context, recipe=parse_recipe(values))


def test_budgets_are_those_of_the_selection_at_each_share(place, found):
    for entry in found["keep"][:4]:
        context = again(place, "shares", select={"keep": entry["keep"]})
        select.run(context)
        concepts = open_run(place / "shares").concepts()
        assert entry["budgets"] == concepts["kept"].to_list()
        assert entry["kept"] == concepts["kept"].sum() == n_keep(entry["keep"], N)
        assert entry["at_cap"] == concepts["at_cap"].sum()
    last = found["keep"][4]
    assert (last["kept"], last["budgets"]) == (None, None)
    assert "keep 1 cannot be" in found["notes"][-1]


def test_a_temperature_is_that_of_the_selection(place):
    entries = plan(place / "run", temperature=[0.02, 0.5])["temperature"]
    assert [entry["temperature"] for entry in entries] == [0.02, 0.5]
    for entry in entries:
        context = again(place, "warm", select={"temperature": entry["temperature"]})
        select.run(context)
        table = open_run(place / "warm").concepts()
        share = table["probability"].to_numpy()
        assert entry["largest_share"] == share.max()
        assert entry["ratio"] == pytest.approx(share.max() / share.min())
        assert entry["effective_concepts"] == pytest.approx(np.exp(-(share * np.log(share)).sum()))
        assert entry["at_cap"] == table["at_cap"].sum()


@pytest.mark.parametrize("mode", ["reference", "greedy"])
@pytest.mark.parametrize("inclusive", [False, True])
def test_epsilons_drop_what_dedup_drops_at_them(place, mode, inclusive):
    name = f"{mode}-{inclusive}"
    dedup.Deduplicate(again(place, name, dedup={"mode": mode, "inclusive": inclusive})).run()
    recipe = open_run(place / name).folder.recipe
    values = again(place, name, dedup={"mode": mode, "inclusive": inclusive}).recipe
    recipe.write_text(values.to_yaml())
    select.run(again(place, name))
    epsilons = [0.0005, 0.004, 0.005, 0.02, 0.1]
    rates = plan(place / name, epsilon=epsilons)["epsilon"]
    for epsilon, rate in zip(epsilons, rates, strict=True):
        context = again(place, f"{name}-at", dedup={"mode": mode, "inclusive": inclusive, "epsilon": epsilon})
        dedup.Deduplicate(context).run()
        dropped = context.facts(context.run.duplicates)["dropped"]
        assert rate["at_least"] <= dropped <= rate["at_most"]
        assert rate["exact"] == (rate["at_least"] == rate["at_most"])
        assert rate["exact"] or mode == "greedy"
    assert rates[2]["exact"], "the run's own"
    assert rates[0]["at_most"] < rates[4]["at_most"]


def test_cost_is_in_samples_seen(place, found):
    every, now, *shares = found["cost"]
    assert (every["samples"], now["samples"]) == (3 * N, 3 * n_keep(0.3, N))
    assert now["of_all"] == pytest.approx(0.3)
    assert [row["data"] for row in shares] == ["keep 0.05", "keep 0.2", "keep 0.3", "keep 0.61"]
    fixed = plan(place / "run", keep=[0.2], epochs=2, samples_per_epoch=1000)["cost"]
    assert [row["samples"] for row in fixed] == [2000] * 3
    assert fixed[2]["seen_each"] == pytest.approx(2000 / n_keep(0.2, N))
    weights = open_run(place / "run").decisions().filter("keep")["weight"].to_numpy()
    assert found["effective"] == pytest.approx(effective_sample_size(weights), rel=1e-5)


def test_pairs_are_the_nearest_on_both_sides(place):
    shown = pairs(place / "run", 12)
    stored = pl.concat(
        [pl.read_parquet(path) for path in sorted((place / "run/4_duplicates").glob("part-*"))]
    )
    largest = stored.filter(~pl.col("uid").is_in(["s000003", "s000004"]))[
        "max_similarity_earlier"
    ].drop_nulls()
    values = np.sort(largest.to_numpy().astype(float))
    over = values > threshold_of(0.005)
    want = [*values[over][:6], *values[~over][-6:]]
    assert sorted(pair["similarity"] for pair in shown) == sorted(want)
    vectors = planted(N, near=15, clusters=6).astype(np.float64)
    for pair in shown:
        one, other = (vectors[int(pair[name]["uid"][1:])] for name in ("one", "other"))
        cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert cosine == pytest.approx(pair["similarity"], abs=1e-6)
        assert pair["duplicate"] == (cosine > 0.995)
        assert pair["one"]["shard"].startswith("train-0000")
    assert len(pairs(place / "run", 10_000)) == len(values)


def test_other_methods_say_whose_budgets_these_are(place):
    context = again(place, "method", select={"method": "diversity", "keep": 0.3})
    (place / "method/recipe.yaml").write_text(context.recipe.to_yaml())
    select.run(context)
    divided = plan(place / "method", keep=[0.3])
    assert divided["keep"][0]["budgets"] == open_run(place / "method").concepts()["kept"].to_list()
    context = again(place, "method", select={"method": "random", "keep": 0.3})
    (place / "method/recipe.yaml").write_text(context.recipe.to_yaml())
    select.run(context)
    assert "those of method density" in plan(place / "method")["notes"][0]


# --- pure parts -----------------------------------------------------------------------------------------------


def test_a_share_is_the_shortest_that_keeps_a_count():
    for base in (1, 7, 100, 12_345, 10**9 + 7):
        for count in {0, 1, base // 3, base // 2, base - 1, base}:
            share = share_for(count, base)
            assert 0 < share <= 1
            assert n_keep(share, base) == count
    assert share_for(30, 100) == 0.3
    with pytest.raises(BudgetError, match="no share keeps 3 of 2 rows"):
        share_for(3, 2)


def test_floors_by_definition():
    sizes = np.array([4, 0, 1, 7])
    want = [int(np.minimum(sizes, floor).sum()) for floor in range(8)]
    assert floor_sums(sizes, 20).tolist() == want
    assert floor_sums(sizes, 2).tolist() == want[:3]
    assert floor_sums(np.zeros(0, np.int64), 3).tolist() == [0]


def test_spread_at_its_ends():
    complexity = np.array([0.1, 0.3, 0.3])
    assert spread(complexity, np.inf).effective == pytest.approx(3)
    assert spread(complexity, 1e-4).effective == pytest.approx(2)
    assert spread(complexity, 1e-4).ratio == np.inf
    assert spread(complexity, 0.2).largest == softmax(complexity, 0.2).max()
    assert spread(np.zeros(0), 0.2).effective == 0


@pytest.mark.parametrize("mode", ["greedy", "reference"])
def test_the_keeping_threshold_is_the_first_of_all(mode):
    """Against dedup at every similarity there is."""
    rng = np.random.default_rng(5)
    for turn in range(4):
        rows = rng.standard_normal((3, 6))[rng.integers(0, 3, 30)] + 0.25 * rng.standard_normal((30, 6))
        rows[20] = rows[3]
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        fixed = np.arange(30) < turn % 3
        threshold = threshold_of(0.1)
        settings = {"mode": mode, "fixed": fixed}
        i, j = np.tril_indices(30, -1)
        every = np.unique(pair_similarities(rows, i, j))
        every = every[every > threshold].tolist()
        keeps = np.array([find_duplicates(rows, threshold=value, **settings).keep for value in every])
        for row in np.flatnonzero(~find_duplicates(rows, threshold=threshold, **settings).keep)[:6]:
            first = np.flatnonzero(keeps[:, row])
            got = keeping_threshold(rows, int(row), threshold, mode, turn % 3)
            assert (got and got.low) == (every[first[0]] if len(first) else None)
            if got:
                kept = find_duplicates(rows, threshold=threshold_of(largest_epsilon(got)), **settings).keep
                assert kept[row]


def test_no_epsilon_where_rounding_decides():
    assert largest_epsilon(Keeping(1 - 1e-7, 1.0, True)) is None


# --- as a user ------------------------------------------------------------------------------------------------


def test_the_command_prints_tables_json_and_a_page(place, tmp_path):
    page = tmp_path / "plan.html"
    said = curate("plan", place / "run", "--keep", "20%,0.3", "--plot", page)
    assert said.code == 0
    assert "rows kept by concept" in said.out
    assert f"open: {page}" in said.err
    text = page.read_text()
    assert text.count("Plotly.newPlot(") == 1
    assert "<script src=" not in text
    facts = json.loads(curate("plan", place / "run", "--json").out)
    assert facts["now"]["epsilon"] in [rate["epsilon"] for rate in facts["epsilon"]]
    shown = json.loads(curate("plan", place / "run", "--pairs", "4", "--epsilon", "0.01", "--json").out)
    assert len(shown["pairs"]) == 4
    assert curate("plan", place / "run", "--pairs", "4").out.count("\n") == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep", "1.2"], "--keep must be in (0, 1], got 1.2"),
        (["--keep", "some"], "--keep takes numbers such as 0.1,0.2: one must be a share such as 0.3 or 30%, got 'some'"),
        (["--epsilon", "0"], "--epsilon must be in (0, 1), got 0"),
        (["--temperature", "0"], "--temperature must be above 0, got 0"),
        (["--epochs", "0"], "--epochs must be a number above 0, got 0"),
        (["--pairs", "3", "--epsilon", "0.1,0.2"], "--epsilon takes one number with --pairs, got 0.1,0.2"),
        (["--plot", "plan.pdf"], "--plot must end with .html or .png, got plan.pdf"),
        (["--plot", "nowhere/plan.html"], "--plot: there is no folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(place, arguments, message):
    said = curate("plan", place / "run", *arguments)
    assert said.code == 2
    assert said.error.startswith(message)


def test_a_run_that_compared_nothing_says_so(place):
    context = again(place, "never", dedup={"epsilon": None})
    (place / "never/recipe.yaml").write_text(context.recipe.to_yaml())
    dedup.Deduplicate(context).run()
    select.run(context)
    found = plan(place / "never")
    assert "nothing was compared" in " ".join(found["notes"])
    assert "dedup.epsilon is none" in curate("plan", place / "never", "--pairs", "3").error
    dropped = {}
    for epsilon in (0.001, 0.05):
        whole = again(place, f"at {epsilon}", dedup={"epsilon": epsilon, "prefer": "random"})
        dedup.Deduplicate(whole).run()
        dropped[epsilon] = whole.facts(whole.run.duplicates)["dropped"]
    rates = {one["epsilon"]: one for one in found["epsilon"]}
    for epsilon, count in dropped.items():  # a sample of all 240 rows, in another order
        assert rates[epsilon]["sampled"] and rates[epsilon]["compared"] == N
        assert abs(rates[epsilon]["at_most"] - count) <= 5
    near = pairs(place / "never", 20, 0.005)
    assert len(near) == 20 and {pair["duplicate"] for pair in near} == {True, False}
    for pair in near:
        assert (
            pair["duplicate"] == (pair["similarity"] > 0.995) and pair["one"]["uid"] != pair["other"]["uid"]
        )
