"""Dated runs: what a night makes anew, what it shares, what commit and gc do, and that yesterday stays as it was."""

import json
import os
import shutil
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from curate import open_run
from curate.analysis.verify.verify import verify_run
from curate.errors import RunError, UsageError
from curate.io import storage
from curate.pipeline import runner
from curate.pipeline.stages.read import part_names
from curate.recipe.loading import parse_recipe
from curate.runs import dated
from curate.runs.folder import RunFolder
from curate.runs.gc import gc
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate
from tests.fixtures.folders import files_below


def contents(run):
    """Return the bytes of every file of a run, without its lock."""
    return {path: path.read_bytes() for path in files_below(run)}


def night(root, source, *, now=None, **changes):
    """Make one dated run, as cron does; return its folder."""
    recipe = parse_recipe(recipe_values(f"{source}/*.parquet", root, **changes))
    run = dated.new_run(root, partial(part_names, recipe))
    runner.run(recipe.model_copy(update={"run": str(run)}))
    dated.commit(root, run)
    return run


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """Four nights: two shards, a third, the second is gone, it is back. And each run as the next night found it."""
    folder = tmp_path_factory.mktemp("nights")
    write_shards(folder / "all", planted(240), shards=3)
    shards = sorted((folder / "all").iterdir())
    root, source = folder / "runs", folder / "in"
    source.mkdir()
    runs, before = [], []
    for there in (shards[:2], shards, [shards[0], shards[2]], shards):
        for path in shards:
            (source / path.name).unlink(missing_ok=True)
            if path in there:
                shutil.copy2(path, source)
        before.append(contents(runs[-1]) if runs else {})
        runs.append(night(root, source))
        assert not runs[:-1] or contents(runs[-2]) == before[-1], "no stage changes a file that it shares"
    return root, runs


@pytest.fixture
def copied(nights, tmp_path):
    """A copy of the four nights, links and all, to be changed."""
    os.system(f"cp -a {nights[0]} {tmp_path}/runs")
    return tmp_path / "runs"


def made(run, stage):
    return open_run(run).manifest()["stages"][stage]["parts_made"]


def test_only_what_is_new_is_embedded_and_a_shard_that_comes_back_is_not(nights):
    assert [made(run, "embed") for run in nights[1]] == [2, 1, 0, 0]


def test_every_night_is_a_whole_run(nights):
    root, runs = nights
    assert [run.parent for run in runs] == [root] * 4
    assert runs == sorted(set(runs)) == dated.dated_runs(root)
    assert [verify_run(run)["rows"] for run in runs] == [160, 240, 160, 240]
    assert dated.latest(root) == runs[-1]
    assert open_run(root).folder.path == runs[-1]
    assert open_run(root).decisions()["uid"].n_unique() == 240


def test_the_night_after_equals_a_run_from_nothing_with_the_same_centroids(nights):
    runs = nights[1]
    again = [open_run(run).decisions().sort("uid").drop("concept") for run in (runs[1], runs[3])]
    assert again[0].equals(again[1])


def test_content_is_on_the_disk_once(nights):
    root, runs = nights
    for path in files_below(runs[3] / "1_embeddings"):
        if path.name.startswith("part-"):
            stored = root / "store/1_embeddings" / path.name
            assert path.samefile(stored)
            assert path.stat().st_nlink == 1 + sum(
                (run / "1_embeddings" / path.name).exists() for run in runs
            )
    for folder, count in {"keys": 3, "0_samples": 3, "1_embeddings": 3, "2_concepts/assignments": 3}.items():
        assert len(list((root / "store" / folder).glob("part-*"))) == count, folder
    assert (root / "store/3_scores/clip_score").is_dir()
    assert not (root / "store/3_scores/filter").exists()


def test_a_night_begins_without_the_times_and_the_report_of_the_night_before(nights):
    times = [open_run(run).manifest()["times"] for run in nights[1]]
    assert times[3]["embed"]["seconds"] != times[2]["embed"]["seconds"]
    page = [(run / "7_report/report.html").stat().st_ino for run in nights[1]]
    assert len(set(page)) == 4


def test_the_manifest_lists_the_parts(nights):
    for run, count in zip(nights[1], (2, 3, 2, 3), strict=True):
        names = {part["name"] for part in open_run(run).manifest()["parts"]}
        stored = {path.stem.removeprefix("part-") for path in (nights[0] / "store/0_samples").glob("part-*")}
        assert len(names) == count
        assert names <= stored


def test_an_unfinished_night_is_gone_on_with(copied):
    first = dated.new_run(copied)
    assert not (first / "manifest.json").exists()
    assert dated.new_run(copied) == first
    with pytest.raises(RunError, match=r"not finished \(it has no manifest.json\)"):
        dated.commit(copied, first)
    assert dated.latest(copied) != first


def test_names_never_go_back(copied):
    last = copied / "2999-01-01T000000Z"
    dated.latest(copied).rename(last)
    (copied / "latest").write_text(last.name)
    assert dated.new_run(copied).name == "2999-01-01T000001Z"


def test_the_first_run_begins_empty(tmp_path):
    run = dated.new_run(tmp_path / "runs")
    assert list(run.iterdir()) == []
    began = datetime.strptime(run.name, dated.TIME).replace(tzinfo=UTC)
    assert abs((began - datetime.now(UTC)).total_seconds()) < 60


def test_what_cannot_hold_dated_runs(nights, tmp_path):
    with pytest.raises(UsageError, match="is a run folder itself"):
        dated.new_run(nights[1][0])
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        dated.new_run(tmp_path / "file")
    with pytest.raises(UsageError, match="is no dated run of"):
        dated.commit(tmp_path, nights[1][0])
    with pytest.raises(UsageError, match="holds no dated runs"):
        gc(tmp_path)


