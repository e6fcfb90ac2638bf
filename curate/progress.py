"""How fast a stage is, how long it still takes, and the memory it holds: the same numbers for bars, lines and flows.

A stage reports (stage, done, total, unit); a `Meter` remembers when, and `pace` makes the numbers.
"""

import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

__all__ = ["Meter", "Pace", "PeakMemory", "bytes_text", "duration_text", "memory_in_use", "pace"]

#: The rate is that of about the last minute: what a stage did at its start says little about its end.
WINDOW_S = 60.0
#: A rate over less time than this is not told.
LEAST_S = 1.0
#: Looking at the memory of all processes takes milliseconds, and is done at most this often.
MEMORY_EVERY_S = 2.0
#: For the peak of a stage it is looked at so often, in a cheaper way.
SAMPLE_EVERY_S = 0.25


@dataclass(frozen=True)
class Pace:
    """Where a stage is. per_s : units a second, lately; left_s : seconds to its end; both None where unknown.

    memory : bytes that this process and those below it hold, None where it cannot be told.
    """

    stage: str
    done: int
    total: int
    unit: str
    per_s: float | None = None
    left_s: float | None = None
    memory: int | None = None

    def details(self, *, left: bool = True) -> str:
        """Return rate, time left (if asked for) and memory as text, as far as they are known.

        >>> Pace("embed", 500, 2000, "rows", 52.04, 28.8, 742_846_464).details()
        '52 rows/s, 29 s left, 742.8 MB'
        >>> Pace("cluster", 0, 1, "fits").details()
        ''
        """
        shown = []
        if self.per_s is not None:
            shown.append(f"{rate_text(self.per_s)} {self.unit}/s")
        if left and self.left_s is not None and self.done < self.total:
            shown.append(f"{duration_text(self.left_s)} left")
        if self.memory is not None:
            shown.append(bytes_text(self.memory))
        return ", ".join(shown)

    def line(self) -> str:
        """Return everything as one line.

        >>> Pace("embed", 500, 2000, "rows", 52.04, 28.8).line()
        'embed: 500 of 2,000 rows (25 %), 52 rows/s, 29 s left'
        """
        share = f" ({100 * self.done // self.total} %)" if self.total else ""
        where = f"{self.stage}: {self.done:,} of {self.total:,} {self.unit}{share}"
        return ", ".join(text for text in (where, self.details()) if text)


def pace(
    stage: str, seen: Sequence[tuple[float, int]], total: int, unit: str, memory: int | None = None
) -> Pace:
    """Return the pace of a stage from when it had done how much.

    seen : (seconds on any clock, units done), the oldest first, at least one.

    >>> pace("embed", [(10.0, 0), (20.0, 100)], 400, "rows")
    Pace(stage='embed', done=100, total=400, unit='rows', per_s=10.0, left_s=30.0, memory=None)
    """
    (began, before), (now, done) = seen[0], seen[-1]
    passed, made = now - began, done - before
    if passed < LEAST_S or made <= 0:
        return Pace(stage, done, total, unit, None, None, memory)
    return Pace(stage, done, total, unit, made / passed, max(total - done, 0) * passed / made, memory)


