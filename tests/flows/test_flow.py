"""The Prefect flow: against a real server, on a schedule, as an entrypoint in a new interpreter."""

import json
import os
import re
import socket
import sys
import urllib.request
from typing import get_args

import pytest
import yaml

from curate.analysis.summary.matters import what_matters
from curate.analysis.summary.summary import summarize
from curate.errors import BudgetError, RecipeError, RunError, UnusableLimitError
from curate.io.names import in_markdown
from curate.pipeline import runner
from curate.runs.folder import RunFolder
from tests.fixtures.builders import recipe_values
from tests.fixtures.calls import curate
from tests.fixtures.flow_runs import (
    ROOT,
    SCRIPT,
    STAGES,
    artifact,
    decisions,
    log_lines,
    ran,
    states,
    task_runs,
    wait_for,
)

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
    # Nothing shows it to browsers: no link that they would refuse, but what to type.
    assert shown["curate-report"] == (
        f"Report of {in_markdown(str(tmp_path / 'run'))}: Nothing shows it to a browser. On {socket.gethostname()}, type "
        f"`curate report {tmp_path / 'run'} --open`"
    )
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
def test_script_tells_what_is_wrong(flows, shards, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_values(shards, tmp_path / "run")))
    assert flows.main([str(recipe), "--set", "select.kepe=0.3"]) == 2
    assert capsys.readouterr().err.startswith("error: select.kepe is not a setting; did you mean 'keep'?")
    assert flows.main([str(recipe), "--set", f"source.path={tmp_path / 'none'}"]) == 2
    assert "error: " in capsys.readouterr().err


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
    # The link of its artifact works from a browser: the schedule shows the report.
    shown = artifact(fired.state)["curate-report"]
    link = re.fullmatch(r"\[Report of .*\]\((http://127\.0\.0\.1:\d+/[\w-]+/.*/report\.html)\)", shown)
    assert link, shown
    with urllib.request.urlopen(link[1], timeout=10) as page:
        assert page.read() == (run / "7_report" / "report.html").read_bytes()


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
