"""Small pictures made of letters: how values are spread, and shares along them."""

import math
import sys
from collections.abc import Sequence

__all__ = ["sparkline", "unicode_stdout"]

#: From nothing to most. Where there is no value at all stands a space.
BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-:=+*#"


def unicode_stdout() -> bool:
    """Whether what is written to stdout can show block characters."""
    try:
        BLOCKS.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


def sparkline(values: Sequence[float | None], *, top: float | None = None, blocks: bool = True) -> str:
    """Return one character per value, from 0 to `top` (the largest by default); a space where there is none.

    What is not quite nothing never looks like nothing.

    >>> sparkline([0, 1, 2, 8, None, 4]), sparkline([0.0, 0.5, 1.0], top=1.0, blocks=False)
    ('▁▂▃█ ▅', '_=#')
    """
    levels = BLOCKS if blocks else ASCII
    known = [value for value in values if value is not None and math.isfinite(value)]
    most = max(known, default=0.0) if top is None else top

    def level(value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return " "
        if value <= 0 or most <= 0:
            return levels[0]
        return levels[min(max(1, round(value / most * (len(levels) - 1))), len(levels) - 1)]

    return "".join(map(level, values))
