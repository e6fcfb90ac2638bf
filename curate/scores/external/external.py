"""Scores of the user's own, from Parquet or CSV files with a uid column and columns of numbers."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from curate.scores.base import RESERVED, ColumnName, Score, ScoreColumn, Sources
from curate.scores.columns import Column, Direction
from curate.settings import listed

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.recipe import Recipe
    from curate.scores.tables.output import Output

__all__ = ["External"]


class External(Score):
    """Scores of the user's own: a Parquet or CSV file with a uid column and columns of numbers."""

    measures: ClassVar[str] = "what the user computed elsewhere"
    cost: ClassVar[str] = "one join by uid"
    requires: ClassVar[str] = "a Parquet or CSV file with uids and numbers"
    place: ClassVar[int] = 9

    family: Literal["file"] = "file"
    file: Annotated[str, Field(min_length=1)]
    name: ColumnName = "auto"
    on: str = "uid"
    columns: Annotated[tuple[str, ...], BeforeValidator(listed)] | Literal["auto"] = "auto"
    higher_is: Direction = "harder"
    on_missing: Literal["error", "null"] = "error"

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:  # noqa: ANN401  (what stands in a recipe)
        if not isinstance(values, Mapping) or values.get("name", "auto") != "auto":
            return values
        stem = PurePosixPath(str(values.get("file")).removesuffix(".gz")).stem
        name = re.sub(r"[^A-Za-z0-9_-]", "_", stem) or "file"
        free = name[0].isascii() and name[0].isalpha() and name not in RESERVED
        return {**values, "name": name if free else f"file_{name}"}

    @property
    def folder(self) -> str:
        """The name the user gave, or that of the file."""
        return self.name

    def columns_made(self) -> Mapping[str, Column]:
        """Return the columns of the first file."""
        from curate.scores.external.parts import columns_of_file, score_files

        return dict.fromkeys(columns_of_file(self, score_files(self)[0]), Column(self.higher_is))

    def check(self, recipe: "Recipe", sources: Sources) -> None:
        """Raise UsageError for files of different columns, or a column that curate has itself."""
        from curate.scores.external import parts

        parts.check(self)

    def inputs(
        self, context: "Context", columns: Mapping[str, ScoreColumn], sources: Sources
    ) -> list[object]:
        """Return the hashes of the files."""
        from curate.scores.external import parts

        return parts.hashes(self)

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts."""
        from curate.scores.external import parts

        return parts.compute(context, self, output)
