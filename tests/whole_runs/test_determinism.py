"""The same bytes whatever the workers, the memory and the place; the same decisions whatever the shards."""

import numpy as np
import pytest

from curate import open_run
from curate.analysis.verify.verify import decisions_digest, verify_run
from curate.execution.context import Context
from curate.io import storage
from curate.pipeline import runner
from curate.pipeline.stages import read
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.folders import changed, tables

ROWS, COPIES, NEAR = 620, 40, 40

CASES = {
    "density": {},
    "easiest": {"select": {"keep": 0.4, "prefer": "easiest"}, "dedup": {"epsilon": 0.01, "prefer": "easiest"}},
    "prefer-random": {"select": {"count": 111, "prefer": "random"}, "dedup": {"epsilon": 0.01, "prefer": "random"}},
    "random": {"select": {"method": "random", "keep": 0.3}},
    "prototypes": {"select": {"method": "prototypes", "keep": 0.5, "balance": 0.4}},
    "reference": {"dedup": {"epsilon": 0.05, "mode": "reference"}},
    "drop-share": {"dedup": {"epsilon": {"drop": 0.2}}},
    "inexact": {"dedup": {"exact": False, "epsilon": 0.001}},
    "split": {"dedup": {"epsilon": 0.02, "max_concept": 30}},
    "none": {"dedup": {"epsilon": None}, "cluster": {"concepts": 3}, "seed": 5},
}  # fmt: skip
#: What every run of the tests looks at; the others differ from these in little.
USUAL = ("density", "split")
ALL_CASES = [name if name in USUAL else pytest.param(name, marks=pytest.mark.long) for name in CASES]


def vectors():
    """Clusters with exact copies, near-copies and rows without a direction, heavily tied distances included."""
    rows = planted(ROWS, seed=4, copies=COPIES, near=NEAR)
    rows[300:310] = -rows[300:310]
    rows[310:316] = 0
    rows[316] = np.nan
    rows[317, 3] = np.inf
    return rows


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The same rows, as they are in three shards and mixed in five, with named uids and without."""
    folder = tmp_path_factory.mktemp("shards")
    mixed = np.random.default_rng(1).permutation(ROWS)
    return {
        (name, uid): write_shards(folder / f"{name}-{uid}", vectors(), shards=n, order=order, uid=uid)
        for name, n, order in (("whole", 3, None), ("mixed", 5, mixed))
        for uid in (True, False)
    }


@pytest.fixture(autouse=True)
def no_flush(monkeypatch):
    """Flushing to the disk takes most of the time of small runs, and nothing is killed here."""
    monkeypatch.setattr(storage, "_sync", lambda path: None)


def decide(recipe):
    """Run up to the shards; the report costs as much again in runs as small as these."""
    runner.run(recipe, until="write")


def recipe_of(glob, out, case, *, uid=True, **more):
    values = recipe_values(glob, out, **{"limits": {"unusable": 0.5}} | case | more)
    values["source"] = {"path": glob, "uid": "id" if uid else None}
    return parse_recipe(values)


@pytest.fixture
def tiny_memory(monkeypatch):
    """Make every task believe that it has next to no memory, so that everything goes through many buckets."""

    def shrink(size=30_000):
        monkeypatch.setattr(Context, "task_memory", property(lambda self: size))

    return shrink


@pytest.mark.parametrize("name", ALL_CASES)
def test_bytes_and_decisions_do_not_depend_on_memory_place_shards_and_parts(
    shards, tmp_path, tiny_memory, monkeypatch, name
):
    case = CASES[name]
    decide(recipe_of(shards["whole", True], tmp_path / "a", case, memory="4GB"))
    expected = tables(tmp_path / "a")
    assert len(expected) > 20

    tiny_memory()
    elsewhere = tmp_path / "some where" / "else"
    decide(recipe_of(shards["whole", True], elsewhere, case, memory="1GB"))
    assert changed(expected, tables(elsewhere)) == []

    monkeypatch.setattr(read, "PART_ROWS", 100)
    decide(recipe_of(shards["mixed", True], tmp_path / "mixed", case))
    assert len(list((tmp_path / "mixed" / "0_samples").glob("part-*"))) == 10
    assert decisions_digest(tmp_path / "mixed") == decisions_digest(tmp_path / "a")


@pytest.mark.parametrize("name", ["density", pytest.param("inexact", marks=pytest.mark.long)])
def test_decisions_on_derived_uids_do_not_depend_on_shards(shards, tmp_path, monkeypatch, name):
    case = CASES[name]
    decide(recipe_of(shards["whole", False], tmp_path / "a", case, uid=False))
    monkeypatch.setattr(read, "PART_ROWS", 90)
    decide(recipe_of(shards["mixed", False], tmp_path / "b", case, uid=False))
    digests = [decisions_digest(tmp_path / run) for run in "ab"]
    assert digests[0] == digests[1]
    uids = open_run(tmp_path / "a").samples().filter(outcome="ok")["uid"]
    assert uids.n_unique() == len(uids) - (0 if name == "inexact" else COPIES)


def test_bytes_do_not_depend_on_workers(shards, tmp_path):
    case = CASES["split"] | {"write": {"max_shard_size": 1_500}, "filter": ["distance < 0.95"]}
    for workers in (1, 2):
        decide(recipe_of(shards["whole", True], tmp_path / str(workers), case, workers=workers))
    assert changed(tables(tmp_path / "1"), tables(tmp_path / "2")) == []


@pytest.mark.long
def test_bytes_of_shards_that_are_split_do_not_depend_on_the_memory(shards, tmp_path, tiny_memory):
    case = {"write": {"max_shard_size": 900, "columns": ["concept", "rank"]}}
    decide(recipe_of(shards["whole", True], tmp_path / "a", case))
    tiny_memory(4_000)
    decide(recipe_of(shards["whole", True], tmp_path / "b", case))
    written = [name for name in tables(tmp_path / "a") if name.startswith("6_")]
    assert len(written) > 3
    assert changed(tables(tmp_path / "a"), tables(tmp_path / "b")) == []


@pytest.mark.long
def test_the_digest_sees_decisions_and_nothing_else(shards, tmp_path):
    for out, changes in {"a": {}, "b": {"seed": 1}, "c": {"select": {"keep": 0.31}}, "d": {}}.items():
        recipe = recipe_of(shards["whole", True], tmp_path / out, {}, **changes)
        decide(recipe)
    digests = {out: decisions_digest(tmp_path / out) for out in "abcd"}
    assert digests["a"] == digests["d"]
    assert len(set(digests.values())) == 3


@pytest.mark.parametrize("name", ["inexact", pytest.param("density", marks=pytest.mark.long)])
def test_every_row_is_in_samples_and_decisions_once_in_one_order(shards, tmp_path, name):
    runner.run(recipe_of(shards["mixed", False], tmp_path / name, CASES[name], uid=False))
    verify_run(tmp_path / name)
    run = open_run(tmp_path / name)
    samples, decisions = run.samples(), run.decisions()
    place = ["uid", "occurrence", "shard", "row"]
    assert samples.select(place).equals(decisions.select(place))
    assert not decisions.select("shard", "row").is_duplicated().any()
    assert not decisions.select("uid", "occurrence").is_duplicated().any()
    counts = run.manifest()["counts"]
    assert len(decisions) == counts["rows"] == ROWS
    assert sum(counts["unusable"].values()) == 8
    assert counts["kept"] + sum(counts["dropped"].values()) + 8 == ROWS
    assert decisions["keep"].equals(decisions["reason"] == "kept", check_names=False)
    assert (decisions["weight"] == decisions["keep"]).all()
