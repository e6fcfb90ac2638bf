"""What numbers of concepts may be levels; no heavy imports, because recipes are checked by it."""

import itertools

from curate.settings import whole

__all__ = ["checked_levels"]


def checked_levels(value: object) -> tuple[int, ...]:
    """Return numbers of concepts from the finest level up, each fewer than the one before.

    Raises ValueError, which says what they must be, for anything else.

    >>> checked_levels([1000, 100.0])
    (1000, 100)
    """
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"must be a list of numbers of concepts such as [1000, 100, 10], got {value!r}")
    counts = [one for one in map(whole, value) if isinstance(one, int) and not isinstance(one, bool)]
    if len(counts) < len(value) or min(counts) < 1:
        raise ValueError(f"must be whole numbers of at least 1, got {list(value)}")
    if any(above >= below for below, above in itertools.pairwise(counts)):
        raise ValueError(f"must get fewer from level to level, the first of the rows, got {list(value)}")
    return tuple(counts)
