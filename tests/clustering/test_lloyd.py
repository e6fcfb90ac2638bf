import signal
import subprocess
import sys
import time

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.clustering import kmeans, lloyd
from curate.clustering.kmeans import fit, precision_of
from curate.linalg import unit_rows
from curate.products import processor


def rows(n, d, seed=0):
    return unit_rows(np.random.default_rng(seed).standard_normal((n, d)))[0]


def clustered(n, d, groups, seed=0, *, cone=0.0, loud=0.0, spread=0.4):
    """Unit rows around centres; `cone`: a direction that all share; `loud`: a column that is large in all of them."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((groups, d)) + cone * rng.standard_normal(d)
    centres[:, 0] += loud
    share = 1 / np.arange(1, groups + 1)
    made = centres[rng.choice(groups, n, p=share / share.sum())] + spread * rng.standard_normal((n, d))
    return unit_rows(made)[0]


def similarity(x, centroids):
    """The mean inner product of rows with the nearest centroid, from the definition."""
    units = unit_rows(centroids)[0].astype(np.float64)
    return (x.astype(np.float64) @ units.T).max(axis=1).mean()


def by_faiss(x, k, seed=1):
    plain = faiss.Kmeans(
        x.shape[1],
        k,
        niter=25,
        spherical=True,
        seed=seed,
        max_points_per_centroid=len(x),
        min_points_per_centroid=1,
    )
    plain.train(x)
    return plain.centroids


@pytest.mark.parametrize(
    ("k", "made"),
    [
        (20, {"groups": 30}),
        (100, {"groups": 60, "cone": 3.0}),
        (100, {"groups": 500, "loud": 40.0}),
        (300, {"groups": 1, "spread": 3.0}),
        (50, {"groups": 2000, "spread": 0.05}),
    ],
)  # fmt: skip
def test_as_good_as_faiss_within_half_a_percent(k, made):
    x = clustered(6000, 48, **made)
    assert similarity(x, lloyd.train(x, k, seed=1, iterations=25)) >= 0.995 * similarity(x, by_faiss(x, k))


def test_rows_as_alike_as_copies_are_told_apart():
    """In a cone of similarity .999 the distances within and between groups are all there is."""
    x = clustered(4000, 64, 40, cone=30.0, spread=0.2)
    assert (x[:100] @ x[100:200].T).mean() > 0.99
    ours, theirs = similarity(x, lloyd.train(x, 40, seed=1, iterations=25)), similarity(x, by_faiss(x, 40))
    assert 1 - ours <= 1.1 * (1 - theirs)


def test_more_rounds_are_better_and_one_is_a_round_of_k_means():
    x = clustered(3000, 32, 100)
    start = np.random.Generator(np.random.Philox(0))
    rounded = lloyd._rounded(x)
    before = lloyd._start(rounded, np.arange(len(x)), 30, start)
    after = lloyd._improve(rounded, before, 1, start)
    concept = (x.astype(np.float64) @ before.T).argmax(axis=1)
    means = np.stack([x[concept == j].astype(np.float64).sum(axis=0) for j in range(30)])
    want = means / np.linalg.norm(means, axis=1, keepdims=True)
    # Rounding decides otherwise of a few rows between two centroids, and moves the mean of theirs a little.
    assert (want * after).sum(axis=1).min() > 0.995
    assert np.median((want * after).sum(axis=1)) > 0.9999
    found = [similarity(x, lloyd.train(x, 30, seed=0, iterations=i)) for i in (1, 4, 25)]
    assert found[0] < found[1] <= found[2] + 1e-3


def test_the_same_on_any_processor_and_any_number_of_threads(monkeypatch):
    import torch

    x = clustered(21_000, 40, 60)  # rounds on a part of them, too
    here = lloyd.train(x, 50, seed=3, iterations=25)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = lloyd.train(x, 50, seed=3, iterations=25)
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(processor, "fast_precisions", lambda: frozenset())
    elsewhere = lloyd.train(x, 50, seed=3, iterations=25)
    np.testing.assert_array_equal(here, alone)
    np.testing.assert_array_equal(here, elsewhere)
    assert not np.array_equal(here, lloyd.train(x, 50, seed=4, iterations=25))


@given(
    n=st.integers(2, 60), k=st.integers(1, 59), d=st.sampled_from([1, 2, 5, 1500]), seed=st.integers(0, 99),
    copies=st.booleans(),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_any_small_set(n, k, d, seed, copies):
    x = rows(n, d, seed)
    if copies:
        x = x[np.random.default_rng(seed).integers(0, 3, n) % n]
    concepts = fit(x, k, seed=seed, precision="int8")
    assert 1 <= len(concepts.centroids) <= min(n, k)
    assert concepts.sizes.sum() == n and (concepts.sizes > 0).all()
    np.testing.assert_allclose(np.linalg.norm(concepts.centroids, axis=1), 1, rtol=1e-6)


def test_edges():
    same = np.repeat(rows(1, 8), 50, axis=0)
    assert fit(same, 10, seed=0, precision="int8").sizes.tolist() == [50]
    few = rows(30, 8)[np.random.default_rng(0).integers(0, 30, 6000)]
    found = fit(few, 20, seed=0, precision="int8")
    assert found.sizes.sum() == 6000 and len(found.sizes) == 20
    assert fit(rows(100, 8), 1, seed=0, precision="int8").sizes.tolist() == [100]
    assert len(fit(rows(2000, 4), 3, seed=1 << 40, precision="int8").sizes) == 3
    without = rows(500, 8)
    without[7] = 0.0  # has no direction, and none may come of it
    assert np.isfinite(fit(without, 9, seed=0, precision="int8").centroids).all()


def test_a_concept_that_nobody_chose_begins_anew_where_rows_are_far():
    x = np.concatenate([clustered(3000, 16, 1, spread=0.01), rows(40, 16, 1)])
    start = np.repeat(x[:1], 20, axis=0).astype(np.float64)
    found = lloyd._improve(lloyd._rounded(x), start, 25, np.random.Generator(np.random.Philox(0)))
    assert len(np.unique((x @ found.T.astype(np.float32)).argmax(axis=1))) > 15


def test_auto_goes_by_size_alone():
    assert precision_of("auto", kmeans.LARGE_FIT // 512 // 1000, 1000, 512) == "float32"
    assert precision_of("auto", kmeans.LARGE_FIT // 512 // 1000 + 1, 1000, 512) == "int8"
    assert precision_of("float32", 10**9, 1000, 512) == "float32"
    assert precision_of("int8", 10, 2, 2) == "int8"


def test_auto_is_faiss_for_small_fits(monkeypatch):
    x = clustered(2000, 16, 20)
    plain, auto = fit(x, 10, seed=1), fit(x, 10, seed=1, precision="auto")
    np.testing.assert_array_equal(plain.centroids, auto.centroids)
    monkeypatch.setattr(kmeans, "LARGE_FIT", 1)
    large = fit(x, 10, seed=1, precision="auto")
    np.testing.assert_array_equal(large.centroids, fit(x, 10, seed=1, precision="int8").centroids)
    assert not np.array_equal(plain.centroids, large.centroids)


def test_interrupt_ends_training_within_two_seconds():
    code = (
        "import numpy as np, torch; from curate.clustering import lloyd; from curate.linalg import unit_rows\n"
        "lloyd._LEAST_GAIN = -1.0\n"
        "x = unit_rows(np.random.default_rng(0).standard_normal((40000, 64), np.float32))[0]\n"
        "print('ready', flush=True)\n"
        "try: lloyd.train(x, 2000, seed=0, iterations=100000)\n"
        "except KeyboardInterrupt: print('interrupted', flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(1)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"interrupted\n"
        assert time.monotonic() - started < 2  # what Python and torch then take to end is theirs
