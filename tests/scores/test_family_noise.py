"""Noise scores in memory: against the detectors on arrays, which rows the linear one is fitted to, then the edges."""

import numpy as np
import polars as pl
import pytest

from curate.hashing import hash_uids
from curate.linalg import load_unit, unit_rows
from curate.recipe import Noise
from curate.scores import noise
from curate.scores.in_memory import score
from curate.scores.noise import small_loss_noise
from tests.fixtures.builders import planted
from tests.reference.noise import linear_noise

N = 200
UIDS = [f"s{i:06d}" for i in range(N)]


def two_groups(n=N, seed=0):
    """Losses of which the first fifth is large, and vectors that lean to one side there."""
    rng = np.random.default_rng(seed)
    noisy = np.arange(n) < n // 5
    vectors = planted(n, seed=seed).astype(np.float64)
    vectors[noisy, 0] += 0.3
    return np.where(noisy, rng.normal(3, 0.3, n), rng.uniform(0, 0.5, n)).astype(np.float32), vectors


def scored(loss, vectors, **settings):
    return score(
        vectors.astype(np.float16), Noise(**settings), columns={"loss": loss}, uids=UIDS[: len(loss)]
    )


def linear_of(vectors, small, rows):
    """The linear detector fitted to the first rows by their hashes."""
    chosen = np.zeros(N, bool)
    chosen[np.argsort(hash_uids(UIDS, 0, "noise"))[:rows]] = True
    stored = load_unit(unit_rows(vectors.astype(np.float16))[0].astype(np.float16))
    return linear_noise(stored, small, fit=chosen)


@pytest.mark.parametrize("fit_rows", [noise.FIT_ROWS, 60])
def test_columns_are_those_of_the_detectors(monkeypatch, fit_rows):
    monkeypatch.setattr(noise, "FIT_ROWS", fit_rows)
    loss, vectors = two_groups()
    got = scored(loss, vectors)
    small, _ = small_loss_noise(loss)
    linear = linear_of(vectors, small, fit_rows)
    np.testing.assert_array_equal(got["noise_small_loss"].to_numpy(), small.astype(np.float32))
    np.testing.assert_allclose(got["noise_linear"].to_numpy(), linear, atol=1e-6)
    np.testing.assert_allclose(got["noise_prob"].to_numpy(), (small + linear) / 2, atol=1e-6)
    assert set(got["noise_status"]) == {"ok"}
    assert (got["noise_small_loss"].to_numpy() > 0.95).tolist() == [i < N // 5 for i in range(N)]
    whole = linear_of(vectors, small, N)
    assert np.allclose(linear, whole, atol=1e-6) == (fit_rows >= N), "the sample decides"


def test_the_sample_is_bounded_by_numbers_too(monkeypatch):
    monkeypatch.setattr(noise, "FIT_CELLS", 60 * 16)
    loss, vectors = two_groups()
    small, _ = small_loss_noise(loss)
    got = scored(loss, vectors)["noise_linear"].to_numpy()
    np.testing.assert_allclose(got, linear_of(vectors, small, 60), atol=1e-6)


def test_any_order_gives_the_same():
    loss, vectors = two_groups()
    order = np.random.default_rng(1).permutation(N)
    moved = score(
        vectors[order].astype(np.float16), Noise(), columns={"loss": loss[order]},
        uids=[UIDS[i] for i in order],
    )  # fmt: skip
    assert moved.sort("uid").equals(scored(loss, vectors))


def test_one_group_of_losses_is_no_noise():
    loss = np.random.default_rng(0).normal(5, 1, N).astype(np.float32)
    got = scored(loss, two_groups()[1])
    assert set(got["noise_status"]) == {"unimodal"}
    for name in ("noise_small_loss", "noise_linear", "noise_prob"):
        assert got[name].is_null().all()


def test_samples_without_a_loss_say_why():
    loss, vectors = two_groups()
    loss[[0, 50, 100]] = np.nan
    got = scored(loss, vectors)
    assert [got["noise_status"][row] for row in (0, 50, 100, 1)] == ["nonfinite"] * 3 + ["ok"]
    assert got["noise_prob"].is_null().to_numpy().nonzero()[0].tolist() == [0, 50, 100]
    assert got["noise_linear"].null_count() == 3
    np.testing.assert_array_equal(
        got["noise_small_loss"].fill_null(np.nan).to_numpy(), small_loss_noise(loss)[0].astype(np.float32)
    )


def test_without_the_linear_detector():
    got = scored(*two_groups(), linear=False)
    assert got.columns == ["uid", "noise_small_loss", "noise_prob", "noise_status"]
    assert got["noise_prob"].to_list() == got["noise_small_loss"].to_list()


def test_one_detector_is_left_where_the_other_learns_nothing(monkeypatch):
    monkeypatch.setattr(noise, "FIT_ROWS", 1)
    got = scored(*two_groups())
    assert got["noise_linear"].is_null().all()
    assert got["noise_prob"].to_list() == got["noise_small_loss"].to_list()


@pytest.mark.parametrize("n", [0, 1])
def test_no_sample_and_one(n):
    loss, vectors = two_groups()
    got = scored(loss[:n], vectors[:n])
    assert got["noise_status"].to_list() == ["unimodal"] * n
    assert got.schema["noise_prob"] == pl.Float32
