"""SQL over the tables of a run, by DuckDB: only the columns and rows asked for are read, and nothing but the run is.

Every table is a view of the run's own files. Once the views are there, DuckDB may open no other file, write none and
load no extension, and these settings are locked.
"""

import contextlib
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from curate.analysis.summary.tables import finished_families, part_names
from curate.clustering.store import PARENTS
from curate.errors import RunError, UsageError
from curate.io.remote.cache import ensure_local, store_of
from curate.io.yaml import read_yaml
from curate.overrides.store import TABLE
from curate.recipe.types import default_memory
from curate.runs.folder import RunFolder

if TYPE_CHECKING:
    import duckdb
    import polars as pl
    import pyarrow as pa

__all__ = ["Database", "connect", "opened", "quoted", "table_files", "view"]

#: What a statement may begin with: those that only read.
READS = ("select", "with", "from", "show", "(")
#: DuckDB needs at least this much, whatever the recipe allows.
LEAST_MEMORY = 200_000_000


def quoted(text: object) -> str:
    """Return a text as SQL writes it.

    >>> quoted("a 'b'")
    "'a ''b'''"
    """
    return "'" + str(text).replace("'", "''") + "'"


@contextlib.contextmanager
def connect(memory: int, scratch: Path, files: Sequence[Path] = ()) -> "Iterator[duckdb.DuckDBPyConnection]":
    """Yield a connection that may read `files` and no others, holds `memory` bytes at most, spills into `scratch`."""
    import duckdb

    connection = duckdb.connect(":memory:")
    try:
        connection.execute(f"set memory_limit = '{max(memory, LEAST_MEMORY)}B'")
        connection.execute(f"set temp_directory = {quoted(scratch)}")
        connection.execute("set python_enable_replacements = false")
        connection.execute("set autoinstall_known_extensions = false")
        connection.execute(f"set allowed_paths = [{', '.join(map(quoted, files))}]")
        connection.execute("set enable_external_access = false")
        yield connection
    finally:
        connection.close()


@dataclass(frozen=True)
class Database:
    """The tables of a run. columns : of every table, by its name."""

    connection: "duckdb.DuckDBPyConnection"
    columns: Mapping[str, list[str]]

    def batches(self, sql: str, rows: int) -> "Generator[pl.DataFrame]":
        """Yield what a SELECT gives, `rows` at a time, at least one frame; raises UsageError for what is none."""
        import polars as pl

        with self._explained(sql):
            self._require_select(sql)
            found = self.connection.sql(sql).to_arrow_reader(rows)
            names = _unique(found.schema.names)
            yield _plain_numbers(pl.DataFrame(found.schema.empty_table().rename_columns(names)))
            for batch in found:
                yield _plain_numbers(pl.DataFrame(batch.rename_columns(names)))

    def _require_select(self, sql: str) -> None:
        import duckdb

        wanted = sql.strip()[:80]
        reads = sql.strip().lower().startswith(READS)
        statements = self.connection.extract_statements(sql) if reads else []
        if [one.type for one in statements] != [duckdb.StatementType.SELECT]:
            raise UsageError(f"--sql must be one SELECT statement, got {wanted!r}; it only reads")

    @contextlib.contextmanager
    def _explained(self, sql: str) -> Iterator[None]:
        """Turn what DuckDB says of a statement into one line that names the tables, and the columns of those it reads."""
        import duckdb

        try:
            yield
        except duckdb.Error as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".;:! ")
            named = [name for name in self.columns if re.search(rf"\b{name}\b", sql, re.IGNORECASE)]
            columns = [f"{name} has {', '.join(self.columns[name])}" for name in named]
            about = "; ".join([f"tables: {', '.join(self.columns) or 'none yet'}", *columns])
            raise UsageError(f"--sql: {reason}; {about}") from None


def _unique(names: Sequence[str]) -> list[str]:
    """Return the names of columns, those that are there already with a number behind them.

    >>> _unique(["concept", "n", "concept", "concept"])
    ['concept', 'n', 'concept_1', 'concept_2']
    """
    found: list[str] = []
    for name in names:
        free = (name if place == 0 else f"{name}_{place}" for place in range(len(names)))
        found.append(next(one for one in free if one not in found and (one == name or one not in names)))
    return found


def _plain_numbers(frame: "pl.DataFrame") -> "pl.DataFrame":
    """Return an answer whose sums of integers, which DuckDB gives 128 bits, are integers or floats."""
    import polars as pl

    decimals = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Decimal)]
    kinds = {name: frame.schema[name] for name in decimals}
    whole = {name: pl.Int128 if kinds[name].scale == 0 else pl.Float64 for name in decimals}  # type: ignore[attr-defined]
    return frame.cast(whole)  # type: ignore[arg-type]


