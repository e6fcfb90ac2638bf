"""Pictures of rows for the page: read from the source when they are asked for, decoded in guarded processes, and kept for a while.

The page asks for a picture at a time; what is asked for within a moment is read together, shard by shard. No byte of a
source reaches the browser: what it gets is encoded anew.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from curate.analysis.summary.thumbnails import Place, encoded, packed
from curate.embedding.decode import Preprocess
from curate.embedding.decode_pool import DecodePool
from curate.execution.context import Context, log

__all__ = ["LARGE", "SMALL", "Pictures"]

#: Longest side of a picture in a grid, and in the large view.
SMALL, LARGE = 256, 1280
#: Bytes of encoded pictures that are kept, of each size.
KEPT_BYTES = 64_000_000
#: Pictures that are read together; at most so many wait.
TOGETHER, WAITING = 32, 2_000

Shot = bytes | None


class Size(NamedTuple):
    """How large pictures are, how well they are encoded, and how many processes decode them."""

    side: int
    quality: int
    workers: int


SIZES = {"small": Size(SMALL, 80, 2), "large": Size(LARGE, 88, 1)}


class Pictures:
    """The pictures of one size, by the number of their row.

    Parameters
    ----------
    context : Context
        The run with its parts.
    size : str
        small or large.
    placed : callable
        Returns where rows are, by their numbers; rows that are not there are left out.
    """

    def __init__(
        self, context: Context, size: str, placed: Callable[[Sequence[int]], Mapping[int, Place]]
    ) -> None:
        self._context, self._size, self._placed = context, SIZES[size], placed
        self._found: OrderedDict[int, Shot] = OrderedDict()
        self._bytes = 0
        self._waiting: dict[int, Future[Shot]] = {}
        self._asked: deque[int] = deque()
        self._held = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def get(self, number: int) -> "Future[Shot]":
        """Return the picture of a row once it is there; None where there is none."""
        with self._held:
            if number in self._found:
                self._found.move_to_end(number)
                done: Future[Shot] = Future()
                done.set_result(self._found[number])
                return done
            self._ask([number])
            return self._waiting[number]

    def expect(self, numbers: Sequence[int]) -> None:
        """Begin to read pictures that will be asked for soon, before all that was asked for earlier."""
        with self._held:
            self._ask([number for number in numbers if number not in self._found][:WAITING])

    def _ask(self, numbers: Sequence[int]) -> None:
        """Put numbers at the head of those that wait; the longest forgotten go without a picture where there are too many."""
        fresh = [number for number in numbers if number not in self._waiting]
        self._waiting |= {number: Future() for number in fresh}
        self._asked.extendleft(reversed(fresh))
        while len(self._asked) > WAITING:
            self._waiting.pop(self._asked.pop()).set_result(None)
        if fresh and self._thread is None:
            self._thread = threading.Thread(target=self._work, name="pictures", daemon=True)
            self._thread.start()
        self._held.notify()

    def close(self) -> None:
        """End the processes that decode."""
        with self._held:
            self._closed = True
            for waiting in self._waiting.values():
                waiting.cancel()
            self._held.notify()
        if self._thread is not None:
            self._thread.join(5)

    # The thread that reads

    def _work(self) -> None:
        pool = DecodePool(
            Preprocess((self._size.side, self._size.side), resize_mode="longest", fill=255), workers=self._size.workers,
            max_pixels=self._context.recipe.embed.max_pixels,
            memory_limit_bytes=self._context.recipe.embed.decode_memory, in_flight_bytes=self._context.image_memory,
        )  # fmt: skip
        with pool:
            while numbers := self._next():
                self._answer(pool, numbers)

    def _next(self) -> list[int]:
        """Return what is to be read next, together; nothing once this is closed."""
        with self._held:
            self._held.wait_for(lambda: self._asked or self._closed)
            some = min(TOGETHER, len(self._asked))
            return [] if self._closed else [self._asked.popleft() for _ in range(some)]

    def _answer(self, pool: DecodePool, numbers: Sequence[int]) -> None:
        """Set the pictures of some rows; whatever fails leaves rows without one."""
        try:
            places = {str(number): place for number, place in self._placed(numbers).items()}
            for names, decoded in pool.map(encoded(self._context, places)):
                for name, one in zip(names, decoded, strict=True):
                    self._keep(int(name), packed(one, self._size.side, self._size.quality))
        except Exception as error:  # noqa: BLE001  (a row without a picture is shown without one)
            log.debug("review: pictures: %s", error)
        for number in numbers:
            if number in self._waiting:
                self._keep(number, None)

    def _keep(self, number: int, shot: Shot) -> None:
        with self._held:
            self._found[number] = shot
            self._bytes += len(shot or b"") + 100
            while self._bytes > KEPT_BYTES and len(self._found) > 1:
                _, gone = self._found.popitem(last=False)
                self._bytes -= len(gone or b"") + 100
            waiting = self._waiting.pop(number, None)
        if waiting is not None and waiting.set_running_or_notify_cancel():
            waiting.set_result(shot)
