"""All rows of a run in one table that answers within a fraction of a second: samples, decisions and scores side by side.

The table is a DuckDB database in memory which spills into a temporary folder, reads no file, and is asked with one SELECT
at a time under a time limit, because conditions come from whoever looks at the page.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from curate import schema
from curate.analysis.sql import connect
from curate.analysis.summary.tables import finished_families
from curate.errors import RunError, UsageError
from curate.execution.context import Context, Part
from curate.io import storage

if TYPE_CHECKING:
    import duckdb

__all__ = ["SECONDS", "RowTable", "identifier"]

#: An answer that takes longer is given up.
SECONDS = 5.0
#: Which columns of the tables the rows have; what is not a column here is a score.
SAMPLES = (
    "uid", "occurrence", "copy_of", "source", "split", "shard", "row", "key", "bytes", "width", "height", "caption",
    "caption_length", "label", "outcome", "reason", "content_hash",
)  # fmt: skip
DECISIONS = (
    "keep", "weight", "reason", "duplicate_of", "concept", "distance", "rank", "inclusion_prob",
    "random_control",
)  # fmt: skip
#: Rows that go into the table at a time.
TOGETHER = 100_000
#: Parts of a concept that dedup compares within; more than it ever makes.
MOST_SUBCONCEPTS = 1_000_000
#: What is called otherwise here than in its table: both 0_samples and 5_decisions have a `reason`.
RENAMED = {"reason": "fault"}


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
        classes = self._context.run.class_names()
        families = finished_families(self._context.run)
        done, read, frames = 0, 0, []
        for part in self._context.parts:
            if self._ended:
                raise RunError("the review was ended while its tables were read")
            frames.append(_rows_of(self._context, part, families, classes))
            read += part.rows
            if read - done < TOGETHER and part is not self._context.parts[-1]:
                continue  # many small parts go in at once
            self._connection.register("added", pl.concat(frames, how="vertical_relaxed").to_arrow())
            made = "insert into rows by name from added" if done else "create table rows as from added"
            self._connection.execute(made)
            self._connection.unregister("added")
            done, frames = read, []
            self.loaded = done / max(self._context.rows, 1)
        if not self._context.parts:
            raise RunError(f"{self._context.run.where} has no rows to review")
        self._connection.execute("create table decided (uid varchar, what varchar, value varchar)")
        self._connection.execute("set lock_configuration = true")
        self._describe(families)

    def _describe(self, families: Sequence[str]) -> None:
        described = self._connection.execute("describe rows").fetchall()
        self._columns = {str(name): _kind(str(kind)) for name, kind, *_ in described}
        known = {*SAMPLES, *DECISIONS, *RENAMED.values(), "n", "part", "margin", "near", "place", "block"}
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


# --- the rows of one part ------------------------------------------------------------------------------------------


def _rows_of(
    context: Context, part: Part, families: Sequence[str], classes: Mapping[str, str]
) -> pl.DataFrame:
    """Return the rows of a part with all that is known of each."""
    run = context.run
    samples = pl.DataFrame(
        schema.complete(storage.read_table(run.part(run.samples, part.name)), schema.SAMPLES)
    )
    decided = pl.DataFrame(storage.read_table(run.part(run.decisions, part.name), list(DECISIONS)))
    frame = samples.select(SAMPLES).rename(RENAMED).hstack(decided)
    number = pl.int_range(part.first, part.first + len(frame), dtype=pl.Int64)
    frame = frame.with_columns(number.alias("n"), pl.lit(part.index, pl.Int32).alias("part"))
    has_vector = ((samples["outcome"] == "ok") & samples["copy_of"].is_null()).to_numpy()
    taken = set(frame.columns)
    for family in families:
        scores = pl.DataFrame(storage.read_table(run.part(run.scores(family), part.name)))
        names = [name for name in scores.columns if name not in taken and not name.endswith("_status")]
        taken |= set(names)
        frame = frame.hstack(_spread(scores.select(names), has_vector).get_columns())
    place = pl.Series("place", np.where(has_vector, np.cumsum(has_vector) - 1, -1))
    frame = frame.with_columns(place.set(place < 0, None))
    frame = frame.hstack(_near(context, part, frame).get_columns())
    frame = frame.with_columns(_margin(context))
    labels = [name for name in ("label", "pred_label") if name in frame.columns]
    frame = frame.with_columns(pl.col(labels).replace(classes))
    floats = [name for name, kind in frame.schema.items() if kind.is_float()]
    return frame.with_columns(pl.when(pl.col(floats).is_finite()).then(pl.col(floats)))


def _spread(scores: pl.DataFrame, has_vector: "np.ndarray[Any, Any]") -> pl.DataFrame:
    """Return a table of the rows with vectors as one of all rows, null in the others."""
    if len(scores) != int(has_vector.sum()):
        raise RunError("the scores are older than the source; run it again, and then review it")
    place = pl.Series(np.where(has_vector, np.cumsum(has_vector) - 1, -1))
    place = place.set(place < 0, None)
    return scores[place] if place.null_count() == 0 else scores.select(pl.all().gather(place))


def _near(context: Context, part: Part, frame: pl.DataFrame) -> pl.DataFrame:
    """Return how similar the most similar earlier row is (`near`), and what rows were compared within (`block`)."""
    run = context.run
    path = run.part(run.duplicates, part.name)
    if run.marker(run.duplicates) is not None and path.exists():
        names = ["uid", "concept", "subconcept", "max_similarity_earlier"]
        found = pl.DataFrame(storage.read_table(path, names))
        rows = frame.select("uid", "place").join(
            found, on="uid", how="left", maintain_order="left", suffix="_of"
        )
        block = pl.col("concept").cast(pl.Int64) * MOST_SUBCONCEPTS + pl.col("subconcept")
        first = pl.col("place").is_not_null()
        return rows.select(
            pl.when(first).then("max_similarity_earlier").alias("near"),
            pl.when(first).then(block).alias("block"),
        )
    none = pl.Series("near", [None] * len(frame), dtype=pl.Float32)
    return pl.DataFrame([none, (frame["concept"].cast(pl.Int64) * MOST_SUBCONCEPTS).alias("block")])


def _margin(context: Context) -> pl.Expr:
    """Return how far a row is from the cut of its concept: 0 is the last that is kept, 1 the first that is not."""
    budgets = pl.DataFrame(storage.read_table(context.run.budgets, ["concept", "kept"]))
    kept = pl.col("concept").replace_strict(budgets["concept"], budgets["kept"], default=None)
    return (pl.col("rank").cast(pl.Int64) - kept).alias("margin")
