"""The command line. Each command parses, calls one library function, and prints; errors are told once, here."""

import contextlib
import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import TextIO

import typer

from curate.cli.app import app as commands
from curate.cli.output import ReaderGoneError, marked, plain
from curate.errors import CurateError
from curate.io.without_pandas import keep_pandas_out
from curate.process import loading

__all__ = ["main"]

INTERRUPTED = 130
#: What a system refuses whatever the program does; another error of it is a fault of the program.
_REFUSALS = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ELOOP,
        errno.ENAMETOOLONG, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ESTALE, errno.ETXTBSY,
    }
)  # fmt: skip


def _register() -> None:
    """Import the command families, which add their commands to the app; the help lists them in this order."""
    names = (
        "init", "run", "rescore", "train_filter", "methods", "models", "formats", "evaluate", "retry", "export", "overrides",
        "inspect", "explain", "plan", "report", "review", "search", "retrieve", "name", "verify", "diff", "gc", "forget",
        "schedule",
    )  # fmt: skip
    families = [importlib.import_module(f"curate.cli.{family}").__name__ for family in names]
    commands.registered_commands.sort(key=lambda command: families.index(str(command.callback.__module__)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 3 too much unusable, 130 interrupted."""
    logging.getLogger("curate").setLevel(logging.INFO)
    keep_pandas_out()
    code = _run(None if arguments is None else list(arguments))
    if code == INTERRUPTED:
        _say("interrupted; run the same command again to go on where it stopped")
    for stream in (sys.stdout, sys.stderr):
        _close(stream)
    if code == INTERRUPTED:
        # Threads and children may still be busy; everything on the disk is whole at any moment.
        os._exit(INTERRUPTED)
    sys.exit(code)


def _run(arguments: list[str] | None) -> int:
    try:
        with loading():
            _register()  # here, because a plug-in that cannot be loaded is an error like any other
        code = int(commands(arguments, prog_name="curate", standalone_mode=False) or 0)
        if code == INTERRUPTED:  # what Typer makes of Ctrl-C
            raise KeyboardInterrupt
        return code
    except CurateError as error:
        _say(f"error: {error}")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except ReaderGoneError:
        return 0
    except (OSError, MemoryError, RuntimeError) as error:
        if (said := _refusal(error)) is None:
            raise
        _say(f"error: {said}")
        return 1
    except ImportError as error:
        if (error.name or "curate").split(".")[0] == "curate":  # a fault of the program
            raise
        _say(
            f"error: {error}: a part of Python or a package is missing or cannot be read; install curate again, or let this "
            f"user read {sys.prefix} and {sys.base_prefix}"
        )
        return 1
    except Exception as error:
        # Typer reports wrong flags through click's own exceptions.
        show = getattr(error, "format_message", None)
        if show is None:
            raise
        _say(f"error: {show()}")
        return int(getattr(error, "exit_code", 2))


def _refusal(error: Exception) -> str | None:
    """Return what the system refuses in words, with the file; None for an error that is no refusal of the system's."""
    if isinstance(error, MemoryError) or "can't start new thread" in str(error):
        what = "no memory is to be had" if isinstance(error, MemoryError) else "no thread can be started"
        return f"{what}; set fewer workers or less memory in the recipe, or raise the limit (ulimit -v, -u)"
    if not isinstance(error, OSError) or error.errno not in _REFUSALS:
        return None
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' -> '.join(names) or 'the system'}: {error.strerror}"


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{marked(plain(text))}\n")
        sys.stderr.flush()


def _close(stream: TextIO) -> None:
    """Flush a stream; where nobody reads it any more, let what is left go nowhere, quietly."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