def test_latest_never_goes_back(nights):
    with pytest.raises(RunError, match="which is newer than"):
        dated.commit(nights[0], nights[1][0])


def test_latest_that_names_nothing(copied):
    (copied / "latest").write_text("../elsewhere\n")
    with pytest.raises(RunError, match="must name a run folder beside it"):
        open_run(copied)


def test_where_there_are_no_hard_links_files_are_copied(copied, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(dated.os, "link", refuse)
    monkeypatch.setattr(dated, "held", lambda root: dated.contextlib.nullcontext())
    run = dated.new_run(copied)
    before = dated.latest(copied)
    files = files_below(before / "1_embeddings")
    assert files
    for path in files:
        other = run / path.relative_to(before)
        assert (other.read_bytes(), other.stat().st_nlink) == (path.read_bytes(), 1)


# --- gc -------------------------------------------------------------------------------------------------


def test_gc_without_numbers_keeps_finished_runs(copied):
    runs = dated.dated_runs(copied)
    freed = gc(copied)
    assert (freed.runs, freed.parts, freed.bytes) == ((), 0, 0)
    assert freed.kept == tuple(run.name for run in runs)


def test_gc_removes_parts_that_no_kept_run_lists(copied):
    runs = dated.dated_runs(copied)
    (copied / "latest").write_text(runs[2].name)
    shutil.rmtree(runs[3])  # the night of which the shard was gone is the latest
    size = sum(path.stat().st_size for path in copied.rglob("*") if path.is_file())
    before = contents(runs[2])
    would = gc(copied, keep=1, dry_run=True)
    assert len(dated.dated_runs(copied)) == 3
    done = gc(copied, keep=1)
    assert would == done
    assert done.runs == tuple(run.name for run in runs[:2])
    assert done.parts == 5, "keys, samples, embeddings, assignments and clip_score of one shard"
    assert dated.dated_runs(copied) == [runs[2]]
    assert contents(runs[2]) == before
    assert verify_run(copied)["rows"] == 160
    assert 0 < done.bytes < size


def test_gc_says_what_the_disk_gets_back(copied):
    def used():
        found = {path.stat().st_ino: path.stat().st_size for path in copied.rglob("*") if path.is_file()}
        return sum(found.values())

    before = used()
    assert gc(copied, keep=2).bytes == before - used()


def test_gc_by_days(copied):
    runs = dated.dated_runs(copied)
    old = copied / "2001-01-01T000000Z"
    runs[0].rename(old)
    assert gc(copied, days=1).runs == (old.name,)
    assert dated.dated_runs(copied) == runs[1:]


def test_gc_never_removes_the_latest_or_what_is_newer(copied):
    runs = dated.dated_runs(copied)
    newer = dated.new_run(copied)
    (copied / "latest").write_text(runs[0].name)
    assert gc(copied, keep=1).runs == ()
    assert gc(copied, days=0).runs == ()
    assert dated.dated_runs(copied) == [*runs, newer]


def test_gc_leaves_what_is_being_written_and_takes_what_was_given_up(copied):
    runs = dated.dated_runs(copied)
    for run in runs[:2]:
        (run / "manifest.json").unlink()
    with RunFolder(runs[0]).lock():
        freed = gc(copied)
    assert (freed.runs, freed.in_use) == ((runs[1].name,), (runs[0].name,))
    assert runs[0].exists()
    assert not runs[1].exists()


def test_gc_clears_what_a_killed_one_left(copied):
    half = copied / ".2026-01-01T000000Z.partial-1"
    half.mkdir()
    torn = copied / "store/keys/.part-x.parquet.partial-1"
    torn.touch()
    assert gc(copied).parts == 0
    assert not half.exists()
    assert not torn.exists()


# --- the command line -----------------------------------------------------------------------------------


def test_from_cron(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vectors = planted(60)
    vectors[0] = 0  # unusable
    glob = write_shards(tmp_path / "in", vectors, shards=2)
    recipe = Path("recipe.yaml")
    recipe.write_text(
        f"run: runs/x\nsource: {{path: '{glob}', uid: id}}\nembed: {{column: embedding}}\n"
        "select: {keep: 0.5}\nmemory: 2GB\nworkers: 1\n"
    )
    assert curate("run", recipe, "--dated", "--dry-run").code == 0
    assert not Path("runs").exists()
    said = curate("run", recipe, "--dated", "-q")
    assert said.code == 0, said.err
    [run] = dated.dated_runs("runs/x")
    assert open_run("runs/x").manifest()["counts"]["rows"] == 60
    assert "60 rows are as recorded" in curate("verify", "runs/x").out
    assert curate("run", recipe, "--dated", "--set", "source.uid=note").code == 1 + 1, (
        "another source is refused"
    )
    assert curate("run", recipe, "--dated", "--set", "limits.unusable=0", "-q").code == 3
    assert dated.latest("runs/x") == run, "latest moves after success only"
    assert curate("run", recipe, "--dated", "-q").code == 0
    assert dated.latest("runs/x") == dated.dated_runs("runs/x")[1] != run
    assert len(dated.dated_runs("runs/x")) == 2, "a run that failed is gone on with"
    said = curate("gc", "runs/x", "--days", "9", "--json")
    assert json.loads(said.out)["kept"][0] == run.name
    said = curate("gc", "runs/x")
    assert said.err.startswith("runs/x: 0 runs and 0 parts removed, 0 B")
    assert curate("gc", "runs/x", "--keep", "1", "--days", "2").error.startswith(
        "gc: --keep and --days exclude"
    )
    assert curate("gc", "in").code == 2
    assert storage.read_json(run / "manifest.json")["counts"]["kept"] == 30
