"""The run folder: what is done again and what is not, what is repaired, and who may write."""

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from curate import open_run
from curate.analysis.verify.verify import verify_run
from curate.errors import RunError, UsageError
from curate.io import lock, storage
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.runs.folder import RunFolder
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.folders import changed, files_below, leftovers, tables, times

EVERY = ("read", "embed", "cluster", "score", "filter", "dedup", "select", "write", "report")
N = 240


@pytest.fixture(autouse=True)
def no_flush(monkeypatch):
    """Flushing to the disk takes most of the time of small runs, and nothing is killed here."""
    monkeypatch.setattr(storage, "_sync", lambda path: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run on three shards, to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    write_shards(folder / "in", planted(N, copies=12, near=20, clusters=5))
    runner.run(recipe(folder))
    return folder


@pytest.fixture
def world(finished, tmp_path):
    """A copy of the finished run and its source, in which nothing is changed: times stay as they are."""
    shutil.copytree(finished, tmp_path / "world", copy_function=shutil.copy2)
    fix_paths(tmp_path / "world", finished)
    return tmp_path / "world"


def fix_paths(world, origin):
    """Let a copied run believe that it was made from the copied source."""
    path = world / "run" / "recipe.yaml"
    path.write_text(path.read_text().replace(str(origin), str(world)))
    for path in (world / "run" / ".work").glob("*.json"):
        value = json.loads(json.dumps(storage.read_json(path)).replace(str(origin), str(world)))
        storage.write_record(path, value)


def recipe(world, **changes):
    defaults = {"cluster": {"concepts": 4}, "select": {"keep": 0.4}}
    return parse_recipe(recipe_values(str(world / "in" / "*.parquet"), world / "run", **defaults | changes))


def run(world, *, force=False, refit=False, **changes):
    return runner.run(recipe(world, **changes), force=force, refit=refit).worked


def shard(world, number):
    return sorted((world / "in").glob("*.parquet"))[number]


def rewrite(path, change):
    """Change a Parquet file in place."""
    table = pq.read_table(path)
    pq.write_table(change(table), path)


def test_the_second_run_does_nothing_and_says_so(world):
    run(world)  # which learns that the shards, copied too, are the same
    before = times(world / "run")
    command = [sys.executable, "-m", "curate", "run", str(world / "recipe.yaml")]
    (world / "recipe.yaml").write_text(recipe(world).to_yaml())
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "nothing to do, everything is up to date" in done.stderr
    new = changed(before, times(world / "run"))
    assert [name for name in new if not name.startswith("logs/")] == []
    assert leftovers(world / "run") == []


@pytest.mark.parametrize(
    ("changes", "worked"),
    [
        pytest.param({"select": {"keep": 0.2}}, EVERY[6:], marks=pytest.mark.long),
        pytest.param({"dedup": {"epsilon": 0.02}}, EVERY[5:], marks=pytest.mark.long),
        ({"filter": ["concept >= 0", "concept < 3"], "select": {"keep": 0.1}}, EVERY[4:]),
        pytest.param({"cluster": {"concepts": 6}}, EVERY[2:3] + EVERY[4:], marks=pytest.mark.long),
        pytest.param({"write": {"max_shard_size": 800}}, EVERY[7:], marks=pytest.mark.long),
        ({"memory": "3GB"}, ()),
        pytest.param({"workers": 2}, (), marks=pytest.mark.long),
    ],
    ids=["select", "dedup", "filter", "cluster", "write", "memory", "workers"],
)
def test_a_change_is_computed_from_the_first_stage_it_touches(world, changes, worked):
    before, manifest = times(world / "run"), (world / "run" / "manifest.json").read_text()
    assert run(world, **changes) == worked
    folders = {"cluster": "2_", "filter": "3_scores/filter", "dedup": "4_", "select": "5_", "write": "6_"}
    new = changed(before, times(world / "run"))
    touched = [folder for stage, folder in folders.items() if stage in worked]
    tabular = [name for name in new if name[0] in "0123456"]
    assert {next((f for f in touched if name.startswith(f)), name) for name in tabular} == set(touched)
    assert (manifest == (world / "run" / "manifest.json").read_text()) == (worked == ())
    values = {"cluster": {"concepts": 4}, "select": {"keep": 0.4}} | changes
    fresh = parse_recipe(recipe_values(str(world / "in" / "*.parquet"), world / "fresh", **values))
    runner.run(fresh)
    assert changed(tables(world / "fresh"), tables(world / "run")) == []
    verify_run(world / "run")


def test_a_source_file_changed_in_place_is_noticed(world):
    path = shard(world, 1)
    size, before = path.stat().st_size, tables(world / "run")
    content = path.read_bytes()
    at = content.index(b"row 100")
    path.write_bytes(content[:at] + b"row 1OO" + content[at + 7 :])  # a column that nothing is made from
    assert path.stat().st_size == size
    assert run(world)[:2] == ("read", "embed")
    assert open_run(world / "run").manifest()["stages"]["embed"]["parts_made"] == 1
    assert len(changed(before, tables(world / "run"))) > 2
    verify_run(world / "run")


def test_a_source_file_with_a_new_time_and_the_same_bytes_is_no_change(world):
    before = tables(world / "run")
    os.utime(shard(world, 1))
    run(world)
    assert changed(before, tables(world / "run")) == []
    assert run(world) == ()
    os.utime(shard(world, 2))
    assert run(world, select={"keep": 0.3}) == EVERY[6:]  # the writer knows the new time


def test_an_added_shard_is_embedded_alone_and_keeps_the_concepts(world):
    before = times(world / "run")
    centroids = (world / "run" / "2_concepts" / "centroids.parquet").read_bytes()
    late = write_shards(world / "late", planted(50, seed=9), shards=1)
    rewrite(
        Path(late).parent / "train-00000-of-00001.parquet",
        lambda table: table.set_column(
            table.column_names.index("id"), "id", [[f"late{i}" for i in range(50)]]
        ),
    )
    shutil.copy(Path(late).parent / "train-00000-of-00001.parquet", world / "in" / "train-00009.parquet")
    assert run(world) == EVERY
    manifest = open_run(world / "run").manifest()
    assert manifest["stages"]["embed"]["parts_made"] == 1
    assert manifest["counts"]["rows"] == N + 50
    after = times(world / "run")
    for folder in ("0_samples", "1_embeddings", "2_concepts/assignments"):
        new = [name for name in changed(before, after) if name.startswith(f"{folder}/part")]
        assert len(new) == 1, new
    assert (world / "run" / "2_concepts" / "centroids.parquet").read_bytes() == centroids
    concepts = pq.read_table(world / "run" / "2_concepts" / "concepts.parquet").to_pydict()
    assert sum(concepts["n_assigned"]) == sum(concepts["n_fit"]) + 50
    verify_run(world / "run")
    shard(world, -1).unlink()  # and away again
    assert run(world)
    assert not [
        name for name in changed(before, times(world / "run")) if name.startswith("1_emb") and "part" in name
    ]
    verify_run(world / "run")
    assert run(world, refit=True)
    assert (world / "run" / "2_concepts" / "centroids.parquet").read_bytes() == centroids


def test_a_removed_shard_leaves_nothing_behind(world):
    gone = {
        p["name"] for p in open_run(world / "run").manifest()["parts"] if p["shard"] == shard(world, 1).name
    }
    assert len(gone) == 1
    shard(world, 1).unlink()
    assert run(world)
    (name,) = gone
    assert [path for path in files_below(world / "run") if name in path.name] == []
    run_ = open_run(world / "run")
    assert len(run_.decisions()) == len(run_.samples()) == N - 80
    assert "train-00001-of-00003.parquet" not in set(run_.decisions()["shard"])
    assert run_.manifest()["counts"]["rows"] == N - 80
    verify_run(world / "run")


def test_a_whole_folder_that_is_deleted_is_made_anew(world):
    expected = tables(world / "run")
    for folder in ("0_samples", "2_concepts/assignments", "3_scores", "6_filtered", ".work"):
        storage.remove(world / "run" / folder)
        assert run(world)
        assert changed(expected, tables(world / "run")) == [], folder


def test_a_manifest_from_before_is_written_again(world):
    """An interruption after the last stage and before the manifest leaves an old one."""
    old = (world / "run" / "manifest.json").read_text()
    run(world, select={"keep": 0.3})
    new = json.loads((world / "run" / "manifest.json").read_text())
    (world / "run" / "manifest.json").write_text(old)
    run(world, select={"keep": 0.3})
    again = json.loads((world / "run" / "manifest.json").read_text())
    said = [{k: v for k, v in one.items() if k not in ("written", "checksum")} for one in (new, again)]
    assert said[0] == said[1] and again["written"] > new["written"]
    assert new["stages"] != json.loads(old)["stages"]


def test_another_source_or_model_is_refused_with_the_difference_and_replaced_by_force(world):
    before = times(world / "run")
    write_shards(world / "other", planted(90, seed=5))
    other = {"source": {"path": str(world / "other" / "*.parquet"), "uid": "id"}}
    with pytest.raises(
        UsageError, match=r"none of its 3 shards is in source\.path .*other/\*\.parquet; .*--force"
    ):
        run(world, **other)
    with pytest.raises(UsageError, match=r"embed\.column was 'embedding', is 'vector'"):
        run(world, embed={"column": "vector"})
    assert changed(before, times(world / "run")) == []
    assert run(world, force=True, **other) == EVERY
    fresh = parse_recipe(
        recipe_values(other["source"]["path"], world / "fresh", cluster={"concepts": 4}, select={"keep": 0.4})
    )
    runner.run(fresh)
    assert changed(tables(world / "fresh"), tables(world / "run")) == []
    assert len(open_run(world / "run").decisions()) == 90


def test_an_interrupted_replacement_can_be_repeated(world, monkeypatch):
    write_shards(world / "other", planted(90, seed=5))
    other = {"source": {"path": str(world / "other" / "*.parquet"), "uid": "id"}}
    removed, real = [], storage.remove

    def remove(path):
        if len(removed) == 4:
            raise KeyboardInterrupt
        removed.append(path)
        real(path)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(storage, "remove", remove)
        run(world, force=True, **other)
    assert run(world, force=True, **other) == EVERY


def test_a_folder_of_something_else_is_left_alone(world):
    strange = world / "strange"
    strange.mkdir()
    (strange / "thesis.tex").write_text("x")
    for force in (False, True):
        with pytest.raises(
            UsageError, match=r"strange is not empty and no run folder \(it holds thesis\.tex\)"
        ):
            runner.run(recipe(world, run=str(strange)), force=force)
    assert [path.name for path in strange.iterdir()] == ["thesis.tex"]


def test_an_interrupted_refit_leaves_no_half_of_it(world, monkeypatch):
    """Centroids of one fit and the table of another would not belong together."""
    from curate.pipeline.stages import cluster

    rewrite(shard(world, 0), lambda table: table.slice(0, 30))
    real = storage.write_parquet

    def write(path, *rest, **more):
        if path.name == "centroids.parquet":
            raise KeyboardInterrupt
        real(path, *rest, **more)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(cluster.storage, "write_parquet", write)
        run(world, refit=True)
    run(world)
    runner.run(recipe(world, run=str(world / "fresh")))
    assert changed(tables(world / "fresh"), tables(world / "run")) == []


def test_vector_files_follow_the_rows(tmp_path):
    """Shards that change places take other rows of the vector files with them."""
    vectors = planted(90, seed=2).astype(np.float32)
    write_shards(tmp_path / "in", vectors)
    for path in (tmp_path / "in").glob("*.parquet"):
        rewrite(path, lambda table: table.drop_columns(["embedding"]))
    np.save(tmp_path / "vectors.npy", vectors)
    changes = {"embed": {"files": str(tmp_path / "vectors.npy")}}
    run(tmp_path, **changes)
    shard(tmp_path, 0).rename(tmp_path / "in" / "z.parquet")
    run(tmp_path, refit=True, **changes)
    runner.run(recipe(tmp_path, run=str(tmp_path / "fresh"), **changes))
    assert changed(tables(tmp_path / "fresh"), tables(tmp_path / "run")) == []


def test_scores_of_an_earlier_recipe_are_not_those_of_this_one(world):
    assert "clip_score" in open_run(world / "run").scores().columns
    run(world, score=[])
    assert "clip_score" not in open_run(world / "run").scores().columns


def test_reading_what_is_not_there(world, tmp_path):
    with pytest.raises(UsageError, match=r"is not a run folder: it has no recipe\.yaml"):
        open_run(tmp_path / "nothing")
    runner.run(recipe(world, run=str(world / "part")), until="embed")
    half = open_run(world / "part")
    assert len(half.samples()) == N
    for read in (half.decisions, half.concepts, half.scores, half.manifest):
        with pytest.raises(RunError, match="is not there yet; finish the run first"):
            read()


def test_a_stage_that_may_not_be_read_is_not_taken_for_unfinished(tmp_path, monkeypatch):
    """It was made anew, or "not there yet"."""
    folder = RunFolder(tmp_path / "run")
    assert folder.marker(folder.decisions) is None
    folder.decisions.mkdir(parents=True)
    folder.mark(folder.decisions, "abc", {})
    listed = Path.stat

    def stat(path, **keywords):
        if path.parent == folder.decisions:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path, **keywords)

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(PermissionError):
        folder.marker(folder.decisions)


