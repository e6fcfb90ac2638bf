"""Stage `cluster`: fit concepts on a sample of the embeddings, then assign every sample to one.

Centroids are a fitted part: they are reused, and new samples assigned to them, until the clustering
settings change or a refit is asked for.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate import schema
from curate.clustering import kmeans
from curate.clustering.drift import reach
from curate.clustering.store import load_centroids
from curate.embedding.store import EmbeddingPart
from curate.errors import EmbeddingError, RecipeError
from curate.execution.context import PROCESS_BASE, Context, Part, log, reuse_or_remove
from curate.hashing import hash_uids
from curate.io import storage
from curate.linalg import load_unit
from curate.pipeline.stages import drift
from curate.recipe import Recipe

__all__ = ["VERSION", "run"]

VERSION = 1
#: Settings that do not change the centroids.
NOT_FITTED = {"given", "drift_warn", "drift_refit"}


@dataclass(frozen=True)
class AssignTask:
    """One part to assign."""

    embeddings: Path
    centroids: Path
    on: str
    out: Path
    fingerprint: str


def run(context: Context) -> bool:
    """Fit (or reuse) the concepts and assign every sample; return whether anything was to do."""
    if context.recipe.cluster.given is not None:
        from curate.pipeline.stages import user_clusters

        return user_clusters.run(context)
    folder = context.run.concepts
    embedded = context.run.fingerprint(context.run.embeddings)
    settings = context.recipe.cluster
    fit_fingerprint = storage.fingerprint(
        "cluster", VERSION, settings.model_dump(exclude=NOT_FITTED), model_of(context)
    )
    centroids = folder / "centroids.parquet"
    context.run.remove_damaged(folder)  # before what they say is believed
    known = None if context.refit else storage.stored_fingerprint(centroids)
    whole = storage.stored_fingerprint(folder / "concepts.parquet") is not None
    rows = any(part.rows for part in context.parts)
    fits = (
        whole and (pq.read_metadata(storage.ensure_local(folder / "concepts.parquet")).num_rows > 0) == rows
    )
    if known is None or not known.startswith(fit_fingerprint) or not fits:
        context.run.unmark(folder)
        storage.remove(centroids)  # two files are one fit: an interruption must not leave one of each
        _fit(context, centroids, fit_fingerprint, embedded)
    fitted = storage.stored_fingerprint(centroids)
    fingerprint = storage.fingerprint("assign", VERSION, fitted, embedded)
    if context.run.is_done(folder, fingerprint):
        return False
    context.run.unmark(folder)
    tasks = [_task(context, part, str(fitted)) for part in context.parts]
    todo = [task for task in tasks if not reuse_or_remove(task.out, task.fingerprint)]
    context.map("cluster", "parts", _assign, todo)
    assigned = {task.out for task in todo}
    anew = [part for part, task in zip(context.parts, tasks, strict=True) if task.out in assigned]
    context.worked["cluster"] = {"parts": len(anew), "rows": sum(part.rows for part in anew)}
    context.run.keep_only(context.run.assignments, [part.name for part in context.parts])
    facts = _count(context, str(fitted), fingerprint)
    drifted = drift.warning(facts["drift"], settings)
    facts["drift"]["warning"] = drifted
    facts["warnings"] = [] if drifted is None else [drifted]
    fit = pq.read_metadata(storage.ensure_local(centroids)).metadata[b"curate.fit"].decode()
    context.run.mark(folder, fingerprint, facts | {"fit": fit})
    log.info(
        "cluster: %s samples in %s concepts (largest %s)",
        f"{facts['samples']:,}", f"{facts['concepts']:,}", f"{facts['largest']:,}",
    )  # fmt: skip
    if drifted is not None:
        log.warning("cluster: %s", drifted)
    return True


def model_of(context: Context) -> object:
    """Return what the centroids depend on besides their own settings: the embedding space."""
    return context.facts(context.run.embeddings).get("space")


def _task(context: Context, part: Part, fitted: str) -> AssignTask:
    run = context.run
    embeddings = run.part(run.embeddings, part.name)
    fingerprint = storage.fingerprint("assign", VERSION, fitted, storage.stored_fingerprint(embeddings))
    out = run.part(run.assignments, part.name)
    return AssignTask(
        embeddings, run.concepts / "centroids.parquet", context.recipe.cluster.on, out, fingerprint
    )


def _assign(task: AssignTask) -> None:
    part = EmbeddingPart(task.embeddings)
    centroids = load_centroids(task.centroids)
    concept = np.empty(len(part), np.int32)
    distance = np.empty(len(part), np.float32)
    for start, block in part.blocks(task.on):
        here = slice(start, start + len(block))
        concept[here], distance[here] = kmeans.assign(block, centroids)
    table = pa.table([part.uids(), concept, distance], schema=schema.ASSIGNMENTS)
    storage.write_parquet(task.out, table, schema.ASSIGNMENTS, task.fingerprint)


def _fit(context: Context, out: Path, fingerprint: str, embedded: str) -> None:
    """Fit k-means on a sample chosen by the hash of the uid, in uid order."""
    run, settings = context.run, context.recipe.cluster
    files = [run.part(run.embeddings, part.name) for part in context.parts]
    total = sum(len(EmbeddingPart(file)) for file in files)
    if not any(part.rows for part in context.parts):
        none = np.empty((0, 1), np.float32)
        _write_centroids(
            out, kmeans.Concepts(none, np.empty(0, np.int64), none[:, 0], 0.0, 0, 0), fingerprint
        )
        return
    if total == 0:
        raise EmbeddingError("no usable sample: every image or vector failed, see 0_samples for the reasons")
    dim = EmbeddingPart(files[0]).dim
    wanted = kmeans.auto_concepts(total) if settings.concepts == "auto" else int(settings.concepts)
    size = min(total, wanted * kmeans.SAMPLE_PER_CONCEPT)
    _require_fits(context.recipe, size, dim)
    context.engine.close()  # idle workers would hold memory the sample needs
    context.progress("cluster", 0, 1, "fits")
    uids, vectors = _sample(files, settings.on, size, total, settings.seed)
    fit = kmeans.fit(vectors, wanted, seed=settings.seed)
    if len(fit.centroids) < wanted:
        log.warning(
            "cluster: %s concepts instead of %s: there are only so many different samples",
            len(fit.centroids), wanted,
        )  # fmt: skip
    fitted_on = storage.fingerprint(embedded, len(uids), uids[0], uids[-1])
    _write_centroids(out, fit, f"{fingerprint}{fitted_on}")
    context.progress("cluster", 1, 1, "fits")


def _require_fits(recipe: Recipe, size: int, dim: int) -> None:
    """Refuse a training sample that cannot fit into `memory`, saying what fits."""
    row = 4 * dim * 1.25 + 100
    room = recipe.memory - PROCESS_BASE - 100_000_000
    if size * row > room:
        fits = int(room / row / kmeans.SAMPLE_PER_CONCEPT)
        raise RecipeError(
            f"cluster.concepts: k-means on {size:,} samples of {dim} numbers takes {size * row / 1e9:.1f}GB, "
            f"memory allows {room / 1e9:.1f}GB; set cluster.concepts to at most {fits:,} or raise memory"
        )


def _sample(
    files: list[Path], on: str, size: int, total: int, seed: int
) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Return the `size` samples with the smallest hashes and their vectors, in uid order."""
    threshold = np.uint64(min(2**64 - 1, int((size + 6 * size**0.5 + 10) / total * 2.0**64)))
    chosen: list[tuple[str, int, int, int]] = []
    for index, file in enumerate(files):
        uids = EmbeddingPart(file).uids()
        hashes = hash_uids(uids, seed, "cluster", "sample")
        for position in np.flatnonzero(hashes <= threshold).tolist():
            chosen.append((uids[position], int(hashes[position]), index, position))
    chosen = sorted(chosen, key=lambda row: (row[1], row[0]))[:size]
    chosen.sort()
    vectors = np.empty((len(chosen), EmbeddingPart(files[0]).dim), np.float32)
    where = np.array([row[2] for row in chosen], np.int64)
    positions = np.array([row[3] for row in chosen], np.int64)
    for index, file in enumerate(files):
        rows = np.flatnonzero(where == index)
        part = EmbeddingPart(file)
        for start in range(0, len(rows), 8192):
            some = rows[start : start + 8192]
            vectors[some] = load_unit(part.take(on, positions[some]))
    return [row[0] for row in chosen], vectors


def _write_centroids(out: Path, fit: kmeans.Concepts, fingerprint: str) -> None:
    ids = pa.array(np.arange(len(fit.centroids), dtype=np.int32))
    nothing = pa.array(np.zeros(len(ids), np.int64))
    concepts = pa.table([ids, fit.sizes, nothing, fit.p99], schema=schema.CONCEPTS)
    storage.write_parquet(out.with_name("concepts.parquet"), concepts, schema.CONCEPTS, fingerprint)
    kind = pa.schema(schema.CENTROIDS, metadata={"curate.fit": _facts(fit)})
    lists = pa.array(list(fit.centroids), pa.list_(pa.float32()))
    storage.write_parquet(out, pa.table([ids, lists], schema=kind), kind, fingerprint)


def _facts(fit: kmeans.Concepts) -> str:
    import json

    import faiss

    facts = {"requested": fit.requested, "trained_on": fit.trained_on, "objective": fit.objective}
    return json.dumps(facts | {"faiss": faiss.__version__})


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
