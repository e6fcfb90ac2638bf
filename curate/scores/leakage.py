"""Family `against`: how near each sample is to a set that no kept sample may be near, such as an evaluation set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate.embedding.store import BATCH_ROWS, EmbeddingPart
from curate.execution.context import Context
from curate.io import storage
from curate.linalg import load_unit
from curate.pipeline import references
from curate.recipe import Against, Recipe
from curate.scores.base import FamilyStage, Output, embedding_parts, table
from curate.scores.normsim import normsim_inf

__all__ = ["STAGE"]


@dataclass(frozen=True)
class NearTask:
    """One part to compare with the set."""

    embeddings: Path
    vectors: Path | None
    on: str
    settings: Against
    out: Path
    fingerprint: str


def _table(settings: Against) -> pa.Schema:
    return table({f"similarity_to_{settings.name}": pa.float32()}, f"against_{settings.name}_status")


def _what(settings: Against) -> str:
    return f"dedup.against {settings.name}"


def _check(recipe: Recipe, settings: Against) -> None:
    references.check(recipe, settings, _what(settings), recipe.cluster.on)


def _inputs(context: Context, settings: Against) -> list[object]:
    on = context.recipe.cluster.on
    return [on, references.fingerprint(context, settings, _what(settings), on)]


def _compute(context: Context, settings: Against, output: Output) -> dict[str, Any]:
    on = context.recipe.cluster.on
    some = any(len(part) for part in embedding_parts(context))
    vectors = references.vectors(context, settings, _what(settings), on) if some else None
    tasks = [
        NearTask(
            context.run.part(context.run.embeddings, part.name), vectors, on, settings,
            output.path(part), output.fingerprint,
        )
        for part in output.todo()
    ]  # fmt: skip
    context.map("score", "parts", _nearest, tasks)
    size = len(np.load(storage.ensure_local(vectors), mmap_mode="r")) if vectors is not None else None
    column = f"similarity_to_{settings.name}"
    tables = (storage.read_table(output.path(part), [column]) for part in context.parts)
    return {"scored": sum(len(one) - one[column].null_count for one in tables), "vectors": size}


def _nearest(task: NearTask) -> None:
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
    schema = _table(task.settings)
    columns = [pa.array(part.uids(), pa.string()), pa.array(largest, mask=missing), status]
    storage.write_parquet(task.out, pa.table(columns, schema=schema), schema, task.fingerprint)


STAGE = FamilyStage(table=_table, compute=_compute, inputs=_inputs, check=_check)
