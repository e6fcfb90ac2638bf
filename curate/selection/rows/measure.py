"""How the concepts of a run lie, counted over the rows that compete: from the tables, or from their vectors again."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.clustering.dimension import MOST_ROWS, intrinsic_dimension
from curate.clustering.geometry import Geometry, between, centred, centred_distances, mean_vector, with_known
from curate.clustering.store import load_centroids
from curate.embedding.store import EmbeddingPart
from curate.execution.context import Context, reuse_or_remove
from curate.io import storage
from curate.linalg import load_unit
from curate.selection.base import DensitySettings
from curate.selection.rows.ranks import Ranked

__all__ = ["geometry_of"]

_BLOCK = 4096
_KINDS = {"part": np.int32, "position": np.int32, "concept": np.int32, "tie": np.uint64}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MeasureTask:
    """One bucket of ranked rows whose concepts are measured. mean : (d,), or None where it stays in."""

    index: int
    ranked: Ranked
    embeddings: tuple[Path, ...]
    on: str
    centroids: Path
    mean: Floats | None
    dimension: bool
    out: Path
    fingerprint: str


def geometry_of(context: Context, ranked: Ranked, settings: DensitySettings, scratch: Path) -> Geometry:
    """Return how the concepts of ranked rows lie. scratch : a folder for what each bucket gives."""
    run, concepts, path = context.run, ranked.concepts, context.run.final_concepts / "centroids.parquet"
    centroids, intra = load_centroids(path), concepts["d_intra"].to_numpy()
    if not settings.compares_vectors:
        return Geometry(intra, between(centroids, settings.neighbours))
    sizes = concepts["n_eligible"].to_numpy()
    mean = mean_vector(centroids, sizes, intra) if settings.subtract_mean else None
    ends = [] if mean is None else mean.tolist()
    fingerprint = storage.fingerprint(
        ranked.fingerprint, "geometry", ends, settings.complexity == "dimension"
    )
    embeddings = tuple(run.part(run.embeddings, part.name) for part in context.parts)
    tasks = [
        MeasureTask(
            index, ranked, embeddings, context.recipe.cluster.on, path, mean, settings.complexity == "dimension",
            scratch / f"geometry-{file.stem}.parquet", fingerprint,
        )
        for index, file in enumerate(ranked.files)
    ]  # fmt: skip
    context.map(
        "select", "buckets", _measure, [task for task in tasks if not reuse_or_remove(task.out, fingerprint)]
    )
    found = pl.concat([pl.DataFrame(storage.read_table(task.out)) for task in tasks])
    found = concepts.select("concept").join(found, on="concept", how="left", maintain_order="left")
    inter = between(centroids, settings.neighbours, mean)
    if mean is not None:
        intra = found["d_intra"].fill_null(0.0).to_numpy()
    if settings.complexity != "dimension":
        return Geometry(intra, inter)
    return Geometry(intra, inter, with_known(found["dimension"].fill_null(math.nan).to_numpy(), sizes))


class _Members:
    """The rows of a bucket and their vectors, read as they are asked for."""

    def __init__(self, task: MeasureTask) -> None:
        self._task = task
        self._parts: dict[int, EmbeddingPart] = {}
        names = ("part", "position", "concept", "tie")
        blocks = list(task.ranked.blocks(*names, bucket=task.index))
        self.rows: dict[str, npt.NDArray[Any]] = {
            name: np.concatenate([np.empty(0, _KINDS[name]), *(block[name] for block in blocks)])
            for name in names
        }

    def by_concept(self) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """Yield each concept with the places of its rows."""
        concept = self.rows["concept"]
        order = np.argsort(concept, kind="stable")
        starts = np.flatnonzero(np.diff(concept[order], prepend=-1))
        for here in np.split(order, starts[1:]) if len(order) else ():
            yield int(concept[here[0]]), here

    def vectors(self, here: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the unit vectors of some rows, (n, d)."""
        task, part, position = (
            self._task,
            self.rows["part"][here],
            self.rows["position"][here].astype(np.int64),
        )
        found = np.empty((len(here), self._part(0).width(task.on)), np.float32)
        for index in np.unique(part).tolist():
            chosen = np.flatnonzero(part == index)
            found[chosen] = load_unit(self._part(index).take(task.on, position[chosen]))
        return found

    def _part(self, index: int) -> EmbeddingPart:
        if index not in self._parts:
            self._parts[index] = EmbeddingPart(self._task.embeddings[index])
        return self._parts[index]


def _measure(task: MeasureTask) -> None:
    from threadpoolctl import threadpool_limits

    members = _Members(task)
    centroids = load_centroids(task.centroids)
    centres = None if task.mean is None else centred(centroids, task.mean)
    table: dict[str, list[float]] = {"concept": [], "d_intra": [], "dimension": []}
    with threadpool_limits(1):
        for concept, here in members.by_concept():
            table["concept"].append(concept)
            intra = math.nan if centres is None else _intra(task, members, here, centres[concept])
            table["d_intra"].append(intra)
            few = here[np.argsort(members.rows["tie"][here], kind="stable")[:MOST_ROWS]]
            known = (
                intrinsic_dimension(members.vectors(few).astype(np.float64)) if task.dimension else math.nan
            )
            table["dimension"].append(known)
    kinds = {"concept": pl.Int32, "d_intra": pl.Float64, "dimension": pl.Float64}
    found = pl.DataFrame(table, schema=kinds).to_arrow()
    storage.write_parquet(task.out, found, found.schema, task.fingerprint)


def _intra(task: MeasureTask, members: _Members, here: npt.NDArray[np.int64], centre: Floats) -> float:
    """Return the mean distance of a concept's rows to its centre, the mean taken out of both."""
    assert task.mean is not None
    total: list[float] = []
    for start in range(0, len(here), _BLOCK):
        unit = members.vectors(here[start : start + _BLOCK])
        total += centred_distances(unit, centre[None], task.mean).tolist()
    return math.fsum(total) / len(here)
