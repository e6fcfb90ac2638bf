"""A run that is killed or interrupted at any moment goes on to the same bytes, and leaves nothing behind."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest

from curate import open_run
from curate.analysis.verify.verify import verify_run
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.folders import changed, files_below, leftovers, tables

REFUSED = ((errno.ENOSPC, "the disk is full"), (errno.EACCES, "no permission to write here"))

#: Forks a process per run, before anything has started threads, so that a run costs no imports; a run dies
#: by SIGKILL after a stage, or at the n-th thing it does to the file system below its folder. Or the system
#: refuses it the n-th thing: once, or (a full disk) every writing from then on.
DRIVER = """
import contextlib, errno, io, json, os, resource, signal, sys
from pathlib import Path
import faiss, plotly.offline, pyarrow.dataset, sklearn.decomposition
from curate import cli
from curate.io import storage
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.execution.context import Context

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.utime", "shutil.rmtree"}

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def count_down(folder, left, report, refuse=None):
    def hook(event, arguments):
        nonlocal left
        written = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax")
        path = str(arguments[0]) if event in CHANGES or written else ""
        if not path.startswith(folder) or "/logs/" in path:
            return
        left -= 1
        report[0] += 1
        if refuse is None and left == 0:
            die()
        full = refuse == errno.ENOSPC and left <= 0 and (written or event == "os.mkdir")
        if full or (refuse is not None and left == 0):
            raise OSError(refuse, os.strerror(refuse), str(arguments[0]))
    sys.addaudithook(hook)
    def sync(path):
        hook("os.mkdir", (str(path),))
    storage._sync = sync

def after(stage):
    class Dies(runner.STAGES[stage]):
        def run(self):
            super().run()
            die()
    runner.STAGES[stage] = Dies

