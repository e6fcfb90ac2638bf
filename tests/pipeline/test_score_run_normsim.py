"""Scores by a target set in a run: the target as vectors and as a source, when it is made again, what no target may be."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from curate.errors import EmbeddingError, RunError, SourceError, UsageError
from curate.execution.context import Context
from curate.linalg import load_unit, unit_rows
from curate.pipeline import references, runner
from curate.recipe import Source
from curate.recipe.loading import parse_recipe
from curate.runs.folder import RunFolder
from tests.fixtures.builders import DIM, planted, recipe_values, write_shards
from tests.fixtures.folders import changed, tables, times

SAMPLE = Path(__file__).resolve().parents[2] / "data/sample/train-00000-of-00004.parquet"


def recipe(glob, out, target, **changes):
    return parse_recipe(recipe_values(glob, out, score=[{"normsim": {"target": target}}], **changes))


def run(glob, out, target, **changes):
    """Run up to the scores; return the table by uid."""
    runner.run(recipe(glob, out, target, **changes), until="score")
    return scores(out)


def scores(out):
    return pl.read_parquet(out / "3_scores/normsim/part-*.parquet").sort("uid")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The vectors of a run, as shards."""
    return write_shards(tmp_path_factory.mktemp("source") / "in", planted(150))


@pytest.fixture(scope="module")
def grouped(source, tmp_path_factory):
    """A run on them that has concepts, and no scores."""
    out = tmp_path_factory.mktemp("grouped") / "run"
    runner.run(parse_recipe(recipe_values(source, out)), until="cluster")
    return out


@pytest.fixture
def copied(grouped, tmp_path):
    """A copy of that run."""
    return Path(shutil.copytree(grouped, tmp_path / "run"))


@pytest.fixture(scope="module")
def vectors():
    return planted(150)


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "target.npy"
    np.save(path, 3 * np.random.default_rng(5).standard_normal((40, DIM)))
    return path


def by_hand(vectors, target):
    unit = load_unit(vectors).astype(float), unit_rows(target)[0].astype(float)
    dots = unit[0] @ unit[1].T
    return dots.max(axis=1), np.sqrt((dots**2).sum(axis=1))


def test_by_definition(tmp_path, source, copied, vectors, target):
    table = run(source, copied, target=str(target))
    assert table.columns == ["uid", "normsim_inf", "normsim_2", "normsim_status"]
    largest, length = by_hand(vectors, np.load(target))
    np.testing.assert_allclose(table["normsim_inf"].to_numpy(), largest, rtol=1e-6)
    np.testing.assert_allclose(table["normsim_2"].to_numpy(), length, rtol=1e-6)
    assert set(table["normsim_status"]) == {"ok"}
    assert [table.schema[name] for name in table.columns[1:3]] == [pl.Float32, pl.Float32]


@pytest.mark.long
def test_no_order_changes_a_bit(tmp_path, target):
    vectors = planted(2500, dim=64)
    given = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
    np.save(tmp_path / "a.npy", given)
    for name, rows in (("x/0.npy", given[200:][::-1]), ("x/1.npy", given[:200])):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, rows)
    first = run(write_shards(tmp_path / "in", vectors), tmp_path / "run", str(tmp_path / "a.npy"))
    mixed = np.random.default_rng(1).permutation(2500)
    glob = write_shards(tmp_path / "mixed", vectors, order=mixed, shards=7)
    assert run(glob, tmp_path / "other", str(tmp_path / "x/*.npy")).equals(first)


@pytest.mark.long
def test_two_workers_write_the_same_bytes(tmp_path, vectors, target):
    glob = write_shards(tmp_path / "in", vectors)
    for workers in (1, 2):
        run(glob, tmp_path / f"run{workers}", str(target), workers=workers)
    found = [tables(tmp_path / f"run{workers}") for workers in (1, 2)]
    assert found[0] == found[1] and sum("normsim" in name for name in found[0]) == 3


