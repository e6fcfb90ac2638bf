"""What k-means is trained in, in a run: `cluster.precision`, noted with the fit, the same with any workers and on any processor."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import curate
from curate.clustering import kmeans
from curate.clustering.store import load_centroids
from curate.errors import RecipeError, UsageError
from curate.linalg import load_unit
from curate.pipeline import runner
from curate.products import processor
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards

N = 300


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("precision")
    write_shards(folder / "in", planted(N))
    go(folder, "whole", precision="int8")
    go(folder, "auto")
    return folder


def go(place, name, *, shards="in", more=None, **cluster):
    settings = {"cluster": {"concepts": 12, **cluster}, "dedup": {"exact": False}} | (more or {})
    recipe = parse_recipe(recipe_values(f"{place}/{shards}/*.parquet", place / name, **settings))
    runner.run(recipe, until="cluster")
    return Path(recipe.run) / "2_concepts"


def noted(folder):
    facts = json.loads((folder / "_done.json").read_text())
    return json.loads((facts.get("facts") or facts)["fit"])


def test_a_fit_says_what_it_was_trained_in(place):
    assert noted(place / "whole/2_concepts")["precision"] == "int8"
    assert noted(place / "auto/2_concepts")["precision"] == "float32"


def test_a_run_has_the_concepts_of_its_vectors_in_memory(place):
    whole, plain = (curate.cluster(load_unit(planted(N)), 12, precision=one) for one in ("int8", "float32"))
    found = load_centroids(place / "whole/2_concepts/centroids.parquet")
    np.testing.assert_array_equal(found, whole.centroids)
    assert not np.array_equal(plain.centroids, whole.centroids)
    np.testing.assert_array_equal(curate.cluster(load_unit(planted(N)), 12).centroids, plain.centroids)
    # Vectors are rounded as they are stored, which FAISS sees in last bits.
    auto = load_centroids(place / "auto/2_concepts/centroids.parquet")
    np.testing.assert_allclose(auto, plain.centroids, rtol=0, atol=1e-5)


def test_other_workers_shards_and_processors_change_no_byte(place, monkeypatch):
    monkeypatch.setattr(processor, "fast_precisions", lambda: frozenset())
    write_shards(place / "other-in", planted(N), shards=5, order=np.random.default_rng(0).permutation(N))
    other = go(place, "other", shards="other-in", more={"workers": 2, "memory": "1.5GB"}, precision="int8")
    whole = place / "whole/2_concepts"
    np.testing.assert_array_equal(
        load_centroids(whole / "centroids.parquet"), load_centroids(other / "centroids.parquet")
    )
    one, two = (pl.read_parquet(f"{folder}/assignments/*.parquet").sort("uid") for folder in (whole, other))
    assert one.equals(two)


def test_another_precision_fits_anew_and_the_same_one_does_not(place):
    folder = go(place, "changed", precision="float32")
    before = (folder / "centroids.parquet").stat()
    assert go(place, "changed", precision="float32") == folder
    assert (folder / "centroids.parquet").stat().st_mtime_ns == before.st_mtime_ns
    go(place, "changed", precision="int8")
    assert noted(folder)["precision"] == "int8"
    np.testing.assert_array_equal(
        load_centroids(folder / "centroids.parquet"),
        load_centroids(place / "whole/2_concepts/centroids.parquet"),
    )


def test_concepts_stay_in_the_precision_of_the_day_they_were_fitted(place, monkeypatch):
    """Data may grow past the size from which on auto takes 8 bits: what is fitted stays, until --refit."""
    folder = go(place, "grows")
    before = (folder / "centroids.parquet").read_bytes()
    monkeypatch.setattr(kmeans, "LARGE_FIT", 1)
    go(place, "grows")
    assert (folder / "centroids.parquet").read_bytes() == before
    assert noted(go(place, "fitted-now"))["precision"] == "int8"


def test_levels_are_trained_in_it_too(place, monkeypatch):
    folder = go(place, "levels", concepts="auto", levels=[20, 6, 2], resamples=2, precision="int8")
    groups = curate.cluster(load_unit(planted(N)), levels=[20, 6, 2], resamples=2, precision="int8")
    np.testing.assert_array_equal(load_centroids(folder / "centroids.parquet"), groups.centroids)


def test_another_word_is_refused_in_one_line():
    with pytest.raises(RecipeError, match=r"cluster\.precision") as caught:
        parse_recipe(recipe_values("a", "b", cluster={"precision": "bfloat16"}))
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UsageError, match="precision must be auto, float32 or int8, got 'int4'"):
        curate.cluster(np.eye(3), 2, precision="int4")
