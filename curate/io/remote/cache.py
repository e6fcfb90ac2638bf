"""The working copy of a run at a URL: which of its files are here, and which only stand for what is there.

For every file that is at the URL, a note in `.home/state` says which version of it. A file whose size and time are
those noted is that version; any other (an empty place of the same size, a file that was touched) is fetched before
it is read. Nothing here is imported from the rest of curate: every reader and writer of files asks this module, and
for a path outside a working copy the answer is that there is nothing to do.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curate.io.remote.store import Home

__all__ = [
    "HOME",
    "Copy",
    "State",
    "begin",
    "cache_folder",
    "copy_of",
    "ensure_all_local",
    "ensure_local",
    "hand_over",
    "home_of",
    "removed",
    "send",
    "state_of",
    "token_of",
    "work_under",
    "working_copy",
]

#: In the working copy: what belongs to the copy and not to the run.
HOME = ".home"
#: Where the working copies are; by default below XDG_CACHE_HOME, or ~/.cache.
CACHE_VARIABLE = "CURATE_CACHE"
#: How much the files of a working copy may take, where nobody says.
DEFAULT_BYTES = 50 * 10**9
#: Where a process and those it starts find the options of a URL: they may hold secrets, which no file may.
_OPTIONS_VARIABLE = "CURATE_HOME_OPTIONS_"
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
class Copy:
    """A working copy at `root`."""

    root: Path

    def name(self, path: Path) -> str:
        """Return the name of a file of the run, at the URL and here."""
        return path.absolute().relative_to(self.root).as_posix()

    def path(self, name: str) -> Path:
        """Return where a file of the run is here."""
        return self.root / name

    def _note(self, name: str) -> Path:
        return self.root / HOME / "state" / f"{name}.json"

    def state(self, name: str) -> State | None:
        """Return what is noted of a file; None if nothing is."""
        try:
            return State(**json.loads(self._note(name).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def states(self, below: str = "") -> dict[str, State]:
        """Return what is noted of all files below a folder of the run."""
        top = self.root / HOME / "state"
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

    def is_here(self, name: str, state: State) -> bool:
        """Whether the file here is the version noted."""
        try:
            facts = self.path(name).stat()
        except OSError:
            return False
        return state.mtime_ns is not None and (facts.st_size, facts.st_mtime_ns) == (
            state.size,
            state.mtime_ns,
        )

    def leave_place(self, name: str, version: str, size: int) -> None:
        """Let an empty place of its size stand for a file that is at the URL."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.note(name, version, size, None)
        partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
        with partial.open("wb") as file:
            file.truncate(size)
        os.utime(partial, ns=(0, 0))  # no time that a written file has
        partial.replace(path)

    @contextlib.contextmanager
    def room(self, how: int) -> Iterator[None]:
        """Let several look at what is here (LOCK_SH), or one alone take files away (LOCK_EX)."""
        with (self.root / HOME / "room").open("w") as file:
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
        found = json.loads((self.root / HOME / "home.json").read_text(encoding="utf-8"))
        found["storage_options"] |= json.loads(os.environ.get(_variable(self.root), "{}"))
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


def working_copy(url: str) -> Path:
    """Return where the working copy of the run at a URL is on this machine."""
    name = url.rstrip("/").rpartition("/")[2]
    return (
        cache_folder()
        / "runs"
        / f"{name}-{hashlib.blake2b(url.rstrip('/').encode(), digest_size=6).hexdigest()}"
    )


def _variable(root: Path, kind: str = _OPTIONS_VARIABLE) -> str:
    return kind + hashlib.blake2b(str(root).encode(), digest_size=6).hexdigest().upper()


def token_of(root: Path) -> str | None:
    """Return the token of the lock on the URL that this process works under; None if it works under none."""
    return os.environ.get(_variable(root, _TOKEN_VARIABLE))


def work_under(root: Path, token: str | None) -> None:
    """Let this process, and those it starts, work under a lock on the URL (None: no longer)."""
    name = _variable(root, _TOKEN_VARIABLE)
    os.environ.pop(name, None)
    if token is not None:
        os.environ[name] = token


