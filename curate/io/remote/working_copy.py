"""The working copy of a run at a URL: which of its files are on this machine, and which are placeholders.

For every file that is at the URL, a note in `.home/state` says which version of it. A file whose size and time are
those noted is that version; any other (a placeholder of the same size, a file that was touched) is fetched before it
is read. `evict` bounds what the files here take. Nothing here knows the URL's file system.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "CACHE_VARIABLE",
    "COPY_FOLDER",
    "GRACE_S",
    "OPTIONS_VARIABLE",
    "State",
    "WorkingCopy",
    "cache_folder",
    "copy_path",
    "evict",
    "files_below",
    "token_of",
    "variable",
    "work_under",
    "write_whole",
]

#: In the working copy: what belongs to the copy and not to the run.
COPY_FOLDER = ".home"
#: What was read or written so recently is not evicted, whatever the bound: it may be opened this very moment.
GRACE_S = 60.0
#: Where the working copies are; by default below XDG_CACHE_HOME, or ~/.cache.
CACHE_VARIABLE = "CURATE_CACHE"
#: Where a process and those it starts find the options of a URL: they may hold secrets, which no file may.
OPTIONS_VARIABLE = "CURATE_HOME_OPTIONS_"
#: Where they find the token of the lock that they work under.
_TOKEN_VARIABLE = "CURATE_HOME_TOKEN_"


@dataclass(frozen=True)
class State:
    """What is known of a file at the URL.

    version, size : of the object. mtime_ns : of the file here that is this version; None where there is none.
    noted : when this was noted (seconds).
    """

    version: str
    size: int
    mtime_ns: int | None
    noted: float


@dataclass(frozen=True)
class WorkingCopy:
    """A working copy at `root`."""

    root: Path

    def name(self, path: Path) -> str:
        """Return the name of a file of the run, at the URL and here."""
        return path.absolute().relative_to(self.root).as_posix()

    def path(self, name: str) -> Path:
        """Return where a file of the run is here."""
        return self.root / name

    def _note(self, name: str) -> Path:
        return self.root / COPY_FOLDER / "state" / f"{name}.json"

    def state(self, name: str) -> State | None:
        """Return what is noted of a file; None if nothing is."""
        try:
            return State(**json.loads(self._note(name).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def states(self, below: str = "") -> dict[str, State]:
        """Return what is noted of all files below a folder of the run."""
        top = self.root / COPY_FOLDER / "state"
        found = {}
        for note in (top / below).rglob("*.json"):
            name = note.relative_to(top).as_posix().removesuffix(".json")
            if (state := self.state(name)) is not None:
                found[name] = state
        return found

    def note(self, name: str, version: str, size: int, mtime_ns: int | None) -> None:
        """Note a version of a file, which is here if it has this time."""
        write_whole(self._note(name), json.dumps(asdict(State(version, size, mtime_ns, time.time()))))

    def forget(self, name: str) -> None:
        """Forget a file that is no longer at the URL."""
        self._note(name).unlink(missing_ok=True)

    def is_local(self, name: str, state: State) -> bool:
        """Return True if the file here is the version noted."""
        try:
            facts = self.path(name).stat()
        except OSError:
            return False
        return state.mtime_ns is not None and (facts.st_size, facts.st_mtime_ns) == (
            state.size,
            state.mtime_ns,
        )

    def leave_placeholder(self, name: str, version: str, size: int) -> None:
        """Let an empty file of its size stand for one that is at the URL."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.note(name, version, size, None)
        partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
        with partial.open("wb") as file:
            file.truncate(size)
        os.utime(partial, ns=(0, 0))  # no time that a written file has
        partial.replace(path)

    @contextlib.contextmanager
    def eviction_lock(self, how: int) -> Iterator[None]:
        """Hold the lock of eviction: several processes may read (LOCK_SH), one alone may evict files (LOCK_EX)."""
        with (self.root / COPY_FOLDER / "room").open("w") as file:
            fcntl.flock(file, how)
            yield

    def used(self, name: str) -> None:
        """Remember that a file was read now."""
        try:
            os.utime(self._note(name))
        except OSError:
            return

    def last_used(self, name: str) -> float:
        """Return when a file was read or written last."""
        try:
            return self._note(name).stat().st_mtime
        except OSError:
            return 0.0

    def settings(self) -> dict[str, Any]:
        """Return what `begin` wrote."""
        found = json.loads((self.root / COPY_FOLDER / "home.json").read_text(encoding="utf-8"))
        found["storage_options"] |= json.loads(os.environ.get(variable(self.root), "{}"))
        return dict(found)


def write_whole(path: Path, text: str) -> None:
    """Write a small file that is whole whenever it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Return the folder of all working copies."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "curate"


def copy_path(url: str) -> Path:
    """Return where the working copy of the run at a URL is on this machine."""
    name = url.rstrip("/").rpartition("/")[2]
    return (
        cache_folder()
        / "runs"
        / f"{name}-{hashlib.blake2b(url.rstrip('/').encode(), digest_size=6).hexdigest()}"
    )


def variable(root: Path, kind: str = OPTIONS_VARIABLE) -> str:
    """Return the name of an environment variable about the working copy at `root`."""
    return kind + hashlib.blake2b(str(root).encode(), digest_size=6).hexdigest().upper()


def token_of(root: Path) -> str | None:
    """Return the token of the lock on the URL that this process works under; None if it works under none."""
    return os.environ.get(variable(root, _TOKEN_VARIABLE))


def work_under(root: Path, token: str | None) -> None:
    """Let this process, and those it starts, work under a lock on the URL (None: no longer)."""
    name = variable(root, _TOKEN_VARIABLE)
    os.environ.pop(name, None)
    if token is not None:
        os.environ[name] = token


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, what belongs to the copy left out."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and COPY_FOLDER not in path.relative_to(folder).parts:
            yield path


def evict(copy: WorkingCopy, bound: int) -> None:
    """Turn files into placeholders, those not used for the longest time first, until the others take at most `bound` bytes.

    Only files that are at the URL are evicted. One that is open stays readable for the process that has it open.
    """
    local = {name: state for name, state in copy.states().items() if copy.is_local(name, state)}
    taken = sum(state.size for state in local.values())
    for name in sorted(local, key=copy.last_used):
        if taken <= bound:
            break
        with copy.eviction_lock(fcntl.LOCK_EX):
            if time.time() - copy.last_used(name) < GRACE_S or copy.state(name) != local[name]:
                continue
            copy.leave_placeholder(name, local[name].version, local[name].size)
        taken -= local[name].size
