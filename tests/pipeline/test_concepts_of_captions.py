"""Concepts of captions, and of images and captions: which vectors are clustered, compared and measured, and which rows are in."""

import math
import shutil

import numpy as np
import polars as pl
import pytest

import curate
from curate.analysis.verify.verify import check_run
from curate.api.select import select
from curate.clustering.complexity import inter_distance
from curate.clustering.geometry import centred, centred_distances, mean_vector
from curate.clustering.store import load_centroids
from curate.deduplication.semantic import find_duplicates, threshold_of
from curate.errors import EmbeddingError, RecipeError, UsageError
from curate.linalg import joined, load_unit, row_dots, unit_rows
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards

N, WITHOUT = 260, 7
IMAGE, TEXT = planted(N, near=20), planted(N, seed=3, clusters=5)
UIDS = [f"s{i:06d}" for i in range(N)]
#: The rows with a caption, in uid order.
THERE = np.arange(WITHOUT, N)


def stored(rows):
    """Return vectors as a run has them: scaled to length 1, in half precision, and scaled again."""
    return load_unit(unit_rows(rows)[0].astype(np.float16))


def words(order=range(N)):
    return [None if i < WITHOUT else TEXT[i].astype(np.float32).tolist() for i in order]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captions")
    write_shards(folder / "in", IMAGE, extra={"words": words()})
    return folder


def go(place, name, on, shards="in", *, until="select", cluster=None, **changes):
    values = recipe_values(
        f"{place}/{shards}/*.parquet", place / name, embed={"column": "embedding", "text_column": "words"},
        cluster={"on": on, "concepts": 9} | (cluster or {}), limits={"unusable": 1.0},
        **{"dedup": {"epsilon": 0.01, "exact": False}} | changes,
    )  # fmt: skip
    runner.run(parse_recipe(values), until=until)
    return curate.open_run(place / name)


@pytest.fixture(scope="module")
def runs(place):
    """One run of each kind."""
    return {
        on: go(place, on, on, until="report" if on == "both" else "select")
        for on in ("image", "text", "both")
    }


def rows_of(run):
    return pl.read_parquet(f"{run.folder.path}/2_concepts/assignments/*.parquet").sort("uid")


def vectors(on):
    """Return the unit vectors that are clustered, of the rows that can be in a concept, in uid order."""
    image, text = stored(IMAGE), stored(TEXT)
    if on == "image":
        return image
    return text[THERE] if on == "text" else load_unit(joined(image, text)[THERE])


def test_inner_products_of_both_are_means():
    image, text = stored(IMAGE), stored(TEXT)
    both = joined(image, text)
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, atol=1e-6)
    want = (row_dots(image, image[:1]) + row_dots(text, text[:1])) / 2
    np.testing.assert_allclose(row_dots(both, both[:1]), want, atol=1e-6)
    assert both.shape == (N, 32) and both.dtype == np.float32


@pytest.mark.parametrize("on", ["image", "text", "both"])
def test_the_vectors_asked_for_are_clustered(runs, on):
    rows = rows_of(runs[on])
    image, text = stored(IMAGE), stored(TEXT)
    groups = {
        "image": lambda: curate.cluster(image, 9), "text": lambda: curate.cluster(text[THERE], 9),
        "both": lambda: curate.cluster(image[THERE], 9, text=text[THERE]),
    }[on]()  # fmt: skip
    assert rows["uid"].to_list() == (UIDS if on == "image" else UIDS[WITHOUT:])
    assert rows["concept"].to_list() == groups.concept.tolist()
    np.testing.assert_array_equal(rows["distance"].to_numpy(), groups.distance)
    centroids = load_centroids(runs[on].folder.concepts / "centroids.parquet")
    np.testing.assert_array_equal(centroids, groups.centroids)


