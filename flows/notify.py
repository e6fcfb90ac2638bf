"""Telling somebody about a run: JSON on a command's standard input, or POSTed to an address. Knows no Prefect."""

import http.client
import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curate.errors import RecipeError
from curate.io import storage
from curate.recipe import Notify
from curate.runs.folder import RunFolder

__all__ = ["check", "drifted", "message", "tell", "tell_end"]

#: A command or an address that takes longer is given up.
COMMAND_S, WEBHOOK_S = 60.0, 30.0

_VARIABLE = re.compile(r"\$\{(\w+)\}")


def message(
    occasion: str, run: Path, state: str, error: str | None, *, since: float | None = None
) -> dict[str, Any]:
    """Return what is told: occasion, run, state, error, counts and drift, and all of it in one sentence.

    since : seconds since the epoch; counts and drift of a manifest older than that are of another run, and null.
    """
    manifest = _manifest(run, since)
    said = {
        "occasion": occasion,
        "run": RunFolder(run).where,
        "state": state,
        "error": error,
        "counts": manifest.get("counts"),
        "drift": manifest.get("stages", {}).get("cluster", {}).get("drift"),
    }
    reason = error or (said["drift"] or {}).get("warning")
    return {"text": ": ".join(["curate", RunFolder(run).where, state, *([reason] if reason else [])]), **said}


def _manifest(run: Path, since: float | None) -> dict[str, Any]:
    path = RunFolder(run).manifest
    found = storage.read_json(path)
    is_old = since is not None and isinstance(found, dict) and found.get("written", 0.0) < since
    return found if isinstance(found, dict) and not is_old else {}


def drifted(said: Mapping[str, Any]) -> bool:
    """Whether a message tells of drift that the run itself warned of."""
    drift = said["drift"]
    return isinstance(drift, Mapping) and bool(drift.get("warning"))


def check(notify: Notify) -> None:
    """Raise RecipeError naming an environment variable that `notify` needs and that is not set."""
    _resolved("command", " ".join(notify.command or ()))
    _resolved("webhook", notify.webhook or "")


def tell(notify: Notify, said: Mapping[str, Any]) -> list[str]:
    """Send a message to the command and the address, as far as there are such; return what went wrong.

    Never raises for what the outside does: a run that is over must not fail because nobody could be told.
    """
    problems = []
    data = json.dumps(said, ensure_ascii=False, default=str).encode()
    for what, send in (("command", _call), ("webhook", _post)):
        if getattr(notify, what):
            try:
                problem = send(notify, data)
            except RecipeError as error:
                problem = str(error)
            problems += [f"nobody was told by notify.{what}: {problem}"] if problem else []
    return problems


def tell_end(notify: Notify | None, run: str, error: Exception) -> list[str]:
    """Tell that the schedule of the runs below `run` ended by itself; return what went wrong in telling.

    To whom a failed run is told, this is told too: no run fails any more, because none begins.
    """
    if notify is None or "failure" not in notify.on:
        return []
    reason = str(error) or type(error).__name__
    return tell(notify, message("failure", Path(run), "ScheduleEnded", reason, since=time.time()))


def _call(notify: Notify, data: bytes) -> str | None:
    """Give `data` to the command, with no shell in between; return what went wrong, without its secrets."""
    words = notify.command or ()
    try:
        done = subprocess.run(
            [_resolved("command", word) for word in words],
            input=data, capture_output=True, timeout=COMMAND_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"{words[0]} did not end within {COMMAND_S:.0f} s"
    except OSError as error:
        return f"{words[0]} could not be started: {error.strerror}"
    if done.returncode == 0:
        return None
    last = (done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    return f"{words[0]} ended with code {done.returncode}: {last}"


def _post(notify: Notify, data: bytes) -> str | None:
    """POST `data` to the address; return what went wrong, without the address, which may be a secret."""
    address = _resolved("webhook", notify.webhook or "")
    if not address.startswith(("http://", "https://")):
        return "the address does not begin with http:// or https://"
    try:
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.urlopen(request, timeout=WEBHOOK_S):
            return None
    except urllib.error.HTTPError as error:
        return f"the server answered {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return f"no answer: {getattr(error.reason, 'strerror', None) or error.reason}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"no answer: {type(error).__name__}"


def _resolved(what: str, text: str) -> str:
    """Return `text` with every ``${NAME}`` replaced by that environment variable."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise RecipeError(f"notify.{what}: the environment variable {match[1]} is not set")
        return os.environ[match[1]]

    return _VARIABLE.sub(value, text)
