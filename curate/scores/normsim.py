"""NormSim: how near a sample is to a set of target vectors (Wang et al. 2024, arXiv:2405.19547).

The target is a small set of good images, such as the training sets of the downstream tasks. Higher is
better: nearer to what is wanted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from curate.deduplication.similarity import most_similar
from curate.errors import EmbeddingError
from curate.linalg import row_dots
from curate.scores.base import Score, ScoreColumn, Sources, embedding_parts
from curate.scores.columns import Column
from curate.sources.settings import Source

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.recipe import Recipe
    from curate.scores.in_memory import Samples
    from curate.scores.tables.output import Output

__all__ = ["NormSim", "normsim", "normsim_2", "normsim_inf"]

_ROWS, _TARGETS = 1024, 2048  # a tile of products: 8 MB

_WHAT = "score.normsim.target"

Vectors = npt.NDArray[np.float32]


class NormSim(Score):
    """How near samples are to a target set: a source, or vectors in .npy files."""

    measures: ClassVar[str] = "nearness to a target set"
    paper: ClassVar[str] = "Wang et al. 2024, arXiv:2405.19547"
    cost: ClassVar[str] = "samples x targets x d; memory does not grow with it"
    requires: ClassVar[str] = "vectors of a target set"
    avoid: ClassVar[str] = "without a target: it then prefers what is common"
    place: ClassVar[int] = 5
    outputs: ClassVar[Mapping[str, Column]] = {"normsim_inf": Column("better"), "normsim_2": Column("better")}

    family: Literal["normsim"] = "normsim"
    target: Source

    def check(self, recipe: "Recipe", sources: Sources) -> None:
        """Raise UsageError for a target that is not there or cannot become vectors."""
        sources.check(recipe, self.target, _WHAT)

    def inputs(
        self, context: "Context", columns: Mapping[str, ScoreColumn], sources: Sources
    ) -> list[object]:
        """Return the fingerprint of the target."""
        return [sources.fingerprint(context, self.target, _WHAT)]

    def in_memory(self, samples: "Samples") -> tuple[Mapping[str, npt.NDArray[Any]], npt.NDArray[np.object_]]:
        """Return the columns of samples in memory and the status of each row."""
        from threadpoolctl import threadpool_limits

        image, target = samples.require("normsim", "image"), samples.require("normsim", "target")
        with threadpool_limits(1, user_api="blas"):  # the last bits of a product depend on their number
            largest, length = normsim(image, target)
        status = np.full(len(samples), "ok", object)
        return {"normsim_inf": largest, "normsim_2": length}, status

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts."""
        from curate.io import storage

        rows = sum(map(len, embedding_parts(context)))
        target = output.sources.vectors(context, self.target, _WHAT) if rows else None
        tasks = [
            TargetTask(
                self, context.run.part(context.run.embeddings, part.name), target, output.path(part),
                output.fingerprint,
            )
            for part in output.todo()
        ]  # fmt: skip
        context.map("score", "parts", _compare_part, tasks)
        size = len(np.load(storage.ensure_local(target), mmap_mode="r")) if target is not None else None
        return {"scored": rows, "targets": size}


@dataclass(frozen=True)
class TargetTask:
    """One part to compare with the target."""

    score: NormSim
    embeddings: Path
    target: Path | None
    out: Path
    fingerprint: str


def _compare_part(task: TargetTask) -> None:
    """Write the table of a part. One thread: the last bits of a product depend on their number."""
    import pyarrow as pa
    from threadpoolctl import threadpool_limits

    from curate.embedding.store import EmbeddingPart
    from curate.io import storage

    part = EmbeddingPart(task.embeddings)
    largest, length = np.empty(len(part), np.float32), np.empty(len(part), np.float32)
    if task.target is not None:
        target = np.asarray(np.load(storage.ensure_local(task.target), mmap_mode="r"))
        with threadpool_limits(1, user_api="blas"):
            for start, image in part.blocks("image"):
                rows = slice(start, start + len(image))
                largest[rows], length[rows] = normsim(image, target)
    schema = task.score.table()
    columns = [pa.array(part.uids(), pa.string()), largest, length, pa.array(["ok"] * len(part), pa.string())]
    storage.write_parquet(task.out, pa.table(columns, schema=schema), schema, task.fingerprint)


