"""How near each sample is to a set that no kept sample may be near, such as an evaluation set."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from curate.scores.base import Score, ScoreColumn, Sources, embedding_parts
from curate.scores.columns import Column
from curate.scores.normsim import normsim_inf
from curate.sources.settings import Source

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.recipe import Recipe
    from curate.scores.tables.output import Output

__all__ = ["Against"]


class Against(Source, Score):
    """Vectors that no kept sample may be near: an evaluation set; a source, or vectors in .npy files.

    It stands in `dedup.against`. name : stands in the reason (`leak:<name>`); by default what the path is called.
    epsilon : similarity above 1 - epsilon is a leak; None takes `dedup.epsilon`.
    """

    measures: ClassVar[str] = "largest similarity to a set that must stay unseen"
    cost: ClassVar[str] = "samples x set x d"
    requires: ClassVar[str] = "vectors of an evaluation set"

    family: Literal["against"] = Field("against", exclude=True, repr=False)
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] = "auto"
    epsilon: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:  # noqa: ANN401  (what stands in a recipe)
        values = {"path": values} if isinstance(values, str) else values
        if not isinstance(values, Mapping) or values.get("name", "auto") != "auto":
            return values
        path = values.get("path")
        first = path[0] if isinstance(path, list | tuple) and path else path
        name = PurePosixPath(str(first)).name.partition(".")[0]
        kept = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in name)
        return {**values, "name": kept or "reference"}

    @property
    def folder(self) -> str:
        """The folder below 3_scores."""
        return f"against-{self.name}"

    @property
    def status_column(self) -> str:
        """The column that says why a sample has no similarity."""
        return f"against_{self.name}_status"

    @property
    def similarity_column(self) -> str:
        """The column of similarities; it is no score, and has no direction."""
        return f"similarity_to_{self.name}"

    @property
    def _setting(self) -> str:
        return f"dedup.against {self.name}"

    def columns_made(self) -> Mapping[str, Column]:
        """Return the column of similarities."""
        return {self.similarity_column: Column(None)}

    def check(self, recipe: "Recipe", sources: Sources) -> None:
        """Raise UsageError for a set that is not there or cannot become vectors."""
        sources.check(recipe, self, self._setting, recipe.cluster.compared)

    def inputs(
        self, context: "Context", columns: Mapping[str, ScoreColumn], sources: Sources
    ) -> list[object]:
        """Return which vectors are compared, and the fingerprint of the set."""
        on = context.recipe.cluster.compared
        return [on, sources.fingerprint(context, self, self._setting, on)]

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts."""
        from curate.io import storage

        on = context.recipe.cluster.compared
        some = any(len(part) for part in embedding_parts(context))
        vectors = output.sources.vectors(context, self, self._setting, on) if some else None
        tasks = [
            NearTask(
                context.run.part(context.run.embeddings, part.name), vectors, on, self,
                output.path(part), output.fingerprint,
            )
            for part in output.todo()
        ]  # fmt: skip
        context.map("score", "parts", _nearest, tasks)
        size = len(np.load(storage.ensure_local(vectors), mmap_mode="r")) if vectors is not None else None
        column = self.similarity_column
        tables = (storage.read_table(output.path(part), [column]) for part in context.parts)
        return {"scored": sum(len(one) - one[column].null_count for one in tables), "vectors": size}


@dataclass(frozen=True)
class NearTask:
    """One part to compare with the set."""

    embeddings: Path
    vectors: Path | None
    on: str
    score: Against
    out: Path
    fingerprint: str


def _nearest(task: NearTask) -> None:
    """Write the table of a part."""
    import pyarrow as pa

    from curate.embedding.store import BATCH_ROWS, EmbeddingPart
    from curate.io import storage
    from curate.linalg import load_unit

    part = EmbeddingPart(task.embeddings)
    largest = np.full(len(part), np.nan, np.float32)
    known = task.on == "image" or part.has_text
    if task.vectors is not None and known:
        vectors = np.asarray(np.load(storage.ensure_local(task.vectors), mmap_mode="r"))
        for start in range(0, len(part), BATCH_ROWS):
            batch = start // BATCH_ROWS
            given = part.present(task.on, batch)
            rows = load_unit(part.half(task.on, batch)[given])
            largest[start : start + len(given)][given] = normsim_inf(rows, vectors)
    missing = np.isnan(largest)
    status = pa.array(np.where(missing, "no_text", "ok"), pa.string())
    schema = task.score.table()
    columns = [pa.array(part.uids(), pa.string()), pa.array(largest, mask=missing), status]
    storage.write_parquet(task.out, pa.table(columns, schema=schema), schema, task.fingerprint)
