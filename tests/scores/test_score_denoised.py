"""Distances without what no concept nearby explains: against projections by least squares, and in a run."""

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import curate
from curate.clustering.kmeans import assign, fit
from curate.clustering.store import load_centroids
from curate.errors import EmbeddingError, RecipeError, UsageError
from curate.linalg import joined, load_unit, unit_rows
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.scores.denoised import concept_basis, denoised, nearest_centroids
from tests.fixtures.builders import planted, recipe_values, write_shards


def rows(n, d, seed=0):
    return unit_rows(np.random.default_rng(seed).standard_normal((n, d)))[0]


def projected(vector, space):
    return space.T @ np.linalg.lstsq(space.T, vector, rcond=None)[0] if len(space) else np.zeros(len(vector))


def by_definition(vectors, concept, centroids, count, strength):
    """Project by least squares on each concept's own centroid and its nearest ones, found by sorting all."""
    distance, outside = [], []
    for vector, one in zip(vectors.astype(np.float64), concept, strict=True):
        dots = centroids.astype(np.float64) @ centroids[one].astype(np.float64)
        others = [j for j in sorted(range(len(centroids)), key=lambda j: (-dots[j], j)) if j != one]
        space = np.empty((0, len(vector)))
        for centroid in centroids[[one, *others[: count - 1]]].astype(np.float64):
            if np.linalg.norm(centroid - projected(centroid, space)) >= 1e-4:  # else it adds no direction
                space = np.vstack([space, centroid])
        inside = projected(vector, space)
        left = (1 - strength) * vector + strength * inside
        length = np.linalg.norm(left)
        distance.append(1 - left @ centroids[one] / length if length > 1e-6 else 1.0)
        outside.append(np.linalg.norm(vector - inside) ** 2 / (vector @ vector))
    return np.array(distance), np.array(outside)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(2, 9),
    st.integers(1, 6),
    st.sampled_from([0.25, 0.9, 1.0]),
    st.integers(0, 99),
)
@example(5, 2, 2, 0.25, 38)  # the centroids of two concepts differ by 5e-5
def test_by_least_squares(k, d, count, strength, seed):
    x, centroids = rows(30, d, seed), rows(k, d, seed + 100)
    concept, _ = assign(x, centroids)
    near = nearest_centroids(centroids, count)
    got, want = (
        denoised(x, concept, centroids, near, strength),
        by_definition(x, concept, centroids, count, strength),
    )
    np.testing.assert_allclose(got[1], want[1], atol=1e-9)
    clear = (1 - want[1] > 1e-6) | (strength < 1)  # of what lies outside almost wholly, no direction is left
    np.testing.assert_allclose(got[0][clear], want[0][clear], atol=1e-6)


def test_the_whole_cosine_is_the_product_of_both():
    x = rows(400, 24)
    centroids = fit(x, 20, seed=0).centroids
    concept, plain = assign(x, centroids)
    distance, outside = denoised(x, concept, centroids, nearest_centroids(centroids, 6))
    np.testing.assert_allclose((1 - distance) * np.sqrt(1 - outside), 1 - plain, atol=1e-6)
    assert (distance <= plain + 1e-6).all() and 0 < outside.min() < outside.max() < 1
    more = denoised(x, concept, centroids, nearest_centroids(centroids, 12))[1]
    assert (more <= outside + 1e-12).all(), "a larger space leaves less outside"
    half = denoised(x, concept, centroids, nearest_centroids(centroids, 6), 0.5)[0]
    assert (half <= plain + 1e-6).all() and (half >= distance - 1e-12).all()


def test_noise_goes_and_what_concepts_explain_stays():
    """Rows between two centroids, with noise outside of their plane: without the noise the places are those before it."""
    rng = np.random.default_rng(0)
    centroids = np.eye(40, dtype=np.float32)[:2]
    share = rng.uniform(0.5, 1.0, 200)
    clean = np.zeros((200, 40))
    clean[:, 0], clean[:, 1] = share, np.sqrt(1 - share**2)
    noise = np.concatenate(
        [np.zeros((200, 2)), rng.standard_normal((200, 38)) * rng.uniform(0, 0.2, (200, 1))], axis=1
    )
    x = unit_rows(clean + noise)[0]
    concept, near = np.zeros(200, np.int32), nearest_centroids(centroids, 2)
    distance, outside = denoised(x, concept, centroids, near)
    np.testing.assert_allclose(distance, 1 - share, atol=1e-6)
    np.testing.assert_allclose(outside, (lengths := (noise**2).sum(axis=1)) / (1 + lengths), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 50))
