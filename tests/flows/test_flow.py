"""The Prefect flow: against a real server, on a schedule, as an entrypoint in a new interpreter."""

import contextlib
import doctest
import importlib
import json
import os
import socket
import subprocess
import sys
import time
import tomllib
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import psutil
import pytest
import yaml
from packaging.requirements import Requirement

from curate.analysis.summary.matters import what_matters
from curate.analysis.summary.summary import summarize
from curate.errors import BudgetError, CurateError, ModelError, RecipeError, RunError, UnusableLimitError
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.runs.folder import RunFolder
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "flows" / "pipeline.py")
STAGES = list(runner.STAGES)


def wait_for(ready, seconds=30.0):
    """Return what `ready` returns once it is true: the server records states and logs a little later."""
    deadline = time.monotonic() + seconds
    while not (found := ready()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def processes_with(home):
    """Return the command lines of processes that were started with this PREFECT_HOME, this one aside."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("PREFECT_HOME") == str(home):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


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
    assert wait_for(lambda: not processes_with(folder), 10), processes_with(folder)


@pytest.fixture(scope="module")
def server(home):
    """The API address of a real server, started as `curate schedule --start-server` does; one for the whole file."""
    from curate.flows.server import started

    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        for last in (False, False, True):  # other tests look for free ports too, and may be faster
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            try:
                own = stack.enter_context(started(port, home / "server.log"))
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


def decisions(run):
    files = sorted((Path(run) / "5_decisions").glob("*.parquet"))
    assert len(files) == 3  # one per shard, and nothing else
    return {file.name: file.read_bytes() for file in files}


def ran(command, folder, environment=None):
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=200
    )


def task_runs(state):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter

    with get_client(sync_client=True) as client:
        return client.read_task_runs(
            flow_run_filter=FlowRunFilter(id={"any_": [state.state_details.flow_run_id]})
        )


def states(state):
    return {run.name: run.state_name for run in task_runs(state)}


def artifact(state):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter

    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id={"any_": [state.state_details.flow_run_id]})
        )
    return {item.key: item.data for item in found if item.key}


def log_lines(state):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter

    with get_client(sync_client=True) as client:
        logs = client.read_logs(LogFilter(flow_run_id={"any_": [state.state_details.flow_run_id]}))
    return [log.message for log in logs]


# --- what needs no server


def test_pins():
    """Beside newer versions no flow starts (FastAPI), or no schedule ever fires (SQLAlchemy), unseen."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = {need.name: need.specifier for need in map(Requirement, project["dependencies"])}
    for name, broken in {"fastapi": "0.151.0", "sqlalchemy": "2.1.0", "prefect": "3.9.0"}.items():
        assert not needs[name].contains(broken)
        assert needs[name].contains(metadata.version(name))


def test_no_flow_file_shadows_the_package():
    names = {path.stem for path in (ROOT / "flows").glob("*.py")}
    assert "pipeline" in names
    assert not names & ({"curate", "prefect"} | sys.stdlib_module_names)


# --- against a server


@pytest.mark.flow
def test_flow_gives_what_a_plain_run_gives(flows, served, shards, plain, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_values(shards, tmp_path / "run", select={"keep": 0.9})))
    asked = {"overrides": ["select.keep=0.3", "select.method=density", "select.prefer=hardest"]}

    state = flows.curate(recipe, **asked, return_state=True)

    folder, counts = plain
    expected = {"run": str(tmp_path / "run"), "worked": STAGES, "counts": counts}
    assert json.loads(json.dumps(state.result())) == expected
    assert counts == {
        "rows": 600,
        "kept": 180,
        "pinned": 0,
        "dropped": {"exact_duplicate": 5, "near_duplicate": 5, "over_budget": 409},
        "unusable": {"bad_vector": 1},
    }
    assert decisions(tmp_path / "run") == decisions(folder)
    completed = dict.fromkeys(STAGES, "Completed")
    assert wait_for(lambda: states(state) == completed), states(state)
    shown = artifact(state)
    assert shown["curate-progress"] == 100
    assert shown["curate-report"].endswith(f"]({(tmp_path / 'run' / '7_report' / 'report.html').as_uri()})")
    largest = [row["n_eligible"] for row in json.loads(shown["curate-concepts"])]
    assert len(largest) == 8 and largest == sorted(largest, reverse=True)
    done = RunFolder(folder)
    matters = [one.text for one in what_matters(done, summarize(done, whole=False))]
    sentences = [line for line in shown["curate-counts"].splitlines() if line.startswith("- ")]
    plain_text = [
        line.removeprefix("- ").strip("*").replace("\\", "").partition(": `")[0] for line in sentences
    ]
    assert plain_text == matters and matters[0].startswith("600 rows came in, 180 (30.0 %) are kept")
    assert sentences[-1].endswith(f"`curate plan {tmp_path / 'run'}`")
    assert shown["curate-counts"] == (
        f"### {tmp_path / 'run'}\n\n" + "".join(f"{line}\n" for line in sentences) + "\n"
        "| rows | number | share |\n"
        "| --- | ---: | ---: |\n"
        "| in | 600 | 100.0 % |\n"
        "| kept | 180 | 30.0 % |\n"
        "| dropped: exact_duplicate | 5 | 0.8 % |\n"
        "| dropped: near_duplicate | 5 | 0.8 % |\n"
        "| dropped: over_budget | 409 | 68.2 % |\n"
        "| unusable: bad_vector | 1 | 0.2 % |"
    )
    assert wait_for(lambda: "read: 600 rows in 3 shards" in log_lines(state)), log_lines(state)

    again = flows.curate(recipe, **asked)
    assert again == expected | {"worked": []}


