"""Noise scores in a run: against the library on arrays, then what must not change them, then the edges."""

import json

import numpy as np
import polars as pl
import pytest

from curate.embedding.store import EmbeddingPart
from curate.errors import UsageError
from curate.hashing import hash_uids
from curate.linalg import load_unit, unit_rows
from curate.pipeline.runner import run
from curate.recipe.loading import parse_recipe
from curate.runs.folder import RunFolder
from curate.scores import noise
from curate.scores.heads.heads import Heads
from curate.scores.noise import small_loss_noise
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.folders import again, tables
from tests.reference.noise import linear_noise

N = 200


def names(n=N):
    return [f"s{i:06d}" for i in range(n)]


def two_groups(n=N, seed=0):
    """Losses of which the first fifth is large, and vectors that lean to one side there."""
    rng = np.random.default_rng(seed)
    noisy = np.arange(n) < n // 5
    vectors = planted(n, seed=seed).astype(np.float64)
    vectors[noisy, 0] += 0.3
    return np.where(noisy, rng.normal(3, 0.3, n), rng.uniform(0, 0.5, n)).astype(np.float32), vectors


@pytest.fixture(scope="module")
def given():
    """Let the family `heads` write losses by uid (and a status, `ok` by default), without training."""
    losses, statuses = {}, {}

    def compute(self, context, output):
        for part in context.parts:
            uids = EmbeddingPart(context.run.part(context.run.embeddings, part.name)).uids()
            values = {name: np.full(len(uids), np.nan) for name in output.schema.names[1:-1]}
            values |= {"pred_label": [None] * len(uids), "n_obs": np.ones(len(uids), np.int32)}
            values["loss"] = np.array([losses[uid] for uid in uids])
            output.write(part, values | {"heads_status": [statuses.get(uid, "ok") for uid in uids]})
        return {"scored": len(losses)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Heads, "compute", compute)
        yield losses, statuses


@pytest.fixture(autouse=True)
def no_statuses(given):
    """Let every sample have a loss, unless a test says otherwise."""
    given[1].clear()


class Made:
    """A run up to the scores, and what its family says."""

    def __init__(self, folder, given, loss, vectors, *, settings=None, shards=2, order=None, **changes):
        labels = [f"class {i % 2}" for i in range(len(vectors))]
        glob = write_shards(
            folder / "in", vectors.astype(np.float16), shards=shards, order=order, extra={"label": labels}
        )
        self._run(glob, folder / "run", given, loss, settings, changes)

    def _run(self, glob, out, given, loss, settings, changes):
        given[0].update(zip(names(), loss.tolist(), strict=False))
        score = ["heads", {"noise": settings or {}}]
        run(parse_recipe(recipe_values(glob, out, score=score, **changes)), until="score")
        self.glob, self.run = glob, out
        self.folder = RunFolder(out).scores("noise")
        self.table = pl.read_parquet(self.folder / "part-*.parquet").sort("uid")
        self.facts = json.loads((self.folder / "_done.json").read_text())["facts"]
        all_tables = tables(out).items()
        self.bytes = {name: value for name, value in all_tables if name.startswith("3_scores/noise/")}

    def again(self, folder, given, loss, *, settings=None, **changes):
        """Score the same samples in a copy of the run that has no scores yet."""
        other = object.__new__(Made)
        other._run(self.glob, again(self.run, folder / "run"), given, loss, settings, changes)
        return other


@pytest.fixture(scope="module")
def base(given, tmp_path_factory):
    return Made(tmp_path_factory.mktemp("base"), given, *two_groups())


def stored(vectors):
    return load_unit(unit_rows(vectors.astype(np.float16))[0].astype(np.float16))


