"""Stage `select` that was ended, or that another method follows: the same bytes as those of a fresh run."""

import numpy as np
import polars as pl
import pytest

from curate import open_run
from curate.execution import exchange
from curate.execution.context import Context
from curate.io import storage
from curate.pipeline import runner
from curate.pipeline.stages import select
from curate.recipe.loading import parse_recipe
from curate.selection.rows import ranks, run_rows
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.folders import changed, tables

pytestmark = pytest.mark.usefixtures("no_flush")
N, SEED = 120, 3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a source, and scores that some rows lack."""
    folder = tmp_path_factory.mktemp("edges")
    labels = [("cät", "犬", None)[i % 3] for i in range(N)]
    write_shards(folder / "in", planted(N), extra={"label": labels})
    position = np.random.default_rng(1).gamma(1.0, 1.0, N)
    table = pl.DataFrame({"id": [f"s{i:06d}" for i in range(N)], "position": position})
    table.filter(pl.int_range(N) % 10 != 0).write_parquet(folder / "mine.parquet")
    return folder


def recipe(place, out, *, weight=None, **changes):
    score = [{"file": f"{place}/mine.parquet", "on": "id", "on_missing": "null"}]
    settings = {name: changes.pop(name) for name in ("filter", "workers") if name in changes}
    values = recipe_values(f"{place}/in/*.parquet", out, select=changes, score=score, seed=SEED)
    values["source"] |= {"label": "label"}
    return parse_recipe(values | {"weight": weight} | settings)


def decide(place, out, **given):
    runner.run(recipe(place, out, **given), until="select")
    return open_run(out)


class Ended(BaseException):
    """The process was killed."""


def ended(monkeypatch, where, name, *, after=0):
    """Let the function `name` end the run at its call number `after`, counted from 0."""
    real, calls = getattr(where, name), []

    def end(*arguments):
        calls.append(1)
        if len(calls) > after:
            raise Ended
        return real(*arguments)

    monkeypatch.setattr(where, name, end)


WEIGHTED = {"method": "stratified", "by": "position", "count": 40, "weight": "inverse"}


DIVERSE = {"method": "diversity", "count": 40}


@pytest.fixture(scope="module")
def fresh(place, tmp_path_factory):
    """The folders of fresh runs, by method."""
    folder = tmp_path_factory.mktemp("fresh")
    for given in (WEIGHTED, DIVERSE):
        decide(place, folder / given["method"], **given)
    return {given["method"]: folder / given["method"] for given in (WEIGHTED, DIVERSE)}


@pytest.mark.parametrize(
    "given", [pytest.param(WEIGHTED, marks=pytest.mark.long), DIVERSE], ids=["weights", "ranks"]
)
def test_ended_at_any_file_it_goes_on_to_the_same_bytes(place, fresh, tmp_path, monkeypatch, given):
    expected = tables(fresh[given["method"]])
    decide(place, tmp_path / "run", method="random", count=10)
    for step in range(0, 200, 7):
        with monkeypatch.context() as patch:
            ended(patch, storage, "_sync", after=step)
            try:
                decide(place, tmp_path / "run", **given)
            except Ended:
                continue
        break
    assert step >= 14
    assert changed(expected, tables(tmp_path / "run")) == []


def test_facts_of_concepts_that_another_run_began_are_not_taken(place, tmp_path, monkeypatch):
    """A run ended between the two files of a bucket leaves facts that belong to its own ranks only."""
    given = {"method": "density", "count": 20}
    decide(place, tmp_path / "fresh", **given)
    expected = tables(tmp_path / "fresh")
    with monkeypatch.context() as patch, pytest.raises(Ended):
        ended(patch, select, "decide_part")
        decide(place, tmp_path / "run", **given)
    with monkeypatch.context() as patch, pytest.raises(Ended):
        ended(patch, ranks, "scatter_back")
        decide(place, tmp_path / "run", filter=["distance > 0.05"], **given)
    decide(place, tmp_path / "run", **given)
    assert changed(expected, tables(tmp_path / "run")) == []


def test_buckets_of_other_memory_are_not_taken(place, fresh, tmp_path, monkeypatch):
    """As many buckets, but other concepts in them: what was ranked for them is of no use."""
    given, expected = DIVERSE, fresh["diversity"]
    sizes = pl.read_parquet(expected / "2_concepts" / "concepts.parquet")["n_assigned"].to_numpy()
    plans = {rows: exchange.plan_buckets(sizes, rows).tolist() for rows in range(15, 31)}
    one, two = next(
        (a, b)
        for a in plans
        for b in plans
        if a < b and max(plans[a]) == max(plans[b]) and plans[a] != plans[b]
    )
    row_bytes = ranks.ROW_BYTES + 16 * ranks.VECTOR_BYTES
    with monkeypatch.context() as patch, pytest.raises(Ended):
        patch.setattr(Context, "task_memory", 3 * row_bytes * one)
        ended(patch, run_rows, "_rearrange_bucket", after=max(plans[one]))
        decide(place, tmp_path / "run", **given)
    monkeypatch.setattr(Context, "task_memory", 3 * row_bytes * two)
    run = decide(place, tmp_path / "run", **given)
    assert run.decisions().equals(open_run(expected).decisions())


def test_methods_back_and_forth_and_workers_give_the_bytes_of_a_fresh_run(place, fresh, tmp_path):
    for workers, given in zip((1, 1, 1, 2), (WEIGHTED, DIVERSE) * 2, strict=True):
        decide(place, tmp_path / "run", workers=workers, **given)
        assert changed(tables(fresh[given["method"]]), tables(tmp_path / "run")) == []
