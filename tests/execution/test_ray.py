import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path

import psutil
import pytest
import yaml

import curate
from curate.analysis.verify.verify import check_run
from curate.errors import CurateError, RunError, UsageError
from curate.execution.engines import ray, ray_worker
from curate.execution.engines.ray import RayEngine
from curate.io.remote.working_copy import CACHE_VARIABLE
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from tests.fixtures.buckets import KEY, SECRET, bucket, lake_of, objects
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.child_jobs import (
    add_base,
    die_by_file,
    die_holding,
    holding,
    limits,
    no_model,
    refuse_three,
    slow,
    square,
)

TESTS = Path(__file__).resolve().parents[1]
SAMPLE = TESTS.parent / "data" / "sample"
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")
# How soon a machine that does not answer is given up; the defaults take a minute.
QUICK = {"RAY_health_check_initial_delay_ms": "0", "RAY_health_check_period_ms": "500"}
QUICK |= {"RAY_health_check_timeout_ms": "20000", "RAY_health_check_failure_threshold": "5"}


class TwoMachines:
    """A Ray cluster of two machines with one processor each, in a process of its own."""

    def __init__(self, folder):
        command = [sys.executable, TESTS / "fixtures" / "ray_cluster.py", folder]
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env=os.environ | QUICK | {"S3_TEST_KEY": KEY, "S3_TEST_SECRET": SECRET}, start_new_session=True,
            )  # fmt: skip
        self.address, self.whole = self.answer(), True

    def answer(self):
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                return json.loads(line)
        self.process.communicate(timeout=60)
        raise AssertionError(f"the cluster ended: {self.log.read_text()[-2000:]}")

    def ask(self, what):
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return self.answer()

    def lose(self):
        """End the second machine; the next test has it again."""
        self.ask("lose")
        self.whole = False

    def complete(self):
        if not self.whole:
            self.ask("add")
            self.whole = True

    def processes(self, name=""):
        return [
            one for one in psutil.Process(self.process.pid).children(recursive=True) if name in title(one)
        ]