# --- the lock ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied"), "no permission to write here"),
        (OSError(30, "Read-only file system"), "the disk is read-only; choose another folder with --out"),
    ],
)
def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch, error, said):
    def mkdir(*args, **kwargs):
        raise error

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with (
        pytest.raises(RunError, match=rf"cannot write .*run/\.lock: {said}"),
        RunFolder(tmp_path / "run").lock(),
    ):
        pass


@pytest.fixture
def short_watch(monkeypatch):
    monkeypatch.setattr(lock, "WATCH_S", 0.1)


def write_lock(folder, **facts):
    folder.mkdir(exist_ok=True)
    now = {"host": socket.gethostname(), "pid": os.getpid(), "started": lock.started_at(os.getpid())}
    (folder / ".lock").write_text(json.dumps(now | {"since": "2020-01-01 00:00:00"} | facts))
    return folder / ".lock"


def test_the_lock_is_held_while_inside_and_gone_afterwards(tmp_path):
    folder = RunFolder(tmp_path / "run")
    for error in (None, ValueError("x"), KeyboardInterrupt()):
        try:
            with folder.lock():
                held = json.loads((folder.path / ".lock").read_text())
                assert held["pid"] == os.getpid() and held["host"] == socket.gethostname()
                said = f"written by process {os.getpid()} on {held['host']} since"
                with pytest.raises(RunError, match=said), folder.lock():
                    pass
                assert [path.name for path in folder.path.iterdir()] == [".lock"]
                if error is not None:
                    raise error
        except (ValueError, KeyboardInterrupt):
            pass
        assert list(folder.path.iterdir()) == []


