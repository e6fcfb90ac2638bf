import math

import numpy as np
import pytest

from curate.clustering.complexity import complexity, inter_distance
from curate.errors import EmbeddingError, RecipeError
from curate.linalg import row_dots, unit_rows


def rows(n, d, seed=0):
    return unit_rows(np.random.default_rng(seed).standard_normal((n, d)))[0]


def inter_by_definition(centroids, neighbours):
    means = []
    for j in range(len(centroids)):
        others = np.delete(centroids, j, axis=0)
        nearest = np.sort(1 - np.clip(row_dots(others, centroids[j : j + 1]), -1, 1))[:neighbours]
        means.append(math.fsum(nearest) / len(nearest))
    return np.array(means)


@pytest.mark.parametrize(("k", "neighbours"), [(2, 20), (3, 1), (21, 20), (60, 20), (700, 3), (700, 20)])
def test_inter_distance_by_definition_at_any_tile(k, neighbours):
    centroids = rows(k, 8)
    want = inter_by_definition(centroids, neighbours)
    for tile in (1, 5 * k, 1 << 23):
        np.testing.assert_array_equal(inter_distance(centroids, neighbours, tile=tile), want)


def test_inter_distance_of_equal_and_close_centroids():
    same = np.repeat(rows(1, 8), 4, axis=0)
    np.testing.assert_allclose(inter_distance(same), 0, atol=3e-7)
    close = unit_rows(rows(1, 8) + 1e-6 * rows(300, 8, 1))[0]
    np.testing.assert_array_equal(inter_distance(close, 5), inter_by_definition(close, 5))


def test_inter_distance_edges():
    assert inter_distance(rows(1, 4)).tolist() == [1.0]
    assert inter_distance(np.empty((0, 4), np.float32)).shape == (0,)
    assert inter_distance(np.eye(2, dtype=np.float32)).tolist() == [1.0, 1.0]
    with pytest.raises(RecipeError, match=r"select\.neighbours must be at least 1, got 0"):
        inter_distance(rows(3, 4), 0)


def test_kinds_of_complexity():
    inter, intra = np.array([0.5, 1.0]), np.array([0.4, 0.1])
    assert complexity(inter, intra).tolist() == [0.2, 0.1]
    assert complexity(inter, intra, "inter").tolist() == [0.5, 1.0]
    assert complexity(inter, intra, "intra").tolist() == [0.4, 0.1]
    assert complexity(inter, intra, "uniform").tolist() == [1.0, 1.0]
    assert complexity(inter, intra, "size", sizes=np.array([3, 12])).tolist() == [0.25, 1.0]
    assert complexity(inter, intra, "dimension", dimension=np.array([3.0, 12.0])).tolist() == [0.25, 1.0]
    assert complexity(inter, np.array([-1e-6, 0.1])).tolist() == [0.0, 0.1]


@pytest.mark.parametrize("value", [-2e-6, np.nan, np.inf])
def test_complexity_refuses_what_cannot_be(value):
    with pytest.raises(EmbeddingError, match=r"d_intra must be finite .* concept 1.*not normalised"):
        complexity(np.ones(2), np.array([0.1, value]))
    with pytest.raises(EmbeddingError, match="d_inter"):
        complexity(np.array([value]), np.ones(1))


def test_complexity_refuses_other_kinds():
    with pytest.raises(
        RecipeError, match=r"inter\*intra, inter, intra, uniform, size, dimension, got 'both'"
    ):
        complexity(np.ones(1), np.ones(1), "both")
    with pytest.raises(RecipeError, match="needs the sizes"):
        complexity(np.ones(1), np.ones(1), "size")
