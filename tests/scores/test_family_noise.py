"""Noise scores in memory: against the definition, which rows the picture detector is fitted to, then the edges."""

import numpy as np
import polars as pl
import pytest

from curate.hashing import hash_uids
from curate.linalg import load_unit, unit_rows
from curate.recipe import Heads, Noise
from curate.scores.in_memory import score
from curate.scores.noise import noise
from tests.reference.noise import alternated, platt

N = 600
UIDS = [f"s{i:06d}" for i in range(N)]


def mixed(n=N, seed=0, foreign=0.15, flipped=0.2):
    """Margins, vectors, and which rows are of no class (the first): their labels and some others do not fit."""
    rng = np.random.default_rng(seed)
    strange = np.arange(n) < foreign * n
    vectors = rng.standard_normal((n, 16)) + 3 * np.eye(4, 16)[rng.integers(0, 4, n)]
    vectors[strange] = rng.standard_normal((strange.sum(), 16)) * 0.5 + 4 * np.eye(16)[15]
    fits_not = np.where(strange, rng.random(n) < 0.95, rng.random(n) < flipped)
    return (
        np.where(fits_not, rng.normal(2, 0.5, n), rng.normal(-3, 0.8, n)).astype(np.float32),
        vectors,
        strange,
    )


def scored(values, vectors, uids=UIDS, **settings):
    given = {settings.get("loss", "neg_aum"): values}
    return score(vectors.astype(np.float16), Noise(**settings), columns=given, uids=uids[: len(values)])


def stored(vectors):
    return load_unit(unit_rows(vectors.astype(np.float16))[0].astype(np.float16))


def by_definition(values, vectors, rows=N):
    """Return how probably images are foreign, by detectors fitted to the first rows by their hashes."""
    hashes = hash_uids(UIDS, 0, "noise")
    chosen = np.sort(np.argsort(hashes)[:rows])
    fold, unit = (hashes % np.uint64(3)).astype(int), stored(vectors)
    return alternated(unit[chosen], values[chosen] > 0, fold[chosen], unit, fold)


@pytest.mark.parametrize("fit_rows", [noise.FIT_ROWS, 400])
def test_columns_are_those_of_the_detectors(monkeypatch, fit_rows):
    monkeypatch.setattr(noise, "FIT_ROWS", fit_rows)
    values, vectors, strange = mixed()
    got = scored(values, vectors)
    label, foreign, both = (got[f"noise_{name}"].to_numpy() for name in ("label", "ood", "prob"))
    np.testing.assert_allclose(foreign, by_definition(values, vectors, fit_rows), atol=1e-5)
    assert np.allclose(foreign, by_definition(values, vectors), atol=1e-5) == (fit_rows >= N), (
        "the sample decides"
    )
    np.testing.assert_allclose(both, 1 - (1 - label) * (1 - foreign), atol=1e-6)
    assert (foreign > 0.5)[strange].mean() > 0.9 and (foreign > 0.5)[~strange].mean() < 0.02
    assert set(got["noise_status"]) == {"ok"}


def test_the_sample_is_bounded_by_numbers_too(monkeypatch):
    monkeypatch.setattr(noise, "FIT_CELLS", 400 * 16)
    values, vectors, _ = mixed()
    got = scored(values, vectors)["noise_ood"].to_numpy()
    np.testing.assert_allclose(got, by_definition(values, vectors, 400), atol=1e-5)


def test_any_order_gives_the_same():
    values, vectors, _ = mixed()
    order = np.random.default_rng(1).permutation(N)
    moved = scored(values[order], vectors[order], [UIDS[i] for i in order])
    assert moved.sort("uid").equals(scored(values, vectors))


def labelled(n=1200, share=0.2, seed=0):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 4, n)
    vectors = rng.standard_normal((n, 12)) + 3.5 * np.eye(4, 12)[true]
    wrong = rng.random(n) < share
    return np.where(wrong, (true + rng.integers(1, 4, n)) % 4, true), vectors, wrong


def test_heads_say_how_many_labels_are_wrong():
    label, vectors, wrong = labelled()
    heads = Heads(seeds=2, folds=3, hidden=32, epochs=8)
    got = score(vectors, [Noise(), heads], labels=[str(one) for one in label])
    found = got["noise_prob"].to_numpy()
    assert (got["noise_ood"] == 0).all(), "labels swapped by chance are no group of images"
    assert got["noise_prob"].equals(got["noise_label"].rename("noise_prob"))
    assert found.sum() == pytest.approx(wrong.sum(), rel=0.15)
    assert wrong[found > 0.5].mean() > 0.8 and (found > 0.5)[wrong].mean() > 0.8
    assert (
        np.corrcoef(got["neg_aum"].to_numpy().argsort().argsort(), found.argsort().argsort())[0, 1] > 0.9999
    )


def test_one_group_of_losses_is_no_noise_where_nothing_was_counted():
    values = np.random.default_rng(0).normal(5, 1, N).astype(np.float32)
    got = scored(values, mixed()[1])
    assert set(got["noise_status"]) == {"unimodal"}
    for name in ("noise_label", "noise_ood", "noise_prob"):
        assert got[name].is_null().all()


def test_samples_without_a_loss_say_why():
    values, vectors, _ = mixed()
    values[[0, 50, 100]] = np.nan
    got = scored(values, vectors)
    assert [got["noise_status"][row] for row in (0, 50, 100, 1)] == ["nonfinite"] * 3 + ["ok"]
    for name in ("noise_label", "noise_ood", "noise_prob"):
        assert got[name].is_null().to_numpy().nonzero()[0].tolist() == [0, 50, 100]


def test_without_the_picture_detector():
    values, vectors, _ = mixed()
    got = scored(values, vectors, linear=False, loss="own")
    assert got.columns == ["uid", "noise_label", "noise_prob", "noise_status"]
    assert got["noise_prob"].to_list() == got["noise_label"].to_list()
    from curate.scores.noise.mixture import small_loss_noise

    slope, intercept = platt(values, small_loss_noise(values)[0])
    np.testing.assert_allclose(got["noise_prob"], 1 / (1 + np.exp(-slope * values - intercept)), atol=1e-4)


@pytest.mark.parametrize("n", [0, 1])
def test_no_sample_and_one(n):
    values, vectors, _ = mixed()
    got = scored(values[:n], vectors[:n])
    assert got["noise_status"].to_list() == ["unimodal"] * n
    assert got.schema["noise_prob"] == pl.Float32