class Meter:
    """Turns the reports of stages into `Pace`; a stage that begins to count anew is measured anew.

    clock : seconds, never going back. memory : bytes in use, asked for now and then.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        memory: Callable[[], int | None] | None = None,
    ) -> None:
        self._clock, self._memory = clock, memory or memory_in_use
        self._seen: dict[str, deque[tuple[float, int]]] = {}
        self._counted: dict[str, tuple[int, str]] = {}
        self._held: tuple[float, int | None] | None = None

    def update(self, stage: str, done: int, total: int, unit: str) -> Pace:
        """Return the pace of `stage` now that it reports `done` of `total` units."""
        now, seen = self._clock(), self._seen.setdefault(stage, deque())
        if self._counted.get(stage) != (total, unit) or (seen and done < seen[-1][1]):
            seen.clear()
        self._counted[stage] = total, unit
        seen.append((now, done))
        while len(seen) > 2 and seen[1][0] <= now - WINDOW_S:
            seen.popleft()
        return pace(stage, seen, total, unit, self.memory())

    def memory(self) -> int | None:
        """Return the bytes in use, as of at most `MEMORY_EVERY_S` ago."""
        now = self._clock()
        if self._held is None or now - self._held[0] >= MEMORY_EVERY_S:
            self._held = now, self._memory()
        return self._held[1]


def memory_in_use() -> int | None:
    """Return the bytes that this process and all below it hold by themselves; None where it cannot be told.

    Files that are mapped (embeddings are) and pages that processes share count for nobody.
    """
    import psutil

    own = psutil.Process()
    total = 0
    try:
        processes = [own, *own.children(recursive=True)]
    except psutil.Error:
        return None
    for process in processes:
        try:
            held = process.memory_info()
        except psutil.Error:  # it ended meanwhile
            continue
        total += max(held.rss - getattr(held, "shared", 0), 0)
    return total


class PeakMemory:
    """The most memory in use while inside: looked at when it begins, when it ends, and a few times a second between.

    memory : bytes in use; one that fails, or cannot tell, is no error.

    >>> with PeakMemory(iter([5, 9, 7]).__next__, every_s=60) as peak:
    ...     pass
    >>> peak.bytes
    9
    """

    def __init__(
        self, memory: Callable[[], int | None] | None = None, *, every_s: float = SAMPLE_EVERY_S
    ) -> None:
        self.bytes: int | None = None
        self._memory, self._every = memory or _Processes().memory, every_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="memory")

    def __enter__(self) -> Self:
        self._look()
        with contextlib.suppress(RuntimeError):  # no thread is to be had: then two looks have to do
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._done.wait(self._every):
            self._look()

    def _look(self) -> None:
        with contextlib.suppress(Exception):  # whatever it is, it is not worth a run
            found = self._memory()
            self.bytes = found if self.bytes is None or (found or 0) > self.bytes else self.bytes


class _Processes:
    """What this process and those below it hold by themselves, by files of Linux where there are any.

    Which processes there are is found out once a second: it takes longer than what they hold.
    """

    def __init__(self) -> None:
        self._known: list[int] = []
        self._since = -math.inf

    def memory(self) -> int | None:
        """Return what `memory_in_use` does."""
        if not _OWN_STATM.exists():
            return memory_in_use()
        now = time.monotonic()
        if now - self._since >= 1.0:
            self._known, self._since = list(_below(os.getpid())), now
        return sum(map(_held_by, [os.getpid(), *self._known]))


_OWN_STATM = Path("/proc/self/statm")


def _below(process: int) -> Iterator[int]:
    """Yield the processes that a process, and those that it started, have started."""
    for listed in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread ended meanwhile
            for child in map(int, listed.read_text().split()):
                yield child
                yield from _below(child)


def _held_by(process: int) -> int:
    """Return the bytes that a process holds by itself; 0 where it has ended."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{process}/statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return max(int(resident) - int(shared), 0) * os.sysconf("SC_PAGE_SIZE")


def rate_text(per_s: float) -> str:
    """Return a rate with as many digits as say something.

    >>> rate_text(12_345.6), rate_text(3.21), rate_text(0.02)
    ('12,346', '3.2', '0.02')
    """
    return f"{per_s:,.0f}" if per_s >= 10 else f"{per_s:.1f}" if per_s >= 1 else f"{per_s:.2g}"


def bytes_text(size: float) -> str:
    """Return a size as people write it.

    >>> bytes_text(1_530_000)
    '1.5 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def duration_text(seconds: float) -> str:
    """Return a duration as people write it.

    >>> duration_text(42), duration_text(5400)
    ('42 s', '1 h 30 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
