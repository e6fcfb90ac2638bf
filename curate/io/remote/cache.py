"""Files of a run at a URL, made local before they are read: what every reader and writer of files asks.

For a path outside a working copy the answer is that there is nothing to do. A path in one is served by the store of
its run (`store.RemoteStore`), which is found by the folder that the path lies in.
"""

import contextlib
import fcntl
import functools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.io.remote.working_copy import (
    COPY_FOLDER,
    State,
    WorkingCopy,
    token_of,
    variable,
    work_under,
    write_whole,
)

if TYPE_CHECKING:
    from curate.io.remote.store import RemoteStore

__all__ = [
    "DEFAULT_BYTES",
    "Handed",
    "begin",
    "copy_at",
    "copy_of",
    "ensure_all_local",
    "ensure_local",
    "hand_over",
    "remove_remote",
    "send",
    "state_of",
    "store_of",
]

#: How much the files of a working copy may take, where nobody says.
DEFAULT_BYTES = 50 * 10**9


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
    path, options = root / COPY_FOLDER / "home.json", json.dumps(storage_options) if storage_options else None
    same = path.exists() and path.read_text(encoding="utf-8") == text
    if same and options in (None, os.environ.get(variable(root))) and copy_at(root) == WorkingCopy(root):
        return  # the holder of the URL goes on with the store that it has
    if options is not None:
        os.environ[variable(root)] = options
    if not same:
        write_whole(path, text)
    copy_at.cache_clear()
    _store_at.cache_clear()


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
            plain = json.loads((root / COPY_FOLDER / "home.json").read_text(encoding="utf-8"))
        work_under(root, self.token)
        begin(
            root, given["url"], storage_options=given["storage_options"],
            written_options=plain.get("storage_options", {}), cache=given["cache"], shared=given["shared"],
        )  # fmt: skip
        store = store_of(root)
        if store is not None:
            store.refresh(turn=turn)


def hand_over(root: Path) -> Handed | None:
    """Return what a worker needs to work on the run whose folder is `root`; None for one that is no copy."""
    copy = copy_of(root)
    return None if copy is None else Handed(str(copy.root), copy.settings(), token_of(copy.root))


@functools.lru_cache(4096)
def copy_at(folder: Path) -> WorkingCopy | None:
    """Return the working copy that a folder (absolute) lies in, or is; looked for once per folder."""
    for path in (folder, *folder.parents):
        if (path / COPY_FOLDER / "home.json").exists():
            return WorkingCopy(path)
    return None


def copy_of(path: Path) -> WorkingCopy | None:
    """Return the working copy that a path lies in (or is); None for any other path."""
    path = Path(os.path.abspath(path))  # noqa: PTH100  (links stay, `..` goes)
    copy = copy_at(path.parent)
    if copy is None and (path / COPY_FOLDER / "home.json").exists():
        copy = WorkingCopy(path)
    return copy


@functools.lru_cache(64)
def _store_at(root: Path) -> "RemoteStore":
    from curate.io.remote.store import RemoteStore  # fsspec is not needed for runs on this machine

    return RemoteStore(WorkingCopy(root))


def store_of(path: Path) -> "RemoteStore | None":
    """Return the store of the run that a path lies in; None for one that is on this machine alone."""
    copy = copy_of(path)
    return None if copy is None else _store_at(copy.root)


def state_of(path: Path) -> tuple[State, bool] | None:
    """Return what is noted of a file, and whether it is here; None for a file that is on this machine alone."""
    copy = copy_of(path)
    state = None if copy is None else copy.state(copy.name(path))
    if copy is None or state is None:
        return None
    return state, copy.is_local(copy.name(path), state)


def ensure_local(path: Path) -> Path:
    """Return a path whose file can be read: one that is only at the URL is fetched."""
    copy = copy_of(path)
    if copy is not None and (state := copy.state(name := copy.name(path))) is not None:
        with copy.eviction_lock(fcntl.LOCK_SH):  # a file that is local now is not evicted for a while
            copy.used(name)
            is_local = copy.is_local(name, state)
        if not is_local:
            _store_at(copy.root).fetch(name, state)
    return path


def ensure_all_local(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that match, in order; those that are only at the URL are fetched."""
    return [ensure_local(path) for path in sorted(folder.glob(pattern))]


def send(partial: Path, path: Path) -> Callable[[], None] | None:
    """Send a finished file to its final name at the URL, before it becomes `path` here.

    Returns what to call when it has; None where there is nothing to send.
    """
    store = store_of(path)
    return None if store is None else store.send(partial, path)


def remove_remote(path: Path) -> None:
    """Remove at the URL what is about to be removed here: a file, or all below a folder."""
    store = store_of(path)
    if store is not None:
        store.remove(path)
