"""What takes part: a command, or a function of a script that is called in a process of its own."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CHILD = Path(__file__).with_name("child.py")
#: The command line of this checkout, to be followed by the name of a command.
CURATE = (sys.executable, "-c", "from curate.cli import main; main()")


@dataclass(frozen=True)
class Contender:
    """One way of doing the work.

    Parameters
    ----------
    name
        How it is called in tables.
    command
        The words of a command line, `call(...)` for a function, or a text: why it cannot run here, which the table says.
    fresh
        Files and folders that are removed before every turn.
    facts
        Called after every turn: small numbers that say what came out. What a function returns is added to them.
    environment
        Variables set for it beside those of this process.
    whole
        Of a function, count the start of Python and the imports of its script too, as of a command.
    """

    name: str
    command: Sequence[str] | str
    fresh: Sequence[Path] = ()
    facts: Callable[[], Mapping[str, Any]] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    whole: bool = False


def call(script: str | Path, function: str, python: str = sys.executable, **given: Any) -> list[str]:  # noqa: ANN401
    """Return the command that calls a function of a script with keywords, in a fresh process.

    Only the call is timed, not the start of Python and the imports of the script; of a function that yields, only what
    comes after the first `yield`. The keywords and what it returns must fit into JSON. `python` may be another
    interpreter, as one in an environment of its own; the script must then import nothing it lacks.
    """
    return [python, str(CHILD), str(script), function, json.dumps(given, default=str)]
