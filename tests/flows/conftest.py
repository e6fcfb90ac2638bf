"""A Prefect server, the flow that talks to it, a schedule, and a source of rows: made when a test file first needs them."""

import contextlib
import importlib
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from curate.errors import CurateError
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.flow_runs import free_port, processes_with, wait_for


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A fresh PREFECT_HOME; nothing that was started with it is left at the end."""
    folder = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(folder))
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        patch.setenv("PREFECT_SERVER_UI_ENABLED", "false")
        patch.setenv("DO_NOT_TRACK", "1")
        # Prefect keeps what it reads when it is first imported: not the address of a server that will be gone.
        importlib.import_module("curate.flows.pipeline")
        yield folder
    assert wait_for(lambda: not processes_with(folder), 30), processes_with(folder)


@pytest.fixture(scope="module")
def server(home):
    """The API address of a real server, started as `curate schedule --start-server` does; one for the whole file."""
    from curate.flows.server import started

    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        for last in (False, False, True):  # other tests look for free ports too, and may be faster
            try:
                own = stack.enter_context(started(free_port(), home / "server.log"))
            except CurateError:
                if last:
                    raise
            else:
                break
        patch.setenv("PREFECT_API_URL", own.url)
        yield own.url


#: Runs at the beginning of every interpreter that finds it: a flow's filter stage waits while there is a file `hold`.
HOLD = """
import pathlib, sys, time
if any("flow_engine" in word or "engine" in word for word in sys.orig_argv):
    from curate.pipeline.stages.filter import Filter
    run = Filter.run
    def held(stage):
        while pathlib.Path("hold").exists():
            time.sleep(0.05)
        return run(stage)
    Filter.run = held
"""


@pytest.fixture(scope="module")
def served(flows, shards, tmp_path_factory):
    """A schedule that fires within 75 s from its start (later where that takes longer): its folder, its process.

    flows : so that this process asks the same server, whichever tests are run.
    """
    folder = tmp_path_factory.mktemp("served")
    (folder / "python").mkdir()
    (folder / "python" / "sitecustomize.py").write_text(HOLD)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe_values(shards, "nightly")))
    soon = datetime.now(UTC) + timedelta(seconds=75)
    minutes = ",".join(str((soon.minute + late) % 60) for late in range(0, 15, 3))
    command = [sys.executable, "-m", "curate", "schedule", "recipe.yaml", "--cron", f"{minutes} * * * *"]
    command += ["--reports-port", str(free_port())]
    changes = {"PYTHONPATH": str(folder / "python"), "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=os.environ | changes, stdout=log, stderr=log)
    try:
        yield folder, process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def flows(server, home):
    """The flow's module, in a process that talks to the test server."""
    from prefect import settings

    from curate.flows import pipeline as module

    changes = {
        settings.PREFECT_API_URL: server,
        settings.PREFECT_HOME: home,
        # Stopping the heartbeat thread takes a second of every run.
        settings.PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
    }
    with settings.temporary_settings(changes):
        yield module


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """600 rows with own vectors: 5 copies, 5 near-copies, one vector that is no number."""
    vectors = planted(600, copies=5, near=5)
    vectors[300] = float("nan")
    return write_shards(tmp_path_factory.mktemp("source"), vectors)


@pytest.fixture(scope="module")
def plain(shards, tmp_path_factory):
    """The same run without Prefect."""
    out = tmp_path_factory.mktemp("plain") / "run"
    outcome = runner.run(parse_recipe(recipe_values(shards, out)))
    return out, outcome.manifest["counts"]