def test_nearest_centroids_by_sorting(k, count, seed):
    centroids = rows(k, 6, seed)
    centroids[k // 2 :] = centroids[: k - k // 2]  # equal ones: the lowest id first
    found = nearest_centroids(centroids, count)
    dots = np.array([[np.multiply(a, b, dtype=np.float64).sum() for b in centroids] for a in centroids])
    for one in range(k):
        others = sorted((j for j in range(k) if j != one), key=lambda j: (-dots[one][j], j))
        assert found[one].tolist() == [one, *others[: count - 1]]


def test_a_basis_is_at_right_angles_and_spans_the_centroids():
    centroids = rows(7, 12)
    centroids[4], centroids[6] = centroids[1], unit_rows((centroids[0] + centroids[2])[None])[0][0]
    basis = concept_basis(centroids)
    assert basis.shape == (5, 12)
    np.testing.assert_allclose(basis @ basis.T, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(centroids @ basis.T @ basis, centroids, atol=1e-6)


def test_edges_and_rows_alone():
    centroids = rows(5, 8)
    near = nearest_centroids(centroids, 3)
    none = denoised(np.empty((0, 8), np.float32), np.empty(0, np.int32), centroids, near)
    assert [one.shape for one in none] == [(0,), (0,)]
    one = denoised(centroids[:1], np.array([0]), centroids[:1], nearest_centroids(centroids[:1], 8))
    np.testing.assert_allclose(one, [[0.0], [0.0]], atol=1e-6)
    across = np.array([[0, 0, 1]], np.float32)
    assert np.ravel(
        denoised(across, np.array([0]), np.eye(3, dtype=np.float32)[:2], np.array([[0, 1]]))
    ).tolist() == [1, 1]
    x = rows(50, 8, 3)
    concept, _ = assign(x, centroids)
    whole = denoised(x, concept, centroids, near)
    alone = [denoised(x[i : i + 1], concept[i : i + 1], centroids, near) for i in range(50)]
    assert [float(a[0][0]) for a in alone] == whole[0].tolist() and [float(a[1][0]) for a in alone] == whole[
        1
    ].tolist()
    with pytest.raises(EmbeddingError, match=r"got \(50, 8\) and \(5, 7\)"):
        denoised(x, concept, centroids[:, :7], near)


@pytest.mark.parametrize("on", ["image", "both"])
def test_a_run_scores_the_vectors_of_its_concepts(tmp_path, on):
    image, text = planted(120), planted(120, seed=4)
    write_shards(tmp_path / "in", image, extra={"words": text.astype(np.float32).tolist()})
    values = recipe_values(
        f"{tmp_path}/in/*.parquet", tmp_path / "run", embed={"column": "embedding", "text_column": "words"},
        cluster={"concepts": 9, "on": on}, score=[{"denoised": {"centroids": 4, "strength": 0.8}}],
        select={"method": "density", "prefer": "score:denoised_distance", "keep": 0.3},
    )  # fmt: skip
    runner.run(parse_recipe(values), until="select")
    run = curate.open_run(tmp_path / "run")
    got = run.scores().sort("uid")
    stored = [load_unit(unit_rows(one)[0].astype(np.float16)) for one in (image, text)]
    x = load_unit(joined(*stored)) if on == "both" else stored[0]
    centroids = load_centroids(run.folder.concepts / "centroids.parquet")
    want = denoised(x, got["concept"].to_numpy(), centroids, nearest_centroids(centroids, 4), 0.8)
    assert got["denoised_distance"].to_list() == want[0].astype(np.float32).tolist()
    assert got["outside_concepts"].to_list() == want[1].astype(np.float32).tolist()
    assert got["denoised_status"].unique().to_list() == ["ok"]
    kept = run.decisions().filter(pl.col("rank") == 1).join(got, on="uid")
    best = got.filter(
        pl.col("uid").is_in(run.decisions().filter(pl.col("rank").is_not_null())["uid"].to_list())
    )
    most = dict(best.group_by("concept").agg(pl.col("denoised_distance").max()).iter_rows())
    assert all(row["denoised_distance"] == most[row["concept"]] for row in kept.iter_rows(named=True))


def test_what_cannot_be():
    with pytest.raises(RecipeError, match="strength"):
        parse_recipe(recipe_values("a", "b", score=[{"denoised": {"strength": 0}}]))
    with pytest.raises(UsageError, match="denoised is computed in a run only"):
        curate.score(rows(4, 3), "denoised")
