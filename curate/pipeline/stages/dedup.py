"""Stage `dedup`: near-duplicates within each concept, among the samples that passed every filter.

Vectors are regrouped by bucket of concepts, compared there, and what was found travels back to the
order of the parts. Concepts above `dedup.max_concept` rows are split by k-means first. Pinned rows come first
and are never duplicates themselves; rows that were shipped before come next, if `select.shipped` says so.
Concepts whose rows are those of the last time are not compared again (`unchanged`).
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from curate import schema
from curate.analysis.near_duplicates import sampled
from curate.clustering import kmeans
from curate.deduplication import semantic
from curate.deduplication.calibration import Calibration
from curate.deduplication.captions import caption_codes
from curate.deduplication.findings import of_sample, warnings_of
from curate.deduplication.pictures import SIDE
from curate.embedding.store import EmbeddingPart
from curate.errors import RunError
from curate.execution.context import Context, eligible, log, reuse_or_remove
from curate.execution.exchange import Exchange, Grouped, plan_buckets
from curate.execution.stage import Stage
from curate.hashing import hash_uids
from curate.io import storage
from curate.io.remote.cache import store_of
from curate.linalg import load_unit
from curate.ordering.keys import score_of, with_priority
from curate.pipeline.stages import dedup_reuse
from curate.pipeline.stages.dedup_epsilon import calibration_of, precise_cut_of
from curate.pipeline.stages.dedup_pictures import PICTURE, Confirming, make_pictures, pictures_in
from curate.products import bf16
from curate.recipe import Dedup, DropShare, PrecisionTarget
from curate.runs.folder import RunFolder
from curate.scores.registry import folders_for
from curate.selection.rows.previous import Shipped, for_stage

__all__ = ["Deduplicate"]

#: Greedy dedup at a given epsilon drops fewer than the share its epsilon was found for; it is searched
#: until the share is met within this tolerance, or this many rounds were made.
SHARE_TOLERANCE = 0.005
SHARE_ROUNDS = 6
#: Rows of a bucket, at least, where there are more buckets than memory asks for, so that every worker has some.
_BUCKET_ROWS = 10_000


INVOLVED = pa.schema([("part", pa.int32()), ("position", pa.int32())])
ROWS = pa.schema(
    [
        ("part", pa.int32()),
        ("position", pa.int32()),
        ("concept", pa.int32()),
        ("subconcept", pa.int32()),
        ("key", pa.uint64()),
        ("tie", pa.uint64()),
        ("pinned", pa.bool_()),
        ("uid", pa.string()),
    ]
)
#: Behind them where only rows of one caption are compared.
CAPTIONED = ROWS.append(pa.field("caption_code", pa.uint64()))
FOUND = pa.schema(
    [("part", pa.int32()), ("position", pa.int32()), ("pinned", pa.bool_()), *list(schema.DUPLICATES)]
)


@dataclass(frozen=True)
class Groups:
    """Which (concept, subconcept) goes to which bucket; subconcepts only where a concept is split.

    changed : (k,) concepts that are compared; what was found in the others stays.
    """

    sizes: npt.NDArray[np.int64]
    changed: npt.NDArray[np.bool_]
    bucket: npt.NDArray[np.int32]
    splits: dict[int, npt.NDArray[np.float32]]
    first_split_bucket: dict[int, int]
    n_buckets: int


@dataclass(frozen=True)
class Rows:
    """The rows of one part that are compared, and by what they go to buckets.

    pictures : the small pictures of some of them, where pairs have to be confirmed.
    """

    run: RunFolder
    part: str
    index: int
    families: tuple[str, ...]
    on: str
    prefer: str
    seed: int
    shipped: Shipped | None
    by_caption: bool
    groups: Groups
    pictures: Path | None = None


@dataclass(frozen=True)
class Comparison:
    """How the rows of a bucket are compared. confirm : by small pictures, which the rows bring with them.

    multiplications : of numbers, that a process can expect.
    """

    settings: Dedup
    epsilon: float
    mode: Literal["greedy", "reference"]
    seed: int
    confirm: bool = False
    multiplications: float = 0.0


@dataclass(frozen=True)
class BackTask:
    """One part that takes what was found about its rows; of concepts that are not `changed`, from before."""

    run: RunFolder
    part: str
    index: int
    files: tuple[Path, ...]
    changed: npt.NDArray[np.bool_]
    out: Path
    fingerprint: str


class Deduplicate(Stage):
    """Compares samples (if the recipe says so) and writes one row per sample compared."""

    name = "dedup"

    def inputs(self) -> list[object]:
        """Return the settings that decide, and what passed the filters."""
        settings = self.recipe.dedup.canonical()
        filtered = self.run_folder.fingerprint(self.run_folder.scores("filter"))
        return [settings, self.recipe.seed, filtered]

    @cached_property
    def fingerprint(self) -> str:
        """What the result is made from; rows shipped before come first, so they are in it."""
        fingerprint, self._before = storage.fingerprint(self.name, self.version, *self.inputs()), None
        if self.recipe.dedup.epsilon is not None:
            fingerprint, self._before = for_stage(self.context, self.run_folder.duplicates, fingerprint)
        return fingerprint

    @property
    def scratch(self) -> Path:
        """Where rows are regrouped."""
        return self.run_folder.work / "dedup"

    def unmark(self) -> None:
        """Take the mark away; what it says is compared with the files before."""
        self.run_folder.remove_damaged(self.run_folder.duplicates)
        super().unmark()

    def finish(self, results: Sequence[object]) -> dict[str, object]:
        """Write what was found about every sample that is compared; return how many there are."""
        if self.recipe.dedup.epsilon is None:
            dedup_reuse.forget(self.context)
            _bring_all_back(self.context, (), np.ones(0, np.bool_), self.fingerprint)
            return {}
        stats = _compare_all(self.context, self._before, self.fingerprint, self.scratch)
        return {**stats, **({} if self._before is None else {"shipped_before": self._before.before})}

    def log(self, stats: Mapping[str, Any]) -> None:
        """Say how many near-duplicates there are."""
        if stats:
            log.info(
                "dedup: %s compared, %s near-duplicates (%.1f %%) at epsilon %.6g%s",
                f"{stats['compared']:,}", f"{stats['dropped']:,}", 100 * stats["share"], stats["epsilon"],
                ", confirmed by small pictures" if stats.get("confirm") else "",
            )  # fmt: skip
        for said in warnings_of(stats):
            log.warning("dedup: %s", said)
        if (
            stats or store_of(self.run_folder.path) is not None
        ):  # vectors at a URL are not fetched for a sample
            return
        if (found := sampled.look(self.context)) is not None:
            storage.write_json(self.run_folder.near_sample, found)
            log.info("dedup: %s", of_sample(found))


def _bring_all_back(
    context: Context, files: tuple[Path, ...], changed: npt.NDArray[np.bool_], fingerprint: str
) -> None:
    run = context.run
    tasks = [
        BackTask(run, part.name, part.index, files, changed, out, fingerprint)
        for part in context.parts
        if not reuse_or_remove(out := run.part(run.duplicates, part.name), fingerprint)
    ]
    context.map("dedup", "parts", _bring_back, tasks)


def _compare_all(
    context: Context, before: Shipped | None, fingerprint: str, scratch: Path
) -> dict[str, object]:
    """Compare the concepts that changed, at the epsilon asked for (or found); write all results, return the facts."""
    recipe, settings = context.recipe, context.recipe.dedup
    families = folders_for(recipe, score_of(settings.prefer))
    found = calibration_of(context) if settings.epsilon == "auto" else None
    if found is not None:
        log.info(
            "dedup: epsilon auto is %.6g: %.0f %% of the copies made of %s images are within it, %.1f %% of the images have "
            "another sample as near", found.epsilon, 100 * found.recall, f"{found.images:,}", 100 * found.near,
        )  # fmt: skip
    how, wanted = _how(context, found), settings.epsilon
    cut = precise_cut_of(context, wanted.precision) if isinstance(wanted, PrecisionTarget) else None
    if cut is not None:
        how = replace(how, epsilon=cut.epsilon)
    settled = found is not None or cut is not None or how.confirm
    k = storage.read_table(context.run.concepts / "concepts.parquet", ["concept"]).num_rows
    rules = storage.fingerprint(
        "dedup", Deduplicate.version, settings.canonical(), recipe.seed, recipe.cluster.compared, recipe.cluster.seed,
        *([how.epsilon, how.confirm] if settled else []),
    )  # fmt: skip
    if settled:
        fingerprint = storage.fingerprint(fingerprint, how.epsilon, how.confirm)
    members = dedup_reuse.members(context, families, before, k)
    same = dedup_reuse.unchanged(context, members, rules)
    if isinstance(settings.epsilon, DropShare):  # found anew from all similarities
        same[:] = False
    groups = _plan(context, members.rows, ~same, how)
    how = replace(how, multiplications=_multiplications(context, groups.sizes))
    pictures: dict[str, int] = {}
    epsilon, files = _compare_changed(context, groups, families, before, fingerprint, scratch, how, pictures)
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
        **({} if found is None else {"calibration": asdict(found) | {"tells_copies": found.tells_copies}}),
        **({} if cut is None else {"precision": asdict(cut)}),
        **({"confirm": "thumbnail", **pictures} if how.confirm else {}),
    }


def _multiplications(context: Context, sizes: npt.NDArray[np.int64]) -> float:
    """Return how many numbers a process can expect to multiply in large concepts, where those of these sizes are compared."""
    run, settings = context.run, context.recipe.dedup
    dim = EmbeddingPart(run.part(run.embeddings, context.parts[0].name)).width(
        context.recipe.cluster.compared
    )
    large = sizes[sizes >= semantic.FROM_ROWS].astype(np.float64)
    rows = np.minimum(large, settings.max_concept) * large
    return float(rows.sum()) / 2 * dim / context.engine.machine_workers


def _how(context: Context, found: Calibration | None) -> Comparison:
    """Return how pairs are found; epsilon is still to be found where a share is to be dropped."""
    settings = context.recipe.dedup
    epsilon = float(settings.epsilon) if isinstance(settings.epsilon, float) else 0.5
    confirm = settings.confirm == "thumbnail"
    if found is not None:
        confirm |= settings.confirm == "auto" and not found.tells_copies
        epsilon = found.proposing if confirm else found.epsilon
    return Comparison(settings, epsilon, settings.mode, context.recipe.seed, confirm)


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
    how: Comparison,
    pictures: dict[str, int],
) -> tuple[float, tuple[Path, ...]]:
    """Regroup the rows of the changed concepts and compare them; return the epsilon and the files of results.

    pictures : is told how many images could not be read for a small picture, if any.
    """
    settings = context.recipe.dedup
    # What is scratch depends on the plan, and the plan on `memory`, which may differ when a run goes on.
    plan = [groups.bucket.tolist(), groups.changed.tolist(), sorted(groups.first_split_bucket.items())]
    fingerprint = storage.fingerprint(fingerprint, *plan)
    items = {
        part.name: Rows(
            context.run, part.name, part.index, folders, context.recipe.cluster.compared,
            settings.prefer, context.recipe.seed, before, not settings.across_captions, groups,
        )
        for part in context.parts
    }  # fmt: skip
    exchange = Exchange(context, "dedup", scratch, fingerprint, groups.n_buckets)
    rows = exchange.spread(_rows_of_part, items)
    if isinstance(settings.epsilon, DropShare):
        files, epsilon = _meet_share(exchange, rows, how, settings.epsilon.drop)
        return epsilon, files
    if how.confirm:
        involved = exchange.bucket(partial(_involved_in_bucket, how), rows, "involved")
        made, unreadable = make_pictures(context, involved, scratch, exchange.fingerprint)
        pictures |= {"unreadable": unreadable} if unreadable else {}
        seen = dict(zip(items, made, strict=True))
        items = {name: replace(item, pictures=seen[name]) for name, item in items.items()}
        rows = exchange.spread(_rows_of_part, items, "pictured")
    files, _, _ = _compare(exchange, rows, how)
    return how.epsilon, files


def _compare(
    exchange: Exchange, rows: tuple[Path, ...], how: Comparison
) -> tuple[tuple[Path, ...], int, int]:
    """Compare all buckets at one epsilon; return the files, the rows dropped and the rows compared."""
    fingerprint = storage.fingerprint(
        exchange.fingerprint, how.epsilon, how.mode, *(["confirm"] if how.confirm else [])
    )
    files = exchange.bucket(partial(_compare_bucket, how), rows, f"found-{fingerprint[:8]}", fingerprint)
    dropped = compared = 0
    for file in files:
        reader = storage.map_ipc(file)
        for index in range(reader.num_record_batches):
            batch = reader.get_batch(index)
            compared += batch.num_rows
            dropped += batch.num_rows - batch.column("duplicate_of").null_count
    return files, dropped, compared


def _meet_share(
    exchange: Exchange, rows: tuple[Path, ...], how: Comparison, share: float
) -> tuple[tuple[Path, ...], float]:
    """Find the epsilon that drops about `share` of the compared rows.

    In reference mode the share dropped follows from the similarities alone. Greedy dedup drops fewer at
    the same epsilon, so epsilon is widened step by step towards the share.
    """
    files, _, _ = _compare(exchange, rows, replace(how, mode="reference"))
    similarities = np.concatenate([_similarities(file) for file in files])
    wanted = share
    for _ in range(SHARE_ROUNDS):
        epsilon, _ = semantic.threshold_for_share(similarities, wanted)
        files, dropped, compared = _compare(exchange, rows, replace(how, epsilon=epsilon))
        gap = share - dropped / max(compared, 1)
        if how.mode == "reference" or abs(gap) <= SHARE_TOLERANCE:
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


def _plan(
    context: Context, rows: npt.NDArray[np.int64], changed: npt.NDArray[np.bool_], how: Comparison
) -> Groups:
    """Split the large ones of the concepts that will be compared, and fill buckets; rows : (k,) of each concept."""
    run, settings = context.run, context.recipe.dedup
    sizes = rows * changed
    dim = EmbeddingPart(run.part(run.embeddings, context.parts[0].name)).dim
    picture = 2 * SIDE * SIDE if how.confirm else 0
    fits = context.task_memory // 3 // (6 * dim + 200 + picture)
    room = bucket_rows(int(sizes.sum()), fits, context.engine.workers)
    large = np.flatnonzero(sizes > settings.max_concept).tolist()
    splits = {concept: _fit_split(context, concept, int(sizes[concept])) for concept in large}
    small = sizes.copy()
    small[large] = 0
    bucket = plan_buckets(small, room)
    count = int(bucket.max(initial=0)) + 1
    first = {}
    for concept, centroids in splits.items():
        first[concept] = count
        count += len(centroids)
    return Groups(sizes, changed, bucket, splits, first, count)


def bucket_rows(rows: int, fits: int, workers: int) -> int:
    """Return how many of `rows` a bucket may have: what fits, and some buckets for each of several workers.

    >>> bucket_rows(100_000, 500_000, workers=1), bucket_rows(100_000, 500_000, workers=2)
    (100000, 12500)
    >>> bucket_rows(100_000, 500_000, workers=64), bucket_rows(100_000, 7_000, workers=2)
    (10000, 7000)
    """
    shared = max(_BUCKET_ROWS, rows // (4 * workers)) if workers > 1 else rows
    return max(1, min(fits, shared))


def _fit_split(context: Context, concept: int, size: int) -> npt.NDArray[np.float32]:
    """Fit the sub-concepts of one large concept, on a sample of its rows chosen by hash."""
    run, settings, seed = context.run, context.recipe.dedup, context.recipe.cluster.seed
    wanted = -(-3 * size // (2 * settings.max_concept))
    chosen: list[tuple[int, str, npt.NDArray[np.float16]]] = []
    for part in context.parts:
        frame = eligible(run, part.name, ()).with_row_index("position")
        frame = frame.filter(pl.col("concept") == concept)
        vectors = EmbeddingPart(run.part(run.embeddings, part.name))
        half = vectors.take(context.recipe.cluster.compared, frame["position"].cast(pl.Int64).to_numpy())
        uids = frame["uid"].to_list()
        hashes = hash_uids(uids, seed, "dedup", "split").tolist()
        chosen += list(zip(hashes, uids, half, strict=True))
        chosen = sorted(chosen, key=lambda row: row[:2])[: wanted * kmeans.SAMPLE_PER_CONCEPT]
    chosen.sort(key=lambda row: row[1])
    sample = load_unit(np.stack([row[2] for row in chosen]))
    return kmeans.fit(sample, wanted, seed=seed).centroids


# --- in any process: what is done with one part or one bucket --------------------------------------------------------


def _rows_of_part(task: Rows, n_buckets: int) -> Grouped:
    """Return the rows of a part that are compared, with their vectors, and their buckets."""
    frame = eligible(task.run, task.part, (*task.families, "filter")).with_row_index("position")
    changed = pl.Series(task.groups.changed[frame["concept"].to_numpy()], dtype=pl.Boolean)
    frame = frame.filter(pl.col("filter_reason").is_null() & changed)
    frame = with_priority(frame, task.prefer, task.seed, "dedup", task.shipped)
    vectors = EmbeddingPart(task.run.part(task.run.embeddings, task.part))
    concept, position = frame["concept"].to_numpy(), frame["position"].cast(pl.Int64).to_numpy()
    bucket, sub = task.groups.bucket[concept], np.zeros(len(frame), np.int32)
    for large, centroids in task.groups.splits.items():
        here = np.flatnonzero(concept == large)
        sub[here], _ = kmeans.assign(load_unit(vectors.take(task.on, position[here])), centroids)
        bucket[here] = task.groups.first_split_bucket[large] + sub[here]
    columns = frame.with_columns(
        pl.lit(task.index, pl.Int32).alias("part"),
        pl.Series("subconcept", sub),
        pl.col("position").cast(pl.Int32),
        *([caption_codes(frame)] if task.by_caption else []),
    )
    known = CAPTIONED if task.by_caption else ROWS
    table = columns.select(known.names).to_arrow().cast(known)
    if task.pictures is not None:
        pictures = frame.select("position").cast(pl.Int32).join(
            pictures_in(task.pictures), on="position", how="left", maintain_order="left"
        )  # fmt: skip
        table = table.append_column(PICTURE, pictures["picture"].to_arrow().cast(PICTURE.type))
        known = known.append(PICTURE)
    kind = known.append(pa.field("vector", pa.list_(pa.float16(), vectors.dim)))

    def take(rows: npt.NDArray[np.int64]) -> pa.Table:
        half = vectors.take(task.on, position[rows])
        lists = pa.FixedSizeListArray.from_arrays(pa.array(half.reshape(-1)), vectors.dim)
        return table.take(rows).append_column("vector", lists)

    return Grouped(bucket, take, kind)


def _compare_bucket(how: Comparison, table: pa.Table) -> pa.Table:
    """Compare the rows of one bucket, concept by concept; what was found is ordered by part."""
    # Correlations are many small products, which threads only hinder.
    from threadpoolctl import threadpool_limits

    bf16.expect(how.multiplications)
    with threadpool_limits(1, user_api="blas") if how.confirm else contextlib.nullcontext():
        found = [_compare_rows(group, vectors, how) for group, vectors in _groups_in(how, table)]
    empty = pl.DataFrame(FOUND.empty_table())
    return pl.concat([empty, *found]).sort("part", "position").to_arrow().cast(FOUND)


def _involved_in_bucket(how: Comparison, table: pa.Table) -> pa.Table:
    """Return the rows of one bucket that may be a pair with another row, by their vectors."""
    bf16.expect(how.multiplications)
    found = [pl.DataFrame(INVOLVED.empty_table())]
    for group, vectors in _groups_in(how, table):
        unit = load_unit(vectors[group["at"].to_numpy()])
        near = semantic.near_any(unit, threshold=semantic.threshold_of(how.epsilon))
        found.append(group.select(INVOLVED.names).filter(pl.Series(near)))
    return pl.concat(found).sort("part", "position").to_arrow().cast(INVOLVED)


def _groups_in(how: Comparison, table: pa.Table) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.float16]]]:
    """Yield the rows of a bucket that are compared with each other, and the vectors of the bucket."""
    rows = pl.DataFrame(table.drop_columns(["vector"])).with_row_index("at")
    dim = table.schema.field("vector").type.list_size
    vectors = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
    for _, concept in rows.group_by("concept", "subconcept", maintain_order=True):
        for piece in _split(concept, vectors, how):
            if how.settings.across_captions:
                yield piece, vectors
                continue
            for _, alike in piece.group_by("caption_code", maintain_order=True):
                yield alike, vectors


def _split(group: pl.DataFrame, vectors: npt.NDArray[np.float16], how: Comparison) -> Iterator[pl.DataFrame]:
    """Yield the rows of one concept or sub-concept; split further where it is still too large."""
    if len(group) > how.settings.max_concept:
        group = group.sort("uid")
        unit = load_unit(vectors[group["at"].to_numpy()])
        ids = semantic.split_large(unit, how.settings.max_concept, seed=how.seed)
        inner = group.with_columns(pl.Series("subconcept", group["subconcept"].to_numpy() * 1_000 + ids))
        pieces = inner.group_by("subconcept", maintain_order=True)
        for _, piece in pieces:
            yield from _split(piece, vectors, how)
        return
    yield group


def _compare_rows(group: pl.DataFrame, vectors: npt.NDArray[np.float16], how: Comparison) -> pl.DataFrame:
    """Compare rows with each other."""
    group = group.sort(~pl.col("pinned"), "key", "tie", "uid")
    result = semantic.find_duplicates(
        load_unit(vectors[group["at"].to_numpy()]),
        threshold=semantic.threshold_of(how.epsilon),
        mode=how.mode,
        inclusive=how.settings.inclusive,
        fixed=group["pinned"].to_numpy(),
        confirm=Confirming(group["picture"]) if how.confirm else None,
    )
    found = pl.Series("found", result.duplicate_of)
    index = pl.select(pl.when(found >= 0).then(found)).to_series()
    return group.select(
        "part", "position", "pinned", "uid", "concept", "subconcept",
        pl.Series("max_similarity_earlier", result.max_similarity_earlier).fill_nan(None),
        group["uid"].gather(index).alias("duplicate_of"),
        pl.Series("similarity", result.similarity).fill_nan(None),
    )  # fmt: skip


def _bring_back(task: BackTask) -> None:
    """Write what was found about the rows of one part, in their order."""
    table = schema.DUPLICATES.empty_table()
    if task.files:
        rows = Exchange.back(task.files, task.index).sort("position")
        found = rows.select(schema.DUPLICATES.names)
        if not task.changed.all():
            found = _with_known(task, found)
        table = found.to_arrow().cast(schema.DUPLICATES)
    storage.write_parquet(task.out, table, schema.DUPLICATES, task.fingerprint)


def _with_known(task: BackTask, found: pl.DataFrame) -> pl.DataFrame:
    """Return what was found about a part's rows with what is known of the others, in the order of the part."""
    frame = eligible(task.run, task.part, ("filter",)).filter(pl.col("filter_reason").is_null())
    known = frame.select("uid", "concept").filter(~pl.Series(task.changed[frame["concept"].to_numpy()]))
    if len(known):
        before = pl.DataFrame(storage.read_table(task.out))
        if not known["uid"].is_in(before["uid"].implode()).all():
            raise RunError(f"{task.out}: a row is missing that was compared before; remove it and run again")
        known = known.select("uid").join(before, on="uid", how="left", maintain_order="left", validate="1:1")
        found = pl.concat([found, known.select(found.columns)])
    every = frame.select("uid").join(found, on="uid", how="left", maintain_order="left", validate="1:1")
    return every.select(schema.DUPLICATES.names)
