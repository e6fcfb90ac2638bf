"""How long the stages of a run may take."""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator

from curate.runs.layout import STAGES

__all__ = ["StageTimes", "parse_seconds"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:[smhd]|min)?)(?: *\d+(?:\.\d+)?(?:[smhd]|min))*")


def parse_seconds(value: object) -> float:
    """Return a duration in seconds from a number (of seconds) or a text such as ``6h`` or ``1h 30min``.

    Raises ValueError for another.

    >>> parse_seconds("6h"), parse_seconds("1h 30min"), parse_seconds("0.5 s"), parse_seconds(90)
    (21600.0, 5400.0, 0.5, 90.0)
    """
    text = re.sub(r"(?<=\d)\s+(?=[a-z])", "", str(value).strip().lower())
    if isinstance(value, bool) or not _DURATION.fullmatch(text):
        raise ValueError(f"must be a duration such as 6h, 90min or 1h 30min, got {value!r}")
    found = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    return sum(float(number) * _UNITS[unit or "s"] for number, unit in found)


def _by_stage(value: object) -> object:
    """Return one duration for every stage, or those of the stages that are named."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(STAGES, _limit(value))
    strange = next((stage for stage in value if stage not in STAGES), None)
    if strange is not None or not value:
        raise ValueError(f"takes a duration, or some of {', '.join(STAGES)} with one each, got {strange!r}")
    return value


def _limit(value: object) -> float:
    """Return a duration that is longer than nothing, in seconds."""
    seconds = parse_seconds(value)
    if seconds <= 0:
        raise ValueError(f"must be longer than nothing, got {value!r}")
    return seconds


StageTimes = Annotated[dict[str, Annotated[float, BeforeValidator(_limit)]], BeforeValidator(_by_stage)]
