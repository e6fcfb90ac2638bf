"""What is at the URL of a run: one PUT to a final name, marks last, no rename."""

import contextlib
import fcntl
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from curate.errors import CurateError, RunError, UsageError
from curate.io import filesystem
from curate.io.filesystem import Entry
from curate.io.records import MARKER, SIDECAR_SUFFIX, verified, with_checksum
from curate.io.remote.working_copy import (
    COPY_FOLDER,
    State,
    WorkingCopy,
    evict,
    files_below,
    token_of,
    write_whole,
)
from curate.io.retries import again

__all__ = ["LOCK", "RemoteStore"]

log = logging.getLogger("curate")

LOCK = ".lock"
#: What curate writes under until it is whole; nothing else has such a name.
_PARTIAL = re.compile(r"(^|/)\.[^/]+\.partial-\w{8}(/|$)")
#: From so many on, files are removed in groups. A group says nothing of those it could not remove.
_MANY = 64
#: How often a process that writes looks whether it is still allowed to.
LOOK_S = 15.0
#: One of these is in every run folder from its first moment on.
_FIRST = ("recipe.yaml", ".work/recipe.json")
#: What is kept of the scratch of a run that is worked on by one machine.
_LASTING = (".work/keys/", ".work/shipped/")


class RemoteStore:
    """The run at a URL, as its working copy reaches it. Raises RunError naming the URL for what the store refuses."""

    def __init__(self, copy: WorkingCopy) -> None:
        self.copy = copy
        facts = copy.settings()
        self.url, self.shared, self.cache = str(facts["url"]), bool(facts["shared"]), int(facts["cache"])
        self.options: Mapping[str, Any] = facts["storage_options"]
        self._moved, self._looked = 0, 0.0
        with self.explained("reach"):
            self.fs, path = filesystem.filesystem(self.url, self.options)
        self._path = path.rstrip("/")

    def at(self, name: str) -> str:
        """Return the path of a file in the file system of the URL."""
        return f"{self._path}/{name}"

    @contextlib.contextmanager
    def explained(self, what: str, name: str = "") -> Iterator[None]:
        """Turn any error of the file system into one line that names the URL and holds no secret."""
        try:
            yield
        except CurateError:
            raise
        except Exception as error:  # noqa: BLE001  (each file system has its own errors; none may show a secret)
            where = f"{self.url}/{name}" if name else self.url
            said = f"cannot {what} {where}: {filesystem.cause(error)} ({type(error).__name__})"
            raise RunError(filesystem.masked(said, self.options)) from None

    # Reading

    def fetch(self, name: str, state: State) -> None:
        """Bring a file here. Raises FileNotFoundError where it is no longer at the URL."""
        path, new = self.copy.path(name), self.copy.root / COPY_FOLDER / "incoming" / secrets.token_hex(8)
        path.parent.mkdir(parents=True, exist_ok=True)
        new.parent.mkdir(exist_ok=True)
        try:
            with self.explained("read", name), contextlib.suppress(FileNotFoundError):
                again(lambda: self.fs.get_file(self.at(name), str(new)), f"{self.url}/{name}")
            if not new.exists():
                raise FileNotFoundError(2, "no longer there", f"{self.url}/{name}")
            facts = new.stat()
            with self.explained("read", name):
                now = self._version(name)
            if (facts.st_size, now) != (state.size, state.version):
                raise RunError(
                    f"{self.url}/{name} was changed meanwhile ({state.version} was {now}); run again"
                )
            new.replace(path)
            self.copy.note(name, state.version, state.size, facts.st_mtime_ns)
        finally:
            new.unlink(missing_ok=True)
        self._evict(state.size)

    def read(self, name: str) -> bytes | None:
        """Return what a small file at the URL says, past the working copy; None if it is not there."""
        with self.explained("read", name):
            try:
                return bytes(again(lambda: self.fs.cat_file(self.at(name)), f"{self.url}/{name}"))
            except FileNotFoundError:
                return None

    def listing(self) -> dict[str, Entry]:
        """Return all files at the URL by name; the lock is left out."""
        with self.explained("list"):
            self.fs.invalidate_cache()
            try:
                found = again(lambda: self.fs.find(self._path, detail=True), self.url)
            except FileNotFoundError:
                return {}
        inside = len(self._path) + 1
        named = {path[inside:]: filesystem.entry_of(info) for path, info in found.items()}
        return {name: entry for name, entry in named.items() if _is_file(name) and not entry.is_folder}

    def refresh(self, *, tidy: bool = False, turn: str = "") -> None:
        """Let the working copy follow the URL, with one listing; nothing is fetched.

        tidy : the caller holds the run; what an interruption left (here, or there) is removed. turn : what several
        processes here ask for under the same name is done once. Raises UsageError where the URL holds other things
        than a run.
        """
        last = self.copy.root / COPY_FOLDER / "turn"
        with self._alone():
            if turn and last.exists() and last.read_text(encoding="utf-8") == turn:
                return
            began = time.time()
            there, known = self.listing(), self.copy.states()
            if there and not known and not any(name in there for name in _FIRST):
                raise UsageError(
                    f"{self.url} is not empty and no run folder (it holds {min(there)}); name another with --out"
                )
            if tidy:
                left = [name for name in there if _PARTIAL.search(name) or not self._stays(name)]
                self._remove(left)
                there = {name: there[name] for name in there.keys() - set(left)}
            for name, entry in there.items():
                state = known.get(name)
                if state is not None and state.noted >= began:
                    continue  # written since the listing
                if state is None or state.version != entry.version or not self.copy.path(name).exists():
                    self.copy.leave_placeholder(name, entry.version, entry.size)
            for name in known.keys() - there.keys():
                if known[name].noted < began:
                    self.copy.path(name).unlink(missing_ok=True)
                    self.copy.forget(name)
            if tidy:
                for path in files_below(self.copy.root):
                    name = self.copy.name(path)
                    if name not in there and not name.startswith((LOCK, "logs/")):
                        path.unlink(missing_ok=True)
            if turn:
                write_whole(last, turn)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process of this machine at a time follow the URL."""
        with (self.copy.root / COPY_FOLDER / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # Writing

    def _stays(self, name: str) -> bool:
        """Return True if a file belongs to the run at the URL; scratch does while other machines work on it too."""
        if name.startswith((LOCK, f"{COPY_FOLDER}/")) or name.endswith(SIDECAR_SUFFIX):
            return False
        if self.shared:
            return True
        lasting = name.startswith(_LASTING) or (name.startswith(".work/") and name.count("/") == 1)
        return not _PARTIAL.search(name) and (lasting or not name.startswith(".work/"))

    def send(self, file: Path, path: Path) -> Callable[[], None] | None:
        """Put a finished file to the URL; return what notes it when it stands at `path`, None for scratch."""
        name = self.copy.name(path)
        if not self._stays(name):
            if self.copy.state(name) is not None:  # a cluster worked on this run before
                self._remove([name])
            return None
        facts = file.stat()
        version = self._put(file, name)

        def note() -> None:
            self.copy.note(name, version, facts.st_size, facts.st_mtime_ns)
            self._evict(facts.st_size)

        return note

    def keep(self, path: Path) -> None:
        """Put a file to the URL that was written in place, such as a log."""
        noted = self.send(path, path) if path.exists() else None
        if noted is not None:
            noted()

    def _put(self, file: Path, name: str) -> str:
        """Put a file to its final name; return the version it has there."""
        self._require_held()
        with self.explained("write", name):
            again(lambda: self.fs.put_file(str(file), self.at(name)), f"{self.url}/{name}")
            return self._version(name)

    def _version(self, name: str) -> str:
        self.fs.invalidate_cache()
        return filesystem.entry_of(again(lambda: self.fs.info(self.at(name)), self.url)).version

    def _require_held(self) -> None:
        """Raise RunError if another process has taken over the lock that this one works under."""
        token = token_of(self.copy.root)
        if token is None or abs(time.time() - self._looked) < LOOK_S:
            return
        holder = json.loads(self.read(LOCK) or b"{}")
        if holder.get("token") != token:
            raise RunError(f"{self.url} was taken over by another process; what was finished before is kept")
        self._looked = time.time()

    def remove(self, path: Path) -> None:
        """Remove a file, or all files below a folder, at the URL; the caller removes them here."""
        name = self.copy.name(path)
        below = "" if name == "." else name
        self._remove([below] if below and self.copy.state(below) is not None else self.copy.states(below))

    def _remove(self, names: Iterable[str]) -> None:
        """Remove files at the URL: marks first, so that no mark speaks of files that are gone."""
        chosen = sorted(names, key=lambda name: (Path(name).name != MARKER, name))
        if not chosen:
            return
        self._require_held()
        marks = [name for name in chosen if Path(name).name == MARKER]
        for name in marks:  # here first: what fails there must leave none
            self.copy.path(name).unlink(missing_ok=True)
        others = [self.at(name) for name in chosen[len(marks) :]]
        in_groups = len(others) >= _MANY and not any(map(filesystem.has_magic, others))
        with self.explained("remove", chosen[0]):
            for path in [*map(self.at, marks), *([] if in_groups else others)]:
                with contextlib.suppress(FileNotFoundError):
                    again(partial(self.fs.rm_file, path), self.url)
            if in_groups:
                with contextlib.suppress(FileNotFoundError):
                    again(partial(self.fs.rm, others), self.url)
        for name in chosen:
            self.copy.forget(name)

    def move(self, new: Path, path: Path) -> Callable[[], None]:
        """Let the files of the folder `new` be at the URL those of the folder `path`; nothing changes here.

        An object store has no rename: the mark of what was there goes first, the mark of what is new comes last.
        Returns what notes it when `new` stands at `path` here too.
        """
        folder, before = self.copy.name(path), self.copy.states(self.copy.name(path))
        marks = {name for name in before if Path(name).name == MARKER}
        self._remove(marks)
        names = {f"{folder}/{file.relative_to(new).as_posix()}": file for file in files_below(new)}
        names = {name: file for name, file in names.items() if self._stays(name)}
        self._remove(before.keys() - marks - names.keys())
        moved: dict[str, tuple[str, int, int | None]] = {}
        for name in sorted(names, key=lambda name: (Path(name).name == MARKER, name)):
            file = names[name]
            if file.name == MARKER:
                _with_versions(file, folder, {name: version for name, (version, _, _) in moved.items()})
            state = self.copy.state(self.copy.name(file))
            if state is not None and file.name != MARKER:
                version = self._copy_there(self.copy.name(file), name)
                mtime = file.stat().st_mtime_ns if self.copy.is_local(self.copy.name(file), state) else None
            else:
                version, mtime = self._put(file, name), file.stat().st_mtime_ns
            moved[name] = version, file.stat().st_size, mtime
        gone = list(self.copy.states(self.copy.name(new)))

        def note() -> None:
            for name, (version, size, mtime_ns) in moved.items():
                self.copy.note(name, version, size, mtime_ns)
            self._remove(gone)

        return note

    def _copy_there(self, source: str, target: str) -> str:
        with self.explained("write", target):
            again(lambda: self.fs.cp_file(self.at(source), self.at(target)), f"{self.url}/{target}")
            return self._version(target)

    def _evict(self, size: int) -> None:
        """Evict files that were not read for a while, once enough has come."""
        self._moved += size
        if self._moved > self.cache // 16:
            self._moved = 0
            evict(self.copy, self.cache)


def _is_file(name: str) -> bool:
    """Return True if a name at the URL can be that of a file of a run: none that leads elsewhere, no sign of a folder."""
    parts = name.split("/")
    return name != LOCK and parts[0] != COPY_FOLDER and not {"", ".", ".."} & set(parts)


def _with_versions(mark: Path, folder: str, versions: Mapping[str, str]) -> None:
    """Let a mark say which versions its files have at the URL."""
    found = verified(json.loads(mark.read_text(encoding="utf-8")))
    for name, record in found["files"].items():
        if (version := versions.get(f"{folder}/{name}")) is not None:
            record["version"] = version
    mark.write_text(json.dumps(with_checksum(found), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
