"""How fast a stage is, how long it still takes, and the memory it holds: the same numbers for bars, lines and flows.

A stage reports (stage, done, total, unit); a `Meter` remembers when, and `pace` makes the numbers.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Meter", "Pace", "bytes_text", "duration_text", "memory_in_use", "pace"]

#: The rate is that of about the last minute: what a stage did at its start says little about its end.
WINDOW_S = 60.0
#: A rate over less time than this is not told.
LEAST_S = 1.0
#: Looking at the memory of all processes takes milliseconds, and is done at most this often.
MEMORY_EVERY_S = 2.0


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
