"""The command line. Each command parses, calls one library function, and prints; errors are told once, here."""

import logging
import os
import sys
from collections.abc import Sequence

import typer

from curate.errors import CurateError

__all__ = ["app", "main"]

INTERRUPTED = 130

app = typer.Typer(
    name="curate",
    help="Curate and prune image-text datasets by concept complexity, hardness and noise.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _register() -> None:
    """Import the command families; each adds its commands to `app`."""
    from curate.cli import inspect, run  # noqa: F401


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 3 too much unusable, 130 interrupted."""
    logging.getLogger("curate").setLevel(logging.INFO)
    _register()
    try:
        code = app(list(arguments) if arguments is not None else None, standalone_mode=False)
    except CurateError as error:
        _say(f"error: {error}")
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted; run the same command again to go on where it stopped")
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        # Typer reports wrong flags through click's own exceptions.
        show = getattr(error, "format_message", None)
        if show is None:
            raise
        _say(f"error: {show()}")
        code = int(getattr(error, "exit_code", 2))
    sys.stdout.flush()
    if code == INTERRUPTED:
        # Threads and children may still be busy; everything on the disk is whole at any moment.
        os._exit(INTERRUPTED)
    sys.exit(code or 0)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
