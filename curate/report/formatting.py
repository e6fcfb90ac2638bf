"""How the page writes numbers, shares and times, and what it says of reasons."""

import math

from curate.schema import KEPT_REASONS, OUTCOMES

__all__ = ["NOTHING", "REASONS", "SPACE", "count", "cut", "duration", "number", "share", "why"]

NOTHING, MINUS, SPACE = "\u2013", "\u2212", "\u00a0"
EXAMPLE_CHARACTERS = 160

#: Reasons in the order in which they are decided, and what each says. `kept` stands last.
REASONS = {
    "unusable": "could not be read",
    "dropped": "left out by people",
    "exact_duplicate": "a copy of a row that came before it",
    "excluded": "on a list of samples to leave out",
    "leak": "too near a sample of this evaluation set",
    "filter": "did not pass this filter",
    "no_score": "has no score to decide by",
    "near_duplicate": "too similar to a row of its concept",
    "cutoff": "among the noisiest by this score, left out before selecting",
    "over_budget": "usable, but outside what was asked for",
    "kept": "written to the output",
}

#: What reasons of kept rows say besides.
OWN = {
    "pinned": "kept because it is on a list of samples to keep",
    "spared": "kept although a condition would have dropped it",
    "kept:override": "kept by people",
}


def why(reason: str) -> str:
    """Return what a reason says, in words; empty for one that is not known.

    >>> why("unusable:broken_image"), why("kept")
    ('the image cannot be decoded', 'written to the output')
    """
    kind, _, detail = reason.partition(":")
    kept = "kept" if reason in KEPT_REASONS else kind
    return (OUTCOMES.get(detail) if kind == "unusable" else None) or OWN.get(reason) or REASONS.get(kept, "")


def count(value: int | None) -> str:
    """Return a number of things; None is a dash."""
    return NOTHING if value is None else f"{value:,}"


def number(value: float | None, decimals: int = 4) -> str:
    """Return a number with so many decimals, without a sign where that is 0; what is no number is a dash.

    >>> [number(-0.001, 2), number(-0.25, 2).replace(MINUS, "-")]
    ['0.00', '-0.25']
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:z,.{decimals}f}".replace("-", MINUS)


def share(part: float | None, whole: float | None = 1.0) -> str:
    """Return a share in percent with one decimal; what is not quite none or all never looks so.

    >>> [share(*pair).replace(SPACE, " ") for pair in [(3, 10), (1, 10_000), (9_999, 10_000)]]
    ['30.0 %', '<0.1 %', '>99.9 %']
    """
    if part is None or not whole:
        return NOTHING
    percent = 100 * part / whole
    if 0 < percent < 0.05:
        return f"<0.1{SPACE}%"
    if 99.95 <= percent < 100:
        return f">99.9{SPACE}%"
    return f"{percent:.1f}{SPACE}%"


def duration(seconds: float | None) -> str:
    """Return a time as people say it.

    >>> [duration(t).replace(SPACE, " ") for t in (0.0, 0.01, 12.34, 59.96, 125, 3_725, None)]
    ['0.0 s', '<0.1 s', '12.3 s', '1 min 00 s', '2 min 05 s', '1 h 02 min', 'reused']
    """
    if seconds is None:
        return "reused"
    if 0 < seconds < 0.05:
        return f"<0.1{SPACE}s"
    if seconds < 59.95:
        return f"{seconds:.1f}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min{SPACE}{rest:02d}{SPACE}s"
    return f"{minutes // 60:,}{SPACE}h{SPACE}{minutes % 60:02d}{SPACE}min"


def cut(text: str | None, limit: int = EXAMPLE_CHARACTERS) -> str:
    """Return a text of at most `limit` characters.

    >>> cut("a long caption", 7)
    'a long…'
    """
    text = text or ""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
