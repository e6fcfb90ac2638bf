"""Stage `cluster`: fit concepts on a sample of the embeddings, then assign every sample to one.

Centroids are a fitted part: they are reused, and new samples assigned to them, until the clustering
settings change or a refit is asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from curate import schema
from curate.clustering import kmeans
from curate.clustering.drift import reach
from curate.clustering.store import load_centroids
from curate.embedding.store import EmbeddingPart
from curate.errors import EmbeddingError, RecipeError
from curate.execution.context import PROCESS_BASE, Context, Part, log
from curate.execution.stage import Stage
from curate.hashing import hash_uids
from curate.io import storage
from curate.linalg import load_unit
from curate.pipeline.stages import drift, levels
from curate.pipeline.stages.unusable import why_unusable_rows
from curate.pipeline.stages.user_clusters import UserClusters
from curate.products import bf16
from curate.recipe import Recipe
from curate.recipe.dedup import Cluster as ClusterSettings

__all__ = [
    "AssignTask",
    "Cluster",
    "assign_part",
    "fit",
    "fit_facts",
    "load_centroids",
    "model_of",
]


@dataclass(frozen=True)
class AssignTask:
    """One part to assign. rows : how many a process can expect in all."""

    embeddings: Path
    centroids: Path
    on: str
    out: Path
    fingerprint: str
    rows: float = 0.0


class Cluster(Stage):
    """Concepts are fitted where there are none that fit, then every sample is assigned to one."""

    name = "cluster"
    hashed_as = "assign"
    drift_warning: str | None = None

    def run(self) -> bool:
        """Fit (or reuse) the concepts and assign every sample; return whether anything was to do."""
        if self.recipe.cluster.given is not None:
            return UserClusters(self.context).run()
        self._fit_where_needed()
        return super().run()

    def _fit_where_needed(self) -> None:
        context, folder = self.context, self.run_folder.concepts
        blocks = self.recipe.dedup.blocks
        settings = (
            self.recipe.cluster
            if blocks is None
            else self.recipe.cluster.model_copy(update={"concepts": blocks, "levels": None})
        )
        wanted = storage.fingerprint("cluster", self.version, settings.of_fit(), model_of(context))
        embedded = self.run_folder.fingerprint(self.run_folder.embeddings)
        self.run_folder.remove_damaged(folder)  # before what they say is believed
        known = None if context.refit else storage.stored_fingerprint(self._centroids)
        table = folder / "concepts.parquet"
        whole = storage.stored_fingerprint(table) is not None
        whole &= not context.rows or levels.there(folder, settings, known)
        fits = whole and (pq.read_metadata(storage.ensure_local(table)).num_rows > 0) == (context.rows > 0)
        if known is None or not known.startswith(wanted) or not fits:
            self.unmark()
            # These files are one fit: an interruption must not leave some of each.
            storage.remove(self._centroids)
            fit(context, settings, self._centroids, wanted, embedded)

    @property
    def _centroids(self) -> Path:
        return self.run_folder.concepts / "centroids.parquet"

    @cached_property
    def fitted(self) -> str:
        """What the centroids were fitted from, and how."""
        return str(storage.stored_fingerprint(self._centroids))

    @property
    def tables(self) -> tuple[Path, ...]:
        """Assignments stand below the concepts."""
        return (self.run_folder.assignments,)

    def inputs(self) -> list[object]:
        """Return the centroids and the vectors."""
        return [self.fitted, self.run_folder.fingerprint(self.run_folder.embeddings)]

    def tasks(self) -> list[AssignTask]:
        """Return what assigning each part takes."""
        return [self._task(part) for part in self.parts]

    def _task(self, part: Part) -> AssignTask:
        run = self.run_folder
        embeddings = run.part(run.embeddings, part.name)
        fingerprint = storage.fingerprint(
            "assign", self.version, self.fitted, storage.stored_fingerprint(embeddings)
        )
        out = run.part(run.assignments, part.name)
        rows = self.context.rows / self.context.engine.machine_workers
        return AssignTask(embeddings, self._centroids, self.recipe.cluster.on, out, fingerprint, rows)

    @property
    def part(self) -> Callable[[AssignTask], None]:
        """Assign the samples of one part."""
        return assign_part

    def finish(self, results: Sequence[None]) -> dict[str, Any]:
        """Count the samples of each concept, and how far they are from those the concepts were fitted on."""
        stats = _count(self.context, self.fitted, self.fingerprint)
        self.drift_warning = drift.warning(stats["drift"], self.recipe.cluster)
        stats["drift"]["warning"] = self.drift_warning
        stats["warnings"] = [] if self.drift_warning is None else [self.drift_warning]
        return stats | levels.level_facts(self.run_folder.concepts) | {"fit": fit_facts(self._centroids)}

    def log(self, stats: Mapping[str, Any]) -> None:
        """Say how many samples are in how many concepts, and warn of drift."""
        log.info(
            "cluster: %s samples in %s concepts (largest %s)%s",
            f"{stats['samples']:,}", f"{stats['concepts']:,}", f"{stats['largest']:,}",
            "".join(f", then {count:,}" for count in stats.get("levels", [])[1:]),
        )  # fmt: skip
        if self.drift_warning is not None:
            log.warning("cluster: %s", self.drift_warning)


def model_of(context: Context) -> object:
    """Return what the centroids depend on besides their own settings: the embedding space."""
    return context.facts(context.run.embeddings).get("space")


def assign_part(task: AssignTask) -> None:
    """Assign the samples of one part to the nearest centroids."""
    part = EmbeddingPart(task.embeddings)
    centroids = load_centroids(task.centroids)
    bf16.expect(task.rows * centroids.size)
    concept = np.empty(len(part), np.int32)
    distance = np.empty(len(part), np.float32)
    for start, block in part.blocks(task.on):
        here = slice(start, start + len(block))
        concept[here], distance[here] = kmeans.assign(block, centroids)
    table = pa.table([part.uids(), concept, distance], schema=schema.ASSIGNMENTS)
    storage.write_parquet(task.out, table, schema.ASSIGNMENTS, task.fingerprint)


def fit(
    context: Context,
    settings: ClusterSettings,
    out: Path,
    fingerprint: str,
    embedded: str,
    among: Mapping[int, npt.NDArray[np.int64]] | None = None,
    *,
    stage: str = "cluster",
) -> None:
    """Fit k-means on a sample chosen by the hash of the uid, in uid order, and write the centroids to `out`.

    embedded : what the vectors are. among : by part, the places of the only rows that count. stage : whose work it is.
    """
    run = context.run
    files = [run.part(run.embeddings, part.name) for part in context.parts]
    total = (
        sum(len(EmbeddingPart(file)) for file in files) if among is None else sum(map(len, among.values()))
    )
    if not context.rows:
        none = np.empty((0, 1), np.float32)
        levels.write_parents(out.parent, (), fingerprint)
        _write_centroids(
            out, kmeans.Concepts(none, np.empty(0, np.int64), none[:, 0], 0.0, 0, 0), fingerprint
        )
        return
    if total == 0:
        raise EmbeddingError(f"no usable sample: {why_unusable_rows(context)}; 0_samples says it row by row")
    dim = EmbeddingPart(files[0]).width(settings.on)
    wanted = kmeans.auto_concepts(total) if settings.concepts == "auto" else int(settings.concepts)
    wanted = wanted if settings.levels is None else settings.levels[0]
    size = min(total, wanted * kmeans.SAMPLE_PER_CONCEPT)
    precision = kmeans.precision_of(settings.precision, size, wanted, dim)
    spare = _room_beside(context.recipe, size, dim, settings, precision)
    context.progress(stage, 0, 1, "fits")
    chosen = _sample(context, files, size, total, settings.seed, among)
    if spare < context.engine.workers * PROCESS_BASE:
        context.engine.close()  # idle workers would hold memory the sample needs
    vectors = _vectors(files, settings.on, chosen)
    found, parents = levels.fit_concepts(settings, vectors, wanted)
    fitted_on = storage.fingerprint(embedded, len(chosen), chosen["uid"][0], chosen["uid"][-1])
    levels.write_parents(out.parent, parents, f"{fingerprint}{fitted_on}")
    _write_centroids(out, found, f"{fingerprint}{fitted_on}", precision)
    context.progress(stage, 1, 1, "fits")


def _room_beside(recipe: Recipe, size: int, dim: int, settings: ClusterSettings, precision: str) -> float:
    """Return the bytes of `memory` that are left beside a training sample; refuse one that cannot fit, saying what fits."""
    again, name = (
        (1, "levels") if settings.levels is not None else (0, "concepts")
    )  # the members of a resampling
    rounded = 0.5 * (precision == "int8")  # the rows in 8 bits, and a part of them
    row = 4 * dim * (1.25 + again + rounded) + 100
    room = recipe.memory - PROCESS_BASE - 100_000_000
    if size * row > room:
        fits = int(room / row / kmeans.SAMPLE_PER_CONCEPT)
        raise RecipeError(
            f"cluster.{name}: k-means on {size:,} samples of {dim} numbers takes {size * row / 1e9:.1f}GB, "
            f"memory allows {room / 1e9:.1f}GB; set cluster.concepts to at most {fits:,} or raise memory"
        )
    return room - size * row


@dataclass(frozen=True)
class _SampleTask:
    """The rows of one part that may be in a sample: those up to a hash, and among some places if any are given."""

    embeddings: Path
    most: np.uint64
    seed: int
    among: npt.NDArray[np.int64] | None


def _sample_of_part(task: _SampleTask) -> pl.DataFrame:
    uids = EmbeddingPart(task.embeddings).uids()
    hashes = hash_uids(uids, task.seed, "cluster", "sample")
    few = np.flatnonzero(hashes <= task.most)
    if task.among is not None:
        few = np.intersect1d(few, task.among)
    kind = {"uid": pl.String, "hash": pl.UInt64, "position": pl.Int32}
    found = {"uid": [uids[place] for place in few.tolist()], "hash": hashes[few], "position": few}
    return pl.DataFrame(found, schema=kind)


def _sample(
    context: Context,
    files: Sequence[Path],
    size: int,
    total: int,
    seed: int,
    among: Mapping[int, npt.NDArray[np.int64]] | None,
) -> pl.DataFrame:
    """Return the `size` samples with the smallest hashes, in uid order: their uid, file (an index), and position."""
    most = np.uint64(min(2**64 - 1, int((size + 6 * size**0.5 + 10) / total * 2.0**64)))
    tasks = [
        _SampleTask(file, most, seed, None if among is None else among[index])
        for index, file in enumerate(files)
    ]
    found = context.engine.map(_sample_of_part, tasks, parallel=context.in_processes(len(tasks)))
    numbered = [one.with_columns(file=pl.lit(index, pl.Int32)) for index, one in enumerate(found)]
    smallest = pl.concat(numbered).sort("hash", "uid", maintain_order=True).head(size).drop("hash")
    return storage.compact(smallest.sort("uid", maintain_order=True))


def _vectors(files: Sequence[Path], on: str, chosen: pl.DataFrame) -> npt.NDArray[np.float32]:
    """Return the unit rows of a sample, (n, d), in its order."""
    vectors = np.empty((len(chosen), EmbeddingPart(files[0]).width(on)), np.float32)
    file, position = chosen["file"].to_numpy(), chosen["position"].to_numpy().astype(np.int64)
    order = np.argsort(file, kind="stable")
    ends = np.searchsorted(file[order], np.arange(len(files)), side="right")
    for path, rows in zip(files, np.split(order, ends[:-1]), strict=True):
        part = EmbeddingPart(path)
        for start in range(0, len(rows), 8192):
            some = rows[start : start + 8192]
            vectors[some] = load_unit(part.take(on, position[some]))
    return vectors


def _write_centroids(out: Path, fit: kmeans.Concepts, fingerprint: str, precision: str = "float32") -> None:
    ids = pa.array(np.arange(len(fit.centroids), dtype=np.int32))
    nothing = pa.array(np.zeros(len(ids), np.int64))
    concepts = pa.table([ids, fit.sizes, nothing, fit.p99], schema=schema.CONCEPTS)
    storage.write_parquet(out.with_name("concepts.parquet"), concepts, schema.CONCEPTS, fingerprint)
    kind = pa.schema(schema.CENTROIDS, metadata={"curate.fit": _facts(fit, precision)})
    lists = pa.array(list(fit.centroids), pa.list_(pa.float32()))
    storage.write_parquet(out, pa.table([ids, lists], schema=kind), kind, fingerprint)


def fit_facts(centroids: Path) -> str:
    """Return what a fit noted about itself, as JSON."""
    return str(pq.read_metadata(storage.ensure_local(centroids)).metadata[b"curate.fit"].decode())


def _facts(fit: kmeans.Concepts, precision: str) -> str:
    import json

    import faiss

    facts = {"requested": fit.requested, "trained_on": fit.trained_on, "objective": fit.objective}
    return json.dumps(facts | {"precision": precision, "faiss": faiss.__version__})


def _count(context: Context, fitted: str, fingerprint: str) -> dict[str, Any]:
    """Count the samples of each concept into the table of concepts; return the facts of the stage."""
    path = context.run.concepts / "concepts.parquet"
    table = storage.read_table(path)
    n_fit = table["n_fit"].to_numpy()
    counted = drift.count(context, fitted, reach(table["p99_distance"].to_numpy(), n_fit))
    sizes = counted.sizes
    column = schema.CONCEPTS.get_field_index("n_assigned")
    table = table.set_column(column, "n_assigned", pa.array(sizes))
    storage.write_parquet(path, table, schema.CONCEPTS, fingerprint)
    return {
        "concepts": len(sizes),
        "samples": int(sizes.sum()),
        "empty": int((sizes == 0).sum()),
        "largest": int(sizes.max(initial=0)),
        "median": float(np.median(sizes)) if len(sizes) else 0.0,
        "drift": counted.facts(n_fit),
    }
