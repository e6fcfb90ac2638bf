"""Regroup the rows that reach selection by bucket of concepts, rank them inside, and bring the ranks back.

What a method needs besides the rank (a score, a random draw, a class) travels along as an extra column.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from curate import storage
from curate.cluster.vectors import load_unit
from curate.embed.parts import EmbeddingPart
from curate.errors import BudgetError, RunError
from curate.identity import hash_uids
from curate.runs import RunFolder
from curate.select.diversity import select_diverse
from curate.select.ranking import rank_within
from curate.stages import shuffle
from curate.stages.base import Context, eligible, made
from curate.stages.order import Order, with_order

__all__ = ["Ranked", "candidates", "diversified", "rank_rows"]

ROW_BYTES = 280

ROWS = pa.schema(
    [
        ("part", pa.int32()),
        ("position", pa.int32()),
        ("concept", pa.int32()),
        ("distance", pa.float32()),
        ("key", pa.uint64()),
        ("tie", pa.uint64()),
        ("control", pa.uint64()),
        ("pinned", pa.bool_()),
        ("uid", pa.string()),
    ]
)
#: What a method may need besides: the score it goes by (null: there is none), a score that cuts the noisiest
#: off, a random draw, and the group that has a quota.
EXTRAS = {"score": pa.float64(), "cutoff": pa.float64(), "draw": pa.uint64(), "group": pa.int32()}
#: What need not travel back to the parts.
INSIDE = ("distance", "uid")


@dataclass(frozen=True)
class Ranked:
    """The ranked rows, one file per bucket with a record batch per part, and a row of facts per concept.

    stamp : what they were made from, and how concepts were put into buckets.
    """

    files: tuple[Path, ...]
    concepts: pl.DataFrame
    stamp: str

    def blocks(self, *columns: str) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """Yield columns of all rows, block by block; null scores are NaN."""
        for path in self.files:
            reader = storage.map_ipc(path)
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                yield {name: batch.column(name).to_numpy(zero_copy_only=False) for name in columns}

    def part(self, index: int) -> dict[str, npt.NDArray[Any]]:
        """Return all columns of the rows of one part."""
        table = shuffle.gather(self.files, index)
        return {name: table[name].to_numpy() for name in table.column_names}


@dataclass(frozen=True)
class SpreadTask:
    """One part whose eligible rows go to buckets."""

    run: RunFolder
    part: str
    index: int
    order: Order
    bucket: npt.NDArray[np.int32]
    out: Path
    stamp: str


@dataclass(frozen=True)
class RankTask:
    """One bucket to rank."""

    bucket: int
    files: tuple[Path, ...]
    n_parts: int
    out: Path
    stats: Path
    stamp: str


@dataclass(frozen=True)
class DiverseTask:
    """One ranked bucket whose concepts are put into an order that keeps rows far from each other."""

    ranked: Path
    rows: RankTask
    embeddings: tuple[Path, ...]
    on: str
    start: str
    budget: npt.NDArray[np.int64]
    out: Path
    stamp: str


def candidates(
    run: RunFolder, part: str, folders: tuple[str, ...]
) -> tuple[pl.DataFrame, npt.NDArray[np.int32]]:
    """Return the rows of a part that reach selection: usable, through every filter, and no duplicates.

    And their positions in the part's embeddings. Scores that are not finite are null.
    """
    frame = eligible(run, part, (*folders, "filter"))
    found = pl.DataFrame(storage.read_table(run.part(run.duplicates, part), ["uid", "duplicate_of"]))
    dropped = found.filter(pl.col("duplicate_of").is_not_null())
    stays = frame["filter_reason"].is_null() & ~frame["uid"].is_in(dropped["uid"].implode())
    return frame.filter(stays), np.flatnonzero(stays.to_numpy()).astype(np.int32)


def rank_rows(context: Context, order: Order, stamp: str, scratch: Path) -> Ranked:
    """Rank the eligible rows of every concept."""
    run = context.run
    assigned = storage.read_table(run.concepts / "concepts.parquet", ["n_assigned"])["n_assigned"].to_numpy()
    bucket = shuffle.plan_buckets(assigned, max(1, context.task_memory // 3 // _row_bytes(context, order)))
    n_buckets = int(bucket.max(initial=0)) + 1
    # What is scratch depends on the buckets, and they on `memory`, which may differ when a run goes on.
    stamp = storage.fingerprint(stamp, bucket.tolist())
    spread = tuple(scratch / f"rows-{part.name}.arrow" for part in context.parts)
    tasks = [
        SpreadTask(run, part.name, part.index, order, bucket, out, stamp)
        for part, out in zip(context.parts, spread, strict=True)
        if not made(out, stamp)
    ]
    context.map("select", "parts", _spread, tasks)
    ranks = [
        RankTask(b, spread, len(context.parts), scratch / f"ranks-{b}-of-{n_buckets}.arrow",
                 scratch / f"stats-{b}-of-{n_buckets}.parquet", stamp)
        for b in range(n_buckets)
    ]  # fmt: skip
    context.map("select", "buckets", _rank_bucket, [task for task in ranks if not _ranked(task)])
    stats = pl.concat([pl.DataFrame(storage.read_table(task.stats)) for task in ranks])
    every = pl.DataFrame({"concept": np.arange(len(assigned), dtype=np.int32)})
    concepts = every.join(stats, on="concept", how="left").sort("concept")
    return Ranked(
        tuple(task.out for task in ranks),
        concepts.with_columns(pl.col("n_eligible", "n_pinned", "d_intra").fill_null(0)),
        stamp,
    )


def _ranked(task: RankTask) -> bool:
    """Whether a bucket is there, with its facts: another run may have been ended between the two."""
    return made(task.out, task.stamp) and made(task.stats, task.stamp)


def _row_bytes(context: Context, order: Order) -> int:
    """Return what a row of a bucket takes in memory; diversity holds its vector too."""
    if not order.diverse or not context.parts:
        return ROW_BYTES
    first = context.run.part(context.run.embeddings, context.parts[0].name)
    return ROW_BYTES + 14 * EmbeddingPart(first).dim


def _kind(extras: tuple[str, ...]) -> pa.Schema:
    return pa.schema([*ROWS, *((name, EXTRAS[name]) for name in extras)])


def _spread(task: SpreadTask) -> None:
    found, position = candidates(task.run, task.part, task.order.folders)
    frame = with_order(found, task.order)
    control = hash_uids(frame["uid"].to_list(), task.order.seed, "select", "control")
    table = frame.with_columns(
        pl.lit(task.index, pl.Int32).alias("part"),
        pl.Series("position", position, pl.Int32),
        pl.Series("control", control, pl.UInt64),
    )
    kind = _kind(task.order.extras)
    rows = table.select(kind.names).to_arrow().cast(kind)
    groups = task.bucket[frame["concept"].to_numpy()]
    shuffle.scatter(task.out, groups, int(task.bucket.max(initial=0)) + 1, rows.take, kind, task.stamp)


def _rank_bucket(task: RankTask) -> None:
    rows = pl.DataFrame(shuffle.gather(task.files, task.bucket))
    rank = rank_within(
        rows["concept"].to_numpy(), rows["key"].to_numpy(), rows["tie"].to_numpy(), rows["uid"].to_numpy()
    )
    groups = rows.group_by("concept").agg(
        pl.len().alias("n_eligible"), pl.col("pinned").sum().alias("n_pinned"),
        pl.col("uid").min().alias("smallest_uid"), "distance",
    )  # fmt: skip
    exact = [math.fsum(values) / len(values) for values in groups["distance"].to_list()]
    stats = groups.drop("distance").with_columns(pl.Series("d_intra", exact, pl.Float64)).sort("concept")
    stats = stats.with_columns(pl.col("n_eligible", "n_pinned").cast(pl.Int64))
    table = stats.select("concept", "n_eligible", "n_pinned", "d_intra", "smallest_uid").to_arrow()
    storage.write_parquet(task.stats, table, table.schema, task.stamp)
    _scatter_back(rows, rank, task.n_parts, task.out, task.stamp)


def _scatter_back(
    rows: pl.DataFrame, rank: npt.NDArray[np.int32], n_parts: int, out: Path, stamp: str
) -> None:
    names = [name for name in rows.columns if name not in INSIDE]
    back = rows.select(names).with_columns(pl.Series("rank", rank)).sort("part", "position")
    extras = tuple(name for name in EXTRAS if name in names)
    kind = pa.schema([field for field in _kind(extras) if field.name not in INSIDE])
    kind = kind.append(pa.field("rank", pa.int32()))
    ranked = back.select(kind.names).to_arrow().cast(kind)
    shuffle.scatter(out, back["part"].to_numpy(), n_parts, ranked.take, kind, stamp)


# --- an order by distance to what is kept ---------------------------------------------------------------


def diversified(context: Context, ranked: Ranked, budget: npt.NDArray[np.int64], scratch: Path) -> Ranked:
    """Return the rows ranked anew: in each concept first the pinned ones, then `budget` rows far apart.

    budget : (k,) rows that each concept keeps besides the pinned ones.
    """
    select, run = context.recipe.select, context.run
    stamp = storage.fingerprint(ranked.stamp, "diverse", budget.tolist())
    embeddings = tuple(run.part(run.embeddings, part.name) for part in context.parts)
    spread = tuple(scratch / f"rows-{part.name}.arrow" for part in context.parts)
    tasks = []
    for bucket, path in enumerate(ranked.files):
        out = path.with_name(f"diverse-{path.name}")
        rows = RankTask(bucket, spread, len(context.parts), out, out, stamp)
        tasks.append(
            DiverseTask(path, rows, embeddings, context.recipe.cluster.on, select.start, budget, out, stamp)
        )
    _require_room(context, ranked.concepts)
    context.map("select", "buckets", _diverse_bucket, [task for task in tasks if not made(task.out, stamp)])
    return Ranked(tuple(task.out for task in tasks), ranked.concepts, stamp)


def _require_room(context: Context, concepts: pl.DataFrame) -> None:
    """Raise RunError where one concept does not fit: its rows are compared with each other in memory."""
    largest = concepts["n_eligible"].max()
    if not largest:
        return
    first = context.run.part(context.run.embeddings, context.parts[0].name)
    fits = context.task_memory // (14 * EmbeddingPart(first).dim + ROW_BYTES)
    if isinstance(largest, int) and largest > fits:
        raise RunError(
            f"select.method diversity compares the rows of a concept in memory; the largest has {largest:,} rows "
            f"and {fits:,} fit: raise cluster.concepts or memory, or use fewer workers"
        )


def _diverse_bucket(task: DiverseTask) -> None:
    from threadpoolctl import threadpool_limits  # ten times faster than on several threads

    rows = pl.DataFrame(shuffle.gather(task.rows.files, task.rows.bucket))
    before = rank_within(
        rows["concept"].to_numpy(), rows["key"].to_numpy(), rows["tie"].to_numpy(), rows["uid"].to_numpy()
    )
    rank = np.zeros(len(rows), np.int32)
    place = rows.with_row_index("at").group_by("concept", maintain_order=True).agg("at")
    with threadpool_limits(1):
        for concept, at in place.iter_rows():
            here = np.array(at, np.int64)
            rank[here] = _diverse_ranks(rows[here], before[here], int(task.budget[concept]), task)
    _scatter_back(rows, rank, task.rows.n_parts, task.out, task.stamp)


def _diverse_ranks(
    rows: pl.DataFrame, before: npt.NDArray[np.int32], budget: int, task: DiverseTask
) -> npt.NDArray[np.int32]:
    """Return ranks of one concept: pinned rows, then those taken in their order, then the others as before."""
    pinned = rows["pinned"].to_numpy()
    free = np.flatnonzero(~pinned)
    taken = np.zeros(len(rows), np.int64)
    if budget:
        vectors = _vectors(rows[free], task)
        tie, uid = rows["tie"].to_numpy()[free], rows["uid"].to_numpy()[free]
        taken[free] = select_diverse(
            vectors, tie, uid, budget, "medoid" if task.start == "medoid" else "isolated"
        )
        if int((taken > 0).sum()) != budget:
            raise BudgetError(f"select: {int((taken > 0).sum()):,} rows taken of a concept's {budget:,}")
    group = np.where(pinned, 0, np.where(taken > 0, 1, 2))
    ranks = np.empty(len(rows), np.int32)
    ranks[np.lexsort((before, taken, group))] = np.arange(1, len(rows) + 1)
    return ranks


def _vectors(rows: pl.DataFrame, task: DiverseTask) -> npt.NDArray[np.float32]:
    part, position = rows["part"].to_numpy(), rows["position"].to_numpy().astype(np.int64)
    first = EmbeddingPart(task.embeddings[0])
    result = np.empty((len(rows), first.dim), np.float32)
    for index in np.unique(part).tolist():
        here = np.flatnonzero(part == index)
        result[here] = load_unit(EmbeddingPart(task.embeddings[index]).take(task.on, position[here]))
    return result
