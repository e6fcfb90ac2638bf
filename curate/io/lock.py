"""One writer per run folder: a lock file that says who holds it, and how to tell that its holder is dead.

A holder in the same machine and container is looked up by its process. Any other is known by its heartbeat alone: one
that is not fresh is watched for a while, whatever the clocks say, and taken for dead if it does not change.
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from curate.errors import RunError
from curate.io import storage
from curate.io.holding import LOCK, holder_of, work_under

__all__ = ["HEARTBEAT_S", "LOCK_EXPIRES_S", "held", "is_same_process", "machine", "started_at"]

HEARTBEAT_S = 5.0
#: A heartbeat younger than this is one of a living holder.
LOCK_EXPIRES_S = 120.0
#: Another, or one that comes from a clock ahead of this one, is watched for so long before its lock is taken over.
WATCH_S = 3 * HEARTBEAT_S

#: What file systems without hard links (exFAT, FAT, SMB, FUSE) answer to one.
_NO_HARD_LINKS = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK, errno.EXDEV}
)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder for writing (it is made if need be); raises RunError naming who else holds it."""
    path = folder / LOCK
    own = {"host": socket.gethostname(), "pid": os.getpid(), "started": started_at(os.getpid())}
    own |= {"since": time.strftime("%Y-%m-%d %H:%M:%S"), "token": secrets.token_hex(8), "machine": machine()}
    with storage.explained(path):
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            while not _create(path, own):
                holder = holder_of(path)
                if _is_alive(holder, path):
                    raise RunError(
                        f"{folder} is being written by process {holder.get('pid')} on "
                        f"{holder.get('host')} since {holder.get('since')}; wait for it or stop it"
                        f"{'' if _is_here(holder) else f' (if it is dead, that shows within {LOCK_EXPIRES_S:g} s)'}"
                    )
                path.unlink(missing_ok=True)
    work_under(folder, str(own["token"]))
    stop = threading.Event()
    threading.Thread(target=_beat, args=(path, own, stop), daemon=True).start()
    try:
        yield
    finally:
        stop.set()
        work_under(folder, None)
        if holder_of(path) == own:
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
    """Create the lock file, whole and at once where there are hard links; False if there is one."""
    own = path.with_name(f"{path.name}{storage.PARTIAL}{secrets.token_hex(4)}")
    text = json.dumps(facts)
    try:
        own.write_text(text, encoding="utf-8")
        os.link(own, path)
    except (FileExistsError, FileNotFoundError):  # whose holder may be tidying up right now
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
    else:
        return True
    finally:
        own.unlink(missing_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:  # empty for a moment: see `_is_alive`
            file.write(text)
    except FileExistsError:
        return False
    return True


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


def machine() -> str:
    """Return what tells apart machines, and containers, even of one name: processes are known by number inside."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode()}"


def _is_here(holder: Mapping[str, Any]) -> bool:
    """Return True if the holder's process can be looked up here: the machine and the container are the same."""
    return holder.get("machine", machine()) == machine() and holder.get("host") == socket.gethostname()


def _is_alive(holder: Mapping[str, Any], path: Path) -> bool:
    """Return True if the holder of a lock lives; this takes a while where only its heartbeat can tell."""
    if _is_here(holder):
        return is_same_process(holder)
    sign = _sign(path)
    if sign is None:
        return False
    if holder and 0 <= time.time() - sign[0] / 1e9 < LOCK_EXPIRES_S:
        return True
    time.sleep(WATCH_S)
    return _sign(path) not in (sign, None)


def _sign(path: Path) -> tuple[int, str] | None:
    """Return what a heartbeat changes: the time of the lock file, and what it says; None where it is gone."""
    try:
        with path.open(
            encoding="utf-8", errors="replace"
        ) as file:  # opened: a network then looks for what is new
            return os.fstat(file.fileno()).st_mtime_ns, file.read()
    except FileNotFoundError:
        return None


def _beat(path: Path, own: Mapping[str, object], stop: threading.Event) -> None:
    """Say from time to time that the holder lives, until another has taken its place."""
    while not stop.wait(HEARTBEAT_S):
        with contextlib.suppress(OSError):
            if holder_of(path) != own:
                continue
            try:
                os.utime(path)
            except OSError:  # who does not own the files of a mount may write them, and not set their times
                path.write_text(json.dumps(own), encoding="utf-8")
