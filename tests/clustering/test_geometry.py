"""Geometry of concepts with the mean taken out, and intrinsic dimension, against versions written from the definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.clustering.dimension import intrinsic_dimension, neighbour_ratios
from curate.clustering.geometry import between, centred, centred_distances, mean_vector, with_known
from curate.linalg import load_unit


def unit(n, dim, seed, offset=0.0):
    return load_unit((np.random.default_rng(seed).normal(size=(n, dim)) + offset).astype(np.float32))


@given(st.integers(1, 30), st.integers(2, 9), st.floats(0, 5), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_without_the_mean_is_the_cosine_of_differences(n, dim, offset, seed):
    rows, centres = unit(n, dim, seed, offset), unit(3, dim, seed + 1, offset)
    mean = rows.astype(np.float64).mean(axis=0)
    got = centred_distances(rows, centred(centres[:1], mean), mean)
    for row, distance in zip(rows.astype(np.float64), got, strict=True):
        a, b = row - mean, centres[0].astype(np.float64) - mean
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        if min(np.linalg.norm(a), np.linalg.norm(b)) > 1e-5:
            assert distance == pytest.approx(1 - a @ b / lengths, abs=1e-9)
    assert ((got >= 0) & (got <= 2)).all()


def test_the_mean_of_concepts_is_the_mean_of_their_members():
    """Exactly so where a centroid is the direction of the sum of its members."""
    rows, concept = unit(300, 8, 3, offset=1.0), np.random.default_rng(0).integers(0, 4, 300)
    sums = np.array([rows[concept == j].astype(np.float64).sum(axis=0) for j in range(4)])
    centroids = load_unit(sums.astype(np.float32))
    distance = 1 - (rows.astype(np.float64) * centroids[concept]).sum(axis=1)
    intra = np.array([distance[concept == j].mean() for j in range(4)])
    got = mean_vector(centroids, np.bincount(concept), intra)
    assert got == pytest.approx(rows.mean(axis=0), abs=1e-6)


def test_what_is_the_mean_has_no_direction():
    rows = unit(4, 5, 0)
    mean = rows[2].astype(np.float64)
    assert (centred(rows, mean)[2] == 0).all()
    assert centred_distances(rows[2:3], centred(rows[:1], mean), mean) == 1.0
    found = between(rows, 2, mean)
    assert found[2] == 1.0 and np.isfinite(found).all()
    assert mean_vector(rows, np.zeros(4, int), np.zeros(4)).tolist() == [0.0] * 5


def test_distances_between_concepts_without_the_mean():
    rows = unit(7, 6, 5, offset=2.0)
    mean = rows.astype(np.float64).mean(axis=0)
    rest = rows.astype(np.float64) - mean
    rest /= np.linalg.norm(rest, axis=1, keepdims=True)
    products = rest @ rest.T
    np.fill_diagonal(products, -np.inf)
    expected = (1 - np.sort(products, axis=1)[:, -3:]).mean(axis=1)
    assert between(rows, 3, mean) == pytest.approx(expected, abs=1e-6)
    assert between(rows, 3) == pytest.approx(between(rows, 3, np.zeros(6)), abs=1e-6)


def brute_ratios(vectors):
    found = []
    for i, row in enumerate(vectors):
        gaps = sorted(float(np.linalg.norm(row - other)) for j, other in enumerate(vectors) if j != i)
        if len(gaps) > 1 and gaps[0] > 0:
            found.append(gaps[1] / gaps[0])
    return found


@given(st.integers(0, 40), st.integers(1, 6), st.booleans(), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_ratios_of_neighbours(n, dim, copies, seed):
    rows = np.random.default_rng(seed).normal(size=(n, dim))
    if copies and n > 3:
        rows[1] = rows[0]
    assert neighbour_ratios(rows) == pytest.approx(brute_ratios(rows), rel=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 5, 10])
def test_the_dimension_of_what_has_one(dim):
    """Points of a cube of `dim` dimensions, put into 40 by a rotation; the estimate is known to fall short in many."""
    rng = np.random.default_rng(dim)
    turn = np.linalg.qr(rng.normal(size=(40, 40)))[0][:dim]
    got = intrinsic_dimension(rng.random((1000, dim)) @ turn)
    assert got == pytest.approx(dim, rel=0.15 if dim < 10 else 0.25)
    points = rng.random((300, dim)) @ turn
    assert intrinsic_dimension(7 * points + 1) == pytest.approx(intrinsic_dimension(points), rel=1e-6)


def test_where_there_is_too_little_to_say():
    rows = np.random.default_rng(0).random((9, 3))
    assert math.isnan(intrinsic_dimension(rows))
    assert math.isnan(intrinsic_dimension(np.ones((50, 3))))
    assert with_known(np.array([np.nan, np.nan, 0.0]), np.array([3, 2, 0])).tolist() == [0.0, 0.0, 0.0]
    assert with_known(np.array([np.nan, np.nan]), np.array([3, 0])).tolist() == [1.0, 0.0]
