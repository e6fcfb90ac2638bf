"""What the columns of all shards must be like for a recipe: found when the schemas are read, before any image is."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curate.errors import BudgetError, CurateError, SourceError
from curate.execution.context import log
from curate.filtering.conditions import table_columns
from curate.filtering.source_columns import as_frame, find_columns, is_there, numbers_of, read_by
from curate.filtering.sql import check_conditions
from curate.recipe import Recipe
from curate.sources.base import Shard
from curate.sources.registry import ShardReader
from curate.writers.schema import JoinedSchema

__all__ = ["SourceSchemas"]

#: Rows of a column that are looked at together.
_BLOCK_ROWS = 65_536
_BATCH_BYTES = 32 << 20
#: Columns of several types that are named.
MAX_TOLD = 3


class SourceSchemas:
    """The schemas of the shards of a source: whether they can be written together, and conditions hold on all."""

    def __init__(self, recipe: Recipe) -> None:
        known = table_columns(recipe)
        parquet = recipe.write.format == "parquet" or recipe.write.dropped is not None
        self._written = parquet
        self._joined = JoinedSchema() if parquet and recipe.write.schemas == "join" else None
        self._conditions = [one for one in recipe.filter if isinstance(one, str)]
        self._tables = as_frame(known.empty_table())
        self._asked = read_by(self._conditions, known.names)
        self._numbers = numbers_of(self._conditions)
        self._checked: set[tuple[str, ...]] = set()
        self._lacking: dict[str, list[str]] = {name: [] for name in self._asked}
        self._select = recipe.select
        self._shards: list[tuple[Shard, int]] = []
        self._wrong: CurateError | None = None

    def add(self, shard: Shard, schema: pa.Schema, rows: int) -> None:
        """Take up one more shard; what is wrong with it is raised by `check`."""
        self._shards.append((shard, rows))
        if self._wrong is not None:
            return
        try:
            if self._written:  # what two columns of one name are, no setting says
                (self._joined or JoinedSchema()).add(shard, schema)
            self._try_conditions(shard, schema)
        except CurateError as error:
            self._wrong = error

    def _try_conditions(self, shard: Shard, schema: pa.Schema) -> None:
        for name in self._asked:
            if not is_there(schema, name):
                self._lacking[name].append(shard.url)
        kinds = tuple(f"{field.name} {field.type}" for field in schema)
        if (
            not self._asked
            or kinds in self._checked
            or not all(is_there(schema, name) for name in self._asked)
        ):
            return
        self._checked.add(kinds)
        found = find_columns([shard], self._asked, self._tables.columns, self._numbers)
        here = pa.schema([found.field(name) for name in self._asked if name in found.names])
        if len(here) == len(self._asked):
            frame = self._tables.hstack(as_frame(here.empty_table()).get_columns())
            check_conditions(frame, self._conditions, source=here.names, where=shard.url)

    def check(self) -> None:
        """Raise UsageError, BudgetError or SourceError for shards that do not fit the recipe; tell of absent and joined columns."""
        count, rows = self._select.count, sum(rows for _, rows in self._shards)
        if count is not None and count > rows and not self._select.at_most:
            raise BudgetError(
                f"select.count {count:,} is more than the {rows:,} rows of the source; ask for fewer, or accept what "
                "there is with --at-most"
            )
        if self._wrong is not None:
            raise self._wrong
        for name, shards in self._lacking.items():
            if shards:
                log.warning(
                    "filter: %s of %s shards have no column %r, which is null there (the first is %s)",
                    f"{len(shards):,}", f"{len(self._shards):,}", name, shards[0],
                )  # fmt: skip
        if self._joined is not None:
            self._check_values(self._joined, sorted(self._joined.by_value))
            told = self._joined.told()
            for line in told[:MAX_TOLD]:
                log.info("source: %s", line)
            if len(told) > MAX_TOLD:
                log.info("source: and %s more columns of several types", f"{len(told) - MAX_TOLD:,}")

    def _check_values(self, joined: JoinedSchema, names: Sequence[str]) -> None:
        """Raise SourceError for a value that the type of its column in all shards together cannot hold."""
        reader = ShardReader()
        for shard, rows in self._shards:
            schema = reader.schema(shard)
            kinds = {name: joined.fields[name].type for name in names}
            narrow = [
                name for name in names if name in schema.names and schema.field(name).type != kinds[name]
            ]
            for start in range(0, rows if narrow else 0, _BLOCK_ROWS):
                block = np.arange(start, min(start + _BLOCK_ROWS, rows))
                for table in reader.read_rows(shard, block, batch_bytes=_BATCH_BYTES, columns=narrow):
                    for name in narrow:
                        _require_exact(table.column(name), kinds[name], name, shard)


def _require_exact(column: pa.ChunkedArray, kind: pa.DataType, name: str, shard: Shard) -> None:
    try:
        column.cast(kind)
    except pa.ArrowException as error:
        raise SourceError(
            f"{shard.url}: column {name!r} is {column.type} here and {kind} together with other shards, but "
            f"{' '.join(str(error).split())}; convert the column, or write the shards of each schema by themselves with "
            "write.schemas: apart"
        ) from None
