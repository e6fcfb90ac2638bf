"""Whether a sample lies in a cluster that a target set reaches: the image-based filter of DataComp (Gadre et al. 2023).

Each vector of the target goes to its nearest centroid, as each sample does, and a sample is kept if vectors of the target lie in its
cluster: ``target_hits >= 1``. The centroids are those of the run's concepts, or given. DataComp's own (100,000, trained by L2 on vectors that
are not scaled) are compared by inner products as they are: `normalise: false`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from curate.errors import EmbeddingError, UsageError
from curate.linalg import unit_rows
from curate.scores.base import Score, ScoreColumn, Sources, embedding_parts, file_of
from curate.scores.columns import Column
from curate.sources.settings import Source

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.recipe import Recipe
    from curate.scores.in_memory import Samples
    from curate.scores.tables.output import Output

__all__ = ["TargetClusters", "hits_of", "read_centroids"]

_WHAT = "score.target_clusters.target"

Vectors = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]


class TargetClusters(Score):
    """How many vectors of a target set lie in the cluster of a sample.

    target : a source, or vectors in .npy files. centroids : a `.npy` file (K, d); null takes the concepts of the run.
    normalise : whether given centroids are scaled to length 1 first.
    """

    measures: ClassVar[str] = "how many vectors of a target set lie in the cluster of a sample"
    paper: ClassVar[str] = "Gadre et al. 2023 (DataComp), arXiv:2304.14108"
    cost: ClassVar[str] = "target x clusters x d; samples too where centroids are given"
    requires: ClassVar[str] = "vectors of a target set; concepts, or centroids"
    avoid: ClassVar[str] = "with few clusters: a target then reaches all of them"
    place: ClassVar[int] = 17
    outputs: ClassVar[Mapping[str, Column]] = {
        "target_hits": Column("better"),
        "target_cluster": Column(None, "int32"),
    }

    family: Literal["target_clusters"] = "target_clusters"
    target: Source
    centroids: Annotated[str, file_of(".npy")] | None = None
    normalise: bool = True

    def check(self, recipe: "Recipe", sources: Sources) -> None:
        """Raise UsageError for a target or centroids that are not there or cannot be used."""
        if self._on(recipe) == "both":
            raise UsageError(
                "score: target_clusters puts the target into the concepts of the run, which are of images and captions together "
                "(cluster.on both): give it centroids, or take cluster.on image or text"
            )
        sources.check(recipe, self.target, _WHAT, self._on(recipe))
        if self.centroids is not None:
            read_centroids(Path(self.centroids), normalise=self.normalise)

    def _on(self, recipe: "Recipe") -> str:
        """Return which vectors are compared: those that the concepts were fitted on."""
        return "image" if self.centroids is not None else recipe.cluster.on

    def inputs(
        self, context: "Context", columns: Mapping[str, ScoreColumn], sources: Sources
    ) -> list[object]:
        """Return the fingerprints of the target and of the concepts, or the hash of the centroids."""
        from curate.io import storage

        on = self._on(context.recipe)
        if self.centroids is None:
            made = context.run.fingerprint(context.run.concepts)
        else:
            made = storage.hash_file(Path(self.centroids))
        return [on, made, sources.fingerprint(context, self.target, _WHAT, on)]

    def in_memory(self, samples: "Samples") -> tuple[Mapping[str, npt.NDArray[Any]], npt.NDArray[np.object_]]:
        """Return the columns of samples in memory and the status of each row."""
        from curate.clustering.kmeans import assign

        if self.centroids is None:
            raise UsageError(
                "score: target_clusters goes by the concepts of a run; in memory, give centroids"
            )
        image, target = (samples.require("target_clusters", name) for name in ("image", "target"))
        centroids = read_centroids(Path(self.centroids), normalise=self.normalise)
        _require_length(centroids, image.shape[1])
        hits = hits_of(target, centroids)
        cluster = assign(image, centroids)[0] if len(image) else np.empty(0, np.int32)
        columns = {"target_hits": hits[cluster].astype(np.float32), "target_cluster": cluster}
        return columns, np.full(len(samples), "ok", object)

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts."""
        from curate.clustering.store import load_centroids

        rows, on = sum(map(len, embedding_parts(context))), self._on(context.recipe)
        if not rows:
            hits, centroids = np.empty(0, np.int64), None
        else:
            given = self.centroids is not None
            path = context.run.concepts / "centroids.parquet"
            found = (
                read_centroids(Path(self.centroids or ""), normalise=self.normalise)
                if given
                else load_centroids(path)
            )
            _require_length(found, embedding_parts(context)[0].dim)
            hits = hits_of(_target(context, output, self, on), found)
            centroids = found if given else None
        tasks = [
            ClusterTask(
                self, context.run.part(context.run.embeddings, part.name), context.run.part(context.run.assignments, part.name),
                hits, centroids, output.path(part), output.fingerprint,
            )
            for part in output.todo()
        ]  # fmt: skip
        context.map("score", "parts", _look_up_part, tasks)
        return {"scored": rows, "clusters": len(hits), "reached": int((hits > 0).sum())}


