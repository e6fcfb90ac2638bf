"""Decode images in processes of their own, ahead of the model, so that no image can harm the run.

Each worker is a fresh interpreter that imports Pillow and NumPy and nothing of torch. It gets a batch,
answers row by row, and may die: a worker that crashes or needs more than it may is replaced, the row is tried once
more alone in a fresh worker, and only if it fails again does that row (and no other) get the outcome
`decoder_failed`. What a row may ask for is counted (`decode`), so results are the same for any number of workers, on
any machine; where a machine still comes in between (a worker is killed, or not done after minutes), the outcome is
one of `schema.PASSING`, which the next run tries again.
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
from curate.embedding.jpeg import way_of
from curate.errors import EmbeddingError

__all__ = ["DecodePool"]

T = TypeVar("T")

#: What a worker runs. Not `multiprocessing`: its spawn runs the caller's main script again in the child.
_ENTRY = "from curate.embedding.decode_pool import serve; serve(fd)"
_START_SECONDS = 300.0

#: Images that go to a worker in one message; a larger one goes alone, so that it is there once and not four times.
_MESSAGE_BYTES = 1 << 20
#: Decoding that takes more is counted among what all workers have in hand.
_SMALL_BYTES = 32 << 20

_OVER_ALLOWANCE, _NO_MEMORY = "over the allowance", "no memory to be had"


class DecodePool:
    """Worker processes that decode batches of images; a context manager.

    workers : number of processes; 0 decodes in this process, without limits of memory and time.
    max_pixels : images with more are `too_large`. memory_limit_bytes : address space a worker may add to
    what it starts with (Linux; None for no limit); it decides about rows, so it must not depend on the machine.
    timeout_s : the last net, for what no count has caught. in_flight_bytes : what encoded images, and apart from
    them decoding, may take at a time in all workers together; one image is always let through (None for no limit).
    altered : give the pixels of copies that are made so (`alterations.ALTERATIONS`), or of what is made with the boxes
    packed before the images (`regions.REGIONS`). way : how JPEGs are decoded (`jpeg.WAYS`).

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
        timeout_s: float = 300.0,
        in_flight_bytes: int | None = None,
        altered: str | None = None,
        way: str = "auto",
    ) -> None:
        if workers < 0:
            raise ValueError(f"workers must be at least 0, got {workers}")
        self.preprocess, self.max_pixels, self.workers = preprocess, max_pixels, workers
        self.altered, self._way = altered, way_of(way)
        settings = (preprocess, max_pixels, memory_limit_bytes, altered, self._way)
        self._in_flight = in_flight_bytes or sys.maxsize
        self._room = _Room(self._in_flight)
        self._processes: list[_Worker] = []
        try:
            for _ in range(workers):
                self._processes.append(_Worker(settings, timeout_s, memory_limit_bytes, self._room))
        except BaseException:
            for worker in self._processes:
                worker.close()
            raise
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
        self._room.close()
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
                yield tag, [self._decode_here(image) for image in images]
            return
        pending: deque[tuple[T, int, Future[list[Decoded]]]] = deque()
        held = 0
        try:
            for tag, images in batches:
                size = sum(len(image or b"") for image in images)
                while pending and held + size > self._in_flight:
                    done, gone, future = pending.popleft()
                    held -= gone
                    yield done, future.result()
                pending.append((tag, size, self._threads.submit(self._decode, images)))
                held += size
                del images  # the next batch is read while this one is decoded, and then nobody else has it
                if len(pending) >= 2 * self.workers:
                    done, gone, future = pending.popleft()
                    held -= gone
                    yield done, future.result()
            while pending:
                done, _, future = pending.popleft()
                yield done, future.result()
        finally:
            for _, _, future in pending:
                future.cancel()

    def _decode_here(self, image: bytes | None) -> Decoded:
        try:
            return decoding.decode(
                image, self.preprocess, max_pixels=self.max_pixels, altered=self.altered, way=self._way
            )
        except MemoryError:
            return Decoded("decoder_failed", "out of memory", None, None, None)

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
            given_up = alone or lost.outcome == "decode_timeout"  # minutes are not spent twice in one run
            if given_up:
                rows.append(Decoded(lost.outcome, lost.reason, None, None, None))
            alone = not given_up
    return rows


class _LostError(Exception):
    """A worker died, ran out of memory or of time on the row it was decoding, which gets this outcome."""

    def __init__(self, reason: str, outcome: str = "decoder_failed") -> None:
        super().__init__(reason)
        self.reason, self.outcome = reason, outcome


