"""The local engine: maps a function over shards in spawned processes of this machine.

Processes are spawned, never forked (a fork after FAISS has run hangs), ignore Ctrl-C (the parent
decides), and end when their parent does, however it ends.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from types import ModuleType, TracebackType
from typing import Self, TypeVar

from curate.errors import CurateError
from curate.execution.engines.base import Place
from curate.io.without_pandas import keep_pandas_out
from curate.process import THREAD_LIMITS, cpu_count

__all__ = ["LocalEngine"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Held = TypeVar("Held")


@contextlib.contextmanager
def thread_limit(threads: int) -> Iterator[None]:
    """Let BLAS, OpenMP and Polars use `threads` threads in processes started inside."""
    before = {name: os.environ.get(name) for name in THREAD_LIMITS}
    os.environ.update(dict.fromkeys(THREAD_LIMITS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back; processes started inside never see one, not even while they import."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """Hide the main script: spawned processes would import it again, with all that it imports or does."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _start_worker(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_pandas_out()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


class LocalEngine:
    """Maps functions over items with `workers` processes; with one worker, in this process.

    Results come in the order of the items. Functions and items must be picklable. least_rows : see `Engine`.
    """

    remote = False

    def __init__(self, workers: int, *, least_rows: int = 0) -> None:
        self.least_rows = least_rows
        self.workers = self.machine_workers = self.here = workers
        self._pool: ProcessPoolExecutor | None = None

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], *, parallel: bool = True
    ) -> Iterator[Result]:
        """Yield ``function(item)`` for each item in order; at most two items a worker are under way."""
        if self.workers == 1 or not parallel:
            yield from map(function, items)
            return
        waiting: deque[Future[Result]] = deque()
        try:
            pool = self._start()
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 2 * self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            self.close()
            raise CurateError(
                "a worker process died (killed, or out of memory); "
                "run again to go on where it stopped, with fewer workers or a smaller memory setting"
            ) from None
        except BaseException:
            self.close()
            raise

    def hold(
        self,
        make: Callable[[Place], AbstractContextManager[Held]],
        function: Callable[[Held, Item], Result],
        items: Iterable[Item],
    ) -> Iterator[Result]:
        """Yield ``function(held, item)`` for each item in order, in this process; `make` is called once."""
        with make(Place()) as held:
            for item in items:
                yield function(held, item)

    def _start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(os.getpid(),),
            )
            # Processes start with the first submissions, and must see the limits (and no Ctrl-C) then.
            with thread_limit(max(1, cpu_count() // self.workers)):
                with _no_interrupt(), _no_main():
                    started = [self._pool.submit(os.getpid) for _ in range(self.workers)]
                for process in started:
                    process.result()
        return self._pool

    def close(self) -> None:
        """End the worker processes now, whatever they are doing."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        processes = list((getattr(pool, "_processes", None) or {}).values())
        for process in processes:
            with contextlib.suppress(ProcessLookupError, OSError):
                process.kill()
        pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        """Return the engine; its processes start with the first map."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the worker processes."""
        self.close()