@pytest.mark.parametrize("on", ["text", "both"])
def test_rows_without_a_caption_have_an_outcome(runs, on):
    decisions = runs[on].decisions().sort("uid")
    assert decisions["reason"][:WITHOUT].to_list() == ["unusable:no_caption"] * WITHOUT
    assert not decisions["reason"][WITHOUT:].str.starts_with("unusable").any()
    assert on != "both" or check_run(runs[on].folder.path).violations == []


@pytest.mark.parametrize("on", ["text", "both"])
def test_captions_are_compared_with_text_and_images_with_both(runs, on):
    """Within each concept, in the order of its distances; against every pair of rows."""
    run, rows = runs[on], rows_of(runs[on])
    compared = (stored(TEXT) if on == "text" else stored(IMAGE))[THERE]
    found = pl.read_parquet(f"{run.folder.path}/4_duplicates/*.parquet").sort("uid")
    want = {}
    for concept in range(9):
        here = np.flatnonzero(rows["concept"].to_numpy() == concept)
        order = here[np.argsort(-rows["distance"].to_numpy()[here], kind="stable")]
        got = find_duplicates(compared[order], threshold=threshold_of(0.01), mode="greedy")
        for place, other in enumerate(got.duplicate_of.tolist()):
            want[UIDS[WITHOUT + order[place]]] = None if other < 0 else UIDS[WITHOUT + order[other]]
    assert dict(found.select("uid", "duplicate_of").iter_rows()) == want
    assert found["duplicate_of"].null_count() < len(found)


@pytest.mark.parametrize("on", ["image", "text", "both"])
def test_concepts_are_measured_where_they_were_made(runs, on):
    run, rows = runs[on], rows_of(runs[on])
    table, centroids = run.concepts(), load_centroids(run.folder.concepts / "centroids.parquet")
    np.testing.assert_array_equal(table["d_inter"].to_numpy(), inter_distance(centroids, 20))
    left = run.decisions().filter(pl.col("rank").is_not_null())["uid"].to_list()
    eligible = rows.with_row_index("at").filter(pl.col("uid").is_in(left))
    for concept, group in eligible.group_by("concept"):
        unit, centre = vectors(on)[group["at"].to_numpy()], centroids[concept[0]]
        distance = (1 - row_dots(unit, centre[None])).astype(np.float32).astype(np.float64)
        assert table["d_intra"][concept[0]] == math.fsum(distance.tolist()) / len(group)


def test_the_mean_is_that_of_the_space(place, runs):
    run = go(place, "mean", "both", select={"method": "density", "keep": 0.3, "subtract_mean": True})
    rows, centroids = rows_of(run), load_centroids(run.folder.concepts / "centroids.parquet")
    plain, table = runs["both"].concepts(), run.concepts()
    mean = mean_vector(centroids, plain["n_eligible"].to_numpy(), plain["d_intra"].to_numpy())
    left = run.decisions().filter(pl.col("rank").is_not_null())["uid"].to_list()
    for concept, group in rows.with_row_index("at").filter(pl.col("uid").is_in(left)).group_by("concept"):
        unit = vectors("both")[group["at"].to_numpy()]
        got = centred_distances(unit, centred(centroids, mean)[concept[0]][None], mean)
        assert table["d_intra"][concept[0]] == pytest.approx(got.mean(), abs=1e-9)


def test_diversity_is_that_of_the_space(place):
    run = go(place, "diverse", "both", select={"method": "diversity", "count": 60}, dedup={"exact": False})
    decided = run.decisions().filter(pl.col("rank").is_not_null()).sort("uid")
    frame = decided.select("uid", "concept", "distance")
    frame = frame.with_columns(pl.Series("vector", vectors("both").tolist(), pl.List(pl.Float32)))
    assert select(frame, "diversity", count=60)["keep"].to_list() == decided["keep"].to_list()


@pytest.mark.long
def test_heads_of_concepts_look_at_the_same_vectors(place):
    run = go(place, "heads", "both", score=[{"heads": {"kind": "concepts"}}], until="score")
    heads = run.scores().sort("uid")
    assert heads["pred_label"].to_list() == [str(one) for one in rows_of(run)["concept"].to_list()]


