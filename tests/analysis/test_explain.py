"""Why a sample was kept or dropped, proved by selecting (and comparing) again at the value that is stated."""

import json
import shutil
from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest

from curate import open_run
from curate.analysis.explain import explain, opened
from curate.clustering.complexity import complexity
from curate.errors import UsageError
from curate.ordering.shares import n_keep
from curate.pipeline import rescore, runner
from curate.pipeline.stages import select
from curate.recipe.loading import parse_recipe
from curate.selection.density import InDensity
from curate.selection.prototypes import InPrototypes
from curate.selection.quotas import InQuotas, concept_quotas
from curate.selection.rows.budget_inputs import divided
from curate.selection.rows.choose import choose
from curate.selection.rows.counterfactual import Nested, nearest_flip
from curate.selection.rows.finished import Again, Finished, Row
from curate.selection.rows.order import order_of
from curate.selection.rows.whatif import Density
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate
from tests.reference.selection import select_prototypes

N = 260


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A finished run with a row for every reason: the folder, and the run in it."""
    folder = tmp_path_factory.mktemp("explain")
    rows = planted(N, copies=4, near=12, clusters=4)
    rows[40] = 0
    labels = [f"class {i % 256 % 3}" for i in range(N)]
    notes = [f"a photo of {i % 256}" for i in range(N)]
    glob = write_shards(folder / "in", rows, shards=2, extra={"label": labels, "caption": notes})
    (folder / "pin.txt").write_text("s000050\ns000051\n")
    (folder / "out.txt").write_text("s000060\n")
    write_shards(folder / "eval", rows[70:72], shards=1)
    values = recipe_values(
        glob, folder / "run", cluster={"concepts": 5}, filter=["caption_length > 12"], seed=2
    )
    values |= {"pin": [str(folder / "pin.txt")], "exclude": [str(folder / "out.txt")]}
    against = {"path": f"{folder}/eval/*.parquet", "name": "eval", "epsilon": 1e-5}
    values["dedup"] = {"epsilon": 0.004, "against": [against]}
    values["select"] |= {"min_per_concept": 4, "temperature": 0.015}
    runner.run(parse_recipe(values), until="select")
    return folder


@pytest.fixture(scope="module")
def run(place):
    return place / "run"


@pytest.fixture(scope="module")
def decisions(place):
    return open_run(place / "run").decisions()


@pytest.fixture(scope="module")
def kept_at(run, decisions):
    """Which uids are kept at a share, by the functions of the stage on the rows of the run."""
    context = opened(run)
    found, settings = divided(context), context.recipe.select
    order = order_of(context.recipe, select.classes_of(context))
    rows = Again(context, order, _with_uids(context, found))
    ranked = decisions.filter(pl.col("rank").is_not_null()).select("concept", "rank", "uid")
    uids = {(concept, rank): uid for concept, rank, uid in ranked.iter_rows()}

    @cache
    def kept(share):
        chosen = choose(rows, settings, n_keep(share, N - 1)).choice
        return {
            uids[place]
            for columns in rows.blocks()
            for place, keep in zip(
                zip(columns["concept"].tolist(), columns["rank"].tolist(), strict=True),
                chosen.of(columns)[0].tolist(),
                strict=True,
            )
            if keep
        }

    assert kept(settings.keep) == set(decisions.filter("keep")["uid"])
    return kept


def near_the_cut(decisions, reason):
    """Return the 20 rows with this reason that are nearest to the budget of their concept."""
    budget = decisions.filter("keep").group_by("concept").agg(budget=pl.col("rank").max())
    rows = decisions.filter(pl.col("reason") == reason).join(budget, on="concept", how="left")
    return rows.sort((pl.col("rank") - pl.col("budget")).abs(), "uid").head(20)["uid"].to_list()


@pytest.mark.parametrize("reason", ["kept", "over_budget"])
def test_the_stated_keep_flips_and_a_value_just_short_of_it_does_not(run, decisions, kept_at, reason):
    uids, context = near_the_cut(decisions, reason), opened(run)
    assert len(uids) == 20
    for uid in uids:
        flip = explain(context, uid)["flip"]
        assert flip["nearest"]
        assert flip["kept"] == (reason == "over_budget")
        assert n_keep(flip["keep"], N - 1) == flip["count"]
        assert (uid in kept_at(flip["keep"])) == flip["kept"], (uid, flip)
        short = flip["count"] + (1 if flip["count"] < flip["now_count"] else -1)
        share = round(short / (N - 1), 6)
        assert n_keep(share, N - 1) == short
        assert (uid in kept_at(share)) != flip["kept"], (uid, flip)


def test_a_row_that_no_keep_flips_says_why(run, decisions):
    context = opened(run)
    said = {
        reason: explain(context, decisions.filter(pl.col("reason") == reason)["uid"][0])
        for reason in decisions["reason"].unique()
    }
    assert set(said) == {
        "kept", "over_budget", "pinned", "excluded", "leak:eval", "filter:caption_length > 12", "near_duplicate",
        "exact_duplicate", "unusable:bad_vector",
    }  # fmt: skip
    for reason, facts in said.items():
        assert facts["decision"]["reason"] == reason
        assert (facts["flip"]["keep"] is None) == (reason not in ("kept", "over_budget")), reason
    why = {reason: facts["flip"].get("why", "") for reason, facts in said.items()}
    assert "pinned" in why["pinned"]
    assert "near-duplicate" in why["near_duplicate"]
    assert "filter" in why["filter:caption_length > 12"]
    failed = said["filter:caption_length > 12"]["filter"]
    assert failed["condition"] == "caption_length > 12"
    assert failed["values"] == {"caption_length": 12}
    assert said["leak:eval"]["filter"]["values"]["similarity_to_eval"] > 1 - 1e-5
    assert list(said["excluded"]["filter"]["lists"]) == ["exclude"]
    assert list(said["pinned"]["filter"]["lists"]) == ["pin"]
    assert "concept" not in said["unusable:bad_vector"]
    assert said["exact_duplicate"]["duplicate"]["exact"]


def test_what_is_said_stands_in_the_tables(run, decisions):
    one = open_run(run)
    row = decisions.filter(pl.col("reason") == "over_budget").row(3, named=True)
    facts = explain(run, row["uid"])
    concept = one.concepts().row(by_predicate=pl.col("concept") == row["concept"], named=True)
    assert facts["concept"]["rank"] == row["rank"] > concept["budget"] == facts["concept"]["budget"]
    [distance] = [score for score in facts["scores"] if score["score"] == "distance"]
    every = one.scores()["distance"].to_list()
    lower, same = sum(v < row["distance"] for v in every), sum(v == row["distance"] for v in every)
    assert distance["percentile"] == pytest.approx(100 * (lower + same / 2) / len(every))
    assert facts["sample"]["caption"].startswith("a photo of")


def test_what_set_a_budget(run):
    concepts, context = open_run(run).concepts(), opened(run)
    rows = open_run(run).decisions().filter(pl.col("rank").is_not_null())
    for line in concepts.iter_rows(named=True):
        uid = rows.filter(pl.col("concept") == line["concept"])["uid"][0]
        said = explain(context, uid)["concept"]["set_by"].partition(":")[0]
        assert said == ("cap" if line["at_cap"] else "floor" if line["at_floor"] else "complexity")
    assert concepts["at_cap"].any()


def test_the_stated_epsilon_keeps_a_near_duplicate_and_a_larger_one_does_not(place, decisions):
    uids = decisions.filter(pl.col("reason") == "near_duplicate")["uid"].to_list()
    context = opened(place / "run")
    facts = {uid: explain(context, uid)["duplicate"] for uid in uids}
    uid, found = max(facts.items(), key=lambda item: item[1]["similarity"])
    shutil.copytree(place / "run", place / "near")
    for epsilon, reason in ((found["kept_at"], None), (found["kept_at"] * 1.002, "near_duplicate")):
        settings = {"dedup.epsilon": float(epsilon), "select.at_most": True}
        rescore.select_run(rescore.chosen_recipe(place / "near", settings=settings))
        got = open_run(place / "near").decisions().row(by_predicate=pl.col("uid") == uid, named=True)
        assert (got["reason"] == "near_duplicate") == (reason is not None), epsilon


METHODS = [
    {"method": "random"},
    {"method": "prototypes", "balance": 0.5, "prefer": "easiest"},
    {"method": "quotas", "min_per_group": 3},
    {"method": "quotas", "per": "label"},
    {"method": "balanced"},
    {"method": "hardest", "by": "distance"},
    {"method": "window", "by": "distance", "offset": 20},
    {"method": "middle", "by": "distance", "center": 0.3},
    {"method": "stratified", "by": "distance", "beta": 0.1, "cutoff": "distance", "strata": 6},
    {"method": "weighted", "by": "distance"},
    {"method": "density", "prefer": "random", "temperature": 0.02},
]


@pytest.mark.parametrize("settings", METHODS, ids=lambda settings: f"{settings['method']}-{len(settings)}")
def test_a_row_stands_where_the_selection_puts_it_at_every_budget(place, settings):
    """Against the functions of the stage itself, for some rows at many counts."""
    values = rescore.chosen_recipe(place / "run").model_dump(mode="json")
    values |= {"run": str(place / "methods"), "select": {"keep": 0.3, **settings}}
    if not (place / "methods").exists():
        shutil.copytree(place / "run", place / "methods")
    context = replace(opened(place / "methods"), recipe=parse_recipe(values))
    select.run(context)
    found = divided(context)
    order = order_of(context.recipe, select.classes_of(context))
    again = Again(context, order, _with_uids(context, found))
    rows = open_run(place / "methods").decisions().filter(pl.col("rank").is_not_null())
    some = rows.filter(pl.col("reason") != "pinned").sort(pl.col("uid").hash(1)).head(6)
    finished, standings = Finished(context, found, select.classes_of(context)), {}
    for row in some.iter_rows(named=True):
        part = next(p.index for p in context.parts if p.shard.name == row["shard"])
        asked = Row(row["uid"], part, row["concept"], row["rank"], row["keep"])
        standings[row["concept"], row["rank"]] = context.recipe.select.standing(finished, asked)
    for count in range(20, 120, 7):
        asked = parse_recipe({**values, "select": {"count": count, **settings}})
        chosen = choose(again, asked.select, count).choice
        kept = set()
        for columns in again.blocks():
            here = chosen.of(columns)[0]
            kept |= set(zip(columns["concept"][here].tolist(), columns["rank"][here].tolist(), strict=True))
        for row, standing in standings.items():
            says = False if isinstance(standing, str) else standing.keeps(count - found.n_pinned)
            assert says == (row in kept), (row, count, standing)


def _with_uids(context, found):
    """Return the table of concepts as ranking leaves it."""
    return found.concepts.with_columns(pl.Series("n_pinned", found.pinned)).drop(
        "complexity", "probability", "target", "budget", "kept", "at_cap", "at_floor", "effective"
    )


def test_diversity_says_when_a_dropped_row_would_be_taken(place):
    shutil.copytree(place / "run", place / "diverse")
    settings = {"select.method": "diversity", "select.keep": 0.2}
    rescore.select_run(rescore.chosen_recipe(place / "diverse", settings=settings))
    dropped = open_run(place / "diverse").decisions().filter(pl.col("reason") == "over_budget")
    uid = dropped["uid"][5]
    flip = explain(place / "diverse", uid)["flip"]
    for count, kept in ((flip["count"], True), (flip["count"] - 1, False)):
        rescore.select_run(rescore.chosen_recipe(place / "diverse", settings={"select.count": count}))
        got = open_run(place / "diverse").decisions().row(by_predicate=pl.col("uid") == uid, named=True)
        assert got["keep"] == kept


def test_the_command_select_agrees(place, decisions):
    """Once through the command line, both sides of one flip."""
    shutil.copytree(place / "run", place / "command")
    uid = decisions.filter(pl.col("reason") == "over_budget")["uid"][7]
    flip = explain(place / "run", uid)["flip"]
    for budget, kept in (("--keep", flip["keep"]), True), (("--count", flip["count"] - 1), False):
        assert curate("select", place / "command", *budget, "--workers", "1").code == 0
        got = open_run(place / "command").decisions().row(by_predicate=pl.col("uid") == uid, named=True)
        assert got["keep"] == kept


# --- the search, against every count --------------------------------------------------------------------------


def nearest(kept, now):
    """Return how far from `now` the nearest count with another decision is, by looking at all."""
    other = np.flatnonzero(kept != kept[now])
    return None if not len(other) else int(np.abs(other - now).min())


@pytest.mark.parametrize("seed", range(6))
def test_the_nearest_flip_is_the_nearest_of_all_counts(seed):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 10))
    free = rng.integers(0, 14, k)
    free[0] += 1
    density = Density(
        free, rng.uniform(0, 1, k) * rng.uniform(0, 1, k), rng.permutation(k), float(rng.choice([0.01, 0.1, 1])),
        int(rng.integers(0, 5)),
    )  # fmt: skip
    floor, counts = int(rng.integers(0, 4)), range(density.total + 1)
    budgets = np.array([density.at(count).budget for count in counts])
    quotas = np.array([concept_quotas(free, count, floor, relax=True) for count in counts])
    for _ in range(8):
        j = int(rng.choice(np.flatnonzero(free)))
        rank, now = int(rng.integers(1, free[j] + 1)), int(rng.integers(0, density.total + 1))
        for table, standing in (
            (budgets, InDensity(density, j, rank)),
            (quotas, InQuotas(free, j, rank, floor, relax=True)),
        ):
            kept = rank <= table[:, j]
            assert [standing.keeps(count) for count in counts] == kept.tolist()
            assert all((standing.side(n) == 1) == kept[n] for n in counts if standing.side(n))
            flip, distance = nearest_flip(standing, now), nearest(kept, now)
            assert (flip and abs(flip.count - now)) == distance
            assert flip is None or (flip.nearest and kept[flip.count] != kept[now])


@pytest.mark.parametrize("kind", ["inter*intra", "size", "uniform"])
def test_a_grid_of_budgets_is_what_each_count_and_temperature_gives(kind):
    rng = np.random.default_rng(5)
    free = np.array([0, 9, 1, 30, 0, 4, 4])
    k = len(free)
    value = complexity(rng.uniform(0, 1, k), rng.uniform(0, 1, k), kind, sizes=free)
    density = Density(free, value, rng.permutation(k), 0.1, 3)
    counts, temperatures = [0, 1, 5, 17, 47, 48], [0.01, 0.1, 10.0]
    budgets, at_bound = density.grid(counts, temperatures)
    for i, count in enumerate(counts):
        for j, temperature in enumerate(temperatures):
            one = density.at(count, temperature)
            assert budgets[i, j].tolist() == one.budget.tolist()
            assert at_bound[i, j].tolist() == [(one.at_cap[free > 0]).sum(), (one.at_floor[free > 0]).sum()]
    nothing = Density(np.zeros(2, np.int64), np.ones(2), np.arange(2), 0.1, 1)
    assert nothing.grid([0], [0.1])[0].tolist() == [[[0, 0]]]


@pytest.mark.parametrize("balance", [0.0, 0.35, 1.0])
def test_prototypes_flip_where_they_are_selected(balance):
    rng = np.random.default_rng(3)
    n, k = 60, 5
    concept, distance = rng.integers(0, k, n), rng.integers(0, 15, n) / 15
    tie = rng.permutation(n).astype(np.uint64)
    order = np.lexsort((tie, -distance))
    rank, position = np.zeros(n, int), np.empty(n, int)
    position[order] = np.arange(n)
    for j in range(k):
        inside = order[concept[order] == j]
        rank[inside] = np.arange(1, len(inside) + 1)
    keep = np.array([select_prototypes(distance, concept, tie, count, balance) for count in range(n + 1)])
    for row in range(0, n, 4):
        better = np.bincount(rank[position < position[row]])
        standing = InPrototypes(np.bincount(concept), int(concept[row]), int(rank[row]), better, balance)
        assert [standing.keeps(count) for count in range(n + 1)] == keep[:, row].tolist()
        flip = nearest_flip(standing, 20)
        assert (flip and abs(flip.count - 20)) == nearest(keep[:, row], 20)


def test_where_not_all_counts_are_tried_it_is_said():
    class Open(Nested):
        def side(self, count):
            return 1 if count >= 90 else -1 if count < 10 else 0

    flip = nearest_flip(Open(50, lambda count: (0, count), 0, 100), 0, tries=5)
    assert (flip.count, flip.nearest) == (90, False)
    assert nearest_flip(Nested(5, lambda count: (0, 100), 0, 100), 7) is None


# --- as a user ------------------------------------------------------------------------------------------------


def test_a_sample_is_found_by_uid_place_number_and_prefix(run, decisions):
    uid = "s000140"
    row = decisions.row(by_predicate=pl.col("uid") == uid, named=True)
    for which in (uid, f"{row['shard']}:{row['row']}", "140", "s00014"[:6] + "0"):
        assert explain(run, which)["uid"] == uid, which


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("s0001", "several uids begin with 's0001': s000100, s000101, s000102 and more"),
        ("nothing", "no sample 'nothing'"),
        ("260", "no sample '260'"),
        ("", "no sample ''"),
        ("x.parquet:3", "no shard 'x.parquet'; there are train-00000-of-00002.parquet"),
        ("train-00000-of-00002.parquet:130", "has 130 rows, numbered from 0; got row 130"),
    ],
)
def test_what_is_no_sample_is_refused(run, which, message):
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        explain(run, which)


def test_the_command_says_it_in_sentences_and_as_json(run, decisions, tmp_path):
    uid = decisions.filter(pl.col("reason") == "over_budget")["uid"][0]
    said = curate("explain", run, uid)
    assert said.code == 0
    facts = json.loads(curate("explain", run, uid, "--json").out)
    assert f"at keep {facts['flip']['keep']!r} ({facts['flip']['count']:,} rows) it is kept" in said.out
    assert said.out.splitlines()[0] == f"{uid}: dropped (over_budget)"
    for reason in decisions["reason"].unique():
        assert curate("explain", run, decisions.filter(pl.col("reason") == reason)["uid"][0]).code == 0
    assert curate("explain", tmp_path, uid).code == 2
    assert "no sample 'zzz'" in curate("explain", run, "zzz").error
