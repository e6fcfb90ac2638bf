"""A schedule whose server ends, hangs or stays away, and runs that would overlap."""

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import uuid4

import psutil
import pytest
import yaml

from curate.errors import CurateError
from curate.flows import notify, server
from curate.recipe import Notify
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.flow_runs import free_port

#: Answers at the port of its first argument; with `child`, a process of its own does, as a server's workers may.
FAKE = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
if "child" in sys.argv and os.fork():
    os.wait()
class Healthy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
HTTPServer(("127.0.0.1", int(sys.argv[1])), Healthy).serve_forever()
"""


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Start a server of a few lines as `curate schedule --start-server` starts Prefect's; ended at the end."""
    begun = []

    def start(code=FAKE, *more):
        monkeypatch.setattr(server, "_command", lambda port: [sys.executable, "-c", code, str(port), *more])
        begun.append(server.OwnServer(free_port(), tmp_path / "server.log"))
        return begun[-1]

    yield start
    for one in begun:
        one.end(force=True)


def ended(process):
    process.wait(10)


@pytest.mark.parametrize("more", [[], ["child"]])
def test_server_that_was_killed_is_started_again(fake, more):
    own = fake(FAKE, *more)
    own.wait_until_up()
    first = own._process
    family = [psutil.Process(first.pid), *psutil.Process(first.pid).children()]
    assert len(family) == 1 + len(more)
    first.kill()
    ended(first)
    said = own.keep(answers=False)
    assert said.startswith("the Prefect server ended (code -9) and is started again")
    own.wait_until_up()
    assert own._process.pid != first.pid
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family)


def test_server_that_hangs_is_started_again(fake, monkeypatch):
    own = fake()
    own.wait_until_up()
    os.kill(own._process.pid, signal.SIGSTOP)
    assert own.keep(answers=False) is None
    monkeypatch.setattr(server, "HANG_S", 0)
    assert "has not answered for 0 s and is started again" in own.keep(answers=False)
    own.wait_until_up()


def test_what_speaks_no_http_is_no_server():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def answer():
            caller, _ = other.accept()
            with caller:
                caller.sendall(b"\0\0\x18\x04\0\0\0\0\0\r\n")  # as gRPC begins
                caller.recv(1000)

        thread = threading.Thread(target=answer)
        thread.start()
        assert not server.is_up(f"http://127.0.0.1:{other.getsockname()[1]}/api")
        thread.join(10)
    assert not thread.is_alive()


def test_server_that_does_not_come_up_is_given_up(fake):
    own = fake("raise SystemExit(3)")
    with pytest.raises(
        CurateError, match=r"^the Prefect server ended \(code 3\) before it was up; .*server.log says"
    ):
        own.wait_until_up()


def test_server_that_ends_again_and_again_is_given_up(fake, monkeypatch):
    monkeypatch.setattr(server, "RESTARTS", 1)
    own = fake()
    for said in ("is started again", None):
        own.wait_until_up()
        own._process.kill()
        ended(own._process)
        if said:
            assert said in own.keep(answers=False)
    with pytest.raises(CurateError, match="for the 2th time within an hour"):
        own.keep(answers=False)


def test_end_of_a_schedule_is_told(tmp_path):
    code = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())"
    command = (sys.executable, "-c", code, str(tmp_path / "told"))
    error = CurateError("the server is gone")
    assert notify.tell_end(None, "nightly", error) == []
    assert notify.tell_end(Notify(command=command, on=("drift",)), "nightly", error) == []
    assert not (tmp_path / "told").exists()
    assert notify.tell_end(Notify(command=command), "nightly", error) == []
    said = json.loads((tmp_path / "told").read_text())
    assert said["text"] == "curate: nightly: ScheduleEnded: the server is gone"
    assert (said["occasion"], said["run"], said["counts"]) == ("failure", "nightly", None)


# --- the runner, with a server that is not there