def normsim(vectors: Vectors, target: Vectors) -> tuple[Vectors, npt.NDArray[np.float64]]:
    """Return `normsim_inf` and `normsim_2` of each row, whatever the number of rows given at a time.

    Products are of whole tiles of rows, the last one padded: the last bits of a row depend on the tile's shape.
    """
    padded = np.pad(vectors, ((0, -len(vectors) % _ROWS), (0, 0)))
    return normsim_inf(vectors, target), normsim_2(padded, target)[: len(vectors)]


def normsim_inf(vectors: Vectors, target: Vectors) -> npt.NDArray[np.float32]:
    """Return the largest cosine of each row with a target, max_g <f_i, g>; (n,) in [-1, 1].

    vectors : (n, d), target : (m, d), m > 0, both unit rows of one model. Higher is better. The product
    proposes, float64 decides (`dedup.similarity.most_similar`): a value depends on its row and the set
    of targets alone. Memory does not grow with n x m. Raises EmbeddingError for shapes that do not fit.

    >>> normsim_inf(np.eye(2, dtype=np.float32), np.array([[0.6, 0.8]], np.float32))
    array([0.6, 0.8], dtype=float32)
    """
    _check(vectors, target)
    largest = np.full(len(vectors), -1.0, np.float32)
    for first in range(0, len(target), _TARGETS):
        part = target[first : first + _TARGETS]
        for start in range(0, len(vectors), _ROWS):
            block = vectors[start : start + _ROWS]
            of, against = np.arange(len(block)), len(block) + np.arange(len(part))
            rows = np.concatenate([block, part])
            found = most_similar(rows, of, against, block @ part.T)[1]
            np.maximum(largest[start : start + _ROWS], found, out=largest[start : start + _ROWS])
    return largest


def normsim_2(vectors: Vectors, target: Vectors) -> npt.NDArray[np.float64]:
    """Return the length of the vector of cosines of each row with the targets; (n,) in [0, sqrt m].

    vectors : (n, d), target : (m, d), m > 0, both unit rows of one model. Higher is better. ||F_i G^T||
    is the square root of F_i (G^T G) F_i^T, so that the cost is d x d per row however many targets there
    are; G^T G is added up in float64 over chunks of targets. Values below 1e-7 sqrt m are rounding.
    Raises EmbeddingError for shapes that do not fit.

    >>> normsim_2(np.eye(2, dtype=np.float32), np.array([[0.6, 0.8], [1.0, 0.0]], np.float32)).round(6)
    array([1.16619, 0.8    ])
    """
    _check(vectors, target)
    gram = np.zeros((vectors.shape[1],) * 2)
    for first in range(0, len(target), _TARGETS):
        part = target[first : first + _TARGETS].astype(np.float64)
        gram += part.T @ part
    squares = np.empty(len(vectors))
    for start in range(0, len(vectors), _ROWS):
        block = vectors[start : start + _ROWS].astype(np.float64)
        squares[start : start + _ROWS] = row_dots(block @ gram, block)
    return np.sqrt(np.maximum(squares, 0.0))


def _check(vectors: Vectors, target: Vectors) -> None:
    """Raise EmbeddingError unless there are targets and they have the width of the rows."""
    if vectors.ndim != 2 or target.ndim != 2 or vectors.shape[1] != target.shape[1] or len(target) == 0:
        raise EmbeddingError(
            f"NormSim needs rows (n, d) and at least one target (m, d), got {vectors.shape} and {target.shape}"
        )
