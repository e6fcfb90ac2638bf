"""What runs in a worker of a cluster: set the process up once, then call functions that arrive as bytes.

This module imports nothing heavy: what a function needs is imported with it, after the limits of threads are set.
"""

import os
import pickle
import socket
import sys
import time
import traceback
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from curate.errors import RunError
from curate.execution.engines.base import Place
from curate.io.remote.cache import Handed
from curate.process import THREAD_LIMITS

__all__ = ["Failure", "Holder", "Site", "work"]

#: How long a shared file system may take to show a file that another machine has just made.
SIGHT_S = 20.0


@dataclass(frozen=True)
class Site:
    """What a worker needs to work as a process of the caller would.

    folder : the caller's working directory. path : its `sys.path`. witness, token : a file in the run folder and
    what it says, which a worker sees only if the folder is shared. threads : for BLAS, OpenMP and Polars. home : of a
    run at a URL: what a worker reaches it with, so that nothing must be shared. turn : counts what the caller has had
    done: the copy of such a run on the worker's machine follows the URL when it is another.
    """

    folder: str
    path: tuple[str, ...]
    witness: str
    token: str
    threads: int
    home: Handed | None = None
    turn: int = 0


@dataclass(frozen=True)
class Failure:
    """An exception on its way to the caller, with its traceback as text."""

    error: BaseException
    trace: str

    def raise_(self) -> NoReturn:
        """Raise the exception; what the worker's traceback said is its cause."""
        raise self.error from _RemoteTraceback(f"\n{self.trace}")


class _RemoteTraceback(Exception):
    """The traceback of an exception in another process."""

    def __str__(self) -> str:
        return str(self.args[0])


_site: Site | None = None


def work(site: Site, call: bytes) -> object:
    """Return what a pickled (function, item) gives; its exception as a Failure."""
    try:
        _settle(site)
        function, item = pickle.loads(call)
        return function(item)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is raised again by the caller
        return _failure(error)


class Holder:
    """Makes something once and calls functions with it, until its process ends."""

    def __init__(self, site: Site, make: bytes, place: Place) -> None:
        self._site, self._make, self._place = site, make, place
        self._stack = ExitStack()
        self._held: Any = None
        self._ready = False

    def prepare(self) -> object:
        """Make what is held; return None, or a Failure."""
        try:
            _settle(self._site)
            if not self._ready:
                make = pickle.loads(self._make)
                self._held = self._stack.enter_context(make(self._place))
                self._ready = True
        except Exception as error:  # noqa: BLE001 - as in `work`
            return _failure(error)
        return None

    def work(self, call: bytes) -> object:
        """Return what a pickled (function, item) gives, called with what is held; or a Failure."""
        try:
            function, item = pickle.loads(call)
            return function(self._held, item)
        except Exception as error:  # noqa: BLE001 - as in `work`
            return _failure(error)


def _settle(site: Site) -> None:
    """Make this process like one of the caller's; raises RunError if it does not see the caller's files."""
    global _site
    if site == _site:
        return
    os.environ.update(dict.fromkeys(THREAD_LIMITS, str(site.threads)))
    sys.path += [entry for entry in site.path if entry not in sys.path]
    if site.home is not None:
        site.home.begin(f"{site.token}-{site.turn}")
    else:
        _require_sight(site)
    os.chdir(
        site.folder if Path(site.folder).is_dir() else "/"
    )  # where it is not shared, no path is relative
    _site = site


def _require_sight(site: Site) -> None:
    end = time.monotonic() + SIGHT_S
    while True:
        try:
            if Path(site.witness).read_text(encoding="utf-8") == site.token:
                return
        except OSError:
            pass
        if time.monotonic() > end:
            raise RunError(
                f"engine ray: machine {socket.gethostname()} does not see {Path(site.witness).parent}; sources and "
                "run folder must be on a path that all machines of the cluster share"
            )
        time.sleep(0.2)


def _failure(error: Exception) -> Failure:
    trace = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - an exception that cannot travel is told by name
        return Failure(RuntimeError(f"{type(error).__name__}: {error}"), trace)
    return Failure(error, trace)
