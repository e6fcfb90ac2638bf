"""Schedules without a server: limits of time, whom to tell, the example, what is wrong with a command line."""

import json
import os
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
import yaml

from curate.errors import CurateError, RecipeError, UsageError
from curate.execution.engines.subprocess import call_within
from curate.flows import notify
from curate.pipeline import runner
from curate.recipe import Notify
from curate.recipe.limits import parse_seconds
from curate.recipe.loading import parse_recipe
from curate.runs.layout import STAGES
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate
from tests.fixtures.child_jobs import add, die, keep_busy, refuse

ROOT = Path(__file__).resolve().parents[2]

# --- a process of its own, for a while


def tables(run):
    """Return the bytes of every table of a run, by name."""
    return {
        str(file.relative_to(run)): file.read_bytes()
        for pattern in ("*.parquet", "*.arrow")
        for file in sorted(run.rglob(pattern))
    }


def test_call_within_returns_tells_and_raises():
    heard = []
    result, pid = call_within(60, add, 2, 3, hear=heard.append)
    assert (result, heard) == (5, ["adding"])
    assert pid != os.getpid() and not psutil.pid_exists(pid)
    with pytest.raises(UsageError, match=r"^no such thing$"):
        call_within(60, refuse, "no such thing", hear=heard.append)
    with pytest.raises(CurateError, match=r"died \(killed, or out of memory\)"):
        call_within(60, die, hear=heard.append)
    assert heard == ["adding", "dying"]