@pytest.mark.parametrize("fit_rows", [noise.FIT_ROWS, 60])
def test_columns_are_those_of_the_library(tmp_path, base, given, monkeypatch, fit_rows):
    monkeypatch.setattr(noise, "FIT_ROWS", fit_rows)
    loss, vectors = two_groups()
    got = base.again(tmp_path, given, loss)
    small, _ = small_loss_noise(loss)
    chosen = np.zeros(N, bool)
    chosen[np.argsort(hash_uids(names(), 0, "noise"))[:fit_rows]] = True
    linear = linear_noise(stored(vectors), small, fit=chosen)
    np.testing.assert_array_equal(got.table["noise_small_loss"].to_numpy(), small.astype(np.float32))
    np.testing.assert_allclose(got.table["noise_linear"].to_numpy(), linear, atol=1e-6)
    np.testing.assert_allclose(got.table["noise_prob"].to_numpy(), (small + linear) / 2, atol=1e-6)
    assert set(got.table["noise_status"]) == {"ok"} and got.facts["scored"] == N
    assert got.facts["warnings"] == []
    assert (got.table["noise_small_loss"].to_numpy() > 0.95).tolist() == [i < N // 5 for i in range(N)]
    whole = linear_noise(stored(vectors), small)
    assert np.allclose(linear, whole, atol=1e-6) == (fit_rows >= N), "the sample decides"


def test_the_sample_is_bounded_by_numbers_too(tmp_path, base, given, monkeypatch):
    monkeypatch.setattr(noise, "FIT_CELLS", 60 * 16)
    loss, vectors = two_groups()
    got = base.again(tmp_path, given, loss)
    monkeypatch.undo()
    small, _ = small_loss_noise(loss)
    chosen = np.zeros(N, bool)
    chosen[np.argsort(hash_uids(names(), 0, "noise"))[:60]] = True
    linear = linear_noise(stored(vectors), small, fit=chosen)
    np.testing.assert_allclose(got.table["noise_linear"].to_numpy(), linear, atol=1e-6)


@pytest.mark.long
def test_any_split_order_and_machine_give_the_same(tmp_path, given):
    loss, vectors = two_groups()
    base = Made(tmp_path / "base", given, loss, vectors)
    order = np.random.default_rng(1).permutation(N)
    other = Made(tmp_path / "other", given, loss, vectors, shards=5, order=order)
    assert other.table.equals(base.table)
    for name, changes in {"two": {"workers": 2}, "little": {"memory": "1GB"}}.items():
        # the first two stand for a run of the same place: names of parts hang on the source alone
        assert Made(tmp_path / name, given, loss, vectors, **changes).bytes == base.bytes, name


def test_one_group_of_losses_is_no_noise(tmp_path, base, given):
    loss = np.random.default_rng(0).normal(5, 1, N).astype(np.float32)
    got = base.again(tmp_path, given, loss)
    assert set(got.table["noise_status"]) == {"unimodal"} and got.facts["scored"] == 0
    for name in ("noise_small_loss", "noise_linear", "noise_prob"):
        assert got.table[name].is_null().all()
    (text,) = got.facts["warnings"]
    assert "the 200 values of loss are not two groups" in text and "noise.loss: neg_aum" in text


def test_samples_without_a_loss_say_why(tmp_path, base, given):
    loss, _ = two_groups()
    loss[[0, 50, 100]] = np.nan
    given[1].update({"s000000": "no_label", "s000050": "class_too_small"})
    got = base.again(tmp_path, given, loss)
    status = got.table["noise_status"].to_list()
    assert [status[row] for row in (0, 50, 100, 1)] == ["no_label", "class_too_small", "nonfinite", "ok"]
    assert got.table["noise_prob"].is_null().to_numpy().nonzero()[0].tolist() == [0, 50, 100]
    assert got.table["noise_linear"].null_count() == 3 and got.facts["scored"] == N - 3
    np.testing.assert_array_equal(
        got.table["noise_small_loss"].fill_null(np.nan).to_numpy(),
        small_loss_noise(loss)[0].astype(np.float32),
    )


def test_without_the_linear_detector(tmp_path, base, given):
    loss, _ = two_groups()
    got = base.again(tmp_path, given, loss, settings={"linear": False})
    assert got.table.columns == ["uid", "noise_small_loss", "noise_prob", "noise_status"]
    assert got.table["noise_prob"].equals(got.table["noise_small_loss"])


def test_one_detector_is_left_where_the_other_learns_nothing(tmp_path, base, given, monkeypatch):
    monkeypatch.setattr(noise, "FIT_ROWS", 1)
    loss, _ = two_groups()
    got = base.again(tmp_path, given, loss)
    assert got.table["noise_linear"].is_null().all()
    assert got.table["noise_prob"].to_list() == got.table["noise_small_loss"].to_list()
    assert got.facts["warnings"] == [
        "the linear detector has one class only to learn from; noise_prob is noise_small_loss"
    ]


@pytest.mark.parametrize("n", [0, 1])
def test_no_sample_and_one(tmp_path, given, n):
    loss, vectors = two_groups()
    got = Made(tmp_path, given, loss[:n], vectors[:n], shards=1)
    assert got.table["noise_status"].to_list() == ["unimodal"] * n
    assert got.table.schema["noise_prob"] == pl.Float32 and got.facts["scored"] == 0


def test_noise_is_made_again_where_the_losses_change(tmp_path, base, given):
    loss, _ = two_groups()
    after = base.again(tmp_path, given, loss[::-1], seed=1)
    assert after.table["noise_prob"].to_list() != base.table["noise_prob"].to_list()


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (["heads", {"noise": {"loss": "p_label"}}], "'p_label' is easier where it is higher"),
        (["heads", {"noise": {"loss": "distance"}}], "'distance' is a distance"),
        (["heads", {"noise": {"loss": "pred_label"}}], "score: noise.loss: 'pred_label' is no score"),
        (["noise"], "noise needs the column 'loss', which no family in score gives .heads has it"),
    ],
)
def test_what_is_no_loss_is_refused(tmp_path, score, said):
    _, vectors = two_groups()
    glob = write_shards(tmp_path / "in", vectors.astype(np.float16), extra={"label": ["a"] * N})
    with pytest.raises(UsageError, match=said):
        run(parse_recipe(recipe_values(glob, tmp_path / "run", score=score)), until="score")
    assert not (tmp_path / "run").exists()