def begin(
    root: Path,
    url: str,
    *,
    storage_options: Mapping[str, Any],
    written_options: Mapping[str, Any],
    cache: int,
    shared: bool,
) -> None:
    """Make `root` the working copy of the run at `url`.

    written_options : the options without secrets, for later calls that are given none. cache : bytes the files here
    may take. shared : whether other machines work on the run too, so that scratch must be there as well.
    """
    facts = {"url": url.rstrip("/"), "storage_options": written_options, "cache": cache, "shared": shared}
    text = json.dumps(facts)
    path, options = root / HOME / "home.json", json.dumps(storage_options) if storage_options else None
    same = path.exists() and path.read_text(encoding="utf-8") == text
    if same and options in (None, os.environ.get(_variable(root))) and _root_of(str(root)) == root:
        return  # who holds the URL goes on with the home there is
    if options is not None:
        os.environ[_variable(root)] = options
    if not same:
        write_whole(path, text)
    _root_of.cache_clear()
    _home_at.cache_clear()


@dataclass(frozen=True)
class Handed:
    """A working copy on its way to a worker on another machine; holds secrets: never written."""

    root: str
    settings: dict[str, Any]
    token: str | None

    def begin(self, turn: str) -> None:
        """Make a working copy like that of the caller, and let it follow the URL, once for all workers here.

        turn : another one for each time that it must.
        """
        given, root, plain = self.settings, Path(self.root), {}
        with contextlib.suppress(OSError, ValueError):
            plain = json.loads((root / HOME / "home.json").read_text(encoding="utf-8"))
        work_under(root, self.token)
        begin(
            root, given["url"], storage_options=given["storage_options"],
            written_options=plain.get("storage_options", {}), cache=given["cache"], shared=given["shared"],
        )  # fmt: skip
        home = home_of(root)
        if home is not None:
            home.refresh(turn=turn)


def hand_over(root: Path) -> Handed | None:
    """Return what a worker needs to work on the run whose folder is `root`; None for one that is no copy."""
    copy = copy_of(root)
    return None if copy is None else Handed(str(copy.root), copy.settings(), token_of(copy.root))


@functools.lru_cache(4096)
def _root_of(folder: str) -> Path | None:
    """Return the working copy that a folder lies in (or is)."""
    for path in (Path(folder), *Path(folder).parents):
        if (path / HOME / "home.json").exists():
            return path
    return None


def copy_of(path: Path) -> Copy | None:
    """Return the working copy that a path lies in (or is); None for any other path."""
    text = os.path.abspath(path)  # noqa: PTH100  (asked for every file of every run: pathlib takes ten times as long)
    root = _root_of(os.path.dirname(text))  # noqa: PTH120
    if root is None and os.path.exists(f"{text}/{HOME}/home.json"):  # noqa: PTH110
        root = Path(text)
    return None if root is None else Copy(root)


@functools.lru_cache(64)
def _home_at(root: Path) -> "Home":
    from curate.io.remote.store import Home  # it builds on the sources, which read files too

    return Home(Copy(root))


def home_of(path: Path) -> "Home | None":
    """Return the home of the run that a path lies in; None for one that is on this machine alone."""
    copy = copy_of(path)
    return None if copy is None else _home_at(copy.root)


def state_of(path: Path) -> tuple[State, bool] | None:
    """Return what is noted of a file, and whether it is here; None for a file that is on this machine alone."""
    copy = copy_of(path)
    state = None if copy is None else copy.state(copy.name(path))
    if copy is None or state is None:
        return None
    return state, copy.is_here(copy.name(path), state)


def ensure_local(path: Path) -> Path:
    """Return a path whose file can be read: one that is only at the URL is fetched."""
    copy = copy_of(path)
    if copy is not None and (state := copy.state(name := copy.name(path))) is not None:
        with copy.room(fcntl.LOCK_SH):  # what is said to be here now is not taken away for a while
            copy.used(name)
            is_here = copy.is_here(name, state)
        if not is_here:
            _home_at(copy.root).fetch(name, state)
    return path


def ensure_all_local(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that match, in order; those that are only at the URL are fetched."""
    return [ensure_local(path) for path in sorted(folder.glob(pattern))]


def send(partial: Path, path: Path) -> Callable[[], None] | None:
    """Send a finished file to its final name at the URL, before it becomes `path` here.

    Returns what to call when it has; None where there is nothing to send.
    """
    home = home_of(path)
    return None if home is None else home.send(partial, path)


def removed(path: Path) -> None:
    """Remove at the URL what is about to be removed here: a file, or all below a folder."""
    home = home_of(path)
    if home is not None:
        home.remove(path)


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, what belongs to the copy left out."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and HOME not in path.relative_to(folder).parts:
            yield path
