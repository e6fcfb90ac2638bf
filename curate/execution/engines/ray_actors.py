"""Processes of a cluster that each hold something (a model) and work on items with it.

A holder that dies is replaced, and what it had under way goes to another; one that cannot start (its machine is
gone) is waited for while the others go on.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from curate.errors import CurateError
from curate.execution.engines.ray_worker import Failure

__all__ = ["UNDER_WAY", "Actors"]

#: A Ray actor; its methods are made at run time.
Handle = Any

log = logging.getLogger("curate")

#: Items that one holder has at a time: one it works on, and one that waits beside it.
UNDER_WAY = 2
#: How long nothing may be able to start before a line says so.
STALLED_S = 60.0


@dataclass
class _Call:
    """One item on its way: its place among the results, and how many holders died while they had it."""

    place: int
    payload: bytes
    deaths: int = 0


class Actors:
    """`count` holders that `start` makes, as Ray actors; a context manager.

    start : returns an actor with `prepare()` and `work(call)` (see `worker.Holder`). retries : holders that may die
    with one item. watch : called about once a second; it raises if the cluster is gone.
    """

    def __init__(
        self,
        ray: ModuleType,
        start: Callable[[], Any],
        *,
        count: int,
        retries: int,
        watch: Callable[[], None],
    ) -> None:
        self._ray, self._start, self._retries, self._watch = ray, start, retries, watch
        self._load: dict[Any, int] = {}  # ready holders, and how many items each has
        self._under_way: dict[Any, tuple[Any, _Call | None]] = {}  # None: it is being made ready
        self._waiting: deque[_Call] = deque()
        self._results: dict[int, object] = {}
        self._lost = 0
        self._count = count
        self._moved = time.monotonic()
        for _ in range(count):
            self._add()

    def map(self, pack: Callable[[Any], bytes], items: Iterable[Any]) -> Iterator[object]:
        """Yield the result of each item in order; pack : makes an item what `work` takes."""
        left, taken, given = iter(items), 0, 0
        more = True
        while more or given < taken:
            while more and taken - given < UNDER_WAY * self._count:
                try:
                    self._waiting.append(_Call(taken, pack(next(left))))
                    taken += 1
                except StopIteration:
                    more = False
            self._send()
            self._receive()
            while given in self._results:
                yield self._results.pop(given)
                given += 1

    def close(self) -> None:
        """End all holders now."""
        holders = {*self._load, *(holder for holder, _ in self._under_way.values())}
        self._load, self._under_way = {}, {}
        for holder in holders:
            self._ray.kill(holder)

    def _add(self) -> None:
        holder = self._start()
        self._under_way[holder.prepare.remote()] = (holder, None)

    def _send(self) -> None:
        """Give what waits to the holders that have least."""
        while self._waiting and self._load:
            holder = min(self._load, key=lambda one: self._load[one])
            if self._load[holder] >= UNDER_WAY:
                return
            call = self._waiting.popleft()
            self._load[holder] += 1
            self._under_way[holder.work.remote(call.payload)] = (holder, call)

    def _receive(self) -> None:
        """Take what is done, waiting a second at most."""
        self._watch()
        if not self._under_way:
            return
        done, _ = self._ray.wait(list(self._under_way), num_returns=1, timeout=1.0)
        for reference in done:
            self._moved = time.monotonic()
            holder, call = self._under_way.pop(reference)
            try:
                value = self._ray.get(reference)
            except (self._ray.exceptions.RayActorError, self._ray.exceptions.OutOfMemoryError) as error:
                self._bury(holder, call, error)
                continue
            if isinstance(value, Failure):
                value.raise_()
            if call is None:
                self._load[holder] = 0
            else:
                self._load[holder] -= 1
                self._results[call.place] = value
        if not self._load and time.monotonic() - self._moved > STALLED_S:
            self._moved = time.monotonic()
            log.warning("engine ray: no machine has room for the model yet; waiting for one")

    def _bury(self, holder: Handle, call: _Call | None, error: Exception) -> None:
        """Put another in the place of a holder that died, and send again what it had."""
        if call is not None:
            call.deaths += 1
            self._waiting.appendleft(call)
        self._lost += call is None
        if (call.deaths if call else self._lost) > self._retries:
            raise CurateError(
                f"engine ray: the process that holds the model died {self._retries + 1} times "
                f"({' '.join(str(error).split())[:200]}); run again to go on where it stopped, with a smaller memory "
                "setting or embed.batch_size"
            ) from error
        if call is None or self._load.pop(holder, None) is not None:  # its first sign of death
            self._ray.kill(holder)
            self._add()
