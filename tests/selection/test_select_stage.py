"""Selection by every method against small oracles, and the laws all methods share."""

import math
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from builders import planted, recipe_values, write_shards

from curate import open_run
from curate.hashing import hash_uids, tie
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe

N, SEED = 240, 3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with vectors of which some are copies, near-copies and unusable."""
    folder = tmp_path_factory.mktemp("select")
    rows = planted(N, copies=12, near=15)
    rows[40:44] = 0
    write_shards(folder / "in", rows, uid=False)
    return folder


def decide(place, *, name="run", **select):
    values = recipe_values(f"{place}/in/*.parquet", place / name, select=select, seed=SEED)
    values |= {"source": {"path": f"{place}/in/*.parquet"}, "limits": {"unusable": "10%"}}
    runner.run(parse_recipe(values))
    return open_run(place / name)


def eligible(run):
    """Return the rows selection saw, in uid order."""
    decisions = run.decisions().filter(pl.col("reason").is_in(["kept", "over_budget"]))
    return decisions.sort("uid")


def kept(run):
    return set(run.decisions().filter("keep")["uid"])


def smallest(uids, numbers, n):
    order = sorted(range(len(uids)), key=lambda i: (int(numbers[i]), int(tie([uids[i]], SEED)[0]), uids[i]))
    return [uids[i] for i in order[:n]]


def test_random_takes_the_smallest_hashes(place):
    run = decide(place, method="random", keep=0.3)
    uids = eligible(run)["uid"].to_list()
    n_keep = math.floor(Fraction(3, 10) * (N - 4) + Fraction(1, 2))
    assert kept(run) == set(smallest(uids, hash_uids(uids, SEED, "select", "random"), n_keep))


@pytest.mark.parametrize("balance", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("prefer", ["hardest", "easiest"])
def test_prototypes_take_floors_and_then_the_best_of_all(place, balance, prefer):
    run = decide(place, method="prototypes", count=61, balance=balance, prefer=prefer)
    rows = eligible(run)
    uids, distance = rows["uid"].to_list(), rows["distance"].to_numpy().astype(np.float64)
    concept = rows["concept"].to_numpy()
    sign = -1 if prefer == "hardest" else 1
    ties = tie(uids, SEED)
    order = sorted(range(len(uids)), key=lambda i: (sign * distance[i], int(ties[i]), uids[i]))
    each = math.floor(Fraction(str(balance)) * 61 / len(set(concept)))
    chosen = [i for c in set(concept) for i in [i for i in order if concept[i] == c][:each]]
    chosen += [i for i in order if i not in set(chosen)][: 61 - len(chosen)]
    assert kept(run) == {uids[i] for i in chosen}


@pytest.fixture(scope="module")
def n_eligible(place):
    return eligible(decide(place, method="density", count=1)).height


@pytest.mark.parametrize("method", ["density", "random", "prototypes"])
@pytest.mark.parametrize("n_keep", [0, 1, 57, "all"])
def test_laws_of_every_method(place, n_eligible, method, n_keep):
    count = n_eligible if n_keep == "all" else n_keep
    run = decide(place, method=method, count=count)
    decisions, concepts, rows = run.decisions(), run.concepts(), eligible(run)
    assert decisions["keep"].sum() == decisions["random_control"].sum() == count
    assert (decisions["keep"] == (decisions["reason"] == "kept")).all()
    assert decisions["weight"].to_list() == decisions["keep"].cast(pl.Float32).to_list()
    assert rows.height == n_eligible
    assert not decisions.filter(~pl.col("reason").is_in(["kept", "over_budget"]))["random_control"].any()
    uids = rows["uid"].to_list()
    control = smallest(uids, hash_uids(uids, SEED, "select", "control"), count)
    assert set(decisions.filter("random_control")["uid"]) == set(control), "the same for every method"
    for (concept,), group in rows.group_by("concept"):
        ranks = group.sort("rank")
        assert ranks["rank"].to_list() == list(range(1, len(group) + 1))
        assert ranks["keep"].to_list() == sorted(ranks["keep"], reverse=True), "kept from the front"
        if method != "random":
            assert ranks["distance"].to_list() == sorted(group["distance"], reverse=True)
        line = concepts.row(by_predicate=pl.col("concept") == concept, named=True)
        assert line["n_eligible"] == len(group)
        assert line["kept"] == line["budget"] == group["keep"].sum()
        assert line["at_cap"] == (line["kept"] == len(group))
        if method == "density":
            floor = (
                1 if count >= concepts.filter(pl.col("n_eligible") > 0).height else 0
            )  # lowered where it is too much
            assert line["at_floor"] == (line["budget"] == min(floor, len(group)))
    outside = decisions.filter(pl.col("reason").is_in(["kept", "over_budget"]).not_())
    assert outside["reason"].str.starts_with("unusable").any()
    usable = outside.filter(pl.col("reason") == "near_duplicate")
    assert usable["rank"].null_count() == len(usable) > 0
    assert concepts["kept"].sum() == count


@pytest.mark.parametrize(("of", "base"), [("input", N), ("usable", N - 4), ("eligible", None)])
def test_the_base_of_a_share(place, of, base):
    run = decide(place, method="density", keep=0.37, of=of)
    base = eligible(run).height if base is None else base
    assert len(kept(run)) == math.floor(Fraction(37, 100) * base + Fraction(1, 2))


def test_budgets_of_concepts_need_no_method(place):
    """Complexity says the same whatever the method; probability and target are density's own."""
    density = decide(place, method="density", keep=0.3).concepts()
    random = decide(place, method="random", keep=0.3).concepts()
    same = ["concept", "n_eligible", "d_intra", "d_inter", "complexity"]
    assert density.select(same).equals(random.select(same))
    assert density["probability"].sum() == pytest.approx(1)
    assert random["probability"].null_count() == random.height
    assert density["target"].sum() == pytest.approx(density["budget"].sum())


def test_a_floor_is_kept_and_said(place):
    concepts = decide(place, method="density", count=60, min_per_concept=4, temperature=0.005).concepts()
    floor = np.minimum(4, concepts["n_eligible"].to_numpy())
    assert (concepts["budget"].to_numpy() >= floor).all()
    assert concepts["at_floor"].to_list() == (concepts["budget"].to_numpy() == floor).tolist()
    assert concepts["at_floor"].any()


def test_another_seed_is_another_draw_of_the_same_size(place):
    first = kept(decide(place, method="random", count=50))
    values = recipe_values("", place / "run", select={"method": "random", "count": 50}, seed=SEED + 1)
    values |= {"source": {"path": f"{place}/in/*.parquet"}, "limits": {"unusable": "10%"}}
    runner.run(parse_recipe(values))
    second = kept(open_run(place / "run"))
    assert len(first) == len(second) == 50
    assert 0 < len(first & second) < 45