def test_a_source_is_embedded_as_the_run_is(tmp_path, source, copied, vectors):
    good = np.concatenate([planted(30, seed=3), planted(30, seed=3)[:5]])
    glob = write_shards(tmp_path / "good", good, shards=2)
    table = run(source, copied, {"path": glob})
    largest, length = by_hand(vectors, good[:30])  # copies count once
    np.testing.assert_allclose(table["normsim_inf"].to_numpy(), largest, rtol=1e-6)
    np.testing.assert_allclose(table["normsim_2"].to_numpy(), length, rtol=1e-6)
    assert len(pl.read_parquet(copied / "0_samples/part-*.parquet")) == 150


def test_a_finished_reference_is_used_again(tmp_path, source, copied):
    glob = write_shards(tmp_path / "good", planted(30, seed=3), shards=1)
    first = run(source, copied, {"path": glob})
    before = times(copied)
    run(source, copied, {"path": glob})
    assert [name for name in changed(before, times(copied)) if not name.startswith("logs/")] == []
    run(source, copied, {"path": glob}, seed=1)  # another seed, the same reference
    mine = [name for name in changed(before, times(copied)) if name.endswith(".npy")]
    assert mine == [] and scores(copied).equals(first)
    write_shards(tmp_path / "good", planted(30, seed=4), shards=1)
    assert not run(source, copied, {"path": glob}).equals(first)
    assert len(list((copied / ".work/references").glob("*/*.npy"))) == 1


def test_limit_takes_the_first_rows(source, copied, vectors, target):
    table = run(source, copied, {"path": str(target), "limit": 1})
    np.testing.assert_allclose(
        table["normsim_inf"].to_numpy(), by_hand(vectors, np.load(target)[:1])[0], rtol=1e-5, atol=1e-7
    )


def test_one_row_and_none(tmp_path, vectors, target):
    for n in (1, 0):
        glob = write_shards(tmp_path / f"in{n}", vectors[:n], shards=1)
        table = run(glob, tmp_path / f"run{n}", str(target), select={"count": 0})
        assert len(table) == n
        assert table.columns == ["uid", "normsim_inf", "normsim_2", "normsim_status"]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.ones((3, DIM + 1)), r"t\.npy: vectors must have 16 numbers, as those of the run, got 17"),
        (np.zeros((3, DIM)), r"t\.npy: every row must have a direction; row 0: the vector is zero"),
        (np.where(np.eye(3, DIM) > 0, np.nan, 1.0)[::-1], r"row 0: the vector is not finite"),
        (np.ones((0, DIM)), r"t\.npy must hold at least one usable image, got none"),
        (np.ones(DIM), r"must have the shape"),
        (np.ones((3, DIM), np.int64), r"must hold float16, float32 or float64"),
        (np.array([{}]), r"must hold float16"),
    ],
)
def test_vectors_that_cannot_be_a_target(tmp_path, source, copied, array, said):
    np.save(tmp_path / "t.npy", array)
    with pytest.raises(EmbeddingError, match=f"score.normsim.target: .*{said}"):
        run(source, copied, str(tmp_path / "t.npy"))


def test_what_is_wrong_is_said_before_any_work(tmp_path, source, vectors, target):
    glob = source
    for given, said in (
        (str(tmp_path / "no*.npy"), "matches nothing"),
        (str(tmp_path / "none.parquet"), "no such file"),
        ({"path": [str(target), glob]}, "npy files or shards, not both"),
        ({"path": glob, "label": "no"}, None),
    ):
        if said is None:  # columns that play no part may be missing
            runner.check_request(recipe(glob, tmp_path / "run", given))
            continue
        with pytest.raises(UsageError, match=f"^score.normsim.target: .*{said}"):
            run(glob, tmp_path / "run", given)
        assert not (tmp_path / "run").exists()
    np.save(tmp_path / "emb.npy", vectors)
    with pytest.raises(UsageError, match=r"must be \.npy files where embed\.files gives the vectors"):
        run(glob, tmp_path / "run", glob, embed={"files": str(tmp_path / "emb.npy")})


