"""Decode images in processes of their own, ahead of the model, so that no image can harm the run.

Each worker is a fresh interpreter that imports Pillow and NumPy and nothing of torch. It gets a batch,
answers row by row, and may die: a worker that is killed, runs out of memory or takes too long on a row is
replaced, the row is tried once more alone in a fresh worker, and only if it fails again does that row (and
no other) get the outcome `decoder_failed`. Results are the same for any number of workers.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from curate.embedding import decode as decoding
from curate.embedding.decode import Decoded, Preprocess
from curate.errors import EmbeddingError

__all__ = ["DecodePool"]

T = TypeVar("T")

#: What a worker runs. Not `multiprocessing`: its spawn runs the caller's main script again in the child.
_ENTRY = "from curate.embedding.decode_pool import serve; serve(fd)"
_START_SECONDS = 120.0


class DecodePool:
    """Worker processes that decode batches of images; a context manager.

    workers : number of processes; 0 decodes in this process, without limits of memory and time.
    max_pixels : images with more are `too_large`. memory_limit_bytes : address space a worker may add to
    what it starts with (Linux; None for no limit). timeout_s : seconds one image may take.

    At most two batches per worker are in flight, so memory stays bounded while decoding overlaps with
    what the caller does between two results.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        *,
        workers: int,
        max_pixels: int,
        memory_limit_bytes: int | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        if workers < 0:
            raise ValueError(f"workers must be at least 0, got {workers}")
        self.preprocess, self.max_pixels, self.workers = preprocess, max_pixels, workers
        settings = (preprocess, max_pixels, memory_limit_bytes)
        self._processes = [_Worker(settings, timeout_s, memory_limit_bytes) for _ in range(workers)]
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._processes:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decode") if workers else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers at once, whatever they are doing."""
        for worker in self._processes:
            worker.close()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)

    def map(self, batches: Iterable[tuple[T, Sequence[bytes | None]]]) -> Iterator[tuple[T, list[Decoded]]]:
        """Yield (tag, decoded rows) for each (tag, encoded images), in order; arrays may be read-only.

        `batches` is drawn from only as fast as results are taken.
        """
        if self._threads is None:
            for tag, images in batches:
                yield tag, [_decode_here(image, self.preprocess, self.max_pixels) for image in images]
            return
        pending: deque[tuple[T, Future[list[Decoded]]]] = deque()
        try:
            for tag, images in batches:
                pending.append((tag, self._threads.submit(self._decode, images)))
                if len(pending) >= 2 * self.workers:
                    done, future = pending.popleft()
                    yield done, future.result()
            while pending:
                done, future = pending.popleft()
                yield done, future.result()
        finally:
            for _, future in pending:
                future.cancel()

    def _decode(self, images: Sequence[bytes | None]) -> list[Decoded]:
        """Decode one batch in the next free worker (called in a thread; there are as many as workers)."""
        worker = self._idle.get()
        try:
            return _decode_batch(worker, images)
        finally:
            self._idle.put(worker)


def _decode_batch(worker: "_Worker", images: Sequence[bytes | None]) -> list[Decoded]:
    rows: list[Decoded] = []
    alone = False  # the next row is on trial: it was being decoded when a worker was lost
    while len(rows) < len(images):
        stop = len(rows) + 1 if alone else len(images)
        try:
            for row in worker.decode(images[len(rows) : stop]):
                rows.append(row)  # noqa: PERF402 - the rows before a loss are kept
            alone = False
        except _LostError as lost:
            worker.restart()
            if alone:
                rows.append(Decoded("decoder_failed", lost.reason, None, None, None))
            alone = not alone
    return rows


class _LostError(Exception):
    """A worker died, ran out of memory or of time on the row it was decoding."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Worker:
    """One process and the connection to it; used by one thread at a time, closed from any."""

    def __init__(self, settings: tuple[Any, ...], timeout_s: float, memory_limit: int | None) -> None:
        self._settings, self._timeout_s, self._memory_limit = settings, timeout_s, memory_limit
        self._lock = threading.Lock()
        self._closed = False
        self._start()

    def _start(self) -> None:
        with self._lock:
            if self._closed:
                raise EmbeddingError("the decode pool is closed")
            self._connection, theirs = Pipe()
            path = [entry or str(Path.cwd()) for entry in sys.path]
            code = f"import sys; sys.path[:] = {path!r}; fd = {theirs.fileno()}; {_ENTRY}"
            # One thread each: OpenBLAS would reserve address space for every core at import.
            environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                process_group=0,  # a Ctrl-C at the terminal is the parent's to handle
            )
            theirs.close()
            self._ready = False

    def decode(self, images: Sequence[bytes | None]) -> Iterator[Decoded]:
        """Yield the decoded rows of a batch as they come; raises _LostError at the row that failed."""
        self._wait_until_ready()
        connection = self._connection
        try:
            connection.send(list(images))
            for _ in images:
                if not connection.poll(self._timeout_s):
                    raise _LostError(f"took longer than {self._timeout_s:g} s")
                answer = connection.recv()
                if answer is None:
                    limit = (self._memory_limit or 0) / 1e6
                    raise _LostError(f"needs more memory than the {limit:,.0f} MB a decoder may use")
                outcome, reason, width, height, shape = answer
                array = np.frombuffer(connection.recv_bytes(), np.uint8).reshape(shape) if shape else None
                yield Decoded(outcome, reason, width, height, array)
        except (EOFError, OSError) as error:
            raise _LostError(self._how_it_ended()) from error

    def _wait_until_ready(self) -> None:
        if self._ready:
            return
        try:
            if self._closed or not self._connection.poll(_START_SECONDS):
                raise EmbeddingError(f"a decode worker did not start within {_START_SECONDS:g} s")
            self._connection.recv()
            self._connection.send(self._settings)
        except (EOFError, OSError) as error:
            raise EmbeddingError("a decode worker ended while starting; its message stands above") from error
        self._ready = True

    def _how_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=5)
            if code < 0:
                return f"the decoder was ended by {signal.Signals(-code).name}"
        return "the decoder ended unexpectedly"

    def restart(self) -> None:
        self._kill()
        self._start()

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._kill()

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if not self._closed:  # else a thread may still be reading: it sees the stream end
            self._connection.close()


def serve(fd: int) -> None:
    """Run in a worker: decode what comes through `fd` until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    connection: Connection[Any, Any] = Connection(fd)
    with contextlib.suppress(EOFError, OSError):
        connection.send("ready")
        preprocess, max_pixels, memory_limit = connection.recv()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff and others print their warnings
        _limit_memory(memory_limit)
        while True:
            try:
                for image in connection.recv():
                    *row, array = decoding.decode(image, preprocess, max_pixels=max_pixels)
                    connection.send((*row, None if array is None else array.shape))
                    if array is not None:
                        connection.send_bytes(array.data.cast("B"))
            except MemoryError:
                connection.send(None)
                return  # not trusted any more: the row is tried again in a fresh worker


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, even in the middle of an image."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _limit_memory(limit: int | None) -> None:
    if limit is None or not sys.platform.startswith("linux"):
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    total = pages * resource.getpagesize() + limit
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (total if hard < 0 else min(total, hard), hard))


def _decode_here(image: bytes | None, preprocess: Preprocess, max_pixels: int) -> Decoded:
    try:
        return decoding.decode(image, preprocess, max_pixels=max_pixels)
    except MemoryError:
        return Decoded("decoder_failed", "out of memory", None, None, None)
