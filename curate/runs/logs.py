"""The log of a run folder: one file of JSON lines per invocation, in `logs/`, readable with one line of Polars.

Every line has `time` (UTC, ISO 8601), `level` and `message`, as the terminal shows it; a line about a finished stage has
its facts besides: `stage`, `seconds`, `rows`, `rows_per_s`, `peak_memory` (bytes, of all
processes together, sampled), `worked`.
"""

import contextlib
import json
import logging
import os
import platform
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from curate.errors import CurateError
from curate.io import storage

__all__ = ["KEPT_LOGS", "log_to", "note_stage"]

#: Older files of a folder are removed.
KEPT_LOGS = 200
#: Where a record carries the facts of a stage.
_FACTS = "curate_facts"

log = logging.getLogger("curate")
#: For the file alone: what it says is on the terminal in other words.
_silent_log = logging.getLogger("curate.analysis")
_silent_log.propagate = False
_silent_log.addHandler(logging.NullHandler())


def note_stage(stage: str, facts: Mapping[str, object]) -> None:
    """Note in the log of the run that a stage is finished."""
    _silent_log.info("%s is done", stage, extra={_FACTS: {"stage": stage, **facts}})


class _Lines(logging.Handler):
    """Writes records as JSON lines; a disk that is full or gone must not stop a run for the sake of its log."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.DEBUG)
        self.path = path

    def _opened(self) -> TextIO:
        """Open the file; what UTF-8 cannot say (of a file name) stands in it as JSON escapes."""
        return self.path.open("a", encoding="utf-8", errors="backslashreplace")

    def emit(self, record: logging.LogRecord) -> None:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": when, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= getattr(record, _FACTS, None) or {}
        with contextlib.suppress(OSError), self._opened() as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def log_to(folder: Path) -> Iterator[None]:
    """Write what curate's logger says while inside into a new file of `folder`, how it began and how it ended."""
    with contextlib.suppress(OSError, CurateError):
        folder.mkdir(parents=True, exist_ok=True)
        for old in sorted(folder.glob("*.jsonl"))[: -KEPT_LOGS + 1]:
            storage.remove(old)
    name = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    handler = _Lines(folder / f"{name}-{os.getpid()}.jsonl")
    with _listening(handler):
        handler.handle(_record(logging.INFO, f"begins: {_who()}"))
        try:
            yield
        except BaseException as error:
            level = logging.WARNING if isinstance(error, KeyboardInterrupt) else logging.ERROR
            handler.handle(_record(level, f"ends: {str(error) or type(error).__name__}"))
            raise
        else:
            handler.handle(_record(logging.INFO, "ends: done"))
        finally:
            with contextlib.suppress(CurateError):
                storage.keep(handler.path)


@contextlib.contextmanager
def _listening(handler: logging.Handler) -> Iterator[None]:
    """Hand a handler what both loggers say from INFO on while inside."""
    levels = {logger: logger.level for logger in (log, _silent_log)}
    for logger in levels:
        logger.addHandler(handler)
        if not logger.isEnabledFor(logging.INFO):
            logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.removeHandler(handler)
            logger.setLevel(level)


def _record(level: int, message: str) -> logging.LogRecord:
    return logging.LogRecord(log.name, level, __file__, 0, message, None, None)


def _who() -> str:
    from importlib.metadata import version

    return f"curate {version('curate')}, Python {platform.python_version()}, process {os.getpid()} on {socket.gethostname()}"
