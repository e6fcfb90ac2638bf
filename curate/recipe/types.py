"""Kinds of values that settings have: sizes, shares, preferences, names of columns."""

import re
from fractions import Fraction
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from curate.io.secrets import NO_PASSWORD, with_password
from curate.settings import (
    URL,
    Count,
    Folder,
    KeepShare,
    Preference,
    Settings,
    Share,
    listed,
    local_folder,
    none_word,
    parse_share,
    whole,
)

__all__ = [
    "Bytes",
    "Count",
    "Folder",
    "KeepShare",
    "Paths",
    "Preference",
    "Settings",
    "Share",
    "Target",
    "count_or_auto",
    "default_memory",
    "enough_memory",
    "listed",
    "none_word",
    "parse_bytes",
    "parse_share",
    "whole",
]

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "b": 1}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def parse_bytes(value: int | str) -> int:
    """Return a size in bytes from a number or a string such as ``4GB`` or ``512 MiB``; raises ValueError for another.

    >>> parse_bytes("4GB"), parse_bytes("1 KiB"), parse_bytes(7)
    (4000000000, 1024, 7)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(value))
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"must be a size such as 4GB or 500MB, got {value!r}")
    size = Fraction(match[1]) * _UNITS[match[2].lower()]
    return size.numerator // size.denominator


def default_memory() -> int:
    """Return half of the memory of this machine, at least 2 GB."""
    import psutil

    return max(2 * 10**9, int(psutil.virtual_memory().total) // 2)


def count_or_auto(value: object) -> object:
    """Return `auto` or a whole number of at least 1; raises ValueError for another."""
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"must be auto or a whole number of at least 1, got {value!r}")


def enough_memory(value: int) -> int:
    """Return a bound on memory, in bytes, that a run can keep; raises ValueError below 1 GB."""
    if value < 10**9:
        raise ValueError(f"must be at least 1GB, got {value / 10**6:g}MB")
    return value


def _target(value: str) -> str:
    """Return a folder of this machine, or a URL without a password."""
    if not URL.match(value):
        return local_folder(value)
    if with_password(value):
        raise ValueError(NO_PASSWORD)
    return value


Bytes = Annotated[int, BeforeValidator(parse_bytes)]
Target = Annotated[str, Field(min_length=1), AfterValidator(_target)]
Paths = Annotated[tuple[str, ...], BeforeValidator(listed), Field(min_length=1)]