@pytest.mark.flow
def test_stages_are_those_of_the_pipeline(flows):
    assert list(get_args(flows.Stage)) == STAGES
    assert flows.stages_until("report") == tuple(STAGES)


@pytest.mark.flow
@pytest.mark.parametrize(
    ("name", "value"),
    [("until", "reprot"), ("recipe", 3), ("force", "perhaps"), ("overrides", "select.keep=0.2")],
)
def test_wrong_parameter_is_named(flows, shards, tmp_path, name, value):
    from prefect.exceptions import ParameterTypeError

    given = {"recipe": recipe_values(shards, tmp_path / "run")} | {name: value}
    with pytest.raises(ParameterTypeError, match=name):
        flows.curate(**given)
    assert not (tmp_path / "run").exists()


@pytest.mark.flow
def test_wrong_recipe_fails_without_a_task(flows, shards, tmp_path):
    values = recipe_values(shards, tmp_path / "run", select={"kepe": 0.3})
    state = flows.curate(values, return_state=True)
    assert state.is_failed()
    assert "select.kepe is not a setting; did you mean 'keep'?" in state.message
    with pytest.raises(RecipeError):
        state.result()
    assert task_runs(state) == []


@pytest.mark.flow
def test_until_stops_after_a_stage(flows, shards, tmp_path):
    values = recipe_values(shards, tmp_path / "run")
    state = flows.curate(values, until="cluster", return_state=True)
    assert state.result() == {
        "run": str(tmp_path / "run"),
        "worked": ["read", "embed", "cluster"],
        "counts": None,
    }
    assert artifact(state) == {"curate-progress": 100}
    assert not (tmp_path / "run" / "manifest.json").exists()


def failing(error, times, calls):
    """Return the filter stage, failing the first `times` times; a call notes whether the lock was held."""

    class Failing(runner.STAGES["filter"]):
        def run(self):
            calls.append((self.context.run.path / ".lock").exists())
            if len(calls) <= times:
                raise error
            return super().run()

    return Failing


