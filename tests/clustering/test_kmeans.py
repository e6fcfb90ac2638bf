import os
import signal
import subprocess
import sys
import time

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.clustering.kmeans import assign, auto_concepts, fit
from curate.errors import EmbeddingError
from curate.linalg import load_unit, row_dots, unit_rows


def rows(n, d, seed=0):
    return unit_rows(np.random.default_rng(seed).standard_normal((n, d)))[0]


def clustered(n, d, groups, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((groups, d))
    return unit_rows(centres[rng.integers(0, groups, n)] + 0.4 * rng.standard_normal((n, d)))[0]


def assign_by_definition(x, centroids):
    dots = np.stack([row_dots(x, c[None]) for c in centroids], axis=1)
    best = dots.argmax(axis=1)
    return best, (1 - np.clip(dots[np.arange(len(x)), best], -1, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("n", "k"), [(0, 1), (1, 1), (2, 1), (3, 2), (60_000, 245), (10**10, 100_000), (10**12, 100_000)]
)
def test_auto_concepts(n, k):
    assert auto_concepts(n) == k


@pytest.mark.parametrize("k", [1, 2, 7, 50])
def test_assign_by_definition_at_any_tile(k):
    x, centroids = rows(300, 16), rows(k, 16, 1)
    concept, distance = assign_by_definition(x, centroids)
    for tile in (1, 10 * k, 37 * k, 1 << 24):
        got = assign(x, centroids, tile=tile)
        np.testing.assert_array_equal(got[0], concept)
        np.testing.assert_array_equal(got[1], distance)
    assert got[0].dtype == np.int32 and got[1].dtype == np.float32


def test_assign_decides_close_centroids_in_float64():
    x, centre = clustered(200, 64, 1), rows(1, 64, 5)
    noise = np.random.default_rng(3).standard_normal((40, 64)) * 1e-7
    centroids = unit_rows(centre + noise)[0]
    concept, distance = assign(x, centroids)
    want = assign_by_definition(x, centroids)
    np.testing.assert_array_equal(concept, want[0])
    np.testing.assert_array_equal(distance, want[1])
    assert len(set(concept.tolist())) > 1


def test_assign_takes_the_lowest_id_where_equal():
    centroids = np.repeat(rows(1, 8), 5, axis=0)
    assert assign(rows(20, 8, 1), centroids)[0].tolist() == [0] * 20
    square = np.array([[1, 0], [0, 1]], np.float32)
    diagonal = unit_rows(np.array([[1.0, 1.0]]))[0]
    assert assign(diagonal, square)[0].tolist() == [0]
    assert assign(diagonal, square[::-1].copy())[0].tolist() == [0]


def test_assign_reads_stored_half_precision():
    x, centroids = rows(5000, 8), rows(9, 8, 1)
    stored = x.astype(np.float16)
    for got, want in zip(assign(stored, centroids), assign(load_unit(stored), centroids), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_assign_refuses_what_is_not_finite(value):
    x = rows(10, 4)
    x[7] = value
    with pytest.raises(EmbeddingError, match="finite"):
        assign(x, rows(3, 4))


def test_assign_edges():
    concept, distance = assign(np.empty((0, 4), np.float32), rows(2, 4))
    assert concept.shape == distance.shape == (0,)
    with pytest.raises(EmbeddingError, match="at least 1 centroid"):
        assign(rows(2, 4), np.empty((0, 4), np.float32))
    with pytest.raises(EmbeddingError, match=r"\(2, 4\), \(2, 5\)"):
        assign(rows(2, 4), rows(2, 5))


def test_fit_describes_its_sample():
    x = clustered(900, 24, 12)
    concepts = fit(x, 10, seed=3)
    assert concepts.requested == 10 and concepts.trained_on == 900
    np.testing.assert_allclose(np.linalg.norm(concepts.centroids, axis=1), 1, rtol=1e-6)
    concept, distance = assign_by_definition(x, concepts.centroids)
    assert np.bincount(concept, minlength=len(concepts.sizes)).tolist() == concepts.sizes.tolist()
    assert concepts.objective == pytest.approx(1 - distance.astype(np.float64).mean(), abs=1e-12)
    keys = [(-size, np.flatnonzero(concept == j)[0]) for j, size in enumerate(concepts.sizes)]
    assert keys == sorted(keys)
    for j in range(len(concepts.sizes)):
        own = np.sort(distance[concept == j])
        below = np.searchsorted(own, concepts.p99[j], side="left")
        at_most = np.searchsorted(own, concepts.p99[j], side="right")
        assert below < 0.99 * len(own) <= at_most


def test_fit_is_as_good_as_faiss():
    x = clustered(4000, 32, 60)
    plain = faiss.Kmeans(32, 40, niter=25, spherical=True, seed=7, max_points_per_centroid=4000)
    plain.train(x)
    want = plain.index.search(x, 1)[0].mean()
    got = fit(x, 40, seed=7).objective
    assert got >= 0.99 * want


def test_fit_does_not_depend_on_threads():
    x, before = clustered(3000, 32, 40), faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(1)
        one = fit(x, 30, seed=1)
        faiss.omp_set_num_threads(2)
        two = fit(x, 30, seed=1)
    finally:
        faiss.omp_set_num_threads(before)
    for name in ("centroids", "sizes", "p99"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert not np.array_equal(one.centroids, fit(x, 30, seed=2).centroids)


@given(st.integers(1, 12), st.integers(1, 15), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_fewer_distinct_vectors_than_concepts(n_distinct, extra, seed):
    rng = np.random.default_rng(seed)
    distinct = rows(n_distinct, 6, seed)
    x = distinct[np.concatenate([np.arange(n_distinct), rng.integers(0, n_distinct, extra)])]
    concepts = fit(x, n_distinct + rng.integers(0, 3), seed=seed)
    assert len(concepts.centroids) == n_distinct
    assert concepts.sizes.sum() == len(x)
    assert (assign(x, concepts.centroids)[1] <= 2e-7).all()


def test_fit_edges_of_faiss(capfd):
    same = np.repeat(rows(1, 8), 50, axis=0)
    assert fit(same, 10, seed=0).sizes.tolist() == [50]
    few = rows(30, 8)[np.random.default_rng(0).integers(0, 30, 6000)]
    assert fit(few, 100, seed=0).sizes.sum() == 6000
    signed = np.array([[0.0, 1.0], [-0.0, 1.0]], np.float32)
    assert fit(signed, 2, seed=0).sizes.tolist() == [2]
    assert fit(rows(5, 8), 5, seed=0).objective == pytest.approx(1.0, abs=2e-7)
    assert fit(rows(100, 8), 1, seed=0).sizes.tolist() == [100]
    assert len(fit(rows(2000, 4), 3, seed=1 << 40).sizes) == 3
    assert capfd.readouterr() == ("", "")


def test_fit_drops_concepts_nobody_chose():
    x = np.concatenate([np.repeat(rows(1, 8), 400, axis=0), rows(12, 8, 1)])
    concepts = fit(x, 12, seed=0)
    assert (concepts.sizes > 0).all() and concepts.sizes.sum() == len(x)


def test_fit_refuses():
    with pytest.raises(EmbeddingError, match="at least 1 usable vector"):
        fit(np.empty((0, 4), np.float32), 3, seed=0)
    with pytest.raises(EmbeddingError, match="at least 1, got 0"):
        fit(rows(5, 4), 0, seed=0)
    bad = rows(5000, 4)
    bad[4500, 2] = np.nan
    with pytest.raises(EmbeddingError, match="row 4500"):
        fit(bad, 3, seed=0)


def test_interrupt_ends_training_within_two_seconds():
    code = (
        "import numpy as np; from curate.clustering.kmeans import fit; from curate.linalg import unit_rows\n"
        "x = unit_rows(np.random.default_rng(0).standard_normal((40000, 64), np.float32))[0]\n"
        "print('ready', flush=True); fit(x, 2000, seed=0, iterations=10000)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    time.sleep(1.5)
    started = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert time.monotonic() - started < 2
    assert b"KeyboardInterrupt" in error


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 60), st.integers(1, 80), st.sampled_from([1, 2, 3, 17, 64]), st.integers(0, 2**16),
    st.sampled_from([0.0, 1e-8, 1e-6, 1e-4, 4e-3, 0.1, 1.0]), st.booleans(), st.sampled_from([1, 100, 1 << 24]),
)  # fmt: skip
def test_assign_by_bfloat16_proposals_is_by_definition(n, k, d, seed, noise, half, tile):
    """Centroids that are alike, equal or opposite, rows on them and far from all: the same answers as float64's."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((3, d))
    centroids = directions[rng.integers(0, 3, k)] + noise * rng.standard_normal((k, d))
    centroids[rng.random(k) < 0.2] *= -1
    centroids = unit_rows(centroids + 1e-9)[0]
    centroids[rng.integers(0, k)] = centroids[0]
    x = unit_rows(centroids[rng.integers(0, k, n)] + noise * rng.standard_normal((n, d)))[0]
    x[rng.random(n) < 0.1] *= -1
    stored = x.astype(np.float16) if half else x
    concept, distance = assign(stored, centroids, cheap=True, tile=tile)
    want = assign_by_definition(load_unit(stored) if half else x, centroids)
    np.testing.assert_array_equal(concept, want[0])
    np.testing.assert_array_equal(distance, want[1])
    exact = assign(stored, centroids, cheap=False, tile=tile)
    np.testing.assert_array_equal(concept, exact[0])
    np.testing.assert_array_equal(distance, exact[1])