def _target(context: "Context", output: "Output", score: TargetClusters, on: str) -> Vectors:
    from curate.io import storage

    path = output.sources.vectors(context, score.target, _WHAT, on)
    return np.asarray(np.load(storage.ensure_local(path), mmap_mode="r"))


def _require_length(centroids: Vectors, dim: int) -> None:
    if centroids.shape[1] != dim:
        raise EmbeddingError(
            f"score: target_clusters.centroids must have {dim} numbers, as the vectors of the samples, got "
            f"{centroids.shape[1]}"
        )


def hits_of(target: Vectors, centroids: Vectors) -> Counts:
    """Return how many rows of a target have each centroid as their nearest, (K,).

    target : (m, d) unit rows. centroids : (K, d), K > 0, of length at most 1. Nearest is the largest inner product; the
    lowest id where equal. Raises EmbeddingError where the target has no rows.

    >>> hits_of(np.eye(2, dtype=np.float32)[[0, 0]], np.eye(2, dtype=np.float32))
    array([2, 0])
    """
    from curate.clustering.kmeans import assign

    if not len(target):
        raise EmbeddingError(f"{_WHAT} must hold at least one vector, got none")
    return np.bincount(assign(target, centroids)[0], minlength=len(centroids))


def read_centroids(path: Path, *, normalise: bool) -> Vectors:
    """Return the centroids of a file, (K, d), each of length 1; or all made smaller alike, so that none is longer.

    The second keeps the order of inner products with any vector. Raises UsageError for a file that is not there, holds no
    floats (K, d), or a row without a direction.
    """
    try:
        array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UsageError(f"score: target_clusters.centroids: there is no file {path}") from None
    except (OSError, ValueError, EOFError):
        raise UsageError(f"score: target_clusters.centroids: {path} is no .npy file of numbers") from None
    if array.dtype.kind != "f" or array.ndim != 2 or not array.size:
        raise UsageError(
            f"score: target_clusters.centroids: {path} must hold floats (K, d), got {array.dtype} {array.shape}"
        )
    unit, valid = unit_rows(array)
    if not valid.all():
        raise UsageError(
            f"score: target_clusters.centroids: {path}: row {int(np.argmin(valid)):,} is zero or not finite; leave it out"
        )
    if normalise:
        return unit
    wide = array.astype(np.float64)
    shrunk: Vectors = (wide / np.sqrt((wide**2).sum(axis=1)).max()).astype(np.float32)
    return shrunk


@dataclass(frozen=True)
class ClusterTask:
    """One part whose clusters are looked up. centroids : None where the part has concepts."""

    score: TargetClusters
    embeddings: Path
    assignments: Path
    hits: Counts
    centroids: Vectors | None
    out: Path
    fingerprint: str


def _look_up_part(task: ClusterTask) -> None:
    """Write the table of a part."""
    import pyarrow as pa

    from curate.clustering.kmeans import assign
    from curate.embedding.store import EmbeddingPart
    from curate.io import storage

    part = EmbeddingPart(task.embeddings)
    if task.centroids is None:
        cluster = storage.read_table(task.assignments, ["concept"])["concept"].to_numpy()
    else:
        found = [assign(block, task.centroids)[0] for _, block in part.blocks("image")]
        cluster = np.concatenate([np.empty(0, np.int32), *found])
    schema = task.score.table()
    status = pa.array(["ok"] * len(part), pa.string())
    columns = [
        pa.array(part.uids(), pa.string()),
        task.hits[cluster].astype(np.float32),
        cluster.astype(np.int32),
        status,
    ]
    storage.write_parquet(task.out, pa.table(columns, schema=schema), schema, task.fingerprint)
