"""Kinds of values that settings have: sizes, shares, preferences, names of columns."""

import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import psutil
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from curate.io.secrets import HIDDEN, redacted, with_password

__all__ = [
    "Bytes",
    "Column",
    "Count",
    "Folder",
    "KeepShare",
    "Paths",
    "Preference",
    "Settings",
    "Share",
    "StorageOptions",
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

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "b": 1}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def parse_bytes(value: int | str) -> int:
    """Return a size in bytes from a number or a string such as ``4GB`` or ``512 MiB``.

    >>> parse_bytes("4GB"), parse_bytes("1 KiB"), parse_bytes(7)
    (4000000000, 1024, 7)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(value))
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"must be a size such as 4GB or 500MB, got {value!r}")
    size = Fraction(match[1]) * _UNITS[match[2].lower()]
    return size.numerator // size.denominator


def parse_share(value: float | str) -> float:
    """Return a share from a number or a percentage: ``0.3`` and ``30%`` are the same.

    >>> parse_share("30%"), parse_share(0.3)
    (0.3, 0.3)
    """
    text = str(value).strip()
    try:
        share = Fraction(text[:-1]) / 100 if text.endswith("%") else Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"must be a share such as 0.3 or 30%, got {value!r}") from None
    return float(share)


def _keep_share(value: float) -> float:
    if not 0 < value <= 1:
        raise ValueError(f"must be in (0, 1], got {value:g}")
    return value


def _share_limit(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"must be in [0, 1], got {value:g}")
    return value


def _preference(value: str) -> str:
    if value in ("hardest", "easiest", "random") or re.fullmatch(r"score:\S+", value):
        return value
    raise ValueError(f"must be hardest, easiest, random or score:<column>, got {value!r}")


def none_word(value: object) -> object:
    """Return None for the word none."""
    return None if value == "none" else value


def default_memory() -> int:
    """Return half of the memory of this machine, at least 2 GB."""
    return max(2 * 10**9, int(psutil.virtual_memory().total) // 2)


def listed(value: object) -> object:
    """Return one text or mapping as a list of it."""
    return [value] if isinstance(value, str | Mapping) else value


def count_or_auto(value: object) -> object:
    """Return `auto` or a whole number of at least 1."""
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"must be auto or a whole number of at least 1, got {value!r}")


def whole(value: object) -> object:
    """Return a float that is a whole number as an int, anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def enough_memory(value: int) -> int:
    """Return a bound on memory that a run can keep."""
    if value < 10**9:
        raise ValueError(f"must be at least 1GB, got {value / 10**6:g}MB")
    return value


def _folder(value: str) -> str:
    """Return a folder of this machine, with `~` filled in."""
    if _URL.match(value):
        raise ValueError(f"must be a folder on this machine, got {value!r}")
    return str(Path(value).expanduser()) if value.startswith("~") else value


def _target(value: str) -> str:
    """Return a folder of this machine, or a URL without a password."""
    if not _URL.match(value):
        return _folder(value)
    if with_password(value):
        raise ValueError("must not hold a password; give it in storage_options, as ${NAME}")
    return value


def _kept(options: dict[str, Any]) -> dict[str, Any]:
    """Return options of a file system; refuse what was redacted before."""
    if HIDDEN in str(options):
        raise ValueError(f"hold {HIDDEN} where a secret was; give it as ${{NAME}}, or run the first recipe")
    return options


Bytes = Annotated[int, BeforeValidator(parse_bytes)]
KeepShare = Annotated[float, BeforeValidator(parse_share), AfterValidator(_keep_share)]
Share = Annotated[float, BeforeValidator(parse_share), AfterValidator(_share_limit)]
Preference = Annotated[str, AfterValidator(_preference)]
Folder = Annotated[str, Field(min_length=1), AfterValidator(_folder)]
Target = Annotated[str, Field(min_length=1), AfterValidator(_target)]
StorageOptions = Annotated[dict[str, Any], AfterValidator(_kept), PlainSerializer(redacted)]
Column = Annotated[str | None, BeforeValidator(none_word)]
Count = Annotated[int, BeforeValidator(whole)]
Paths = Annotated[tuple[str, ...], BeforeValidator(listed), Field(min_length=1)]


class Settings(BaseModel):
    """A group of settings: checked once, unknown keys refused, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
