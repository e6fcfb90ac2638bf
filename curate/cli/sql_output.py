"""How answers to SQL are printed: a table for the eye, JSON or CSV for programs, batch by batch."""

import math
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Literal

from curate.analysis.sql import opened
from curate.cli.output import note, plain, print_table, text_of_json, without_controls, write, write_as_it_is
from curate.runs.folder import RunFolder

if TYPE_CHECKING:
    import polars as pl

__all__ = ["answer"]

#: Rows that are held at a time, and characters of a cell of a table.
BATCH, MAX_TEXT = 10_000, 60
#: What spreadsheets take for a formula, also behind spaces and in full width.
_FORMULA = r"^\s*[=+\-@\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}]|^[\t\r]"


def answer(
    run: RunFolder,
    sql: str,
    *,
    limit: int | None,
    form: Literal["table", "json", "csv"],
    formulas: bool = True,
) -> None:
    """Print what a SELECT over the tables of a run gives, at most `limit` rows (None: all). formulas : see `_csv`."""
    with opened(run, sql) as database, closing(database.batches(sql, BATCH)) as found:
        if form == "table":
            _table(found, limit)
        else:
            rows = _first(found, limit)
            _json(rows) if form == "json" else _csv(rows, formulas=formulas)


def _first(batches: "Iterator[pl.DataFrame]", limit: int | None) -> "Iterator[pl.DataFrame]":
    """Yield the first `limit` rows of batches."""
    left = limit
    for batch in batches:
        some = batch if left is None else batch.head(left)
        left = None if left is None else left - len(some)
        yield some
        if left == 0:
            return


def _table(batches: "Iterator[pl.DataFrame]", limit: int | None) -> None:
    import polars as pl

    frame = pl.concat(list(_first(batches, None if limit is None else limit + 1)), how="vertical_relaxed")
    shown = frame if limit is None else frame.head(limit)
    print_table(shown.columns, [[_cut(value) for value in row] for row in shown.iter_rows()])
    if len(shown) < len(frame):
        note(f"the first {limit:,} rows; more with --limit N, all with --limit 0, --csv or --json")


def _cut(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."


def _csv(batches: "Iterator[pl.DataFrame]", *, formulas: bool = True) -> None:
    """Print lines of CSV; what a terminal would obey is written as its number, for it may end up in one.

    formulas : False puts an apostrophe in front of texts that a spreadsheet would compute.
    """
    shown = sys.stdout.isatty()
    for place, batch in enumerate(batches):
        text = (batch if formulas else _without_formulas(batch)).write_csv(include_header=place == 0)
        write_as_it_is(
            "".join(f"{plain(line)}\n" for line in text.splitlines()) if shown else without_controls(text)
        )


def _without_formulas(batch: "pl.DataFrame") -> "pl.DataFrame":
    import polars as pl

    texts = pl.col(pl.String)
    return batch.with_columns(
        pl.when(texts.str.contains(_FORMULA)).then("'" + texts).otherwise(texts).name.keep()
    )


def _json(batches: "Iterator[pl.DataFrame]") -> None:
    """Print a list with an object per row, each on a line."""
    before = "[\n"
    for batch in batches:
        for row in batch.iter_rows(named=True):
            write_as_it_is(before + text_of_json({name: _plain(value) for name, value in row.items()}))
            before = ",\n"
    write("[]\n" if before == "[\n" else "\n]\n")


def _plain(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
