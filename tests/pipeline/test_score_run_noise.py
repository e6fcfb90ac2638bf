"""Noise scores in a run: against the library on arrays, then what must not change them, then the edges."""

import json

import numpy as np
import polars as pl
import pytest

from curate.embedding.store import EmbeddingPart
from curate.errors import UsageError
from curate.pipeline.runner import run
from curate.recipe.loading import parse_recipe
from curate.runs.folder import RunFolder
from curate.scores.heads.heads import Heads
from curate.scores.noise import noise
from tests.fixtures.builders import recipe_values, write_shards
from tests.fixtures.folders import again, tables
from tests.scores.test_family_noise import N, by_definition, mixed

#: Slope and intercept that heads note for their margins.
CURVE = (1.5, -0.5)


def names(n=N):
    return [f"s{i:06d}" for i in range(n)]


@pytest.fixture(scope="module")
def given():
    """Let the family `heads` write margins by uid (and a status, `ok` by default), and a curve, without training."""
    losses, statuses, curves = {}, {}, {"neg_aum": list(CURVE)}

    def compute(self, context, output):
        for part in context.parts:
            uids = EmbeddingPart(context.run.part(context.run.embeddings, part.name)).uids()
            values = {name: np.full(len(uids), np.nan) for name in output.schema.names[1:-1]}
            values |= {"pred_label": [None] * len(uids), "n_obs": np.ones(len(uids), np.int32)}
            values["neg_aum"] = np.array([losses[uid] for uid in uids])
            output.write(part, values | {"heads_status": [statuses.get(uid, "ok") for uid in uids]})
        return {"scored": len(losses), "label_errors": {"calibration": dict(curves)}}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Heads, "compute", compute)
        yield losses, statuses, curves


@pytest.fixture(autouse=True)
def as_before(given):
    """Let every sample have a margin, and heads a curve, unless a test says otherwise."""
    given[1].clear()
    given[2]["neg_aum"] = list(CURVE)


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
    return Made(tmp_path_factory.mktemp("base"), given, *mixed()[:2])


@pytest.mark.parametrize("fit_rows", [noise.FIT_ROWS, 400])
def test_columns_are_those_of_the_definition(tmp_path, base, given, monkeypatch, fit_rows):
    monkeypatch.setattr(noise, "FIT_ROWS", fit_rows)
    values, vectors, _ = mixed()
    got = base.again(tmp_path, given, values)
    label, foreign, both = (got.table[f"noise_{name}"].to_numpy() for name in ("label", "ood", "prob"))
    np.testing.assert_allclose(label, 1 / (1 + np.exp(-CURVE[0] * values - CURVE[1])), atol=1e-6)
    np.testing.assert_allclose(foreign, by_definition(values, vectors, fit_rows), atol=1e-5)
    np.testing.assert_allclose(both, 1 - (1 - label) * (1 - foreign), atol=1e-6)
    assert set(got.table["noise_status"]) == {"ok"}
    facts = got.facts
    assert (facts["scored"], facts["calibrated"], facts["warnings"]) == (N, True, [])
    assert facts["expected"]["noise_prob"] == pytest.approx(both.sum(), abs=0.1)
    assert facts["flagged"]["noise_ood"] == (foreign > 0.5).sum()


@pytest.mark.long
def test_any_split_order_and_machine_give_the_same(tmp_path, given):
    values, vectors, _ = mixed()
    base = Made(tmp_path / "base", given, values, vectors)
    order = np.random.default_rng(1).permutation(N)
    other = Made(tmp_path / "other", given, values, vectors, shards=5, order=order)
    assert other.table.equals(base.table)
    for name, changes in {"two": {"workers": 2}, "little": {"memory": "1GB"}}.items():
        # the first two stand for a run of the same place: names of parts hang on the source alone
        assert Made(tmp_path / name, given, values, vectors, **changes).bytes == base.bytes, name