def test_bad_shards_and_unusable_rows_of_a_reference(tmp_path, source, copied):
    bad = planted(20, seed=3)
    bad[:3] = 0
    written = write_shards(tmp_path / "bad", bad, shards=1)
    with pytest.raises(
        EmbeddingError, match=r"3 of 20 rows of .* are unusable; limits.unusable allows 5\.0%"
    ):
        run(source, copied, written)
    run(source, copied, written, limits={"unusable": 0.2})
    (tmp_path / "bad/train-1.parquet").write_bytes(b"no parquet")
    with pytest.raises(
        SourceError, match=r"^score\.normsim\.target: .*train-1\.parquet.*bad_shards allows 0"
    ):
        run(source, copied, written)


def test_a_reference_larger_than_memory_says_what_fits(tmp_path):
    values = recipe_values("none.parquet", tmp_path / "run", memory="1GB")
    context = Context(parse_recipe(values), RunFolder(tmp_path / "run"), None)
    assert references._room(context, 162_760, 512).shape == (162_760, 512)
    with pytest.raises(RunError, match=r"162,761 vectors of 512 numbers need 0\.3 GB; .* fits 162,760"):
        references._room(context, 162_761, 512)


def test_an_interrupted_reference_is_made_again(tmp_path, source, grouped, copied, monkeypatch):
    good = write_shards(tmp_path / "good", planted(30, seed=3), shards=1)
    want = run(source, shutil.copytree(grouped, tmp_path / "whole"), good)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(references, "_write", stop)
        with pytest.raises(KeyboardInterrupt):
            run(source, copied, good)
    assert run(source, copied, good).equals(want)


def test_secrets_are_written_nowhere(tmp_path):
    values = recipe_values("none.parquet", tmp_path / "run")
    context = Context(parse_recipe(values), RunFolder(tmp_path / "run"), None)
    secret = Source(path="s3://b/x.parquet", storage_options={"secret": "hunter2"})
    plain = Source(path="s3://b/x.parquet", storage_options={"secret": "other"})
    assert references._folder(context, secret, "image") == references._folder(context, plain, "image")
    assert references._folder(context, secret, "image") != references._folder(context, secret, "text")


def test_a_target_of_images_by_the_model(tmp_path, decoding_here):
    """The model gives an image of the target the vector that the run gives it: their cosine is 1."""
    sample = pq.read_table(SAMPLE)
    (tmp_path / "in").mkdir()
    pq.write_table(sample.slice(0, 40), tmp_path / "in/0.parquet")
    (tmp_path / "eval").mkdir()
    pq.write_table(sample.slice(30, 30), tmp_path / "eval/0.parquet")
    values = recipe_values(
        str(tmp_path / "in/*.parquet"), tmp_path / "run", source={"path": str(tmp_path / "in/*.parquet")},
        embed={"model": "tiny"}, score=["pair", {"normsim": {"target": str(tmp_path / "eval")}}],
        dedup={"against": {"path": str(tmp_path / "eval"), "epsilon": 0.01}}, limits={"unusable": 0.5},
    )  # fmt: skip
    runner.run(parse_recipe(values), until="score")
    frame = pl.read_parquet(tmp_path / "run/0_samples/*.parquet").filter(
        (pl.col("outcome") == "ok") & pl.col("copy_of").is_null()
    )
    for family in ("pair", "normsim", "against-eval"):
        frame = frame.join(pl.read_parquet(tmp_path / f"run/3_scores/{family}/*.parquet"), on="uid")
    shared = frame.filter(pl.col("row") >= 30)
    assert len(shared) > 5
    assert shared["normsim_inf"].min() > 1 - 1e-6
    assert frame.filter(pl.col("row") < 30)["normsim_inf"].median() < 1 - 1e-4
    assert frame["similarity_to_eval"].to_list() == frame["normsim_inf"].to_list()
    assert (frame["nce"].is_not_null() == (frame["pair_status"] == "ok")).all()
    assert (frame["pair_status"] == "ok").sum() > 30
