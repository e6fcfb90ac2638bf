"""Errors that advise a setting as it is typed: a flag on the command line, an argument in Python."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from curate.errors import CurateError

__all__ = ["FLAGS", "arguments", "as_typed", "flags"]

#: Settings that a message may advise, and the flags of `curate filter` for them. The argument of Python is called like the flag.
FLAGS = {"embed.model": "--model", "embed.pretrained": "--pretrained"}
_NO_BUDGET = "select needs keep (a share) or count (a number of samples); method all keeps all that pass conditions and dedup"
_NO_BUDGET_FLAGS = (
    "nothing says what to keep: add --keep 0.3 (a share) or --count 1000 (rows), or what is to go: --dedup, --where, "
    "--drop-noise, --exclude or --only"
)
_VALUE = r": ([\w./-]*[\w/])"


@contextmanager
def as_typed(told: Callable[[str], str]) -> Iterator[None]:
    """Raise the errors of what is done inside with another message, the type and what caused them as they were."""
    try:
        yield
    except CurateError as error:
        error.args = (told(str(error)), *error.args[1:])
        raise


def flags(text: str, names: Mapping[str, str] = FLAGS) -> str:
    """Return a message with flags in place of the settings that it advises. names : setting to flag; others go by --set.

    >>> flags("use the model that ships (embed.model: tiny)")
    'use the model that ships (--model tiny)'
    >>> flags("use the model that ships (embed.model: tiny)", {})
    'use the model that ships (--set embed.model=tiny)'
    """
    text = text.replace(_NO_BUDGET, _NO_BUDGET_FLAGS) if names else text
    return re.sub(rf"\b(embed\.\w+){_VALUE}", lambda found: _flag(found[1], found[2], names), text)


def arguments(text: str) -> str:
    """Return a message with the arguments of `curate.filter` in place of the settings that it advises.

    >>> arguments("use the model that ships (embed.model: tiny)")
    'use the model that ships (model="tiny")'
    """
    return re.sub(rf"\bembed\.(model|pretrained){_VALUE}", lambda found: f'{found[1]}="{found[2]}"', text)


def _flag(name: str, value: str, names: Mapping[str, str]) -> str:
    return f"{names[name]} {value}" if name in names else f"--set {name}={value}"
