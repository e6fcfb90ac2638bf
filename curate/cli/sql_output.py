"""How answers to SQL are printed: a table for the eye, JSON or CSV for programs, batch by batch."""

import math
import sys
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Literal

from curate.analysis.sql import explained, query, tables
from curate.cli.output import note, plain, print_table, text_of_json, write
from curate.runs.folder import RunFolder

if TYPE_CHECKING:
    import polars as pl

__all__ = ["answer"]

#: Rows that are held at a time, and characters of a cell of a table.
BATCH, MAX_TEXT = 10_000, 60


def answer(run: RunFolder, sql: str, *, limit: int | None, form: Literal["table", "json", "csv"]) -> None:
    """Print what a SELECT over the tables of a run gives, at most `limit` rows (None: all)."""
    frames = tables(run, sql)
    found = query(frames, sql)
    with explained(frames, sql):
        more = found if limit is None else found.head(limit + 1)
        if form == "table":
            _table(more.collect(), limit)
        else:
            short = found if limit is None else found.head(limit)
            (_csv if form == "csv" else _json)(short)


def _table(frame: "pl.DataFrame", limit: int | None) -> None:
    shown = frame if limit is None else frame.head(limit)
    print_table(shown.columns, [[_cut(value) for value in row] for row in shown.iter_rows()])
    if len(shown) < len(frame):
        note(f"the first {limit:,} rows; more with --limit N, all with --limit 0, --csv or --json")


def _cut(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."


def _csv(frame: "pl.LazyFrame") -> None:
    """Print lines of CSV: byte for byte for a program, so that a terminal need not obey them for a person."""
    shown = sys.stdout.isatty()
    head = frame.head(0).collect().write_csv()
    for text in chain([head], _lines_of(frame)):
        write("".join(f"{plain(line)}\n" for line in text.splitlines()) if shown else text)


def _lines_of(frame: "pl.LazyFrame") -> Iterator[str]:
    for batch in frame.collect_batches(chunk_size=BATCH, maintain_order=True):
        yield batch.write_csv(include_header=False)


def _json(frame: "pl.LazyFrame") -> None:
    """Print a list with an object per row, each on a line."""
    before = "[\n"
    for batch in frame.collect_batches(chunk_size=BATCH, maintain_order=True):
        for row in batch.iter_rows(named=True):
            write(before + text_of_json({name: _plain(value) for name, value in row.items()}))
            before = ",\n"
    write("[]\n" if before == "[\n" else "\n]\n")


def _plain(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