class _Room:
    """Counts the bytes that all workers decode in; who needs more than is left waits, unless nobody else has any."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used, self._closed = limit, 0, False
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Wait for `size` bytes; raises EmbeddingError once the pool is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._used or self._used + size <= self._limit)
            if self._closed:
                raise EmbeddingError("the decode pool is closed")
            self._used += size

    def give_back(self, size: int) -> None:
        """Give `size` bytes back to those that wait."""
        with self._changed:
            self._used -= size
            self._changed.notify_all()

    def close(self) -> None:
        """End the wait of all that wait for room."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class _Worker:
    """One process and the connection to it; used by one thread at a time, closed from any."""

    def __init__(
        self, settings: tuple[Any, ...], timeout_s: float, memory_limit: int | None, room: _Room
    ) -> None:
        self._settings, self._timeout_s, self._memory_limit = settings, timeout_s, memory_limit
        self._room = room
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
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", code],
                    env=environment,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    process_group=0,  # a Ctrl-C at the terminal is the parent's to handle
                )
            except (OSError, MemoryError) as error:
                self._connection.close()
                said = getattr(error, "strerror", None) or "no memory"
                raise EmbeddingError(
                    f"a decode worker cannot be started: {said}; raise the limit (ulimit -u, -v), or set fewer workers"
                ) from None
            finally:
                theirs.close()
            self._ready = False

    def decode(self, images: Sequence[bytes | None]) -> Iterator[Decoded]:
        """Yield the decoded rows of a batch as they come; raises _LostError at the row that failed."""
        self._wait_until_ready()
        try:
            for group in _messages(images):
                if len(group) == 1 and len(group[0] or b"") > _MESSAGE_BYTES:
                    self._connection.send(None)
                    self._connection.send_bytes(group[0] or b"")
                else:
                    self._connection.send(group)
                for _ in group:
                    yield self._answer()
        except (EOFError, OSError) as error:
            raise self._how_it_ended() from error

    def _answer(self) -> Decoded:
        """Return the next row that the worker has decoded; what it needs for that is counted."""
        answer, taken = self._received(), 0
        try:
            if isinstance(answer, int):
                self._room.take(answer)
                taken = answer
                self._connection.send(True)
                answer = self._received()
            if isinstance(answer, str):
                raise self._without_memory(answer)
            outcome, reason, width, height, shape = answer
            array = np.frombuffer(self._connection.recv_bytes(), np.uint8).reshape(shape) if shape else None
            return Decoded(outcome, reason, width, height, array)
        finally:
            if taken:
                self._room.give_back(taken)

    def _received(self) -> Any:  # noqa: ANN401  (an answer, the bytes it needs, or why there is none)
        if not self._connection.poll(self._timeout_s):
            raise _LostError(f"not decoded after {self._timeout_s:g} s", "decode_timeout")
        return self._connection.recv()

    def _without_memory(self, why: str) -> _LostError:
        if why == _NO_MEMORY:
            return _LostError("the machine gave the decoder less memory than it may use", "decoder_killed")
        limit = (self._memory_limit or 0) / 1e6
        return _LostError(f"needs more memory than the {limit:,.0f} MB a decoder may use")

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

    def _how_it_ended(self) -> _LostError:
        """Say how the process ended: by a signal of its own doing (a crash), or of another's (out of memory)."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=5)
            if code < 0:
                killed = -code in (signal.SIGKILL, signal.SIGTERM)
                said = f"the decoder was ended by {signal.Signals(-code).name}"
                return _LostError(said, "decoder_killed" if killed else "decoder_failed")
        return _LostError("the decoder ended unexpectedly")

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


def _messages(images: Sequence[bytes | None]) -> Iterator[list[bytes | None]]:
    """Yield the images in order: small ones together, a large one alone."""
    group: list[bytes | None] = []
    size = 0
    for image in images:
        more = len(image or b"")
        if group and size + more > _MESSAGE_BYTES:
            yield group
            group, size = [], 0
        group.append(image)
        size += more
    if group:
        yield group


def serve(fd: int) -> None:
    """Run in a worker: decode what comes through `fd` until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    connection: Connection[Any, Any] = Connection(fd)
    with contextlib.suppress(EOFError, OSError):
        connection.send("ready")
        preprocess, max_pixels, memory_limit, altered, way = connection.recv()
        way_of(way)  # imports what it needs before memory is bounded
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff and others print their warnings
        why = _limit_memory(memory_limit)

        def reserve(size: int) -> None:
            if size > _SMALL_BYTES:
                connection.send(size)
                connection.recv()

        while True:
            try:
                for image in connection.recv() or [connection.recv_bytes()]:
                    *row, array = decoding.decode(
                        image, preprocess, max_pixels=max_pixels, reserve=reserve, altered=altered, way=way
                    )
                    connection.send((*row, None if array is None else array.shape))
                    if array is not None:
                        connection.send_bytes(array.data.cast("B"))
                    image = array = None  # a large image is let go before the next one comes
            except MemoryError:
                connection.send(why)
                return  # not trusted any more: the row is tried again in a fresh worker


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, even in the middle of an image."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _limit_memory(limit: int | None) -> str:
    """Bound the address space of this process; return what it means if memory ends all the same."""
    if limit is None or not sys.platform.startswith("linux"):
        return _NO_MEMORY
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    total = pages * resource.getpagesize() + limit
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    lower = min((one for one in (soft, hard) if one != resource.RLIM_INFINITY), default=total)
    resource.setrlimit(resource.RLIMIT_AS, (min(total, lower), hard))
    return _OVER_ALLOWANCE if total <= lower else _NO_MEMORY
