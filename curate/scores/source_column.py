"""A column of the user's own rows as a score: with a direction, so that it can be ranked by, cut, fused and shown."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from curate.scores.base import RESERVED, ColumnName, RowColumn, Score, Sources
from curate.scores.columns import Column, Direction

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.recipe import Recipe
    from curate.runs.folder import RunFolder
    from curate.scores.tables.output import Output

__all__ = ["SourceColumn"]

#: The status of a row whose value is null, no number, or not finite; and where the shard has no such column.
_NULL = "null"


class SourceColumn(Score):
    """A column of numbers of the source (or a field of a tar's JSON) as a score. higher_is : what a higher value means.

    column : its name, with or without ``source.`` in front. name : that of the score.
    """

    measures: ClassVar[str] = "a column of numbers that the rows bring with them (`column`)"
    cost: ClassVar[str] = "the column is read once from every shard"
    requires: ClassVar[str] = "a column of numbers in the source, and what a higher value means (`higher_is`)"
    avoid: ClassVar[str] = "for a condition alone: conditions read columns of the source as they are"
    place: ClassVar[int] = 9

    family: Literal["source"] = "source"
    column: Annotated[str, Field(min_length=1)]
    higher_is: Direction
    name: ColumnName = "auto"

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:  # noqa: ANN401  (what stands in a recipe)
        """Fill in the name: that of the column, in letters that a score may have."""
        if not isinstance(values, Mapping) or values.get("name", "auto") != "auto":
            return values
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", str(values.get("column")).removeprefix("source."))
        free = name[:1].isascii() and name[:1].isalpha() and name not in RESERVED
        return {**values, "name": name if free else f"source_{name}"}

    @property
    def folder(self) -> str:
        """The name of the score is that of the folder."""
        return self.name

    def columns_made(self) -> Mapping[str, Column]:
        """Return the score, as it stands in the source."""
        return {self.name: Column(self.higher_is, "float64")}

    def check(self, recipe: "Recipe", sources: Sources) -> None:
        """Raise UsageError for a column that the source has not, or that holds no numbers."""
        sources.columns.check(recipe, self.column, f"score: source.column of {self.name}")

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts."""
        from curate.io import storage

        readers = output.sources.columns.readers(context, self.column)
        todo = {part.name for part in output.todo()}
        tasks = [
            _ReadTask(context.run, part.name, self, readers[part.name], output.path(part), output.fingerprint)
            for part in context.parts
            if part.name in todo
        ]
        context.map("score", "parts", _read, tasks)
        tables = [storage.read_table(output.path(part), [self.name])[0] for part in context.parts]
        rows, null = sum(map(len, tables)), sum(table.null_count for table in tables)
        said = [f"{null:,} of {rows:,} samples have no {self.column}, and no score ({_NULL})"] if null else []
        return {"scored": rows - null, "warnings": said}


@dataclass(frozen=True)
class _ReadTask:
    """One part whose column is read."""

    run: "RunFolder"
    part: str
    score: SourceColumn
    source: RowColumn
    out: Path
    fingerprint: str


def _read(task: _ReadTask) -> None:
    """Write the table of a part, reading its shard batch by batch."""
    import polars as pl

    from curate.execution.context import usable
    from curate.io import storage

    rows = usable(task.run, task.part).select("uid", "row")
    name, schema = task.score.name, task.score.table()
    blocks = [
        block.select(task.score.column).to_series()
        for block in (task.source.beside(rows) if len(rows) else ())
    ]
    values = pl.concat(blocks).cast(pl.Float64) if blocks else pl.Series([], dtype=pl.Float64)
    values = values.set(~values.is_finite(), None).alias(name)
    status = pl.select(pl.when(values.is_null()).then(pl.lit(_NULL)).otherwise(pl.lit("ok"))).to_series()
    table = rows.select("uid").with_columns(values, status.alias(task.score.status_column))
    storage.write_parquet(task.out, table.to_arrow().cast(schema), schema, task.fingerprint)