def title(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextlib.contextmanager
def short_folder():
    """Give a folder that is gone at the end, with a path that leaves room for the sockets of Ray."""
    top = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir=top if len(top) <= 20 else "/tmp", ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def two_machines():
    # Ray decides about tokens when it is first imported, which another test may have done.
    without = {"RAY_AUTH_MODE": "disabled"}
    before = {name: os.environ.get(name) for name in without}
    os.environ |= without
    with short_folder() as folder:
        machines = TwoMachines(folder)
        with machines.process:
            yield machines
            if machines.process.poll() is None:
                machines.ask("end")
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def cluster(two_machines):
    two_machines.complete()
    return two_machines


@pytest.fixture
def engine(cluster, tmp_path):
    with RayEngine(cluster.address, workers=None, here=1, retries=1, folder=tmp_path) as made:
        yield made


@needs_ray
def test_as_the_local_engine(engine, tmp_path):
    assert engine.workers == 2 and engine.machine_workers == 1
    assert list(engine.map(square, range(11))) == [x * x for x in range(11)]
    assert list(engine.map(square, [])) == []
    found = list(engine.map(limits, range(8)))
    assert len({pid for pid, _, _ in found} - {os.getpid()}) == 2
    assert {folder for _, folder, _ in found} == {str(Path.cwd())}
    assert all(set(threads.values()) == {"1"} for _, _, threads in found)
    assert next(iter(engine.map(limits, [1], parallel=False)))[0] == os.getpid()
    with pytest.raises(UsageError, match=r"^item 3$") as caught:
        list(engine.map(refuse_three, range(6)))
    assert "in refuse_three" in str(caught.value.__cause__)  # where it was raised
    with pytest.raises(ValueError, match=r"^item 13$"):
        list(engine.map(refuse_three, range(10, 16)))
    assert list(engine.map(square, range(3))) == [0, 1, 4]


@pytest.mark.long
@needs_ray
def test_items_are_taken_as_they_are_needed(engine):
    taken = []
    results = engine.map(square, (taken.append(x) or x for x in range(100)))
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(taken) <= 3 + 2 * engine.workers
    results.close()


@pytest.mark.long
@needs_ray
def test_a_worker_that_dies_is_replaced_but_not_for_ever(engine, tmp_path):
    once, ever = tmp_path / "once", tmp_path / "ever"
    once.mkdir(), ever.mkdir()
    (once / "die-1").touch()
    assert list(engine.map(die_by_file, [tmp_path, once])) == [str(tmp_path), str(once)]
    for name in "123":
        (ever / f"die-{name}").touch()
    with pytest.raises(
        CurateError, match=r"2 worker processes died with the same piece of work .* run again"
    ):
        list(engine.map(die_by_file, [tmp_path, ever]))
    assert list(engine.map(square, range(3))) == [0, 1, 4]


@pytest.mark.long
@needs_ray
def test_what_is_held_is_made_once_and_again_where_its_process_dies(engine, tmp_path):
    make = partial(holding, tmp_path)
    found = list(engine.hold(make, add_base, range(9)))
    assert [value for value, _, _ in found] == [100 + x for x in range(9)]
    assert all(made == at for _, made, at in found)
    assert len({at for _, _, at in found}) == 2  # one on each machine
    assert {file.read_text() for file in tmp_path.glob("held-*")} == {"1"}
    (tmp_path / "die-1").touch()
    assert list(engine.hold(partial(holding, tmp_path), die_holding, [tmp_path] * 3)) == [str(tmp_path)] * 3
    with pytest.raises(RunError, match=r"^no model here$"):
        list(engine.hold(no_model, add_base, range(3)))


@pytest.mark.long
@needs_ray
def test_what_is_held_does_not_die_for_ever(engine, tmp_path):
    for name in "12345":
        (tmp_path / f"die-{name}").touch()
    with pytest.raises(CurateError, match=r"holds the model died 2 times .* run again to go on"):
        list(engine.hold(partial(holding, tmp_path), die_holding, [tmp_path] * 3))


def tables(run):
    """The bytes of all tables and shards of a run."""
    files = [file for folder in sorted(run.glob("[0-6]_*")) for file in sorted(folder.rglob("*"))]
    return {str(f.relative_to(run)): f.read_bytes() for f in files if f.is_file() and f.name[0] not in "._"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    return write_shards(folder / "in", planted(600, copies=30, near=30), shards=6)


@pytest.fixture(scope="module")
def by_local(source, tmp_path_factory):
    run = tmp_path_factory.mktemp("local") / "run"
    curate.run(parse_recipe(recipe_values(source, run)))
    return tables(run)


@needs_ray
def test_same_bytes_while_workers_and_a_machine_die(cluster, source, by_local, tmp_path):
    run, killed, over = tmp_path / "run", [], threading.Event()

    def kill():
        while not list(run.glob("1_embeddings/part-*")):  # in the middle of a stage
            if over.wait(0.01):
                return
        cluster.lose()
        while not killed and not over.wait(0.01):
            for process in cluster.processes("ray::work")[:1]:  # at work now
                process.kill()
                killed.append(process.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    values = recipe_values(
        source,
        run,
        engine="ray",
        ray={
            "address": cluster.address,
        },
    )
    try:
        curate.run(parse_recipe(values | {"workers": "auto"}))
    finally:
        over.set()
        killer.join()
    found = tables(run)
    assert len(killed) == 1
    assert sorted(found) == sorted(by_local) and len(found) > 25
    assert [name for name in found if found[name] != by_local[name]] == []
    assert list((run / ".work").glob("cluster-*")) == []


def spaces():
    """The processes of Ray that see other file systems mounted than this one, and where each has its root."""
    own, found = os.readlink("/proc/self/ns/mnt"), []  # noqa: PTH115
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.readlink(f"/proc/{process.pid}/ns/mnt") != own and "ray" in title(process):  # noqa: PTH115
                found.append((process, Path(f"/proc/{process.pid}/root")))
    return found


@pytest.fixture
def machine_apart(cluster, tmp_path, monkeypatch):
    """A third machine of the cluster, with a disk of its own where the others have the working copies of runs."""
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    start = f"{sys.executable} -m ray.scripts.scripts start --address={cluster.address} --num-cpus=1"
    script = (
        f"mount -t tmpfs none {cache} && exec {start} --object-store-memory=80000000 --disable-usage-stats"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False,
        env=os.environ | QUICK | {"S3_TEST_KEY": KEY, "S3_TEST_SECRET": SECRET},
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no machine with a disk of its own can be made here: {done.stderr.strip()[-200:]}")
    yield cache
    for process, _ in spaces():
        with contextlib.suppress(psutil.Error):
            process.kill()


@pytest.mark.long
@needs_ray
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare of util-linux")
def test_machines_that_share_nothing_but_a_url(cluster, source, by_local, machine_apart):
    """Long: machines with a shared disk are in `test_same_bytes_while_workers_and_a_machine_die`, runs at a URL in
    `io/test_remote_run.py`.
    """
    with bucket() as options:
        values = recipe_values(source, "s3://lake/run", remote={"storage_options": options}, engine="ray")
        values |= {"ray": {"address": cluster.address}, "workers": "auto"}
        curate.run(parse_recipe(values))
        found = objects(lake_of(options), "lake/run")
        assert check_run("s3://lake/run").violations == []
        assert runner.run(parse_recipe(values)).worked == ()
    same = {
        name: found.get(name) == data for name, data in by_local.items() if not name.endswith("README.md")
    }
    assert all(same.values()) and len(same) > 25, same
    assert not [name for name in found if ".partial-" in name]
    # The machine with its own disk has worked: its working copy, which nobody else sees, is not empty.
    copies = [
        list((root / str(machine_apart)[1:]).glob("runs/*/.home/state/**/*.json")) for _, root in spaces()
    ]
    assert max(map(len, copies)) > 25


@pytest.mark.long
@needs_ray
def test_the_model_is_held_by_the_cluster(cluster, tmp_path):
    def embedded(name, **changes):
        values = {
            "run": str(tmp_path / name), "source": {"path": f"{SAMPLE}/*.parquet", "limit": 40},
            "embed": {"model": "tiny"}, "select": {"keep": 0.5}, "memory": "2GB", "workers": 1,
        }  # fmt: skip
        curate.run(parse_recipe(values | changes), until="embed")
        return tables(tmp_path / name)

    local = embedded("local")
    assert embedded("ray", engine="ray", ray={"address": cluster.address}, workers="auto") == local
    assert {name.partition("/")[0] for name in local} == {"0_samples", "1_embeddings"}


#: The command line, with the folder that is used where TMPDIR is too long.
WITH_SHORT = (
    "import sys; from curate import cli; from curate.execution.engines import ray_connect as connect; "
    "connect.SHORT_FOLDER = sys.argv.pop(1); cli.main(sys.argv[1:])"
)


@pytest.fixture
def fresh():
    """A machine on which nothing ran yet: a function that runs curate there, and its folders."""
    with short_folder() as folder:
        for name in ("home", "tmp", "long" * 20):
            (folder / name).mkdir()

        def run(*arguments, **changes):
            kept = {
                name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "XDG_"))
            }
            kept |= {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
            return subprocess.run(
                [sys.executable, "-c", WITH_SHORT, folder / "short", *arguments],
                env=kept | changes, capture_output=True, text=True, check=False, timeout=200,
            )  # fmt: skip

        yield run, folder


@pytest.mark.long
@needs_ray
def test_a_fresh_machine_runs_a_recipe(fresh, source, tmp_path):
    run, folder = fresh
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_values(source, tmp_path / "run", engine="ray")))
    done = run("run", recipe, "--until", "embed")
    assert done.returncode == 0, done.stderr
    assert "embed: 600 rows in" in done.stderr
    assert list((folder / "tmp" / "ray").glob("session_2*"))
    assert list((folder / "home").iterdir()) == []


@pytest.mark.long
@needs_ray
def test_a_tmpdir_too_long_for_sockets_is_left_alone(fresh, source, tmp_path):
    run, folder = fresh
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_values(source, tmp_path / "run", engine="ray")))
    done = run("run", recipe, "--until", "embed", TMPDIR=str(folder / ("long" * 20)))
    assert done.returncode == 0, done.stderr
    assert list((folder / "short").glob("session_2*"))
    assert not (folder / ("long" * 20) / "ray").exists()


