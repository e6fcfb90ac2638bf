"""Progress for people: bars on a terminal or in a notebook, elsewhere a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from curate.progress import Meter

if TYPE_CHECKING:
    from rich.progress import TaskID

    from curate.execution.context import Progress

__all__ = ["LINE_EVERY_S", "progress_lines", "shown"]

#: Where there is nothing to draw bars on, lines of progress are at least this far apart.
LINE_EVERY_S = 30.0


@contextmanager
def shown(progress: "bool | Progress", note: Callable[[str], object] | None = None) -> Iterator["Progress"]:
    """Give a function that reports progress: (stage, done, total, unit).

    progress : True shows it on stderr, False shows nothing; a function is called as it is. note : writes a line,
    where there are no bars; to stderr by default.
    """
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda stage, done, total, unit: None
    elif sys.stderr.isatty() or _in_notebook():
        with _bars() as report:
            yield report
    else:
        yield progress_lines(time.monotonic, note or (lambda line: sys.stderr.write(f"{line}\n")))


def _in_notebook() -> bool:
    """Return True where the interpreter is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    found = shell.get_ipython() if shell is not None else None
    return type(found).__name__ == "ZMQInteractiveShell"


def progress_lines(clock: Callable[[], float], note: Callable[[str], object]) -> "Progress":
    """Return a progress function that writes lines for a log; what takes less than `LINE_EVERY_S` writes none."""
    meter, last = Meter(clock), clock()

    def report(stage: str, done: int, total: int, unit: str) -> None:
        nonlocal last
        seen = meter.update(stage, done, total, unit)
        if clock() - last >= LINE_EVERY_S and done < total:
            last = clock()
            note(seen.line())

    return report


@contextmanager
def _bars() -> Iterator["Progress"]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:8}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TextColumn("{task.fields[details]}"),
    )
    meter = Meter()
    console = Console(stderr=sys.stderr.isatty())  # a notebook draws on stdout alone
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int, unit: str) -> None:
            details = meter.update(stage, done, total, unit).details()
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, unit=unit, details=details)
            bars.update(tasks[stage], completed=done, total=total, unit=unit, details=details)
            if done >= total:
                bars.remove_task(tasks.pop(stage))

        yield report