@pytest.mark.flow
def test_transient_error_is_tried_again(flows, shards, plain, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(flows, "RETRY_DELAY_S", 0.05)
    monkeypatch.setitem(runner.STAGES, "filter", failing(ConnectionResetError("gone"), 2, calls))
    state = flows.curate(recipe_values(shards, tmp_path / "run"), until="select", return_state=True)
    assert state.is_completed()
    assert calls == [True, True, True]  # the lock is held while waiting, too
    assert decisions(tmp_path / "run") == decisions(plain[0])
    assert wait_for(lambda: {run.name: run.run_count for run in task_runs(state)}.get("filter") == 3)
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.flow
def test_refused_stage_is_not_tried_again(flows, shards, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setitem(runner.STAGES, "filter", failing(BudgetError("asked for 9, got 3"), 9, calls))
    state = flows.curate(recipe_values(shards, tmp_path / "run"), return_state=True)
    assert state.is_failed()
    assert len(calls) == 1
    assert wait_for(lambda: states(state).get("filter") == "Failed")
    assert set(states(state)) == {"read", "embed", "cluster", "score", "filter"}
    with pytest.raises(BudgetError, match="asked for 9"):
        state.result()


@pytest.mark.flow
def test_interrupted_run_goes_on(flows, shards, plain, tmp_path, monkeypatch):
    values = recipe_values(shards, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setitem(runner.STAGES, "filter", failing(KeyboardInterrupt(), 1, []))
        with pytest.raises(KeyboardInterrupt):
            flows.curate(values)
    assert not (tmp_path / "run" / ".lock").exists()
    assert flows.curate(values, until="select")["worked"] == ["filter", "dedup", "select"]
    assert decisions(tmp_path / "run") == decisions(plain[0])


@pytest.mark.flow
def test_held_run_folder_is_refused(flows, shards, tmp_path):
    with RunFolder(tmp_path / "run").lock():
        state = flows.curate(recipe_values(shards, tmp_path / "run"), return_state=True)
    with pytest.raises(RunError, match=f"being written by process {os.getpid()}"):
        state.result()


@pytest.mark.flow
def test_is_transient(flows):
    refused = RunError("cannot write x: the disk is full")
    refused.__cause__ = OSError(28, "No space left on device")
    for error in (refused, CurateError("a worker process died"), TimeoutError(), MemoryError()):
        assert flows.is_transient(error)
    for error in (RecipeError("x"), BudgetError("x"), ModelError("no model is called x")):
        assert not flows.is_transient(error)


@pytest.mark.flow
def test_script_tells_what_is_wrong(flows, shards, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_values(shards, tmp_path / "run")))
    assert flows.main([str(recipe), "--set", "select.kepe=0.3"]) == 2
    assert capsys.readouterr().err.startswith("error: select.kepe is not a setting; did you mean 'keep'?")
    assert flows.main([str(recipe), "--set", f"source.path={tmp_path / 'none'}"]) == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.flow
def test_examples(flows):
    from curate.flows import artifacts

    assert doctest.testmod(artifacts) == (0, 2)


@pytest.mark.flow
def test_concepts_are_shown_by_their_names(flows):
    import polars as pl

    from curate import schema
    from curate.flows import artifacts

    plain = pl.DataFrame(schema.DECISION_CONCEPTS.empty_table()).clear(1)
    largest = plain.with_columns(name=pl.lit("red | car"), share=pl.lit(0.5))
    for frame, names in ((largest, ["concept", "name"]), (plain, ["concept", "n_eligible"])):
        [row] = artifacts.concept_rows(SimpleNamespace(listed={"largest": frame}))
        assert list(row)[:2] == names and "share" not in row
        assert row.get("name") in ("red | car", None)


# --- whom it tells


@pytest.mark.flow
def test_failure_is_told_with_counts(flows, shards, tmp_path, monkeypatch):
    told = tmp_path / "told"
    command = [sys.executable, "-c", "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())", "${TOLD}"]
    monkeypatch.setenv("TOLD", str(told))
    values = recipe_values(shards, tmp_path / "run", limits={"unusable": 0}, notify={"command": command})
    state = flows.curate(values, return_state=True)
    with pytest.raises(UnusableLimitError, match="1 of 600 rows"):
        state.result()
    assert "| unusable: bad_vector | 1 | 0.2 % |" in artifact(state)["curate-counts"]
    said = json.loads(told.read_text())
    assert said["error"].startswith("UnusableLimitError: finished, but 1 of 600 rows (0.2%) are unusable")
    assert (said["occasion"], said["run"], said["state"]) == ("failure", str(tmp_path / "run"), "Failed")
    assert said["counts"]["kept"] == 180
    assert said["drift"]["warning"] is None

    assert flows.curate(values | {"limits": {"unusable": 0.5}}, return_state=True).is_completed()
    assert json.loads(told.read_text()) == said  # nothing drifted: nobody was told more


# --- in a new interpreter, while the schedule's time comes


@pytest.mark.flow
def test_entrypoints_load_in_a_new_interpreter(server, tmp_path):
    """A worker loads that of the example, `curate schedule` the last."""
    example = yaml.safe_load((ROOT / "flows" / "prefect.yaml").read_text())["deployments"][0]["entrypoint"]
    entrypoints = [f"{SCRIPT}:curate", example, "curate.flows.pipeline.curate"]
    code = (
        "from prefect.flows import load_flow_from_entrypoint as load\n"
        f"print(*[load(one, use_placeholder_flow=False).name for one in {entrypoints}])"
    )
    done = ran([sys.executable, "-c", code], tmp_path)
    assert (done.stdout, done.returncode) == ("curate curate curate\n", 0), done.stderr


@pytest.mark.long
@pytest.mark.flow
def test_script_runs_the_flow(server, shards, plain, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_values(shards, "out")))
    done = ran([sys.executable, SCRIPT, "recipe.yaml", "--until", "select"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"run": "out", "worked": STAGES[:7], "counts": None}
    assert decisions(tmp_path / "out") == decisions(plain[0])


@pytest.mark.flow
@pytest.mark.long
def test_script_starts_and_stops_its_own_server(shards, plain, tmp_path):
    """Also when it is terminated: Prefect alone would leave the server running."""
    home = tmp_path / "home"
    values = recipe_values(shards, "out", workers=2)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(home)}
    command = [sys.executable, SCRIPT, "recipe.yaml"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    assert wait_for(lambda: "Beginning flow run" in (tmp_path / "log").read_text(), 150)
    assert any("uvicorn" in line for line in processes_with(home))
    process.terminate()
    assert process.wait(30) == 143
    assert wait_for(lambda: not processes_with(home), 10), processes_with(home)
    assert not (tmp_path / "out" / ".lock").exists()

    done = ran(command, tmp_path, environment)
    assert done.returncode == 0, done.stderr
    assert decisions(tmp_path / "out") == decisions(plain[0])
    assert wait_for(lambda: not processes_with(home), 10), processes_with(home)


# --- on a schedule


def flow_runs():
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        names = {deployment.id: deployment.name for deployment in client.read_deployments()}
        return [run for run in client.read_flow_runs() if names.get(run.deployment_id) == "nightly"]


def the_run(is_it):
    """Return the one run of the schedule for which this is true."""
    found = [run for run in flow_runs() if is_it(run)]
    return found[0] if len(found) == 1 else None


def is_served():
    """Whether the server knows the schedule's deployment yet."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return [one.name for one in client.read_deployments()] == ["nightly"]


def fire_no_more():
    """Switch the times of the schedule off; the deployment itself goes on."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        (deployment,) = [one for one in client.read_deployments() if one.name == "nightly"]
        (times,) = deployment.schedules
        client.update_deployment_schedule(deployment.id, times.id, active=False)


def cancel(flow_run):
    """Do what `prefect flow-run cancel` does."""
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run.id, Cancelling())


@pytest.mark.flow
def test_scheduled_run_fires(served, plain):
    """Its process has nothing but the entrypoint: a new interpreter, with no help from this one."""
    folder, _ = served
    fired = wait_for(lambda: the_run(lambda run: run.auto_scheduled and run.state.is_final()), 200)
    assert fired and fired.state_name == "Completed", (folder / "log").read_text()
    fire_no_more()
    root = folder / "nightly"
    run = root / (root / "latest").read_text().strip()
    assert [path for path in root.glob("*Z")] == [run]
    assert decisions(run) == decisions(plain[0])


@pytest.mark.long
@pytest.mark.flow
def test_cancelled_run_goes_on_and_a_second_one_waits(served, plain, monkeypatch):
    """Long: going on is in `test_interrupted_run_goes_on`, waiting in test_server_loss.py in
    `test_run_by_hand_waits_or_is_cancelled_with_a_line`.
    """
    from prefect.deployments import run_deployment

    folder, _ = served
    monkeypatch.chdir(folder)
    (folder / "hold").touch()
    asked = {"overrides": ["run=again"]}
    assert wait_for(is_served, 60), (folder / "log").read_text()
    first = run_deployment("curate/nightly", parameters=asked, timeout=0)
    run = wait_for(lambda: next(folder.glob("again/*Z/3_scores/clip_score/_done.json"), None), 60)
    assert run, (folder / "log").read_text()
    run = run.parents[2]
    assert (run / ".lock").exists()

    second = run_deployment("curate/nightly", parameters=asked, timeout=0)
    said = f"run '{second.name}' waits until the run under way has ended"
    assert wait_for(lambda: said in (folder / "log").read_text(), 30)
    assert not the_run(lambda it: it.id == second.id).state.is_final()
    cancel(second)
    by_hand = curate("run", "recipe.yaml", "--out", "again", "--dated")
    assert by_hand.code == 1
    assert by_hand.error.startswith(f"{run.relative_to(folder)} is being written by process")

    cancel(first)
    cancelled = wait_for(lambda: the_run(lambda it: it.id == first.id and it.state.is_final()), 30)
    assert cancelled.state_name == "Cancelled"
    assert wait_for(lambda: not (run / ".lock").exists(), 10)
    (folder / "hold").unlink()

    told = curate("run", "recipe.yaml", "--out", "again", "--dated")
    assert told.code == 0, told.err
    assert "cluster:" not in told.err and "select:" in told.err  # it went on, and did not begin anew
    assert (folder / "again" / "latest").read_text().strip() == run.name
    assert decisions(run) == decisions(plain[0])


@pytest.mark.flow
def test_terminated_schedule_pauses(served):
    from prefect.client.orchestration import get_client

    folder, process = served
    process.terminate()
    assert process.wait(30) == 0
    assert "'nightly' is paused until this command runs again" in (folder / "log").read_text()
    with get_client(sync_client=True) as client:
        (deployment,) = [one for one in client.read_deployments() if one.name == "nightly"]
    assert deployment.paused
    assert deployment.entrypoint == "curate.flows.pipeline.curate"
    # A limit of the server's would outlive a run whose server was started again meanwhile.
    assert deployment.global_concurrency_limit is None
