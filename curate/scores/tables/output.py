"""Where the tables of a family of scores go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.embedding.store import EmbeddingPart
from curate.errors import RunError
from curate.execution.context import Context, Part, reuse_or_remove
from curate.io import storage
from curate.scores.status import Codes, status_names

if TYPE_CHECKING:
    from curate.scores.base import ScoreColumn, Sources

__all__ = ["Output"]


@dataclass(frozen=True)
class Output:
    """Where the tables of one family go: one per part, rows in the order of the part's embeddings.

    fingerprint : what the family was computed from and how; a table that carries it is not written again.
    columns : the columns of other families that it is computed from. sources : how references are read. inputs : what
    `Score.inputs` returned when the fingerprint was made.
    """

    context: Context
    folder: Path
    schema: pa.Schema
    fingerprint: str
    columns: "Mapping[str, ScoreColumn]"
    sources: "Sources"
    inputs: Sequence[object] = ()

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
