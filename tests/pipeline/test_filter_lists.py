"""Lists of uids in a run: samples that are pinned, excluded, not there, unusable, or copies."""

import logging

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import RunError, UsageError
from curate.filtering import uid_lists
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards

N = 40
UIDS = [f"s{i:06d}" for i in range(N)]


def recipe(glob="in/*.parquet", out="run", **changes):
    return parse_recipe(recipe_values(glob, out, **changes))


def filtered(values):
    runner.run(values, until="filter")
    return pl.read_parquet(f"{values.run}/3_scores/filter/part-*").sort("uid")


@pytest.fixture(scope="module")
def glob(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("in"), planted(N), shards=3)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder of a run that these tests go on with: only the lists change, and what depends on them."""
    return tmp_path_factory.mktemp("run") / "run"


def test_a_bad_list_stops_before_any_work(glob, tmp_path):
    with pytest.raises(UsageError, match="pin: "):
        runner.run(recipe(glob, tmp_path / "run", pin=str(tmp_path / "nothing.txt")))
    assert not (tmp_path / "run").exists()


def test_lists_of_all_kinds_say_the_same(glob, out, tmp_path):
    some = [UIDS[i] for i in (1, 5, 39)]
    (tmp_path / "a.txt").write_text("\n".join(some))
    (tmp_path / "a.csv").write_text("n,uid\n" + "".join(f"1,{uid}\n" for uid in some))
    (tmp_path / "a.jsonl").write_text("".join(f'{{"uid": "{uid}"}}\n' for uid in some))
    pq.write_table(pa.table({"uid": some}), tmp_path / "a.parquet")
    for name in ("a.txt", "a.csv", "a.jsonl", "a.parquet"):
        pinned = filtered(recipe(glob, out, pin=str(tmp_path / name)))
        assert pinned.filter("pinned")["uid"].to_list() == some
        without = filtered(recipe(glob, out, exclude=str(tmp_path / name)))
        assert without.filter(pl.col("filter_reason") == "excluded")["uid"].to_list() == some
        assert without["filter_reason"].null_count() == N - 3


def test_uids_that_are_not_there_are_told(glob, out, tmp_path, caplog):
    (tmp_path / "a.txt").write_text("zz\ns000001\nyy\nxx\nww\nyy\n")
    for setting in ("pin", "exclude"):
        caplog.clear()
        filtered(recipe(glob, out, **{setting: str(tmp_path / "a.txt")}))
        told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert f"{setting}: 4 of 5 uids are not in the run, such as ww, xx, yy" in told


def test_an_empty_list_and_one_that_fits_nobody(glob, out, tmp_path, caplog):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text("x\n")
    found = filtered(recipe(glob, out, pin=str(tmp_path / "a.txt"), exclude=str(tmp_path / "b.txt")))
    assert found.select("filter_reason", "pinned").unique().rows() == [(None, False)]
    assert "exclude: 1 of 1 uids are not in the run, such as x" in caplog.text


def test_a_uid_on_both_lists(glob, tmp_path):
    (tmp_path / "a.txt").write_text("s000004\ns000003\nx\n")
    (tmp_path / "b.csv").write_text("uid\nx\ns000003\ns000009\n")
    values = recipe(glob, tmp_path / "run", pin=str(tmp_path / "a.txt"), exclude=str(tmp_path / "b.csv"))
    with pytest.raises(
        UsageError, match=r"pin and exclude: 2 uids are on both lists .*, such as s000003; take them"
    ):
        runner.run(values)
    assert not (tmp_path / "run").exists()


def test_unusable_samples_and_copies(tmp_path, caplog):
    """A pinned copy pins the sample that stands for it; one that cannot be read cannot be kept."""
    rows = planted(N, copies=2)
    rows[7] = np.nan
    glob = write_shards(tmp_path / "in", rows)
    plain = recipe(glob, tmp_path / "plain")
    runner.run(plain, until="embed")
    samples = pl.read_parquet(f"{plain.run}/0_samples/part-*")
    copy, original = (
        samples.filter(pl.col("copy_of").is_not_null()).select("uid", "copy_of").sort("uid").row(0)
    )
    (tmp_path / "pin.txt").write_text(f"{copy}\ns000007\n")
    found = filtered(recipe(glob, tmp_path / "run", pin=str(tmp_path / "pin.txt")))
    assert found.filter("pinned")["uid"].to_list() == [original]
    assert "pin: 1 samples are unusable and cannot be kept, such as s000007" in caplog.text
    (tmp_path / "out.txt").write_text(f"{original}\n")
    both = recipe(glob, tmp_path / "run", pin=str(tmp_path / "pin.txt"), exclude=str(tmp_path / "out.txt"))
    with pytest.raises(UsageError, match=f"1 uids are on both lists .or copies of such., such as {original}"):
        filtered(both)


def test_another_content_is_judged_anew(glob, out, tmp_path):
    (tmp_path / "a.txt").write_text("s000001\n")
    values = recipe(glob, out, pin=str(tmp_path / "a.txt"))
    filtered(values)
    assert runner.run(values, until="filter").worked == ()
    (tmp_path / "a.txt").write_text("s000002\n")
    assert filtered(values).filter("pinned")["uid"].to_list() == ["s000002"]


def test_a_list_that_does_not_fit(glob, out, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("s000001\ns000002\n")
    monkeypatch.setattr(uid_lists, "_ROW_BYTES", 10**9)
    with pytest.raises(
        RunError, match=r"pin: a list needs 2.0 GB for 2 samples; memory 2GB fits 1: raise memory"
    ):
        filtered(recipe(glob, out, pin=str(tmp_path / "a.txt")))
