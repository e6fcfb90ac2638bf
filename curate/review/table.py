"""All rows of a run in one table that answers within a fraction of a second: samples, decisions and scores side by side.

The table is a DuckDB database in memory which spills into a temporary folder, reads no file, and is asked with one SELECT
at a time under a time limit, because conditions come from whoever looks at the page.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import polars as pl

from curate.analysis.sql import connect
from curate.analysis.summary.tables import finished_families
from curate.errors import RunError, UsageError
from curate.execution.context import Context
from curate.review.reading import DECISIONS, MADE, RENAMED, SAMPLES, blocks

if TYPE_CHECKING:
    import duckdb

__all__ = ["SECONDS", "RowTable", "identifier"]

#: An answer that takes longer is given up.
SECONDS = 5.0


def identifier(name: str) -> str:
    """Return a name as SQL writes that of a column.

    >>> identifier('a "b')
    '"a ""b"'
    """
    return '"' + name.replace('"', '""') + '"'


class RowTable:
    """The table `rows`, one row per row read, numbered `n` in the order of the source, and `decided`, what people said.

    Parameters
    ----------
    context : Context
        A finished run with its parts.
    memory : int
        Bytes that it may hold; more goes to the disk.

    Attributes
    ----------
    loaded : float
        The share of the rows that are in the table; it is asked once all are.
    """

    def __init__(self, context: Context, memory: int) -> None:
        self._context = context
        self._scratch = TemporaryDirectory(prefix="curate-review-")
        self._stack = contextlib.ExitStack()
        self._stack.callback(self._scratch.cleanup)
        self._connection = self._stack.enter_context(connect(memory, Path(self._scratch.name)))
        self._ready = threading.Event()
        self._error: Exception | None = None
        self._writing = threading.Lock()
        self._ended = False
        self.loaded = 0.0
        self._columns: dict[str, str] = {}
        self._scores: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, str]:
        """The kind of every column, by its name: number, text or yes-no."""
        self._wait()
        return self._columns

    @property
    def scores(self) -> tuple[str, ...]:
        """The columns of scores that are numbers."""
        self._wait()
        return self._scores

    def close(self) -> None:
        """Give up the table and its temporary folder; nobody may fill it or ask it any more."""
        self._stack.close()

    # Filling it

    def stop(self) -> None:
        """Let whoever fills it end soon."""
        self._ended = True

    def load(self) -> None:
        """Fill the table from the files of the run; who asks meanwhile waits."""
        try:
            self._load()
        except Exception as error:  # noqa: BLE001  (told to whoever asks)
            self._error = error
        finally:
            self._ready.set()

    def _load(self) -> None:
        if not self._context.parts:
            raise RunError(f"{self._context.run.where} has no rows to review")
        families, done = finished_families(self._context.run), 0
        self._connection.execute("begin")  # in one transaction: each costs as much as 100,000 rows
        for frame in blocks(self._context, families):
            if self._ended:
                raise RunError("the review was ended while its tables were read")
            self._connection.register("added", frame.to_arrow(compat_level=pl.CompatLevel.newest()))
            made = "insert into rows by name from added" if done else "create table rows as from added"
            self._connection.execute(made)
            self._connection.unregister("added")
            done += len(frame)
            self.loaded = done / max(self._context.rows, 1)
        self._connection.execute("create table decided (uid varchar, what varchar, value varchar)")
        self._connection.execute("commit")
        self._connection.execute("set lock_configuration = true")
        self._describe(families)

    def _describe(self, families: Sequence[str]) -> None:
        described = self._connection.execute("describe rows").fetchall()
        self._columns = {str(name): _kind(str(kind)) for name, kind, *_ in described}
        known = {*SAMPLES, *DECISIONS, *RENAMED.values(), *MADE}
        own = [name for name in self._columns if name not in known or name == "distance"]
        empty = self._empty([name for name in own if self._columns[name] == "number"])
        self._scores = tuple(name for name in own if self._columns[name] == "number" and name not in empty)

    def _empty(self, names: Sequence[str]) -> set[str]:
        if not names:
            return set()
        asked = ", ".join(f"count({identifier(name)})" for name in names)
        counts = self._connection.execute(f"select {asked} from rows").fetchone() or ()
        return {name for name, count in zip(names, counts, strict=True) if not count}

    def decide(self, rows: Sequence[tuple[str, str, str | None]]) -> None:
        """Set what people decided: (uid, what, value) of all that holds now."""
        self._wait()
        frame = pl.DataFrame(rows, {"uid": pl.String, "what": pl.String, "value": pl.String}, orient="row")
        with self._writing, contextlib.closing(self._connection.cursor()) as cursor:
            cursor.register("new_decided", frame.to_arrow())
            cursor.execute("create or replace table decided as from new_decided")

    # Asking it

    def ask(
        self, sql: str, parameters: Sequence[object] = (), *, seconds: float = SECONDS
    ) -> list[dict[str, Any]]:
        """Return the rows of one SELECT; raises UsageError for what is none, is wrong, or takes too long."""
        import duckdb

        self._wait()
        with contextlib.closing(self._connection.cursor()) as cursor:
            try:
                _require_select(cursor, sql)
                with _time_limit(cursor, seconds):
                    cursor.execute(sql, list(parameters))
                    names = [str(one[0]) for one in cursor.description or ()]
                    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
            except duckdb.InterruptException:
                raise UsageError(
                    f"the condition took longer than {seconds:g} seconds and was stopped"
                ) from None
            except duckdb.Error as error:
                said = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise UsageError(f"the condition cannot be used: {said[:300]}") from None

    def _wait(self) -> None:
        self._ready.wait()
        if self._error is not None:
            raise self._error


def _require_select(cursor: "duckdb.DuckDBPyConnection", sql: str) -> None:
    """Raise UsageError unless a text is one SELECT: nothing is written, set or attached."""
    import duckdb

    if [one.type for one in cursor.extract_statements(sql)] != [duckdb.StatementType.SELECT]:
        raise UsageError("a condition is one expression, such as clip_score < 0.2")


@contextlib.contextmanager
def _time_limit(cursor: "duckdb.DuckDBPyConnection", seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, cursor.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _kind(kind: str) -> str:
    if kind == "BOOLEAN":
        return "yes-no"
    return "text" if kind == "VARCHAR" else "number"
