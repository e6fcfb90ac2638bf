"""A run that is killed or interrupted at any moment goes on to the same bytes, and leaves nothing behind."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from builders import planted, recipe_values, write_shards
from folders import changed, files_below, leftovers, tables

from curate import pipeline
from curate.config import parse_recipe
from curate.verify import verify_run

TESTS = Path(__file__).resolve().parent

#: Forks a process per run, before anything has started threads, so that a run costs no imports; a run dies
#: by SIGKILL after a stage, or at the n-th thing it does to the file system below its folder.
DRIVER = """
import json, os, signal, sys
from pathlib import Path
import faiss
from curate import pipeline, storage
from curate.config import parse_recipe
from curate.stages.base import Context

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.utime", "shutil.rmtree"}

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def count_down(folder, left, report):
    def hook(event, arguments):
        nonlocal left
        written = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax")
        if (event in CHANGES or written) and str(arguments[0]).startswith(folder):
            left -= 1
            if left == 0:
                die()
            report[0] += 1
    sys.addaudithook(hook)
    def sync(path):
        hook("os.rename", (str(path),))
    storage._sync = sync

def after(stage):
    real = pipeline.STAGES[stage]
    def run(context):
        real(context)
        die()
    pipeline.STAGES[stage] = run

for line in sys.stdin:
    job = json.loads(line)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        seen = [0]
        recipe = parse_recipe(job["recipe"])
        if job["memory"]:
            Context.task_memory = property(lambda self: job["memory"])
        count_down(recipe.run, job["step"], seen)
        if job["stage"]:
            after(job["stage"])
        worked = pipeline.run(recipe).worked
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

    def run(recipe, *, step=0, stage=None, memory=None):
        process.stdin.write(
            json.dumps({"recipe": recipe, "step": step, "stage": stage, "memory": memory}) + "\n"
        )
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
    glob = write_shards(folder / "in", rows)
    values = recipe_values(
        glob, folder / "run", cluster={"concepts": 4}, dedup={"epsilon": {"drop": 0.15}, "max_concept": 60},
        select={"keep": 0.4}, write={"max_shard_size": 1500}, filter=["distance < 0.9"],
    )  # fmt: skip
    done = drive(values)
    assert done["code"] == 0 and done["worked"] == list(pipeline.STAGES)
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


@pytest.mark.parametrize("stage", pipeline.STAGES)
def test_killed_after_a_stage(undisturbed, drive, tmp_path, stage):
    values, expected, _ = undisturbed
    worked = assert_goes_on(drive, values | {"run": str(tmp_path / "run")}, expected, stage=stage)
    stages = list(pipeline.STAGES)
    assert worked == stages[stages.index(stage) + 1 :]
    assert drive(values | {"run": str(tmp_path / "run")})["worked"] == []


@pytest.mark.parametrize("seed", range(5))
def test_killed_at_any_moment(undisturbed, drive, tmp_path, seed):
    values, expected, steps = undisturbed
    step = random.Random(seed).randrange(seed * steps // 5, (seed + 1) * steps // 5) + 1
    assert_goes_on(drive, values | {"run": str(tmp_path / "run")}, expected, step=step)


@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again_with_other_memory_each_time(undisturbed, drive, tmp_path, seed):
    values, expected, steps = undisturbed
    values = values | {"run": str(tmp_path / "run")}
    rng = random.Random(seed)
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
    for step in range(1, steps, max(1, steps // 80)):
        here = {"run": str(tmp_path / str(step))}
        assert drive(before | here)["code"] == 0
        if drive(values | here, step=step)["code"] == 0:
            break
        assert drive(values | here)["code"] == 0
        assert changed(expected, tables(tmp_path / str(step))) == [], step
        verify_run(tmp_path / str(step))
    else:
        pytest.fail("no run reached its end")


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
    [("1_embeddings", False, 1), ("1_embeddings", True, 1), (".work/keys", True, 2)],
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


def test_after_ctrl_c_the_next_run_completes(large, tmp_path):
    large = large.replace("*", "train-00000-*")
    process = start(large, tmp_path / "a", cluster={"concepts": 60})
    wait_for((tmp_path / "a" / "run" / "1_embeddings" / "_done.json").exists, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    for name in "ab":
        pipeline.run(parse_recipe(recipe_values(large, tmp_path / name / "run", cluster={"concepts": 60})))
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
    pipeline.run(parse_recipe(values | {"run": str(tmp_path / "run")}))
    assert changed(expected, tables(tmp_path / "run")) == []
    assert leftovers(tmp_path / "run") == []


def test_a_run_made_before_a_setting_was_there_goes_on(tmp_path):
    """A source or embed setting that a later version brings has its default in the recipes of earlier runs."""
    glob = write_shards(tmp_path / "in", planted(60))
    recipe = parse_recipe(recipe_values(glob, tmp_path / "run"))
    pipeline.run(recipe)
    written = tmp_path / "run" / "recipe.yaml"
    lines = written.read_text().splitlines()
    older = [line for line in lines if not line.strip().startswith(("format:", "max_pixels:"))]
    assert len(older) == len(lines) - 3  # source, embed, and the format of what is written
    written.write_text("\n".join(older))
    assert pipeline.run(recipe).worked == ()
