"""Family `normsim`: how near each image is to a target set (Wang et al. 2024, arXiv:2405.19547)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate.embedding.store import EmbeddingPart
from curate.execution.context import Context
from curate.io import storage
from curate.pipeline import references
from curate.recipe import NormSim, Recipe
from curate.scores.base import FamilyStage, Output, embedding_parts, table
from curate.scores.columns import columns_of
from curate.scores.normsim import normsim_2, normsim_inf

__all__ = ["STAGE"]

_WHAT = "score.normsim.target"
#: Products are of whole tiles of rows, the last one padded: the last bits of a row depend on the tile's shape.
_TILE = 1024


@dataclass(frozen=True)
class TargetTask:
    """One part to compare with the target."""

    embeddings: Path
    target: Path | None
    out: Path
    fingerprint: str


def _table(settings: NormSim | None = None) -> pa.Schema:
    return table(dict.fromkeys(columns_of("normsim"), pa.float32()), "normsim_status")


def _check(recipe: Recipe, settings: NormSim) -> None:
    references.check(recipe, settings.target, _WHAT)


def _inputs(context: Context, settings: NormSim) -> list[object]:
    return [references.fingerprint(context, settings.target, _WHAT)]


def _compute(context: Context, settings: NormSim, output: Output) -> dict[str, Any]:
    rows = sum(map(len, embedding_parts(context)))
    target = references.vectors(context, settings.target, _WHAT) if rows else None
    tasks = [
        TargetTask(
            context.run.part(context.run.embeddings, part.name), target, output.path(part), output.fingerprint
        )
        for part in output.todo()
    ]
    context.map("score", "parts", _normsim, tasks)
    size = len(np.load(storage.ensure_local(target), mmap_mode="r")) if target is not None else None
    return {"scored": rows, "targets": size}


def _normsim(task: TargetTask) -> None:
    """Write the table of a part. One thread: the last bits of a product depend on their number."""
    from threadpoolctl import threadpool_limits

    part = EmbeddingPart(task.embeddings)
    largest, length = np.empty(len(part), np.float32), np.empty(len(part), np.float32)
    if task.target is not None:
        target = np.asarray(np.load(storage.ensure_local(task.target), mmap_mode="r"))
        with threadpool_limits(1, user_api="blas"):
            for start, image in part.blocks("image"):
                rows = slice(start, start + len(image))
                largest[rows] = normsim_inf(image, target)
                padded = np.pad(image, ((0, -len(image) % _TILE), (0, 0)))
                length[rows] = normsim_2(padded, target)[: len(image)]
    schema = _table()
    columns = [pa.array(part.uids(), pa.string()), largest, length, pa.array(["ok"] * len(part), pa.string())]
    storage.write_parquet(task.out, pa.table(columns, schema=schema), schema, task.fingerprint)


STAGE = FamilyStage(table=_table, compute=_compute, inputs=_inputs, check=_check)
