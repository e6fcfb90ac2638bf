"""Stage `cluster` where the clusters are given: the sorted clusters of SemDeDup as concepts.

Each file, ``cluster_3.npy``, is an array of text (S or U) with a row ``[path or id, index, distance, cluster]`` per
member. The first value is looked up as the uid where the source has a column of uids, else as the key of the row
(the path as it is written). The cluster of a sample is what the files say; distances are computed anew.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate import schema
from curate.clustering.store import PARENTS
from curate.clustering.user_clusters import Labelling, MemberSums, labelling
from curate.embedding.store import EmbeddingPart
from curate.errors import EmbeddingError, SourceError
from curate.execution.context import Context, Part, log, usable
from curate.execution.stage import Stage
from curate.hashing import hash_uids
from curate.io import paths, storage
from curate.io.paths import FoundFile
from curate.linalg import distances, row_dots
from curate.pipeline.stages.unusable import why_unusable_rows
from curate.scores.base import require_memory
from curate.sources.arrays.npy import npy_array, opened

__all__ = ["UserClusters"]

COLUMNS = 4
ROW_BYTES = 60  # hashes, labels and their sorting; labels and distances of samples
BLOCK_ROWS = 4096

Ints = npt.NDArray[np.int32]


class UserClusters(Stage):
    """The stage `cluster` where the clusters are given."""

    name = "cluster"
    hashed_as = "given"

    @cached_property
    def files(self) -> list[FoundFile]:
        """The files of the clusters."""
        return self._find()

    def _find(self) -> list[FoundFile]:
        return paths.expand(list(self.recipe.cluster.given or ()), {}, extensions=(".npy",))

    @property
    def tables(self) -> tuple[Path, ...]:
        """Assignments stand below the concepts."""
        return (self.run_folder.assignments,)

    def inputs(self) -> list[object]:
        """Return the vectors that distances are computed of, the files and the samples."""
        versions = [[file.name, file.size, file.version] for file in self.files]
        return [self.recipe.cluster.on, versions, self.run_folder.fingerprint(self.run_folder.embeddings)]

    def finish(self, results: Sequence[object]) -> dict[str, object]:
        """Make the given clusters the concepts."""
        context, fingerprint = self.context, self.fingerprint
        given = _read(context, self.files)
        if self._find() != self.files:
            raise SourceError(
                f"cluster.given {self.files[0].url}, ...: written to or replaced while it was being read; run again"
            )
        labels, found = _concepts(_labels(context, given))
        sums = _sums(context, labels, len(found))
        centroids, sizes = sums.centroids(), sums.sizes
        p99 = _assign(context, labels, centroids, fingerprint)
        _write(context, centroids, sizes, p99, fingerprint)
        stats: dict[str, object] = {"concepts": len(sizes), "samples": int(sizes.sum()), "empty": 0}
        stats["largest"] = int(sizes.max(initial=0))
        stats["median"] = float(np.median(sizes)) if len(sizes) else 0.0
        names = {} if found == list(range(len(found))) else {"labels": found}
        return stats | {"fit": json.dumps({"given": len(self.files)} | names)}

    def log(self, stats: Mapping[str, Any]) -> None:
        """Say how many samples are in how many clusters."""
        log.info(
            "cluster: %s samples in %s given clusters", f"{stats['samples']:,}", f"{stats['concepts']:,}"
        )


def _read(context: Context, files: Sequence[FoundFile]) -> Labelling:
    """Return the cluster of every id in the files."""
    rows = sum(npy_array(file.url, text=True).shape[0] for file in files)
    require_memory(context, "cluster.given: the clusters", rows, ROW_BYTES)
    pieces = [piece for file in files for piece in _members(file.url)]
    try:
        return labelling([hashes for hashes, _ in pieces], [labels for _, labels in pieces])
    except EmbeddingError as error:
        raise EmbeddingError(f"cluster.given {files[0].url}, ...: {error}") from None


def _members(url: str) -> Iterator[tuple[npt.NDArray[np.uint64], Ints]]:
    """Yield (hashes of ids, clusters) of one file, block by block."""
    array = npy_array(url, text=True)
    if array.shape[0] and array.shape[1] != COLUMNS:
        raise SourceError(
            f"{url}: must have rows [path, index, distance, cluster], found shape {array.shape}"
        )
    with opened(array) as stream:
        for start in range(0, array.shape[0], BLOCK_ROWS):
            block = stream.read(start, min(start + BLOCK_ROWS, array.shape[0]))
            try:
                text = np.char.decode(block, "utf-8") if block.dtype.kind == "S" else block
                labels = np.array([_label(value) for value in text[:, 3].tolist()], np.int32)
            except (ValueError, OverflowError) as error:
                raise SourceError(
                    f"{url}: rows {start} to {start + len(block) - 1}: a row must be [path, index, distance, "
                    f"cluster] with a whole number as cluster: {error}"
                ) from error
            yield hash_uids(text[:, 0].tolist()), labels


def _label(text: str) -> int:
    value = float(text)
    if not value.is_integer() or value < 0:
        raise ValueError(f"got the cluster {text!r}")
    return int(value)


def _labels(context: Context, given: Labelling) -> list[Ints]:
    """Return the given cluster of each sample, part by part; raises EmbeddingError where one has none."""
    labels, missing, total, example = [], 0, 0, ""
    repeated = context.facts(context.run.stage("read")).get("repeated_keys")
    if repeated and all(part.columns.uid is None for part in context.parts):
        raise EmbeddingError(
            f"cluster.given: {repeated['keys']:,} keys are in more than one shard, such as {repeated['examples'][0]}, so a "
            "key does not say which sample is meant; name a column of ids with source.uid, and give the clusters by these"
        )
    for part in context.parts:
        ids = _ids(context, part)
        found = given.of(ids)
        none = np.flatnonzero(found < 0)
        example = example or (ids[none[0]] if len(none) else "")
        missing, total = missing + len(none), total + len(ids)
        labels.append(found)
    require_memory(context, "cluster.given: samples", total, ROW_BYTES)
    if missing:
        raise EmbeddingError(
            f"cluster.given: {missing:,} of {total:,} samples are in no cluster, such as {example!r}; the first value "
            "of a row must be the uid of a sample (where source.uid is named) or its path as it stands in the source"
        )
    if total == 0 and context.rows:
        raise EmbeddingError(f"no usable sample: {why_unusable_rows(context)}; 0_samples says it row by row")
    return labels


def _ids(context: Context, part: Part) -> list[str]:
    """Return what the samples of a part are called in the files: uids where there is a column of them, else keys."""
    samples = usable(context.run, part.name)
    if part.columns.uid is not None:
        return list(samples["uid"])
    unnamed = samples["key"].null_count()
    if unnamed:
        raise EmbeddingError(
            f"cluster.given: {unnamed:,} samples of {part.shard.url} have no path; name a column of ids with "
            "source.uid, or one of paths with source.image"
        )
    return list(samples["key"])


def _concepts(labels: list[Ints]) -> tuple[list[Ints], list[int]]:
    """Return the labels as concepts 0 to k - 1 in the order of labels, and the label of each concept."""
    found = np.unique(np.concatenate([np.empty(0, np.int32), *(np.unique(part) for part in labels)]))
    return [np.searchsorted(found, part).astype(np.int32) for part in labels], [int(one) for one in found]


def _parts(context: Context) -> list[EmbeddingPart]:
    return [EmbeddingPart(context.run.part(context.run.embeddings, part.name)) for part in context.parts]


def _sums(context: Context, labels: Sequence[Ints], n_concepts: int) -> MemberSums:
    parts = _parts(context)
    dim = parts[0].width(context.recipe.cluster.on) if parts else 1
    require_memory(context, "cluster.given: centroids", n_concepts, 32 * dim)
    sums = MemberSums(n_concepts, dim)
    for part, concept in zip(parts, labels, strict=True):
        for start, block in part.blocks(context.recipe.cluster.on):
            sums.add(block, concept[start : start + len(block)])
    return sums


def _assign(
    context: Context, labels: Sequence[Ints], centroids: npt.NDArray[np.float32], fingerprint: str
) -> npt.NDArray[np.float32]:
    """Write the assignments of all parts; return the 99 % distance of each concept."""
    run, every = context.run, []
    context.progress("cluster", 0, len(context.parts), "parts")
    for index, (part, rows, concept) in enumerate(zip(context.parts, _parts(context), labels, strict=True)):
        distance = np.empty(len(rows), np.float32)
        for start, block in rows.blocks(context.recipe.cluster.on):
            here = slice(start, start + len(block))
            distance[here] = distances(row_dots(block, centroids[concept[here]]))
        table = pa.table([rows.uids(), concept, distance], schema=schema.ASSIGNMENTS)
        storage.write_parquet(run.part(run.assignments, part.name), table, schema.ASSIGNMENTS, fingerprint)
        every.append(distance)
        context.progress("cluster", index + 1, len(context.parts), "parts")
    concepts = np.concatenate([np.empty(0, np.int32), *labels])
    return _p99(concepts, np.concatenate([np.empty(0, np.float32), *every]))


def _p99(concept: Ints, distance: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return per concept the distance that 99 % of its members do not exceed."""
    order = np.lexsort((distance, concept))
    _, starts, sizes = np.unique(concept[order], return_index=True, return_counts=True)
    return np.asarray(distance[order][starts + (99 * sizes + 99) // 100 - 1])


def _write(
    context: Context,
    centroids: npt.NDArray[np.float32],
    sizes: npt.NDArray[np.int64],
    p99: npt.NDArray[np.float32],
    fingerprint: str,
) -> None:
    folder = context.run.concepts
    ids = pa.array(np.arange(len(centroids), dtype=np.int32))
    concepts = pa.table([ids, sizes, sizes, p99], schema=schema.CONCEPTS)
    storage.write_parquet(folder / "concepts.parquet", concepts, schema.CONCEPTS, fingerprint)
    storage.remove(folder / PARENTS)  # of concepts in levels that were fitted before
    lists = pa.array(list(centroids), pa.list_(pa.float32()))
    table = pa.table([ids, lists], schema=schema.CENTROIDS)
    storage.write_parquet(folder / "centroids.parquet", table, schema.CENTROIDS, fingerprint)