def test_a_score_of_one_group_has_no_null_where_heads_counted(tmp_path, base, given):
    values = np.random.default_rng(0).normal(0, 1, N).astype(np.float32)
    got = base.again(tmp_path, given, values)
    assert got.table["noise_prob"].null_count() == 0 and got.facts["scored"] == N


def test_one_group_is_no_noise_where_nothing_was_counted(tmp_path, base, given):
    del given[2]["neg_aum"]
    values = np.random.default_rng(0).normal(5, 1, N).astype(np.float32)
    got = base.again(tmp_path, given, values)
    assert set(got.table["noise_status"]) == {"unimodal"} and got.facts["scored"] == 0
    for name in ("noise_label", "noise_ood", "noise_prob"):
        assert got.table[name].is_null().all()
    (text,) = got.facts["warnings"]
    assert f"its {N} values are not two groups" in text and "after 3_scores/heads was removed" in text


def test_noise_is_made_again_once_heads_have_counted(tmp_path, base, given):
    del given[2]["neg_aum"]
    values, _, _ = mixed()
    before = base.again(tmp_path, given, values)
    assert before.facts["calibrated"] is False and len(before.facts["warnings"]) == 1
    given[2]["neg_aum"] = [2.0, -1.0]
    (RunFolder(before.run).scores("heads") / "_done.json").unlink()
    before._run(before.glob, before.run, given, values, None, {})
    assert before.facts["calibrated"] is True
    np.testing.assert_allclose(before.table["noise_label"], 1 / (1 + np.exp(-2 * values + 1)), atol=1e-6)


def test_samples_without_a_loss_say_why(tmp_path, base, given):
    values, _, _ = mixed()
    values[[0, 50, 100]] = np.nan
    given[1].update({"s000000": "no_label", "s000050": "class_too_small"})
    got = base.again(tmp_path, given, values)
    status = got.table["noise_status"].to_list()
    assert [status[row] for row in (0, 50, 100, 1)] == ["no_label", "class_too_small", "nonfinite", "ok"]
    for name in ("noise_label", "noise_ood", "noise_prob"):
        assert got.table[name].is_null().to_numpy().nonzero()[0].tolist() == [0, 50, 100]
    assert got.facts["scored"] == N - 3


def test_without_the_picture_detector(tmp_path, base, given):
    got = base.again(tmp_path, given, mixed()[0], settings={"linear": False})
    assert got.table.columns == ["uid", "noise_label", "noise_prob", "noise_status"]
    assert got.table["noise_prob"].to_list() == got.table["noise_label"].to_list()


@pytest.mark.parametrize("n", [0, 1])
def test_no_sample_and_one(tmp_path, given, n):
    values, vectors, _ = mixed()
    got = Made(tmp_path, given, values[:n], vectors[:n], shards=1)
    assert got.table["noise_status"].to_list() == ["ok"] * n
    assert got.table.schema["noise_prob"] == pl.Float32 and got.facts["scored"] == n


def test_noise_is_made_again_where_the_losses_change(tmp_path, base, given):
    after = base.again(tmp_path, given, mixed()[0][::-1], seed=1)
    assert after.table["noise_prob"].to_list() != base.table["noise_prob"].to_list()


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (["heads", {"noise": {"loss": "p_label"}}], "'p_label' is easier where it is higher"),
        (["heads", {"noise": {"loss": "distance"}}], "'distance' is a distance"),
        (["heads", {"noise": {"loss": "pred_label"}}], "score: noise.loss: 'pred_label' is no score"),
        (["noise"], "noise needs the column 'neg_aum', which no family in score gives .heads has it"),
    ],
)
def test_what_is_no_loss_is_refused(tmp_path, score, said):
    _, vectors, _ = mixed()
    glob = write_shards(tmp_path / "in", vectors.astype(np.float16), extra={"label": ["a"] * N})
    with pytest.raises(UsageError, match=said):
        run(parse_recipe(recipe_values(glob, tmp_path / "run", score=score)), until="score")
    assert not (tmp_path / "run").exists()
