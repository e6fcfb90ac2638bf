"""The base class of all groups of settings, and the kinds of values that most of them have."""

import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

__all__ = [
    "URL", "Count", "Folder", "KeepShare", "Preference", "Settings", "Share", "listed", "local_folder", "none_word",
    "parse_share", "whole",
]  # fmt: skip

URL = re.compile(r"(?!file:|local:)[A-Za-z][A-Za-z0-9+.-]*://")
_HERE = re.compile(r"(?:file|local)://")


def parse_share(value: float | str) -> float:
    """Return a share from a number or a percentage: ``0.3`` and ``30%`` are the same; raises ValueError for another text.

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
        percent = f"; {value:g} % is {value / 100:g} or {value:g}%" if 5 <= value <= 100 else ""
        raise ValueError(f"must be in (0, 1], got {value:g}{percent}")
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


def listed(value: object) -> object:
    """Return one text or mapping as a list of it."""
    return [value] if isinstance(value, str | Mapping) else value


def whole(value: object) -> object:
    """Return a float that is a whole number as an int, anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def local_folder(value: str) -> str:
    """Return a folder of this machine, with `~` filled in and without ``file://``; raises ValueError for another URL.

    >>> local_folder("file:///data/run")
    '/data/run'
    """
    value = value[here.end() :] if (here := _HERE.match(value)) else value
    if URL.match(value):
        raise ValueError(f"must be a folder on this machine, got {value!r}")
    return str(Path(value).expanduser()) if value.startswith("~") else value


KeepShare = Annotated[float, BeforeValidator(parse_share), AfterValidator(_keep_share)]
Share = Annotated[float, BeforeValidator(parse_share), AfterValidator(_share_limit)]
Preference = Annotated[str, AfterValidator(_preference)]
Folder = Annotated[str, Field(min_length=1), AfterValidator(local_folder)]
Count = Annotated[int, BeforeValidator(whole)]


class Settings(BaseModel):
    """A group of settings: checked once, unknown keys refused, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