@needs_ray
@pytest.mark.parametrize(
    "unusable", [pytest.param("long" * 20, id="long"), pytest.param("file", marks=pytest.mark.long)]
)
def test_a_folder_that_ray_cannot_use_is_one_line(fresh, source, tmp_path, unusable):
    run, folder = fresh
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_values(source, tmp_path / "run", engine="ray")))
    (folder / "file").touch()
    done = run("run", recipe, "--until", "read", RAY_TMPDIR=str(folder / unusable))
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if "engine ray" in line]
    assert said.startswith("error: engine ray: cannot start a Ray cluster here (")
    assert said.endswith("; set RAY_TMPDIR to a folder that can be written and has a short path")
    assert "Traceback" not in done.stderr


def test_without_ray_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with RayEngine(None, workers=None, here=1, retries=1, folder=tmp_path) as engine:
        found = engine.map(square, range(3))
        with pytest.raises(UsageError, match=r"needs the package ray, .* pip install 'curate\[ray\]'"):
            next(found)


def test_a_machine_that_does_not_see_the_run_folder_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(ray_worker, "SIGHT_S", 0.0)
    monkeypatch.setattr(ray_worker, "_site", None)
    site = ray_worker.Site(str(tmp_path), (), str(tmp_path / "witness"), "token", 1)
    for told in (None, "another run"):
        if told is not None:
            (tmp_path / "witness").write_text(told)
        failure = ray_worker.work(site, b"")
        with pytest.raises(RunError, match=rf"does not see {tmp_path}; sources and run folder must be on"):
            failure.raise_()


@needs_ray
def test_where_no_cluster_is_the_error_is_one_line(tmp_path):
    with RayEngine("127.0.0.1:9", workers=None, here=1, retries=1, folder=tmp_path) as engine:
        found = engine.map(square, range(3))
        with pytest.raises(CurateError, match=r"cannot connect to the Ray cluster 127.0.0.1:9") as caught:
            next(found)
    assert "\n" not in str(caught.value)


@pytest.mark.long
@needs_ray
def test_a_cluster_that_is_gone_is_an_error(cluster, engine, monkeypatch):
    monkeypatch.setattr(ray, "SILENT_S", 4.0)
    results = engine.map(slow, range(100))
    assert next(results) == 0
    for process in cluster.processes():
        process.kill()
    with pytest.raises(CurateError, match=r"the cluster is gone .* run again to go on where it stopped"):
        list(results)
    cluster.process.kill()