def test_call_within_ends_everything_in_time():
    before = set(psutil.Process().children(recursive=True))
    began = time.monotonic()
    seen, over = [], threading.Event()

    def look():
        while not over.wait(0.1):
            seen.extend(psutil.Process().children(recursive=True))

    watch = threading.Thread(target=look)
    watch.start()
    try:
        with pytest.raises(TimeoutError):
            call_within(3, keep_busy, hear=seen.append)
    finally:
        over.set()
        watch.join()
    assert time.monotonic() - began < 12
    assert len(set(seen) - before) >= 1
    assert not [one for one in set(seen) - before if one.is_running()]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run whose stage was ended: what it said, its recipe; and the tables of an undisturbed run."""
    folder = tmp_path_factory.mktemp("limited")
    glob = write_shards(folder / "in", planted(300, copies=3, near=3))
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_values(glob, folder / "run")))
    assert curate("run", recipe, "--out", folder / "plain", "--until", "select").code == 0
    said = curate("run", recipe, "--set", "limits.time={cluster: 0.2s}", "--until", "select")
    return said, recipe, tables(folder / "plain")


def test_stage_beyond_its_limit_is_ended(ended):
    said, recipe, _ = ended
    assert said.code == 1
    assert said.error == (
        "cluster took longer than limits.time.cluster allows (0.2 s) and was ended; what it finished is kept: "
        "run again to go on where it stopped, or raise the limit"
    )
    run = recipe.parent / "run"
    assert (run / "1_embeddings" / "_done.json").exists() and not (run / "2_concepts" / "_done.json").exists()
    assert not (run / ".lock").exists()


def test_run_within_limits_says_and_writes_the_same(ended):
    _, recipe, expected = ended
    limits = ["--set", "limits.time={cluster: 1h}"]
    said = curate("run", recipe, "--until", "select", *limits, "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["worked"] == ["cluster", "score", "filter", "dedup", "select"]
    assert "cluster: 297 samples in 8 concepts" in said.err  # log lines come through
    assert tables(recipe.parent / "run") == expected


def test_error_in_a_limited_stage_comes_through(ended):
    _, recipe, _ = ended
    over = ["--set", "select.count=5000", "--set", "limits.time={select: 60}"]
    said = curate("run", recipe, "--until", "select", *over)
    assert said.code == 1
    assert "5,000" in said.error or "5000" in said.error


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("6h", 21600), ("90min", 5400), ("1h 30 min", 5400), ("1d", 86400), ("2.5m", 150), (7, 7), ("8", 8)],
)
def test_durations(text, seconds):
    assert parse_seconds(text) == seconds


def checked(tmp_path, **changes):
    return parse_recipe(recipe_values("in/*.parquet", tmp_path / "run", **changes))


@pytest.mark.parametrize(
    ("time", "said"),
    [
        ("soon", "limits.time must be a duration such as 6h, 90min or 1h 30min, got 'soon'"),
        (True, "limits.time must be a duration such as 6h, 90min or 1h 30min, got True"),
        (0, "limits.time must be longer than nothing, got 0"),
        ({"embd": "1h"}, "limits.time takes a duration, or some of .* with one each, got 'embd'"),
        ({"embed": "-1h"}, "limits.time.embed must be a duration such as 6h, 90min or 1h 30min, got '-1h'"),
    ],
)
def test_wrong_limits_are_refused(tmp_path, time, said):
    with pytest.raises(RecipeError, match=f"^{said}$"):
        checked(tmp_path, limits={"time": time})


def test_limits_are_of_the_stages(tmp_path):
    assert list(STAGES) == list(runner.STAGES)
    assert checked(tmp_path, limits={"time": "1h"}).limits.time == dict.fromkeys(STAGES, 3600)


def test_dated_runs_at_a_url_are_refused_at_once(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(json.dumps(recipe_values("in/*.parquet", "s3://bucket/run")))
    said = curate("schedule", recipe, "--cron", "0 3 * * *")
    assert said.code == 2
    assert (
        said.error == "dated runs share files on one disk, got s3://bucket/run; name a folder on this machine"
    )


# --- whom to tell


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "notify needs a command or a webhook"),
        ({"command": "mail 'x"}, 'notify.command must have every quotation mark closed, got "mail \'x"'),
        ({"webhook": "ftp://x"}, r"notify.webhook must be an http\(s\) address, or hold one as \${NAME}"),
        ({"webhook": "https://x/h?token=a1"}, "notify.webhook must not hold a secret .*"),
        ({"webhook": "https://u:p@x/h"}, "notify.webhook must not hold a secret .*"),
        (
            {"webhook": "https://hooks.x/T01/AbCdEfGhIjKlMnOpQrStU1"},
            "notify.webhook must not hold a secret .*",
        ),
        (
            {"webhook": "https://x", "on": "success"},
            "notify.on.0 must be 'failure' or 'drift', got 'success'",
        ),
    ],
)
def test_wrong_notify_is_refused(tmp_path, given, said):
    with pytest.raises(RecipeError, match=f"^{said}$"):
        checked(tmp_path, notify=given)


def test_command_gets_json_and_no_shell(tmp_path):
    code = "import sys; open(sys.argv[1], 'w').write(sys.argv[2] + sys.stdin.read())"
    told = Notify(command=(sys.executable, "-c", code, str(tmp_path / "told"), "$(id); "))
    assert notify.tell(told, {"run": "ü", "counts": None}) == []
    assert (tmp_path / "told").read_text() == '$(id); {"run": "ü", "counts": null}'


def test_what_goes_wrong_is_said_and_holds_no_secret(monkeypatch):
    monkeypatch.setenv("SECRET", "hush")
    fails = "import sys; sys.exit('no such user')"
    slow = (sys.executable, "-c", "import time; time.sleep(60)", "${SECRET}")
    python = sys.executable
    monkeypatch.setattr(notify, "COMMAND_S", 0.5)
    for told, problem in [
        (Notify(command=(python, "-c", fails)), f"command: {python} ended with code 1: no such user"),
        (Notify(command=("no-such-command",)), "command: no-such-command could not be started: No such file"),
        (Notify(command=slow), f"command: {python} did not end within 0 s"),
        (Notify(command=("true", "${NOT_SET}")), "command: notify.command: the environment variable NOT_SET"),
        (Notify(webhook="http://127.0.0.1:1/${SECRET}"), "webhook: no answer: Connection refused"),
        (Notify(webhook="${SECRET}"), "webhook: the address does not begin with http:// or https://"),
    ]:
        (said,) = notify.tell(told, {})
        assert said.startswith(f"nobody was told by notify.{problem}")
        assert "hush" not in said
    with pytest.raises(RecipeError, match=r"notify.webhook: the environment variable NOT_SET is not set"):
        notify.check(Notify(webhook="${NOT_SET}"))


def test_webhook_gets_a_post(monkeypatch):
    got = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(200 if self.path == "/good" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HOOK", f"http://127.0.0.1:{server.server_port}")
        assert notify.tell(Notify(webhook="${HOOK}/good"), {"run": "a"}) == []
        (said,) = notify.tell(Notify(webhook="${HOOK}/bad"), {"run": "b"})
        server.shutdown()
    assert said == "nobody was told by notify.webhook: the server answered 404 Not Found"
    kind = "application/json"
    assert got == [("/good", kind, {"run": "a"}), ("/bad", kind, {"run": "b"})]


def test_message_tells_of_this_run_only(tmp_path):
    drift = {"figure": 0.2, "warning": "the data has drifted"}
    manifest = {"counts": {"rows": 4}, "stages": {"cluster": {"drift": drift}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    said = notify.message("drift", tmp_path, "Completed", None)
    assert said == {
        "text": f"curate: {tmp_path}: Completed: the data has drifted",
        "occasion": "drift",
        "run": str(tmp_path),
        "state": "Completed",
        "error": None,
        "counts": {"rows": 4},
        "drift": drift,
    }
    assert notify.drifted(said)
    assert not notify.drifted(said | {"drift": {"figure": 0.0, "warning": None}})
    later = notify.message("failure", tmp_path, "Failed", "disk full", since=time.time() + 60)
    assert (later["counts"], later["drift"]) == (None, None)
    assert later["text"] == f"curate: {tmp_path}: Failed: disk full"
    assert not notify.drifted(later)


# --- the example, the command line


@pytest.mark.flow
def test_example_fits_the_flow():
    from curate.flows import serve

    example = yaml.safe_load((ROOT / "flows" / "prefect.yaml").read_text())
    (deployment,) = example["deployments"]
    assert deployment["entrypoint"] == "curate.flows.pipeline:curate"
    parameters = serve.curate.validate_parameters(deployment["parameters"])
    assert parameters["dated"] is True
    (times,) = deployment["schedules"]
    serve.check_schedule(times["cron"], times["timezone"], deployment["name"])
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}


@pytest.mark.flow
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--cron", "0 3 * *"], "--cron must have five fields"),
        (["--cron", "0 25 * * *"], "--cron must be a time as cron writes it, .*, got '0 25 "),
        (["--timezone", "Mars"], "--timezone must be a name such as Europe/Berlin, got 'Mars'"),
        (["--patience", "soon"], "--patience must be a duration such as 6h, 90min or 1h 30min, got 'soon'"),
        (["--patience", "0"], "--patience must be longer than nothing, got '0'"),
        (["--name", "a/b"], "--name must be some text without / and %, got 'a/b'"),
        (["--set", "select.kepe=1"], "select.kepe is not a setting"),
        (["--set", "notify={webhook: '${NOT_SET}'}"], "notify.webhook: the environment variable NOT_SET"),
        ([], "a schedule needs a Prefect server: set PREFECT_API_URL .* or give --start-server"),
    ],
)
def test_wrong_schedule_is_refused(tmp_path, flags, said):
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_values("in/*.parquet", tmp_path / "run")))
    cron = [] if "--cron" in flags else ["--cron", "0 3 * * *"]
    # Not the environment: Prefect may have read it before.
    with temporary_settings({PREFECT_API_URL: None, PREFECT_HOME: tmp_path}):
        refused = curate("schedule", tmp_path / "recipe.yaml", *cron, *flags)
    assert refused.code == 2
    assert re.match(said, refused.error)


@pytest.mark.flow
def test_server_that_is_not_there_is_named(tmp_path, monkeypatch):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_values("in/*.parquet", tmp_path / "run")))
    command = ["schedule", tmp_path / "recipe.yaml", "--cron", "0 3 * * *"]
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        said = curate(*command)
        both = curate(*command, "--start-server")
    assert said.code == 1
    assert said.error.startswith(
        "the Prefect server of PREFECT_API_URL=http://127.0.0.1:1/api does not answer"
    )
    assert both.code == 2
    assert both.error.endswith("but PREFECT_API_URL names one (http://127.0.0.1:1/api); use one of the two")
