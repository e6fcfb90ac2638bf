"""Decisions as a table, CSV or Parquet: a row for each, with what the sample is beside it."""

from pathlib import Path

import polars as pl

from curate.errors import UsageError
from curate.io import storage
from curate.overrides.formats.entry import Entry, checked

__all__ = ["read_csv", "read_parquet", "write_csv", "write_parquet"]

#: How a text begins that a spreadsheet would compute, or run; an apostrophe before it says that it is text.
_FORMULA = r"('*[=+\-@\t\r])"


def write_csv(path: Path, rows: pl.DataFrame) -> None:
    """Write rows as CSV. A text that a spreadsheet would take for a formula has an apostrophe before it, which `read_csv` takes away."""
    texts = pl.col(pl.String).str.replace(f"^{_FORMULA}", "'${1}")
    with storage.atomic(path) as partial:
        rows.with_columns(pl.col(pl.Datetime).dt.to_string("iso:strict"), texts).write_csv(partial)


def write_parquet(path: Path, rows: pl.DataFrame) -> None:
    """Write rows as Parquet."""
    with storage.atomic(path) as partial:
        rows.write_parquet(partial)


def read_csv(path: Path) -> list[Entry]:
    """Return what a CSV with the columns uid, what and (for new labels) to decides; the header is row 1."""
    try:
        # Bytes, because reading text would turn the ends of lines in cells into others.
        text = path.read_bytes().decode("utf-8-sig")
        frame = pl.read_csv(text.encode(), infer_schema=False)
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not UTF-8; save the table as CSV UTF-8") from None
    except pl.exceptions.NoDataError:
        raise UsageError(f"{path}: is empty; it needs the columns uid and what") from None
    except pl.exceptions.PolarsError as error:
        raise UsageError(f"{path}: is no CSV: {' '.join(str(error).split())[:200]}") from None
    frame = frame.with_columns(pl.col(pl.String).str.replace(f"^'{_FORMULA}", "${1}"))
    return _entries(path, frame, first=2)


def read_parquet(path: Path) -> list[Entry]:
    """Return what a Parquet table with the columns uid, what and (for new labels) to decides."""
    try:
        frame = pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UsageError(f"{path}: is no Parquet table: {' '.join(str(error).split())[:200]}") from None
    return _entries(path, frame, first=1)


def _entries(path: Path, frame: pl.DataFrame, *, first: int) -> list[Entry]:
    for name in ("uid", "what"):
        if name not in frame.columns:
            raise UsageError(f"{path}: no column {name!r}; there are {', '.join(frame.columns) or 'none'}")
    to = frame["to"] if "to" in frame.columns else pl.repeat(None, len(frame), eager=True)
    rows = zip(frame["uid"].to_list(), frame["what"].to_list(), to.to_list(), strict=True)
    found = [checked(str(path), row, *values) for row, values in enumerate(rows, first)]
    return [one for one in found if one is not None]