@pytest.fixture
def runner(monkeypatch):
    """A runner that polls every 50 ms; its lines are in `lines`, whether its server answers in `up`."""
    # The flow's module comes first: it says what Prefect's settings are.
    import curate.flows.pipeline  # noqa: F401
    from curate.flows import runner as module

    monkeypatch.setattr(module, "WATCH_S", 0.02)
    monkeypatch.setattr(module, "QUIET_S", 0.1)
    lines, up = [], [True]
    monkeypatch.setattr(server, "is_up", lambda url: up[0])

    def make(overlap="wait", patience_s=60.0):
        made = module.ScheduleRunner(
            SimpleNamespace(name="nightly"),
            server.Server("http://127.0.0.1:1/api"),
            overlap=overlap,
            patience_s=patience_s,
            say=lines.append,
        )
        made.query_seconds, made.lines, made.up = 0.05, lines, up
        return made

    return make


async def served(runner, poll, seconds):
    """Let the loops of a runner work for a while."""
    runner._poll = poll
    work = asyncio.gather(runner._watch(), runner._poll_for_ever())
    try:
        await asyncio.wait_for(work, seconds)
    except TimeoutError:
        return


@pytest.mark.flow
def test_server_that_comes_back_is_waited_for(runner):
    made, polled = runner(), []

    async def poll():
        polled.append(time.monotonic())

    async def outage():
        await asyncio.sleep(0.2)
        made.up[0] = False
        await asyncio.sleep(0.5)
        made.up[0] = True

    async def all_of_it():
        await asyncio.gather(served(made, poll, 1.5), outage())

    asyncio.run(all_of_it())
    assert max(later - earlier for earlier, later in itertools.pairwise(polled)) > 0.4
    assert made.lines == [
        "the Prefect server http://127.0.0.1:1/api does not answer; what runs goes on, "
        + "and the schedule ends if it stays away for 60 s",
        "the Prefect server answers again",
    ]
    assert made.problem is None


@pytest.mark.flow
@pytest.mark.parametrize("is_up", [True, False])
def test_server_that_stays_away_or_refuses_ends_the_schedule(runner, is_up):
    import httpx

    made = runner(patience_s=0.3)
    made.up[0] = is_up

    async def poll():
        raise httpx.HTTPError("401 Unauthorized")

    with pytest.raises(CurateError) as raised:
        asyncio.run(served(made, poll, 10))
    assert made.problem is raised.value
    why = r" (401 Unauthorized)" if is_up else ""
    assert str(raised.value) == (
        f"the Prefect server http://127.0.0.1:1/api has not answered for 0 s{why}: no run begins, and the schedule "
        "has ended; see to the server, and give the same command again"
    )
    assert not made.pause_on_shutdown  # nobody is there to be told


def due(name, day=2, auto_scheduled=False, run_count=0):
    when = datetime(2026, 1, day, tzinfo=UTC)
    return SimpleNamespace(
        id=uuid4(),
        name=name,
        auto_scheduled=auto_scheduled,
        run_count=run_count,
        next_scheduled_start_time=when,
    )


class Poller:
    """Holds what is due, and what runs."""

    def __init__(self, *runs):
        self.runs, self._submitting_flow_run_ids = list(runs), set()

    async def _get_scheduled_flow_runs(self):
        return self.runs

    async def _submit_scheduled_flow_runs(self, runs, _group):
        self._submitting_flow_run_ids |= {run.id for run in runs}
        self.runs = [run for run in self.runs if run not in runs]


class Client:
    """Knows one deployment, until it forgets it; takes states."""

    def __init__(self):
        self.known, self.states = True, {}

    async def read_deployment(self, _id):
        from prefect.exceptions import ObjectNotFound

        if not self.known:
            raise ObjectNotFound(Exception("gone"))

    async def set_flow_run_state(self, run, state, *, force):
        assert force
        self.states[run] = (state.type.value, state.message)


def polling(made, poller):
    made._scheduled_run_poller, made._client, made._runs_task_group = poller, Client(), None
    made._deployment_registry.register_deployment(uuid4())
    return made._client


