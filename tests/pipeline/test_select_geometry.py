"""Complexity without the mean, by dimension, and at a temperature that is solved for: a run, against its own tables."""

import logging

import numpy as np
import polars as pl
import pytest

import curate
from curate.analysis.plan import plan
from curate.analysis.summary.summary import summarize
from curate.clustering.dimension import intrinsic_dimension
from curate.pipeline import runner
from curate.recipe.loading import load_recipe, parse_recipe
from curate.selection.spread import spread
from tests.fixtures.builders import recipe_values, write_shards

N, DIM = 400, 16


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Vectors of one large common part, as an encoder's are, in groups of different spread and dimension."""
    folder = tmp_path_factory.mktemp("geometry")
    rng = np.random.default_rng(0)
    common = 4 * np.eye(DIM)[0]
    rows = []
    for group in range(5):
        axes = rng.normal(size=(1 + group * 2, DIM))
        rows.append(
            common
            + rng.normal(size=DIM)
            + 0.15 * (group + 1) * rng.normal(size=(N // 5, len(axes))) @ axes / 3
        )
    write_shards(folder / "in", np.concatenate(rows).astype(np.float32), shards=3)
    runner.run(
        parse_recipe(
            recipe_values(f"{folder}/in/*.parquet", folder / "run", select={"count": 90, "prefer": "random"})
        )
    )
    return folder


def decided(place, **settings):
    run = place / "run"
    recipe = load_recipe(run / "recipe.yaml", [f"select.{name}={value}" for name, value in settings.items()])
    runner.run(recipe, until="select")
    return curate.open_run(run)


def tables(run):
    """Return unit vectors (float64), concepts, and centroids of the rows that reached selection."""
    path = run.folder.path
    rows = run.decisions().filter(pl.col("rank").is_not_null()).select("uid", "concept")
    vectors = pl.concat([pl.read_ipc(file) for file in sorted(run.folder.embeddings.glob("*.arrow"))])
    found = rows.join(vectors.select("uid", "image"), on="uid", how="left", maintain_order="left")
    unit = np.stack(found["image"].to_list()).astype(np.float64)
    centroids = np.array(pl.read_parquet(path / "2_concepts" / "centroids.parquet")["centroid"].to_list())
    return unit / np.linalg.norm(unit, axis=1, keepdims=True), found["concept"].to_numpy(), centroids


def test_without_the_mean(place):
    run = decided(place, subtract_mean="true", temperature="auto")
    unit, concept, centroids = tables(run)
    sizes = np.bincount(concept, minlength=len(centroids))
    intra = np.array([(1 - unit[concept == j] @ c).mean() for j, c in enumerate(centroids)])
    mean = (sizes * (1 - intra)) @ centroids / len(unit)
    assert mean == pytest.approx(unit.mean(axis=0), abs=0.01)

    def without(rows):
        return (rows - mean) / np.linalg.norm(rows - mean, axis=1, keepdims=True)

    rest, centres = without(unit), without(centroids)
    expected = np.array([(1 - rest[concept == j] @ c).mean() for j, c in enumerate(centres)])
    products = centres @ centres.T
    np.fill_diagonal(products, -np.inf)
    near = np.sort(1 - products, axis=1)[:, : min(20, len(centres) - 1)].mean(axis=1)
    table = run.concepts()
    assert table["d_intra"].to_numpy() == pytest.approx(expected, abs=1e-5)
    assert table["d_inter"].to_numpy() == pytest.approx(near, abs=1e-5)
    assert table["complexity"].to_numpy() == pytest.approx(expected * near, abs=1e-5)
    facts = run.folder.marker(run.folder.decisions)["facts"]["complexity"]
    again = spread(table["complexity"].to_numpy(), facts["temperature"])
    assert facts == again.facts and facts["effective_share"] == pytest.approx(0.9, abs=0.01)
    assert summarize(run.folder).as_dict()["complexity"] == facts
    assert plan(run.folder.path)["now"]["temperature"] == facts["temperature"]


def test_by_dimension(place):
    run = decided(place, subtract_mean="false", temperature="{effective_share: 0.7}", complexity="dimension")
    unit, concept, centroids = tables(run)
    known = np.array(
        [
            intrinsic_dimension(unit[concept == j].astype(np.float32).astype(np.float64))
            for j in range(len(centroids))
        ]
    )
    known = np.where(np.isfinite(known), known, np.nanmedian(known))
    assert run.concepts()["complexity"].to_numpy() == pytest.approx(known / known.max(), rel=1e-3)
    assert run.concepts()["complexity"].n_unique() > 3
    facts = run.folder.marker(run.folder.decisions)["facts"]["complexity"]
    assert facts["effective_share"] == pytest.approx(0.7, abs=0.01)


@pytest.mark.long
def test_the_same_on_any_number_of_workers(place, tmp_path):
    settings = {
        "count": 90,
        "prefer": "random",
        "subtract_mean": True,
        "complexity": "dimension",
        "temperature": "auto",
    }
    tables = []
    for workers, memory in ((1, "4GB"), (2, "2GB")):
        values = recipe_values(
            f"{place}/in/*.parquet", tmp_path / str(workers), select=settings, workers=workers, memory=memory
        )
        runner.run(parse_recipe(values), until="select")
        run = curate.open_run(tmp_path / str(workers))
        tables.append((run.concepts(), run.decisions()))
    assert tables[0][0].equals(tables[1][0]) and tables[0][1].equals(tables[1][1])


def test_a_run_says_when_complexity_decides_nothing(place, caplog):
    with caplog.at_level(logging.INFO, logger="curate"):
        run = decided(place, temperature=10, complexity="inter*intra", subtract_mean="false")
    (said,) = summarize(run.folder).warnings[-1:]
    assert said.startswith("select: complexity decides nothing here: all concepts get about the same share")
    assert said in caplog.text
    assert "complexity gives the largest concept 1" in caplog.text
    even = decided(place, complexity="inter*intra", temperature="{effective_share: 0.99}")
    assert summarize(even.folder).warnings[-1].endswith("because all are as complex")
    assert not [
        one
        for one in summarize(decided(place, complexity="uniform").folder).warnings
        if "decides nothing" in one
    ]
    assert not [one for one in summarize(decided(place, complexity="inter*intra", temperature="auto").folder).warnings
                if "decides nothing" in one]  # fmt: skip


def test_in_memory_as_in_a_run(place):
    """Where the centroids are the means of what is given, and no distance is."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(120, 6)) + 3
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    concept = rng.integers(0, 4, 120)
    frame = pl.DataFrame(
        {"uid": [f"{i:03d}" for i in range(120)], "concept": concept, "vector": unit.tolist()}
    )
    kinds = [curate.select(frame.with_columns(distance=pl.lit(0.1)), count=40, method="density", prefer="random", **one)
             for one in ({}, {"subtract_mean": True, "temperature": "auto"}, {"complexity": "dimension", "temperature": {"effective_share": 0.6}})]  # fmt: skip
    assert all(one["keep"].sum() == 40 for one in kinds)
    assert len({tuple(one["keep"]) for one in kinds}) == 3


def test_a_temperature_that_is_no_number(place):
    with pytest.raises(curate.errors.RecipeError, match=r"select\.temperature must be a number, got 'warm'"):
        decided(place, temperature="warm")
