"""How much work an item of a stage is, in rows: what progress is told in wherever it is known."""

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["rows_of_items"]


def rows_of_items(items: Sequence[object], rows: Mapping[str, int]) -> list[int] | None:
    """Return the rows of each item; None where one does not say, or where there are no rows at all.

    An item is about a part (`part`: itself, its name or a table of it), writes the table of a part (`out`), or holds the pieces of
    an output file (`pieces`). rows : of each part of the source, by name.
    """
    known = [_rows(item, rows) for item in items]
    found = [n for n in known if n is not None]
    return found if len(found) == len(known) and sum(found) > 0 else None


def _rows(item: object, rows: Mapping[str, int]) -> int | None:
    part, out, pieces = (getattr(item, name, None) for name in ("part", "out", "pieces"))
    if pieces is not None and all(hasattr(piece, "rows") for piece in pieces):
        return sum(len(piece.rows) for piece in pieces)
    if isinstance(part, str):
        return rows.get(part)
    if part is not None and not isinstance(part, Path):
        return int(part.rows)
    path = out if part is None else part
    return rows.get(path.stem.removeprefix("part-")) if isinstance(path, Path) else None
