"""Stage `dedup`: near-duplicates within each concept, among the samples that passed every filter.

Vectors are regrouped by bucket of concepts, compared there, and what was found travels back to the
order of the parts. Concepts above `dedup.max_concept` rows are split by k-means first. Pinned rows come first
and are never duplicates themselves; rows that were shipped before come next, if `select.shipped` says so.
Concepts whose rows are those of the last time are not compared again (`unchanged`).
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.clustering import kmeans
from curate.deduplication import semantic
from curate.embedding.store import EmbeddingPart
from curate.execution import exchange
from curate.execution.context import Context, eligible, log, reuse_or_remove
from curate.hashing import hash_uids
from curate.io import storage
from curate.linalg import load_unit
from curate.ordering.keys import score_of
from curate.pipeline.stages import dedup_reuse
from curate.pipeline.stages.dedup_tasks import (
    BackTask,
    CompareTask,
    Groups,
    SpreadTask,
    bring_back,
    compare_bucket,
    spread,
)
from curate.recipe import DropShare
from curate.scores.registry import folders_for
from curate.selection.rows.previous import Shipped, for_stage

__all__ = ["VERSION", "run"]

VERSION = 1
#: Greedy dedup at a given epsilon drops fewer than the share its epsilon was found for; it is searched
#: until the share is met within this tolerance, or this many rounds were made.
SHARE_TOLERANCE = 0.005
SHARE_ROUNDS = 6


def run(context: Context) -> bool:
    """Compare (if the recipe says so) and write one row per compared row; return whether that was to do."""
    settings, folder = context.recipe.dedup, context.run.duplicates
    filtered = context.run.fingerprint(context.run.scores("filter"))
    fingerprint = storage.fingerprint(
        "dedup", VERSION, settings.model_dump(exclude={"exact", "against"}), context.recipe.seed, filtered
    )
    before = None
    if settings.epsilon is not None:
        fingerprint, before = for_stage(context, folder, fingerprint)
    if context.run.is_done(folder, fingerprint):
        return False
    context.run.remove_damaged(folder)  # before what it says is believed
    context.run.unmark(folder)
    scratch = context.run.work / "dedup"
    if settings.epsilon is None:
        dedup_reuse.forget(context)
        _bring_all_back(context, (), np.ones(0, np.bool_), fingerprint)
        context.run.mark(folder, fingerprint, {})
    else:
        facts = _compare_all(context, before, fingerprint, scratch)
        noted = {} if before is None else {"shipped_before": before.before}
        context.run.mark(folder, fingerprint, {**facts, **noted})
        log.info(
            "dedup: %s compared, %s near-duplicates (%.1f %%) at epsilon %.6g",
            f"{facts['compared']:,}", f"{facts['dropped']:,}", 100 * facts["share"], facts["epsilon"],
        )  # fmt: skip
    storage.remove(scratch)
    return True


def _bring_all_back(
    context: Context, files: tuple[Path, ...], changed: npt.NDArray[np.bool_], fingerprint: str
) -> None:
    run = context.run
    tasks = [
        BackTask(run, part.name, part.index, files, changed, out, fingerprint)
        for part in context.parts
        if not reuse_or_remove(out := run.part(run.duplicates, part.name), fingerprint)
    ]
    context.map("dedup", "parts", bring_back, tasks)
    run.keep_only(run.duplicates, [part.name for part in context.parts])


def _compare_all(
    context: Context, before: Shipped | None, fingerprint: str, scratch: Path
) -> dict[str, float]:
    """Compare the concepts that changed, at the epsilon asked for (or found); write all results, return the facts."""
    recipe, settings = context.recipe, context.recipe.dedup
    families = folders_for(recipe, score_of(settings.prefer))
    k = storage.read_table(context.run.concepts / "concepts.parquet", ["concept"]).num_rows
    rules = storage.fingerprint(
        "dedup", VERSION, settings.model_dump(exclude={"exact", "against"}), recipe.seed, recipe.cluster.on,
        recipe.cluster.seed,
    )  # fmt: skip
    members = dedup_reuse.members(context, families, before, k)
    same = dedup_reuse.unchanged(context, members, rules)
    if isinstance(settings.epsilon, DropShare):  # found anew from all similarities
        same[:] = False
    groups = _plan(context, members.rows, ~same)
    epsilon, files = _compare_changed(context, groups, families, before, fingerprint, scratch)
    # From here until all is written, only what stays as it is may be taken for known.
    dedup_reuse.remember(context, members, rules, same)
    _bring_all_back(context, files, ~same, fingerprint)
    dedup_reuse.remember(context, members, rules)
    anew = members.rows * ~same
    context.worked["dedup"] = {
        "concepts": int((anew > 0).sum()), "concepts_reused": int(same.sum()), "rows": int(anew.sum())
    }  # fmt: skip
    dropped, compared = _count(context), int(members.rows.sum())
    share = dropped / compared if compared else 0.0
    split = int((members.rows > settings.max_concept).sum())
    return {
        "compared": compared,
        "dropped": dropped,
        "share": share,
        "epsilon": epsilon,
        "split_concepts": split,
    }


def _count(context: Context) -> int:
    """Return how many near-duplicates the results hold."""
    run = context.run
    tables = (storage.read_table(run.part(run.duplicates, p.name), ["duplicate_of"]) for p in context.parts)
    return sum(table.num_rows - table["duplicate_of"].null_count for table in tables)


def _compare_changed(
    context: Context,
    groups: Groups,
    folders: tuple[str, ...],
    before: Shipped | None,
    fingerprint: str,
    scratch: Path,
) -> tuple[float, tuple[Path, ...]]:
    """Regroup the rows of the changed concepts and compare them; return the epsilon and the files of results."""
    settings = context.recipe.dedup
    # What is scratch depends on the plan, and the plan on `memory`, which may differ when a run goes on.
    plan = [groups.bucket.tolist(), groups.changed.tolist(), sorted(groups.first_split_bucket.items())]
    fingerprint = storage.fingerprint(fingerprint, *plan)
    rows = tuple(scratch / f"rows-{part.name}.arrow" for part in context.parts)
    tasks = [
        SpreadTask(
            context.run, part.name, part.index, folders, context.recipe.cluster.on,
            settings.prefer, context.recipe.seed, before, groups, out, fingerprint,
        )
        for part, out in zip(context.parts, rows, strict=True)
        if not reuse_or_remove(out, fingerprint)
    ]  # fmt: skip
    context.map("dedup", "parts", spread, tasks)
    template = CompareTask(
        0, rows, len(context.parts), settings, 0.5, settings.mode, context.recipe.seed, scratch, fingerprint
    )
    if isinstance(settings.epsilon, DropShare):
        files, epsilon = _meet_share(context, template, groups, settings.epsilon.drop)
    else:
        epsilon = float(settings.epsilon or 0)
        files, _, _ = _compare(context, replace(template, epsilon=epsilon), groups)
    return epsilon, files


def _compare(context: Context, template: CompareTask, groups: Groups) -> tuple[tuple[Path, ...], int, int]:
    """Compare all buckets at one epsilon; return the files, the rows dropped and the rows compared."""
    fingerprint = storage.fingerprint(template.fingerprint, template.epsilon, template.mode)
    tasks = [
        replace(
            template,
            bucket=bucket,
            fingerprint=fingerprint,
            out=template.out / f"found-{fingerprint[:8]}-{bucket}.arrow",
        )
        for bucket in range(groups.n_buckets)
    ]
    context.map(
        "dedup",
        "buckets",
        compare_bucket,
        [task for task in tasks if not reuse_or_remove(task.out, fingerprint)],
    )
    files = tuple(task.out for task in tasks)
    dropped = compared = 0
    for file in files:
        reader = storage.map_ipc(file)
        for index in range(reader.num_record_batches):
            batch = reader.get_batch(index)
            compared += batch.num_rows
            dropped += batch.num_rows - batch.column("duplicate_of").null_count
    return files, dropped, compared


def _meet_share(
    context: Context, template: CompareTask, groups: Groups, share: float
) -> tuple[tuple[Path, ...], float]:
    """Find the epsilon that drops about `share` of the compared rows.

    In reference mode the share dropped follows from the similarities alone. Greedy dedup drops fewer at
    the same epsilon, so epsilon is widened step by step towards the share.
    """
    files, _, _ = _compare(context, replace(template, mode="reference"), groups)
    similarities = np.concatenate([_similarities(file) for file in files])
    wanted = share
    for _ in range(SHARE_ROUNDS):
        epsilon, _ = semantic.threshold_for_share(similarities, wanted)
        files, dropped, compared = _compare(context, replace(template, epsilon=epsilon), groups)
        gap = share - dropped / max(compared, 1)
        if template.mode == "reference" or abs(gap) <= SHARE_TOLERANCE:
            break
        wanted = min(1 - 1e-9, max(1e-9, wanted + gap))
    return files, epsilon


def _similarities(file: Path) -> npt.NDArray[np.float32]:
    """Return how near each row is to an earlier one; NaN for the rows that no epsilon drops, pinned ones too."""
    reader, found = storage.map_ipc(file), [np.empty(0, np.float32)]
    for index in range(reader.num_record_batches):
        batch = reader.get_batch(index)
        similarity = batch.column("max_similarity_earlier").to_numpy(zero_copy_only=False)
        pinned = batch.column("pinned").to_numpy(zero_copy_only=False)
        found.append(np.where(pinned, np.float32(np.nan), similarity))
    return np.concatenate(found)


def _plan(context: Context, rows: npt.NDArray[np.int64], changed: npt.NDArray[np.bool_]) -> Groups:
    """Split the large ones of the concepts that will be compared, and fill buckets; rows : (k,) of each concept."""
    run, settings = context.run, context.recipe.dedup
    sizes = rows * changed
    dim = EmbeddingPart(run.part(run.embeddings, context.parts[0].name)).dim
    room = max(1, context.task_memory // 3 // (6 * dim + 200))
    large = np.flatnonzero(sizes > settings.max_concept).tolist()
    splits = {concept: _fit_split(context, concept, int(sizes[concept])) for concept in large}
    small = sizes.copy()
    small[large] = 0
    bucket = exchange.plan_buckets(small, room)
    count = int(bucket.max(initial=0)) + 1
    first = {}
    for concept, centroids in splits.items():
        first[concept] = count
        count += len(centroids)
    return Groups(sizes, changed, bucket, splits, first, count)


def _fit_split(context: Context, concept: int, size: int) -> npt.NDArray[np.float32]:
    """Fit the sub-concepts of one large concept, on a sample of its rows chosen by hash."""
    run, settings, seed = context.run, context.recipe.dedup, context.recipe.cluster.seed
    wanted = -(-3 * size // (2 * settings.max_concept))
    chosen: list[tuple[int, str, npt.NDArray[np.float16]]] = []
    for part in context.parts:
        frame = eligible(run, part.name, ()).with_row_index("position")
        frame = frame.filter(pl.col("concept") == concept)
        vectors = EmbeddingPart(run.part(run.embeddings, part.name))
        half = vectors.take(context.recipe.cluster.on, frame["position"].cast(pl.Int64).to_numpy())
        uids = frame["uid"].to_list()
        hashes = hash_uids(uids, seed, "dedup", "split").tolist()
        chosen += list(zip(hashes, uids, half, strict=True))
        chosen = sorted(chosen, key=lambda row: row[:2])[: wanted * kmeans.SAMPLE_PER_CONCEPT]
    chosen.sort(key=lambda row: row[1])
    sample = load_unit(np.stack([row[2] for row in chosen]))
    return kmeans.fit(sample, wanted, seed=seed).centroids
