"""What every score family works with: its table, its output, and memory that must suffice."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.embedding.store import EmbeddingPart
from curate.errors import RunError
from curate.execution.context import Context, Part, reuse_or_remove
from curate.io import storage
from curate.recipe import Recipe
from curate.scores.columns import SCORES, Direction
from curate.scores.status import Codes, status_names

__all__ = ["FamilyStage", "Output", "Settings", "directions", "embedding_parts", "require_memory", "table"]


class Settings(Protocol):
    """Settings of a family, as in `curate.recipe.scores` (and `Against`)."""

    @property
    def family(self) -> str:
        """The kind of family."""

    @property
    def folder(self) -> str:
        """The folder below 3_scores."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Score columns that must be there first."""


@dataclass(frozen=True)
class Output:
    """Where the tables of one family go: one per part, rows in the order of the part's embeddings.

    fingerprint : what the family was computed from and how; a table that carries it is not written again.
    """

    context: Context
    folder: Path
    schema: pa.Schema
    fingerprint: str

    def path(self, part: Part) -> Path:
        """Return the table of a part."""
        return self.context.run.part(self.folder, part.name)

    def todo(self) -> list[Part]:
        """Return the parts that have no table yet."""
        return [part for part in self.context.parts if not reuse_or_remove(self.path(part), self.fingerprint)]

    def write(
        self, part: Part, columns: Mapping[str, npt.NDArray[Any] | list[Any]], status: Codes | None = None
    ) -> None:
        """Write the table of one part. Floats that are not finite become null; status codes get names."""
        uids = EmbeddingPart(self.context.run.part(self.context.run.embeddings, part.name)).uids()
        given: dict[str, Any] = {"uid": uids, **columns}
        if status is not None:
            given[self.schema.names[-1]] = status_names(status).tolist()
        arrays = [_array(given[field.name], field.type) for field in self.schema]
        for array, field in zip(arrays, self.schema, strict=True):
            if len(array) != len(uids):
                raise RunError(
                    f"{self.path(part)}: {len(array):,} values of {field.name} for {len(uids):,} samples"
                )
        storage.write_parquet(self.path(part), pa.table(arrays, self.schema), self.schema, self.fingerprint)

    def write_all(
        self, columns: Mapping[str, npt.NDArray[Any] | list[Any]], status: Codes | None = None
    ) -> None:
        """Write the tables of all parts from columns over all samples, part after part."""
        start = 0
        for part in self.context.parts:
            embeddings = self.context.run.part(self.context.run.embeddings, part.name)
            stop = start + len(EmbeddingPart(embeddings))
            rows = slice(start, stop)
            self.write(
                part,
                {name: values[rows] for name, values in columns.items()},
                None if status is None else status[rows],
            )
            start = stop


def _array(values: npt.NDArray[Any] | list[Any], kind: pa.DataType) -> pa.Array:
    if isinstance(values, np.ndarray) and np.issubdtype(values.dtype, np.floating):
        with np.errstate(over="ignore"):
            values = values.astype(kind.to_pandas_dtype())
        return pa.array(values, kind, mask=~np.isfinite(values))
    return pa.array(values, kind)


@dataclass(frozen=True)
class FamilyStage:
    """How a family is made.

    table : settings -> uid, its columns, `<family>_status`. directions : what a higher value means, by
    column. inputs : what the result depends on besides settings and embeddings, to be fingerprinted.
    compute : writes the tables and returns what the manifest should say. check : raises UsageError, before any
    work, for settings that cannot be served. version : goes up when output changes.
    """

    table: Callable[[Any], pa.Schema]
    compute: Callable[[Context, Any, Output], dict[str, Any]]
    inputs: Callable[[Context, Any], list[object]] = lambda context, settings: []
    directions: Callable[[Any], Mapping[str, Direction]] | None = None
    check: Callable[[Recipe, Any], None] = lambda recipe, settings: None
    version: int = 1


def table(columns: Mapping[str, pa.DataType], status: str) -> pa.Schema:
    """Return the schema of a family: uid, its columns, and the status column."""
    return pa.schema([("uid", pa.string()), *columns.items(), (status, pa.string())])


def directions(stage: FamilyStage, settings: Settings) -> Mapping[str, Direction]:
    """Return what a higher value of each score column means."""
    if stage.directions is not None:
        return stage.directions(settings)
    names = stage.table(settings).names
    return {name: SCORES[name].higher_is for name in names if name in SCORES}


def embedding_parts(context: Context) -> list[EmbeddingPart]:
    """Return the embeddings of all parts, mapped from the disk."""
    return [EmbeddingPart(context.run.part(context.run.embeddings, part.name)) for part in context.parts]


def require_memory(context: Context, what: str, rows: int, bytes_per_row: int) -> None:
    """Raise RunError unless columns over all samples fit into `memory`, saying how many would."""
    room = context.recipe.memory * 3 // 4
    if rows * bytes_per_row > room:
        raise RunError(
            f"{what} needs {rows * bytes_per_row / 1e9:.1f} GB for {rows:,} samples; memory "
            f"{context.recipe.memory / 1e9:g}GB fits {room // bytes_per_row:,}: raise memory"
        )
