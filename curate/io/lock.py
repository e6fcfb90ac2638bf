"""One writer per run folder: a lock file that says who holds it, and how to tell that its holder is dead."""

import contextlib
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from curate.errors import RunError
from curate.io import storage

__all__ = ["HEARTBEAT_S", "LOCK_EXPIRES_S", "held", "is_same_process", "started_at"]

HEARTBEAT_S = 5.0
#: A lock of another machine whose heartbeat is older than this is taken over.
LOCK_EXPIRES_S = 120.0


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder for writing (it is made if need be); raises RunError naming who else holds it."""
    path = folder / ".lock"
    own = {"host": socket.gethostname(), "pid": os.getpid(), "started": started_at(os.getpid())}
    own |= {"since": time.strftime("%Y-%m-%d %H:%M:%S"), "token": secrets.token_hex(8)}
    with storage.explained(path):
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            while not _create(path, own):
                holder = _holder(path)
                if _is_alive(holder, path):
                    raise RunError(
                        f"{folder} is being written by process {holder.get('pid')} on "
                        f"{holder.get('host')} since {holder.get('since')}; wait for it or stop it"
                    )
                path.unlink(missing_ok=True)
    stop = threading.Event()
    threading.Thread(target=_beat, args=(path, own, stop), daemon=True).start()
    try:
        yield
    finally:
        stop.set()
        if _holder(path) == own:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process of this machine at a time judge and take a lock (where the file system can)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _create(path: Path, facts: Mapping[str, object]) -> bool:
    """Create the lock file whole and at once; False if there is one."""
    own = path.with_name(f"{path.name}{storage.PARTIAL}{secrets.token_hex(4)}")
    try:
        own.write_text(json.dumps(facts), encoding="utf-8")
        with contextlib.suppress(
            FileExistsError, FileNotFoundError
        ):  # whose holder may be tidying up right now
            os.link(own, path)
            return True
    finally:
        own.unlink(missing_ok=True)
    return False


def _holder(path: Path) -> dict[str, Any]:
    """Return what a lock file says; empty if it says nothing that makes sense."""
    found = storage.read_json(path)
    return found if isinstance(found, dict) else {}


def started_at(pid: int) -> str | None:
    """Return when a living process started, or None; tells a reused pid from the old one.

    Where the system counts from its own start, that is used: it stays the same when the clock is set.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        except OSError:
            return str(process.create_time())
        return f"{boot} {fields.rpartition(')')[2].split()[19]}"
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def is_same_process(holder: Mapping[str, Any]) -> bool:
    """Return True if the process of this machine that a lock names is still that process, and lives."""
    pid, started = holder.get("pid"), holder.get("started")
    return isinstance(pid, int) and pid > 0 and started is not None and started_at(pid) == started


def _is_alive(holder: Mapping[str, Any], path: Path) -> bool:
    if holder.get("host") == socket.gethostname():
        return is_same_process(holder)
    try:
        return bool(holder) and time.time() - path.stat().st_mtime < LOCK_EXPIRES_S
    except FileNotFoundError:
        return False


def _beat(path: Path, own: Mapping[str, object], stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with contextlib.suppress(OSError):
            if _holder(path) == own:
                os.utime(path)