@pytest.mark.parametrize("on", ["text", "both"])
def test_shards_interruption_and_growth_change_nothing(place, runs, on):
    order = np.random.default_rng(0).permutation(N)
    write_shards(place / f"in-{on}", IMAGE[order], shards=2, extra={"words": words(order)})
    for path in sorted((place / f"in-{on}").glob("*.parquet")):
        rows = pl.read_parquet(path)
        rows.with_columns(id=pl.col("note").str.extract(r"(\d+)").cast(int)).with_columns(
            id=pl.Series([UIDS[order[i]] for i in rows["note"].str.extract(r"(\d+)").cast(int)])
        ).write_parquet(path)
    go(place, f"again-{on}", on, f"in-{on}", until="cluster")
    run = go(place, f"again-{on}", on, f"in-{on}")
    same = ["uid", "keep", "reason", "concept", "distance", "duplicate_of"]
    assert run.decisions().select(same).sort("uid").equals(runs[on].decisions().select(same).sort("uid"))
    before = (run.folder.concepts / "centroids.parquet").read_bytes()
    more = pl.read_parquet(place / f"in-{on}" / "train-00001-of-00002.parquet")[:40]
    more = more.with_columns(pl.format("t{}", "id").alias("id"))
    more.write_parquet(place / f"in-{on}" / "train-00002-of-00003.parquet")
    grown = go(place, f"again-{on}", on, f"in-{on}")
    assert (grown.folder.concepts / "centroids.parquet").read_bytes() == before
    old = rows_of(grown).filter(~pl.col("uid").str.starts_with("t"))
    assert old.equals(rows_of(runs[on]))


def test_vectors_stay_when_both_take_the_place_of_text(place, runs):
    shutil.copytree(runs["text"].folder.path, place / "text-then-both")
    files = sorted((place / "text-then-both" / "1_embeddings").glob("*.arrow"))
    before = [file.stat().st_mtime_ns for file in files]
    run = go(place, "text-then-both", "both")
    assert [file.stat().st_mtime_ns for file in files] == before
    assert rows_of(run).equals(rows_of(runs["both"]))


def test_levels_of_both(place):
    run = go(place, "levels", "both", cluster={"levels": [9, 3], "concepts": "auto"}, until="cluster")
    groups = curate.cluster(stored(IMAGE)[THERE], text=stored(TEXT)[THERE], levels=[9, 3])
    assert rows_of(run)["concept"].to_list() == groups.concept.tolist()
    parents = pl.read_parquet(run.folder.concepts / "parents.parquet")["concept_2"]
    assert parents.to_list() == groups.parents[0].tolist()


def test_what_cannot_be(place):
    with pytest.raises(RecipeError, match=r"cluster.on must be .*'both', got 'words'"):
        go(place, "none", "words")
    values = recipe_values(f"{place}/in/*.parquet", place / "no-text", cluster={"on": "both", "concepts": 9})
    with pytest.raises(UsageError, match=r"cluster\.on both needs captions"):
        runner.run(parse_recipe(values))
    with pytest.raises(UsageError, match="text must have one row for each of 260 vectors, got 2"):
        curate.cluster(IMAGE, text=TEXT[:2])
    with pytest.raises(EmbeddingError, match="finite and not zero, row 1"):
        curate.cluster(IMAGE[:2], text=np.array([[1.0, 0], [np.nan, 0]]))


def test_a_target_does_not_go_into_concepts_of_both(place):
    np.save(place / "target.npy", planted(5).astype(np.float32))
    with pytest.raises(
        UsageError, match=r"images and captions together \(cluster.on both\): give it centroids"
    ):
        go(place, "target", "both", score=[{"target_clusters": {"target": f"{place}/target.npy"}}])
    assert not (place / "target" / "1_embeddings").exists()
