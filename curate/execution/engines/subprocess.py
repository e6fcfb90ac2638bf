"""Calling a function in a process of its own, which is ended after a time with all processes below it.

The process is spawned as the local engine's workers are: it sees no Ctrl-C (the parent decides) and ends when
its parent does, however it ends.
"""

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar

import psutil

from curate.errors import CurateError
from curate.execution.engines.local import _no_interrupt, _no_main, _start_worker

__all__ = ["Tell", "call_within"]

Result = TypeVar("Result")

#: How long one look at what the process said may take; its end is noticed at the latest after this.
LOOK_S = 0.1
#: How long to wait for processes that were killed.
GONE_S = 10.0


class Tell(Protocol):
    """How the function tells its parent something while it works."""

    def __call__(self, message: object, /) -> None:
        """Send anything that can be pickled."""


def call_within(
    seconds: float, function: Callable[..., Result], *arguments: object, hear: Callable[[Any], None]
) -> Result:
    """Return ``function(tell, *arguments)``, called in a process of its own; what it tells goes to `hear`.

    Raises TimeoutError after `seconds`, CurateError if the process died, and whatever the function raises. When
    this returns or raises, the process and all processes below it are gone. Everything must be picklable.
    """
    spawn = multiprocessing.get_context("spawn")
    receive, send = spawn.Pipe(duplex=False)
    pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_begin, initargs=(os.getpid(), send))
    deadline = time.monotonic() + seconds
    try:
        with _no_interrupt(), _no_main():
            future = pool.submit(_call, function, arguments)
        send.close()  # what is left of the pipe is in the process: it ends with it
        _listen(future, receive, deadline, hear)
        return future.result()
    except BrokenProcessPool:
        raise CurateError(
            "the process of a stage with a time limit died (killed, or out of memory); run again to go on where "
            "it stopped, with fewer workers or a smaller memory setting"
        ) from None
    finally:
        _end(pool)
        receive.close()


def _listen(
    future: Future[Result], receive: Connection, deadline: float, hear: Callable[[Any], None]
) -> None:
    """Hand on what the process tells until it is done; raise TimeoutError if that takes too long."""
    with contextlib.suppress(EOFError):  # it died: the future says so
        while not future.done() or receive.poll():
            left = deadline - time.monotonic()
            if left <= 0 and not future.done():
                raise TimeoutError
            if receive.poll(min(LOOK_S, max(left, 0))):
                hear(receive.recv())


def _end(pool: ProcessPoolExecutor) -> None:
    """Kill the process and all below it, and wait until they are gone."""
    every = []
    for process in list((getattr(pool, "_processes", None) or {}).values()):
        with contextlib.suppress(psutil.Error):
            child = psutil.Process(process.pid)
            child.suspend()  # so that it starts no more of them meanwhile
            every += [*child.children(recursive=True), child]
    for one in every:
        with contextlib.suppress(psutil.Error):
            one.kill()
    pool.shutdown(wait=True, cancel_futures=True)
    psutil.wait_procs(every, timeout=GONE_S)


#: In the process: how it tells its parent.
_tell: list[Tell] = []


def _begin(parent: int, send: Connection) -> None:
    _start_worker(parent)
    turn = threading.Lock()

    def tell(message: object) -> None:
        with turn, contextlib.suppress(BrokenPipeError):
            send.send(message)

    _tell.append(tell)


def _call(function: Callable[..., Result], arguments: tuple[object, ...]) -> Result:
    return function(_tell[0], *arguments)
