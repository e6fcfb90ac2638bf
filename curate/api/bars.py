"""Bars of progress, drawn by rich on a terminal or in a notebook. Imported where they are drawn: rich takes its time."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from curate.progress import Meter

if TYPE_CHECKING:
    from curate.execution.context import Progress

__all__ = ["bars"]


class TimeLeft(ProgressColumn):
    """The time left by the pace of the last minute. Between reports it counts down; what is not known is -:--:--.

    rich's own column takes the first pieces, which workers finish all at once, for the pace.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock

    def render(self, task: Task) -> Text:
        """Return the time as h:mm:ss."""
        ends = task.fields["ends"]
        left = -1 if ends is None else math.ceil(ends - self._clock())
        return Text("-:--:--" if left < 0 else str(timedelta(seconds=left)), style="progress.remaining")


@contextmanager
def bars(console: Console, clock: Callable[[], float] = time.monotonic) -> Iterator["Progress"]:
    """Give a function that reports progress, with a bar for each stage at work."""
    columns = (
        TextColumn("{task.description:8}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeLeft(clock),
        TextColumn("{task.fields[details]}"),
    )
    meter = Meter(clock)
    with Bars(*columns, console=console, transient=True) as drawn:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int, unit: str) -> None:
            seen = meter.update(stage, done, total, unit)
            ends = None if seen.left_s is None else clock() + seen.left_s
            fields: dict[str, Any] = {"unit": unit, "ends": ends, "details": seen.details(left=False)}
            if stage not in tasks:
                tasks[stage] = drawn.add_task(stage, total=total, **fields)
            drawn.update(tasks[stage], completed=done, total=total, **fields)
            if done >= total:
                drawn.remove_task(tasks.pop(stage))

        yield report
