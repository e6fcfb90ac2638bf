"""Which folders this process, and those it starts, write under a lock, and whether the lock is still theirs.

A process that stood still for minutes (a suspended machine, a stopped container) may find that another has taken its
lock over. So the lock is looked at before a file gets its final name: what the other has written is not harmed.
"""

import json
import os
import threading
from pathlib import Path
from typing import Any

from curate.errors import RunError

__all__ = ["LOCK", "holder_of", "require_held", "work_under"]

LOCK = ".lock"
#: Where a process and those it starts find the folders they write and the tokens of their locks.
_VARIABLE = "CURATE_HELD"
_CHANGING = threading.Lock()


def work_under(folder: Path, token: str | None) -> None:
    """Let this process, and those it starts, write below a folder under a lock (None: no longer)."""
    with _CHANGING:
        held = _held()
        held.pop(str(folder.absolute()), None)
        if token is not None:
            held[str(folder.absolute())] = token
        os.environ[_VARIABLE] = json.dumps(held)


def holder_of(lock: Path) -> dict[str, Any]:
    """Return what a lock file says; empty if it says nothing that makes sense."""
    try:
        found = json.loads(lock.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def require_held(path: Path) -> None:
    """Raise RunError if `path` is in a folder that was held for writing and has been taken over by another process."""
    held = _held()
    if not held:
        return
    for folder in path.absolute().parents:
        token = held.get(str(folder))
        if token is None:
            continue
        try:
            holder = holder_of(folder / LOCK)
        except OSError:
            continue  # of the file system, which writing will tell
        if holder.get("token") != token:
            who = f" by process {holder['pid']} on {holder.get('host')}" if "pid" in holder else ""
            raise RunError(
                f"{folder} was taken over{who} while this process stood still; what was finished before is kept"
            )


def _held() -> dict[str, str]:
    found = json.loads(os.environ.get(_VARIABLE) or "{}")
    return found if isinstance(found, dict) else {}