@pytest.mark.flow
@pytest.mark.parametrize("overlap", ["wait", "cancel"])
def test_run_by_hand_waits_or_is_cancelled_with_a_line(runner, overlap):
    made = runner(overlap)
    first, second = due("first", day=1), due("second")
    night, again = due("night", auto_scheduled=True), due("again", auto_scheduled=True, run_count=1)
    poller = Poller(second, first, night, again)
    client = polling(made, poller)
    asyncio.run(made._poll())
    assert poller._submitting_flow_run_ids == {first.id}  # the one that was due first
    busy = "another run of this schedule is under way"
    left = "; start it again after that, or serve with --overlap wait"
    assert client.states[night.id] == ("CANCELLED", f"Left out: {busy}.")
    by_hand = (second, again)
    if overlap == "cancel":
        assert [client.states[run.id] for run in by_hand] == [("CANCELLED", f"Left out: {busy}{left}.")] * 2
        assert f"run 'second' is left out: {busy}{left}" in made.lines
        return
    assert set(client.states) == {night.id}
    poller.runs.remove(night)
    lines = list(made.lines)
    asyncio.run(made._poll())
    assert made.lines == lines  # said once
    assert {f"run '{run.name}' waits until the run under way has ended" for run in by_hand} < set(lines)
    poller._submitting_flow_run_ids.clear()
    asyncio.run(made._poll())
    assert poller._submitting_flow_run_ids == {second.id}


@pytest.mark.flow
def test_deployment_that_the_server_forgot_is_registered_again(runner):
    made, registered = runner(), []
    client = polling(made, Poller())

    async def add(deployment):
        registered.append(deployment.name)
        made._deployment_registry.register_deployment(uuid4())

    made.aadd_deployment = add
    asyncio.run(made._poll())
    assert registered == []
    client.known = False
    asyncio.run(made._poll())
    assert registered == ["nightly"]
    assert len(made._deployment_registry.get_deployment_ids()) == 1
    assert made.lines == ["the Prefect server does not know 'nightly' any more; it is registered again"]


# --- the whole of it


def wait_for(ready, seconds):
    deadline = time.monotonic() + seconds
    while not (found := ready()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


@pytest.mark.long
@pytest.mark.flow
def test_schedule_outlives_its_server_and_tells_when_it_cannot(tmp_path):
    """The server is killed twice: once it comes back, once something else takes its port."""
    glob, port = write_shards(tmp_path / "in", planted(60)), free_port()
    told = [sys.executable, "-c", "import sys; open('told', 'w').write(sys.stdin.read())"]
    values = recipe_values(glob, "nightly", notify={"command": told, "on": "failure"})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    changes = {"PREFECT_HOME": str(tmp_path / "home"), "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    command = [sys.executable, "-m", "curate", "schedule", "recipe.yaml", "--cron", "0 3 1 1 *"]
    log = tmp_path / "log"
    with log.open("w") as said:
        process = subprocess.Popen(
            [*command, "--start-server", "--port", str(port)],
            cwd=tmp_path, env=kept | changes, stdout=said, stderr=said,
        )  # fmt: skip

    def own_server():
        found = [
            one for one in psutil.Process(process.pid).children() if "curate.flows.server" in one.cmdline()
        ]
        return found[0] if found else None

    try:
        assert wait_for(lambda: "End with Ctrl-C" in log.read_text(), 200), log.read_text()
        own_server().kill()
        assert wait_for(lambda: "ended (code -9) and is started again" in log.read_text(), 20)
        assert wait_for(lambda: server.is_up(f"http://127.0.0.1:{port}/api"), 200)
        address = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
        go = "from prefect.deployments import run_deployment as go; print(go('curate/nightly', timeout=200).state_name)"
        asked = subprocess.run(
            [sys.executable, "-c", go],
            env=kept | changes | address,
            capture_output=True,
            text=True,
            check=True,
        )
        assert asked.stdout.strip().endswith("Completed"), log.read_text()

        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            own_server().kill()

            def taken():
                try:
                    other.bind(("127.0.0.1", port))
                except OSError:
                    return False
                other.listen()
                return True

            assert wait_for(taken, 10)
            assert process.wait(120) == 1
    finally:
        process.kill()
        process.wait()
    lines = log.read_text().splitlines()
    problem = f"the Prefect server ended (code 1) before it was up; {tmp_path / 'home' / 'curate-server.log'} says why"
    assert lines[-1] == f"error: {problem}"
    assert not [line for line in lines if "Traceback" in line]
    assert json.loads((tmp_path / "told").read_text())["error"] == problem
