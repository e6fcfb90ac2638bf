"""Write the rows of a run, kept or not, as a table of text: CSV with a header."""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from curate.io.storage import atomic

__all__ = ["write_csv"]


def write_csv(path: Path, frames: Iterable[pl.DataFrame]) -> int:
    """Write frames of the same columns one after the other; return how many rows.

    Nulls are empty, an empty text is quoted, truth values are true and false.
    """
    count = 0
    with atomic(path) as partial, partial.open("wb") as file:
        for number, frame in enumerate(frames):
            frame.write_csv(file, include_header=number == 0)
            count += len(frame)
    return count