def table_files(run: RunFolder, sql: str) -> dict[str, list[list[Path]]]:
    """Return the finished tables of a run by name, each as lists of files; several lists stand side by side.

    samples, embeddings (image and text as arrays), assignments, centroids, concepts (as fitted), parents (the levels above them), blocks (where samples
    are compared within others than the concepts), scores (assignments with the columns of every family beside), filters, duplicates, decisions, budgets (the concepts as decided), overrides (what people had decided
    when rows were selected last). The
    vectors of a run at a URL are fetched, and among the tables, only where `sql` names them.
    """
    marked = {
        "samples": run.samples, "filters": run.scores("filter"), "duplicates": run.duplicates,
        "decisions": run.decisions, "embeddings": run.embeddings,
    }  # fmt: skip
    if store_of(run.path) is not None and not re.search(r"\bembeddings\b", sql, re.IGNORECASE):
        del marked["embeddings"]
    found = {
        name: [[ensure_local(run.part(folder, part)) for part in part_names(run, folder)]]
        for name, folder in marked.items()
    }
    concepts, assigned = run.final_concepts, part_names(run, run.final_concepts)
    if assigned:
        found["assignments"] = [[ensure_local(run.part(run.final_assignments, part)) for part in assigned]]
        families = [_family_files(run, family, assigned) for family in finished_families(run)]
        found["scores"] = [*found["assignments"], *families]
        found["concepts"] = [[ensure_local(concepts / "concepts.parquet")]]
        found["centroids"] = [[ensure_local(concepts / "centroids.parquet")]]
        if (concepts / PARENTS).exists():
            found["parents"] = [[ensure_local(concepts / PARENTS)]]
    if concepts != run.concepts:
        found["blocks"] = [
            [ensure_local(run.part(run.assignments, part)) for part in part_names(run, run.concepts)]
        ]
    if (run.path / TABLE).exists():
        found["overrides"] = [[ensure_local(run.path / TABLE)]]
    if found["decisions"][0]:
        found["budgets"] = [[ensure_local(run.budgets)]]
    return {name: files for name, files in sorted(found.items()) if files[0]}


def _family_files(run: RunFolder, family: str, parts: Sequence[str]) -> list[Path]:
    """Return the tables of a family of scores, part by part."""
    files = [run.part(run.scores(family), part) for part in parts]
    for path in files:
        if not path.exists():
            raise RunError(
                f"{path} is not there: the scores are older than the source; first: curate score {run.where}"
            )
    return [ensure_local(path) for path in files]


@contextlib.contextmanager
def opened(run: RunFolder, sql: str) -> Iterator[Database]:
    """Yield the tables of a run, to be asked by `sql`. Numbers that are not finite are null."""
    tables = table_files(run, sql)
    memory = int((read_yaml(run.recipe_text()) or {}).get("memory") or default_memory())
    files = [file for lists in tables.values() for some in lists for file in some]
    with connect(memory, run.work / "sql", files) as connection:
        for name, lists in tables.items():
            if name == "embeddings":
                connection.register(name, _Vectors(lists[0]))
            else:
                connection.execute(f"create view {name} as {view(lists)}")
        connection.execute("set lock_configuration = true")
        columns = {name: connection.table(name).columns for name in tables}
        yield Database(connection, columns)


def view(lists: Sequence[Sequence[Path]]) -> str:
    """Return a SELECT over Parquet files, the rows of several lists of files side by side.

    Their rows are in one order, so nothing is joined by value; `uid` is that of the first list. A NaN, which would
    pass every comparison and lead every order, is null.
    """
    import pyarrow.parquet as pq
    import pyarrow.types as kinds

    columns, tables = [], []
    for place, files in enumerate(lists):
        for field in pq.read_schema(files[0]):
            name = '"' + field.name.replace('"', '""') + '"'
            if place and field.name == "uid":
                continue
            value = f"t{place}.{name}"
            if kinds.is_floating(field.type):
                value = f"case when isfinite({value}) then {value} end"
            columns.append(f"{value} as {name}")
        tables.append(f"read_parquet([{', '.join(map(quoted, files))}]) t{place}")
    return f"select {', '.join(columns)} from {' positional join '.join(tables)}"


class _Vectors:
    """The embeddings of a run as single floats, read batch by batch each time they are asked for.

    DuckDB knows no half floats and does not read Arrow files.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        import pyarrow as pa

        self._files = files
        with pa.memory_map(str(files[0])) as file:
            self._kind = _in_single(pa.ipc.open_file(file).schema)

    def __arrow_c_schema__(self) -> object:
        return self._kind.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        import pyarrow as pa

        stream = pa.RecordBatchReader.from_batches(self._kind, self._batches())
        return stream.__arrow_c_stream__(requested_schema)

    def _batches(self) -> "Iterator[pa.RecordBatch]":
        import pyarrow as pa

        for path in self._files:
            with pa.memory_map(str(path)) as file:
                reader = pa.ipc.open_file(file)
                for place in range(reader.num_record_batches):
                    yield reader.get_batch(place).cast(self._kind)


def _in_single(schema: "pa.Schema") -> "pa.Schema":
    """Return a schema with vectors of half floats as vectors of single floats."""
    import pyarrow as pa

    fields = []
    for field in schema:
        kind = field.type
        if pa.types.is_fixed_size_list(kind) and pa.types.is_float16(kind.value_type):
            kind = pa.list_(pa.float32(), kind.list_size)
        fields.append(pa.field(field.name, pa.float32() if pa.types.is_float16(kind) else kind))
    return pa.schema(fields)
