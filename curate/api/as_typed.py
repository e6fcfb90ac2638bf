"""Errors that name a setting by what was typed: a flag on the command line, an argument in Python."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from curate.errors import CurateError

__all__ = ["FLAGS", "arguments", "as_typed", "flags"]

#: Settings that `curate filter`, `score` and `select` have flags for. The argument of Python is called like the flag.
FLAGS = {
    "select.keep": "--keep", "select.count": "--count", "select.method": "--method", "select.by": "--by",
    "select.floor": "--floor", "select.drop_noise": "--drop-noise", "select.at_most": "--at-most", "dedup.epsilon": "--dedup",
    "dedup.against": "--against", "embed.model": "--model", "embed.pretrained": "--pretrained", "embed.column": "--vectors",
    "embed.files": "--vectors", "source.limit": "--limit",
}  # fmt: skip
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
    """Return a message with flags in place of settings. names : setting to flag; others are given by --set.

    >>> flags("select.keep must be in (0, 1], got 1.4")
    '--keep must be in (0, 1], got 1.4'
    >>> flags("use the model that ships (embed.model: tiny)")
    'use the model that ships (--model tiny)'
    >>> flags("use the model that ships (embed.model: tiny)", {})
    'use the model that ships (--set embed.model=tiny)'
    """
    text = re.sub(rf"\b(embed\.\w+){_VALUE}", lambda found: _flag(found[1], found[2], names), text)
    return _renamed(text, names)


def arguments(text: str) -> str:
    """Return a message with the arguments of `curate.filter` in place of settings.

    >>> arguments("select.keep must be in (0, 1], got 1.4; use the model that ships (embed.model: tiny)")
    'keep must be in (0, 1], got 1.4; use the model that ships (model="tiny")'
    """
    names = {name: flag.removeprefix("--").replace("-", "_") for name, flag in FLAGS.items()}
    text = re.sub(
        rf"\b(embed\.(?:model|pretrained)){_VALUE}", lambda found: f'{names[found[1]]}="{found[2]}"', text
    )
    return _renamed(text, names)


def _flag(name: str, value: str, names: Mapping[str, str]) -> str:
    return f"{names[name]} {value}" if name in names else f"--set {name}={value}"


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """Return a text with other names for settings; what is part of a longer name, or of --set, is none."""
    for name, other in names.items():
        text = re.sub(rf"(?<![\w.=-])(?<!--set ){re.escape(name)}(?![\w.=])", other, text)
    return text