for line in sys.stdin:
    job = json.loads(line)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        seen = [0]
        recipe = parse_recipe(job["recipe"])
        if job["memory"]:
            Context.task_memory = property(lambda self: job["memory"])
        count_down(recipe.run, job["step"], seen, job["refuse"])
        if job["stage"]:
            after(job["stage"])
        if job["limit"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
        if job["command"]:
            said = io.StringIO()
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                try:
                    cli.main(job["command"])
                except SystemExit as end:
                    code = end.code
            os.write(writing, json.dumps({"exit": code, "said": said.getvalue()}).encode())
            os._exit(0)
        worked = runner.run(recipe).worked
        os.write(writing, json.dumps({"worked": worked, "steps": seen[0]}).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    print(json.dumps({"code": os.waitstatus_to_exitcode(status)} | json.loads(said or "{}")), flush=True)
"""


@pytest.fixture(scope="module")
def drive():
    """Run a recipe in a process of its own; returns its exit code, the stages that worked and its steps."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def run(recipe, *, step=0, stage=None, memory=None, refuse=None, limit=None, command=()):
        job = {"recipe": recipe, "step": step, "stage": stage, "memory": memory}
        job |= {"refuse": refuse, "limit": limit, "command": list(command)}
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield run
    process.stdin.close()
    process.stdout.close()
    process.wait()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, drive):
    """The settings of a small run with everything in it, the bytes of its tables, and its steps."""
    folder = tmp_path_factory.mktemp("undisturbed")
    rows = planted(260, copies=15, near=25, clusters=5)
    rows[100] = 0
    glob = write_shards(folder / "in", rows, shards=2)
    values = recipe_values(
        glob, folder / "run", cluster={"concepts": 4}, dedup={"epsilon": {"drop": 0.15}, "max_concept": 60},
        select={"keep": 0.4}, write={"max_shard_size": 1500}, filter=["distance < 0.9"],
    )  # fmt: skip
    done = drive(values)
    assert done["code"] == 0 and done["worked"] == list(runner.STAGES)
    assert done["steps"] > 100
    verify_run(folder / "run")
    return values, tables(folder / "run"), done["steps"]


def assert_goes_on(drive, values, expected, **death):
    """Run until killed, then run again: the bytes are those expected and nothing else is there."""
    killed = drive(values, **death)
    assert killed["code"] == -signal.SIGKILL, killed
    folder = Path(values["run"])
    verify = drive(values)
    assert verify["code"] == 0
    assert changed(expected, tables(folder)) == []
    assert leftovers(folder) == []
    verify_run(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    names = {part["name"] for part in manifest["parts"]}
    for path in files_below(folder):
        if path.name.startswith("part-"):
            assert path.stem.removeprefix("part-") in names, path
    return verify["worked"]


#: After a fit, and when decisions are there and shards are not; the other stages in the long tests.
USUAL = ("cluster", "select")


@pytest.mark.parametrize(
    "stage", [one if one in USUAL else pytest.param(one, marks=pytest.mark.long) for one in runner.STAGES]
)
def test_killed_after_a_stage(undisturbed, drive, tmp_path, stage):
    values, expected, _ = undisturbed
    worked = assert_goes_on(drive, values | {"run": str(tmp_path / "run")}, expected, stage=stage)
    stages = list(runner.STAGES)
    assert worked == stages[stages.index(stage) + 1 :]
    assert drive(values | {"run": str(tmp_path / "run")})["worked"] == []


@pytest.mark.parametrize(
    "seed", [pytest.param(part, marks=pytest.mark.long) if part in (0, 2, 4) else part for part in range(5)]
)
def test_killed_at_any_moment(undisturbed, drive, tmp_path, seed):
    values, expected, steps = undisturbed
    step = random.Random(seed).randrange(seed * steps // 5, (seed + 1) * steps // 5) + 1
    assert_goes_on(drive, values | {"run": str(tmp_path / "run")}, expected, step=step)


@pytest.mark.long
def test_killed_again_and_again_with_other_memory_each_time(undisturbed, drive, tmp_path):
    values, expected, steps = undisturbed
    values = values | {"run": str(tmp_path / "run")}
    rng = random.Random(0)
    for memory in (20_000, 5_000, 60_000):
        killed = drive(values, step=rng.randrange(20, steps // 2), memory=memory)
        assert killed["code"] in (0, -signal.SIGKILL)
    assert drive(values)["code"] == 0
    assert changed(expected, tables(tmp_path / "run")) == []
    assert leftovers(tmp_path / "run") == []


@pytest.mark.long
def test_killed_at_steps_all_along(undisturbed, drive, tmp_path):
    values, expected, steps = undisturbed
    assert steps > 120
    for step in range(1, steps + 1, max(1, steps // 120)):
        assert_goes_on(drive, values | {"run": str(tmp_path / str(step))}, expected, step=step)


@pytest.mark.long
def test_killed_at_steps_all_along_a_change(undisturbed, drive, tmp_path):
    """The run folder holds an earlier run of another recipe: nothing of it may be taken for the new one's."""
    values, expected, steps = undisturbed
    before = values | {
        "cluster": {"concepts": 3},
        "dedup": {"epsilon": 0.05},
        "select": {"keep": 0.2},
        "filter": [],
    }
    for step in range(1, steps, max(1, steps // 110)):
        here = {"run": str(tmp_path / str(step))}
        assert drive(before | here)["code"] == 0
        if drive(values | here, step=step)["code"] == 0:
            break
        assert drive(values | here)["code"] == 0
        assert changed(expected, tables(tmp_path / str(step))) == [], step
        verify_run(tmp_path / str(step))
    else:
        pytest.fail("no run reached its end")


# --- what the system refuses -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def earlier(undisturbed, drive, tmp_path_factory):
    """A finished run of an earlier recipe, how many steps the new one takes, and what both decided and wrote."""
    values, _, _ = undisturbed
    folder = tmp_path_factory.mktemp("earlier")
    before = values | {"run": str(folder / "run"), "select": {"keep": 0.2}, "filter": []}
    assert drive(before)["code"] == 0
    shutil.copytree(folder / "run", folder / "new")
    changed = drive(values | {"run": str(folder / "new")})
    assert changed["code"] == 0
    states = [readable(folder / "run"), readable(folder / "new")]
    assert states[0] != states[1]
    return folder / "run", changed["steps"], states


def readable(run):
    """Return which rows the decisions keep and which rows are in the shards, as a user reads them."""
    decided = open_run(run).decisions().filter("keep")["uid"].to_list()
    return sorted(decided), sorted(pl.read_parquet(run / "6_filtered" / "*.parquet")["id"].to_list())


def assert_refused(drive, undisturbed, earlier, folder, **refusal):
    """Run the command until it is refused something; return what it said. The next run ends as if nothing was."""
    values, expected, _ = undisturbed
    run, _, ((old_kept, old_shards), (new_kept, new_shards)) = earlier
    shutil.copytree(run, folder / "run")
    values = values | {"run": str(folder / "run")}
    (folder / "recipe.yaml").write_text(parse_recipe(values).to_yaml())
    said = drive(values, command=["run", str(folder / "recipe.yaml"), "-q"], **refusal)
    assert said["code"] == 0 and "Traceback" not in said["said"], said
    kept, shards = readable(folder / "run")
    assert kept in (old_kept, new_kept) and shards in (old_shards, new_shards)
    assert (kept, shards) != (old_kept, new_shards)
    assert drive(values)["code"] == 0
    assert changed(expected, tables(folder / "run")) == []
    assert leftovers(folder / "run") == []
    verify_run(folder / "run")
    shutil.rmtree(folder / "run")
    return said


def assert_one_line(said, message):
    lines = [line for line in said["said"].splitlines() if line.startswith("error: ")]
    assert said["exit"] == 1 and len(lines) == 1, said
    assert lines[0].startswith("error: cannot write ") and message in lines[0]


def assert_all_refused(drive, undisturbed, earlier, folder, code, message, steps):
    """Refuse each of the steps; only what cannot be tidied up is no reason to fail."""
    passed = 0
    for step in steps:
        said = assert_refused(drive, undisturbed, earlier, folder, step=step, refuse=code)
        passed += said["exit"] == 0
        if said["exit"] != 0:
            assert_one_line(said, message)
    assert passed <= len(steps) // 4


@pytest.mark.parametrize(("code", "message"), REFUSED)
def test_a_refused_write_leaves_the_decisions_and_shards_before(
    undisturbed, drive, earlier, tmp_path, code, message
):
    at = random.Random(code)
    steps = [int((part + at.random()) * earlier[1] / 2) + 1 for part in range(2)]
    assert_all_refused(drive, undisturbed, earlier, tmp_path, code, message, steps)


@pytest.mark.long
@pytest.mark.parametrize(("code", "message"), REFUSED)
def test_many_refused_writes_leave_the_decisions_and_shards_before(
    undisturbed, drive, earlier, tmp_path, code, message
):
    steps = range(1, earlier[1] + 1, max(1, earlier[1] // 60))
    assert_all_refused(drive, undisturbed, earlier, tmp_path, code, message, steps)


@pytest.mark.parametrize("limit", [900, pytest.param(3000, marks=pytest.mark.long)])
def test_files_larger_than_the_system_allows(undisturbed, drive, earlier, tmp_path, limit):
    """A write that really fails, in the middle of a file."""
    said = assert_refused(drive, undisturbed, earlier, tmp_path, limit=limit)
    assert_one_line(said, "the file would be larger than the system allows")


# --- signals to the command ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Enough vectors, and concepts, that clustering takes some seconds."""
    folder = tmp_path_factory.mktemp("large")
    rows = np.random.default_rng(0).standard_normal((40_000, 192)).astype(np.float16)
    return write_shards(folder / "in", rows, shards=4)


def start(glob, folder, **changes):
    """Start `curate run` in a process group of its own."""
    folder.mkdir(exist_ok=True)
    values = recipe_values(glob, folder / "run", **changes)
    (folder / "recipe.yaml").write_text(parse_recipe(values).to_yaml())
    command = [sys.executable, "-m", "curate", "run", str(folder / "recipe.yaml")]
    return subprocess.Popen(
        command, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def children_of(process):
    return psutil.Process(process.pid).children(recursive=True)


def all_end(processes, seconds=5):
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize(
    ("after", "to_group", "workers"),
    [
        pytest.param("1_embeddings", False, 1, marks=pytest.mark.long),
        pytest.param("1_embeddings", True, 1, marks=pytest.mark.long),
        (".work/keys", True, 2),
    ],
)
def test_ctrl_c_ends_at_once(large, tmp_path, after, to_group, workers):
    changes = {"cluster": {"concepts": 600}, "workers": workers}
    process = start(large, tmp_path, **changes)
    wait_for((tmp_path / "run" / after / "_done.json").exists, process)
    time.sleep(0.4)
    children = children_of(process)
    before = time.monotonic()
    (os.killpg if to_group else os.kill)(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert time.monotonic() - before < 2
    assert process.returncode == 130
    assert "interrupted; run the same command again" in said and "Traceback" not in said
    assert all_end(children)
    assert leftovers(tmp_path / "run") == []
    assert not (tmp_path / "run" / "3_scores").exists()


def test_after_ctrl_c_a_small_run_completes(undisturbed, tmp_path):
    values, expected, _ = undisturbed
    settings = {name: value for name, value in values.items() if name != "run"}
    process = start(values["source"]["path"], tmp_path, **settings)
    wait_for((tmp_path / "run" / "1_embeddings" / "_done.json").exists, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    runner.run(parse_recipe(values | {"run": str(tmp_path / "run")}))
    assert changed(expected, tables(tmp_path / "run")) == []


@pytest.mark.long  # in the midst of a fit; the shorter one is above
def test_after_ctrl_c_the_next_run_completes(large, tmp_path):
    large = large.replace("*", "train-00000-*")
    process = start(large, tmp_path / "a", cluster={"concepts": 60})
    wait_for((tmp_path / "a" / "run" / "1_embeddings" / "_done.json").exists, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    for name in "ab":
        runner.run(parse_recipe(recipe_values(large, tmp_path / name / "run", cluster={"concepts": 60})))
    assert changed(tables(tmp_path / "b" / "run"), tables(tmp_path / "a" / "run")) == []


def test_workers_of_a_killed_run_end_and_the_next_run_completes(undisturbed, tmp_path):
    values, expected, _ = undisturbed
    process = start(
        values["source"]["path"], tmp_path, **{k: v for k, v in values.items() if k != "run"} | {"workers": 2}
    )
    wait_for(lambda: len(children_of(process)) >= 2, process)
    wait_for((tmp_path / "run" / ".work" / "keys" / "_done.json").exists, process)
    children = children_of(process)
    process.kill()
    process.communicate()
    assert all_end(children)
    runner.run(parse_recipe(values | {"run": str(tmp_path / "run")}))
    assert changed(expected, tables(tmp_path / "run")) == []
    assert leftovers(tmp_path / "run") == []


def test_a_run_made_before_a_setting_was_there_goes_on(tmp_path):
    """A source or embed setting that a later version brings has its default in the recipes of earlier runs."""
    glob = write_shards(tmp_path / "in", planted(60))
    recipe = parse_recipe(recipe_values(glob, tmp_path / "run"))
    runner.run(recipe)
    written = tmp_path / "run" / "recipe.yaml"
    lines = written.read_text().splitlines()
    older = [line for line in lines if not line.strip().startswith(("format:", "max_pixels:"))]
    assert len(older) == len(lines) - 3  # source, embed, and the format of what is written
    written.write_text("\n".join(older))
    assert runner.run(recipe).worked == ()