def test_a_second_process_is_told_who_writes(world):
    (world / "recipe.yaml").write_text(recipe(world).to_yaml())
    with RunFolder(world / "run").lock():
        command = [sys.executable, "-m", "curate", "run", str(world / "recipe.yaml")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"is being written by process {os.getpid()} on {socket.gethostname()} since" in done.stderr
    assert "Traceback" not in done.stderr


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    "facts",
    [
        lambda: {"pid": dead_pid()},
        lambda: {"started": "another boot 12345"},
        lambda: {"started": 1234.5},
        lambda: {"started": None},
        lambda: {"pid": "x"},
        lambda: {"pid": None},
        lambda: {"pid": -1},
        lambda: {"pid": 2**40},
    ],
    ids=["dead", "reused", "reused-old-format", "no-start", "no-number", "no-pid", "negative", "huge"],
)
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, facts):
    write_lock(tmp_path / "run", **facts())
    with RunFolder(tmp_path / "run").lock():
        assert json.loads((tmp_path / "run" / ".lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b"12", b'"x"', b"{}", b"\xff\xfe\x00"])
def test_a_lock_that_makes_no_sense_is_taken_over(tmp_path, short_watch, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_bytes(content)
    with RunFolder(tmp_path / "run").lock():
        assert json.loads((tmp_path / "run" / ".lock").read_bytes())["pid"] == os.getpid()


def test_a_process_that_ended_but_is_not_waited_for_is_dead(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_lock(tmp_path / "run", pid=process.pid, started=lock.started_at(process.pid))
    with pytest.raises(RunError, match=f"process {process.pid}"), RunFolder(tmp_path / "run").lock():
        pass
    process.stdin.close()
    for _ in range(200):
        if lock.started_at(process.pid) is None:
            break
        time.sleep(0.05)
    with RunFolder(tmp_path / "run").lock():
        pass
    process.wait()


def test_another_machine_is_believed_while_its_heart_beats(tmp_path, short_watch):
    file = write_lock(tmp_path / "run", host="elsewhere", pid=1)
    with (
        pytest.raises(RunError, match="process 1 on elsewhere since 2020"),
        RunFolder(tmp_path / "run").lock(),
    ):
        pass
    old = time.time() - lock.LOCK_EXPIRES_S - 1
    os.utime(file, (old, old))
    with RunFolder(tmp_path / "run").lock():
        pass
    assert not file.exists()


def test_the_heart_beats_and_never_for_another(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.02)
    folder = tmp_path / "run"
    with RunFolder(folder).lock():
        file = folder / ".lock"
        for other in (False, True):
            if other:  # taken over, after this machine had slept for a while
                write_lock(folder, host="elsewhere", pid=1)
            os.utime(file, (1, 1))
            time.sleep(0.3)
            assert (file.stat().st_mtime > 1) == (not other)
    assert json.loads(file.read_text())["host"] == "elsewhere"


@pytest.mark.parametrize("off", [-3600, 3600], ids=["behind", "ahead"])
@pytest.mark.parametrize("beating", [True, False])
def test_where_clocks_differ_a_heartbeat_is_watched(tmp_path, monkeypatch, off, beating):
    monkeypatch.setattr(lock, "WATCH_S", 0.4)
    file = write_lock(tmp_path / "run", host="elsewhere", pid=1)
    stop = threading.Event()

    def beat():
        while not stop.wait(0.05):
            os.utime(file, (time.time() + off, time.time() + off))

    os.utime(file, (time.time() + off, time.time() + off))
    thread = threading.Thread(target=beat if beating else lambda: None)
    thread.start()
    refused = pytest.raises(
        RunError, match=r"process 1 on elsewhere .* \(if it is dead, that shows within 120 s\)"
    )
    with refused if beating else contextlib.nullcontext(), RunFolder(tmp_path / "run").lock():
        assert not beating
    stop.set()
    thread.join()


def test_a_container_of_the_same_name_is_another_machine(tmp_path):
    """Its process has a number of its own: it cannot be looked up here."""
    write_lock(tmp_path / "run", pid=dead_pid(), machine="this boot pid:[1]")
    with pytest.raises(RunError, match="is being written by process"), RunFolder(tmp_path / "run").lock():
        pass
    write_lock(tmp_path / "run", pid=dead_pid(), machine=lock.machine())
    with RunFolder(tmp_path / "run").lock():
        pass


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK])
def test_a_file_system_without_hard_links_keeps_a_lock(tmp_path, monkeypatch, short_watch, code):
    def link(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        held = json.loads((folder.path / ".lock").read_text())
        assert held["pid"] == os.getpid()
        with pytest.raises(RunError, match=f"written by process {os.getpid()}"), folder.lock():
            pass
    assert list(folder.path.iterdir()) == []
    write_lock(folder.path, pid=dead_pid())
    with folder.lock():
        pass


def test_a_link_that_fails_for_another_reason_is_told(tmp_path, monkeypatch):
    def link(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(RunError, match="the disk is full"), RunFolder(tmp_path / "run").lock():
        pass


@pytest.mark.parametrize("taken", [True, False], ids=["taken", "taken and given back"])
def test_who_was_stopped_for_minutes_harms_nothing_of_the_one_that_took_over(tmp_path, taken):
    folder = tmp_path / "run"
    with RunFolder(folder).lock():
        storage.write_json(folder / "a.json", 1)
        if taken:
            write_lock(folder, host="elsewhere", pid=1, token="another")
        else:
            (folder / ".lock").unlink()
        (folder / "a.json").write_text("2")
        whom = " by process 1 on elsewhere" if taken else ""
        said = f"{folder} was taken over{whom} while this process stood still"
        for change in (
            lambda: storage.write_json(folder / "a.json", 3),
            lambda: storage.remove(folder / "a.json"),
            lambda: storage.replace_folder(folder / "new", folder / "old"),
        ):
            with pytest.raises(RunError, match=re.escape(said)):
                change()
        code = f"from curate.io import storage; from pathlib import Path; storage.write_json(Path({str(folder)!r}) / 'a', 3)"
        worker = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert said in worker.stderr, "what it has started does not either"
        assert (folder / "a.json").read_text() == "2"
        assert not (folder / "a").exists()
        storage.write_json(tmp_path / "elsewhere.json", 4)
    storage.write_json(folder / "a.json", 5)


TAKE = """
import sys, time
from pathlib import Path
from curate.errors import RunError
from curate.runs.folder import RunFolder
folder, go = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
while not go.exists():
    pass
try:
    with RunFolder(folder).lock():
        print("got", flush=True)
        time.sleep(1)
except RunError:
    print("refused", flush=True)
"""


def test_of_many_that_find_a_dead_lock_one_gets_it(tmp_path):
    write_lock(tmp_path / "run", pid=dead_pid())
    command = [sys.executable, "-c", TAKE, str(tmp_path / "run"), str(tmp_path / "go")]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    assert all(racer.stdout.readline() == "ready\n" for racer in racers)
    (tmp_path / "go").touch()
    said = sorted(racer.communicate(timeout=60)[0].strip() for racer in racers)
    assert said == ["got"] + ["refused"] * 5
    assert leftovers(tmp_path / "run") == []
