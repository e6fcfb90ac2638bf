"""Progress for people: bars on a terminal or in a notebook, elsewhere a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from curate.progress import Meter

if TYPE_CHECKING:
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
        from rich.console import Console

        from curate.api.bars import bars

        with bars(Console(stderr=sys.stderr.isatty())) as report:  # a notebook draws on stdout alone
            yield report
    else:
        yield progress_lines(time.monotonic, note or (lambda line: sys.stderr.write(f"{line}\n")))


def _in_notebook() -> bool:
    """Return True where the interpreter is the kernel of a notebook with the widgets that rich draws in."""
    shell = sys.modules.get("IPython")
    found = shell.get_ipython() if shell is not None else None
    return type(found).__name__ == "ZMQInteractiveShell" and find_spec("ipywidgets") is not None


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
