"""How much work an item of a stage is, in rows: what progress is told in wherever it is known."""

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["rows_of_items"]


def rows_of_items(items: Sequence[object], rows: Mapping[str, int]) -> list[int] | None:
    """Return the rows of each item; None where one does not say, or where there are no rows at all.

    An item is about a part (`part`, itself or its name), writes the table of a part (`out`), or holds the pieces of
    an output file (`pieces`). rows : of each part of the source, by name.
    """
    known = [_rows(item, rows) for item in items]
    found = [n for n in known if n is not None]
    return found if len(found) == len(known) and sum(found) > 0 else None


def _rows(item: object, rows: Mapping[str, int]) -> int | None:
    part, out, pieces = (getattr(item, name, None) for name in ("part", "out", "pieces"))
    if pieces is not None:
        return sum(len(piece.rows) for piece in pieces)
    if isinstance(part, str):
        return rows.get(part)
    if part is not None:
        return int(part.rows)
    return rows.get(out.stem.removeprefix("part-")) if isinstance(out, Path) else None
