"""Rows of many tables brought together by their values, in a DuckDB that spills into scratch files.

What has to look at all rows of a run at once (is a uid there twice, which rows do two runs share) is asked here, within
the memory given and whatever the number of rows.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from curate.analysis.sql import connect
from curate.errors import RunError

if TYPE_CHECKING:
    import duckdb

__all__ = ["Joins", "opened"]

#: Rows that an answer is read by.
BATCH = 65_536


class Joins:
    """Tables that are filled part by part, and asked together.

    Columns are c0, c1, ... by their place in the schema of a table, since DuckDB takes names that differ in case alone
    for one.
    """

    def __init__(self, connection: "duckdb.DuckDBPyConnection", kinds: dict[str, pa.Schema]) -> None:
        self._connection, self._kinds = connection, kinds
        for name, kind in kinds.items():
            self._register(kind.empty_table())
            connection.execute(f"create table {name} as from added")

    def _register(self, table: pa.Table) -> None:
        self._connection.register(
            "added", table.rename_columns([f"c{place}" for place in range(table.num_columns)])
        )

    def add(self, name: str, table: pa.Table) -> None:
        """Add rows to a table; their columns are those of its schema, in its order."""
        self._register(table.rename_columns(self._kinds[name].names).cast(self._kinds[name]))
        self._connection.execute(f"insert into {name} from added")

    def row(self, sql: str) -> tuple[Any, ...]:
        """Return an answer of one row."""
        (found,) = self._connection.execute(sql).fetchall()
        return found

    def frames(self, sql: str, names: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yield an answer with its columns named so, `BATCH` rows at a time, at least one frame."""
        reader = self._connection.sql(sql).to_arrow_reader(BATCH)
        rest = pl.DataFrame(reader.schema.empty_table().rename_columns(list(names)))
        for batch in reader:
            rest = pl.concat([rest, pl.DataFrame(batch.rename_columns(list(names)))])
            while len(rest) > BATCH:
                yield rest[:BATCH]
                rest = rest[BATCH:]
        yield rest


@contextlib.contextmanager
def opened(memory: int, **kinds: pa.Schema) -> Iterator[Joins]:
    """Yield empty tables with these columns; they, and what is made of them, hold `memory` bytes at most.

    What is more goes to a folder of its own in TMPDIR. Raises RunError where that does not do.
    """
    import duckdb

    with TemporaryDirectory(prefix="curate-join-") as scratch, connect(memory, Path(scratch)) as connection:
        try:
            yield Joins(connection, kinds)
        except duckdb.Error as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RunError(
                f"the rows of the run cannot be compared: {reason}; raise memory in recipe.yaml, "
                f"or set TMPDIR to a folder with more room than {Path(scratch).parent}"
            ) from None
