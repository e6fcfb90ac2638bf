"""Regroup the rows that reach selection by bucket of concepts, rank them inside, and bring the ranks back.

What a method needs besides the rank (a score, a random draw, a class) travels along as an extra column.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from curate.embedding.store import EmbeddingPart
from curate.execution import exchange
from curate.execution.context import Context, eligible, reuse_or_remove
from curate.filtering.column_tables import values_of_part
from curate.hashing import hash_uids, tie
from curate.io import storage
from curate.runs.folder import RunFolder
from curate.scores.registry import score_columns
from curate.selection.base import Arrays
from curate.selection.rows.first import NOTHING_FIRST, First
from curate.selection.rows.order import Order, with_order
from curate.selection.rows.overridden import VOUCHED, judged

__all__ = [
    "ROW_BYTES", "VECTOR_BYTES", "RankTask", "Ranked", "Spread", "candidates", "noise_that_people_dropped", "rank_rows",
    "scatter_back", "spread_rows",
]  # fmt: skip

ROW_BYTES = 280

#: Per dimension, where vectors are compared: those of the bucket, and two copies of a concept's in float32; the
#: stored ones in half precision.
VECTOR_BYTES = 14

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
#: off, a random draw, the group that has a quota, how likely a row is noise, whether somebody says that its label is right, and
#: the group that has a floor.
EXTRAS = {
    "score": pa.float64(), "cutoff": pa.float64(), "draw": pa.uint64(), "group": pa.int32(), "noise": pa.float64(),
    "vouched": pa.bool_(), "floor_group": pa.int32(), "floor": pa.bool_(), "cut": pa.bool_(),
}  # fmt: skip
#: Of these, what is known only when rows are ranked: what a floor keeps, and what went as noise.
FOUND = ("floor", "cut")
#: What need not travel back to the parts.
INSIDE = ("distance", "uid")
#: Texts of samples that no selection reads, and that cost most where rows are left out.
_UNREAD = ("key", "shard", "image_hash", "content_hash", "caption_hash", "caption")


@dataclass(frozen=True)
class Ranked:
    """The ranked rows, one file per bucket with a record batch per part, and a row of facts per concept.

    fingerprint : what they were made from, and how concepts were put into buckets. first : what was settled before.
    """

    files: tuple[Path, ...]
    concepts: pl.DataFrame
    fingerprint: str
    first: First = NOTHING_FIRST

    def blocks(self, *columns: str, cut: bool = False, bucket: int | None = None) -> Iterator[Arrays]:
        """Yield columns of all rows that compete, block by block; null scores are NaN.

        cut : also what went as noise. bucket : of this bucket alone.
        """
        whole = cut or self.first.noisiest is None
        files = self.files if bucket is None else self.files[bucket : bucket + 1]
        for block in _blocks(files, columns if whole else (*columns, "cut")):
            if whole:
                yield block
                continue
            there = ~block.pop("cut")
            yield {name: values[there] for name, values in block.items()}

    def part(self, index: int) -> dict[str, npt.NDArray[Any]]:
        """Return all columns of the rows of one part."""
        table = exchange.gather(self.files, index)
        return {name: table[name].to_numpy() for name in table.column_names}


def _blocks(files: Iterable[Path], columns: Sequence[str]) -> Iterator[Arrays]:
    for path in files:
        reader = storage.map_ipc(path)
        for index in range(reader.num_record_batches):
            batch = reader.get_batch(index)
            yield {name: batch.column(name).to_numpy(zero_copy_only=False) for name in columns}


@dataclass(frozen=True)
class Spread:
    """The eligible rows, one file per part with a record batch per bucket of concepts. sizes : (k,) of concepts."""

    files: tuple[Path, ...]
    bucket: npt.NDArray[np.int32]
    fingerprint: str

    def blocks(self, *columns: str) -> Iterator[Arrays]:
        """Yield columns of all rows, block by block; null scores are NaN."""
        return _blocks(self.files, columns)

    @property
    def counts(self) -> tuple[int, int]:
        """The number of rows, and of pinned ones."""
        n_rows = n_pinned = 0
        for block in self.blocks("pinned"):
            n_rows += len(block["pinned"])
            n_pinned += int(block["pinned"].sum())
        return n_rows, n_pinned


@dataclass(frozen=True)
class SpreadTask:
    """One part whose eligible rows go to buckets."""

    run: RunFolder
    part: str
    index: int
    order: Order
    bucket: npt.NDArray[np.int32]
    out: Path
    fingerprint: str


@dataclass(frozen=True)
class RankTask:
    """One bucket to rank."""

    bucket: int
    files: tuple[Path, ...]
    n_parts: int
    out: Path
    stats: Path
    fingerprint: str
    first: First = NOTHING_FIRST


def candidates(
    run: RunFolder,
    part: str,
    folders: tuple[str, ...],
    *,
    final: bool = True,
    columns: Mapping[str, Path] | None = None,
    overrides: Path | None = None,
) -> tuple[pl.DataFrame, npt.NDArray[np.int32]]:
    """Return the rows of a part that reach selection: usable, through every filter, and no duplicates.

    And their positions in the part's embeddings, (m,). Scores that are not finite are null. final : with the concepts of the
    decisions. columns : of the source, by name, where their values are. overrides : where the decisions of people are.
    """
    frame = eligible(run, part, (*folders, "filter"), final=final).drop(_UNREAD)
    frame = frame.with_columns(values_of_part(run, part, columns or {}, frame["uid"]))
    if overrides is None:
        found = pl.DataFrame(storage.read_table(run.part(run.duplicates, part), ["uid", "duplicate_of"]))
        dropped = found.filter(pl.col("duplicate_of").is_not_null())
        stays = frame["filter_reason"].is_null() & ~frame["uid"].is_in(dropped["uid"].implode())
    else:
        found = judged(run, part, frame.select("uid", "filter_reason", "pinned"), overrides)
        said = [VOUCHED] if VOUCHED in found.columns else []
        frame = frame.with_columns(found["filter_reason"], found["pinned"], *(found[name] for name in said))
        stays = frame["filter_reason"].is_null() & found["duplicate_of"].is_null()
        stays &= found["override"].ne_missing("drop")
    return frame.filter(stays), np.flatnonzero(stays.to_numpy()).astype(np.int32)


def noise_that_people_dropped(context: Context, order: Order) -> Arrays:
    """Return `noise` and `tie` of the rows that would reach selection, had nobody dropped them."""
    run, found = context.run, [pl.DataFrame(schema={"uid": pl.String, "noise": pl.Float64})]
    if order.overrides is not None and order.noise is not None:
        column, factor = order.noise
        folder = run.scores(score_columns(context.recipe)[column].folder)
        for part in (one.name for one in context.parts):
            rows = storage.read_frame(
                run.part(run.scores("filter"), part), ["uid", "filter_reason", "pinned"]
            )
            dropped = judged(run, part, rows, order.overrides)["override"].eq_missing("drop")
            if not dropped.any():
                continue
            own = judged(run, part, rows.filter(dropped), None)
            own = own.filter(pl.col("filter_reason").is_null() & pl.col("duplicate_of").is_null())
            scores = storage.read_frame(run.part(folder, part), ["uid", column])
            own = own.join(scores, on="uid", how="left", maintain_order="left")
            noise = pl.col(column).cast(pl.Float64) * factor
            found.append(storage.compact(own.select("uid", noise=pl.when(noise.is_finite()).then(noise))))
    every = pl.concat(found)
    return {"noise": every["noise"].to_numpy(), "tie": tie(every["uid"].to_list(), order.seed)}


def spread_rows(context: Context, order: Order, fingerprint: str, scratch: Path) -> Spread:
    """Bring the eligible rows to the buckets of their concepts."""
    run = context.run
    assigned = storage.read_table(run.final_concepts / "concepts.parquet", ["n_assigned"])[
        "n_assigned"
    ].to_numpy()
    bucket = exchange.plan_buckets(assigned, _bucket_rows(context, order, int(assigned.sum())))
    # What is scratch depends on the buckets, and they on `memory` and workers, which may differ when a run goes on.
    fingerprint = storage.fingerprint(fingerprint, bucket.tolist(), order.select.extras)
    spread = tuple(scratch / f"rows-{part.name}.arrow" for part in context.parts)
    tasks = [
        SpreadTask(run, part.name, part.index, order, bucket, out, fingerprint)
        for part, out in zip(context.parts, spread, strict=True)
        if not reuse_or_remove(out, fingerprint)
    ]
    context.map("select", "parts", _spread, tasks)
    return Spread(spread, bucket, fingerprint)


def rank_rows(context: Context, spread: Spread, first: First, scratch: Path) -> Ranked:
    """Rank the eligible rows of every concept. first : what was settled before."""
    n_buckets = int(spread.bucket.max(initial=0)) + 1
    ranks = [
        RankTask(b, spread.files, len(context.parts), scratch / f"ranks-{b}-of-{n_buckets}.arrow",
                 scratch / f"stats-{b}-of-{n_buckets}.parquet", spread.fingerprint, first)
        for b in range(n_buckets)
    ]  # fmt: skip
    context.map("select", "buckets", _rank_bucket, [task for task in ranks if not _ranked(task)])
    stats = pl.concat([pl.DataFrame(storage.read_table(task.stats)) for task in ranks])
    every = pl.DataFrame({"concept": np.arange(len(spread.bucket), dtype=np.int32)})
    concepts = every.join(stats, on="concept", how="left").sort("concept")
    return Ranked(
        tuple(task.out for task in ranks),
        concepts.with_columns(pl.col("n_eligible", "n_pinned", "n_floor", "n_cut", "d_intra").fill_null(0)),
        spread.fingerprint,
        first,
    )


def _ranked(task: RankTask) -> bool:
    """Whether a bucket is there, with its facts: another run may have been ended between the two."""
    return reuse_or_remove(task.out, task.fingerprint) and reuse_or_remove(task.stats, task.fingerprint)


def _bucket_rows(context: Context, order: Order, total: int) -> int:
    """Return how many rows a bucket may have: what fits, and for long work some buckets for every worker."""
    room = context.task_memory // 3
    if not order.select.compares_vectors or not context.parts:
        return max(1, room // ROW_BYTES)
    first = context.run.part(context.run.embeddings, context.parts[0].name)
    fits = room // (ROW_BYTES + VECTOR_BYTES * EmbeddingPart(first).width(context.recipe.cluster.on))
    return max(1, min(fits, total // (4 * context.engine.workers)))


def _kind(extras: tuple[str, ...]) -> pa.Schema:
    return pa.schema([*ROWS, *((name, EXTRAS[name]) for name in extras)])


def _spread(task: SpreadTask) -> None:
    order = task.order
    found, position = candidates(
        task.run, task.part, order.folders, columns=order.columns, overrides=order.overrides
    )
    frame = with_order(found, task.order)
    control = hash_uids(frame["uid"].to_list(), task.order.seed, "select", "control")
    table = frame.with_columns(
        pl.lit(task.index, pl.Int32).alias("part"),
        pl.Series("position", position, pl.Int32),
        pl.Series("control", control, pl.UInt64),
    )
    kind = _kind(task.order.select.extras)
    rows = table.select(kind.names).to_arrow().cast(kind)
    groups = task.bucket[frame["concept"].to_numpy()]
    exchange.scatter(task.out, groups, int(task.bucket.max(initial=0)) + 1, rows.take, kind, task.fingerprint)


def _rank_bucket(task: RankTask) -> None:
    rows = pl.DataFrame(exchange.gather(task.files, task.bucket))
    rows, rank = task.first.arranged(rows)
    cut = pl.col("cut") if "cut" in rows.columns else pl.lit(False)
    floor = pl.col("floor") if "floor" in rows.columns else pl.lit(False)
    lost = rows.group_by("concept").agg(
        cut.sum().cast(pl.Int64).alias("n_cut"), floor.sum().cast(pl.Int64).alias("n_floor")
    )
    groups = rows.filter(~cut).group_by("concept").agg(
        pl.len().alias("n_eligible"), pl.col("pinned").sum().alias("n_pinned"),
        pl.col("uid").min().alias("smallest_uid"), "distance",
    ).join(lost, on="concept", how="full", coalesce=True)  # fmt: skip
    groups = groups.with_columns(
        pl.col("distance").fill_null([]), pl.col("n_eligible", "n_pinned").fill_null(0)
    )
    exact = [math.fsum(values) / max(1, len(values)) for values in groups["distance"].to_list()]
    stats = groups.drop("distance").with_columns(pl.Series("d_intra", exact, pl.Float64)).sort("concept")
    stats = stats.with_columns(pl.col("n_eligible", "n_pinned").cast(pl.Int64))
    names = ["concept", "n_eligible", "n_pinned", "n_floor", "n_cut", "d_intra", "smallest_uid"]
    table = stats.select(names).to_arrow()
    storage.write_parquet(task.stats, table, table.schema, task.fingerprint)
    scatter_back(rows, rank, task.n_parts, task.out, task.fingerprint)


def scatter_back(
    rows: pl.DataFrame, rank: npt.NDArray[np.int32], n_parts: int, out: Path, fingerprint: str
) -> None:
    """Write the rows of a bucket with their ranks, (n,) from 1 in each concept: one record batch per part."""
    names = [name for name in rows.columns if name not in INSIDE]
    back = rows.select(names).with_columns(pl.Series("rank", rank)).sort("part", "position")
    extras = tuple(name for name in EXTRAS if name in names)
    kind = pa.schema([field for field in _kind(extras) if field.name not in INSIDE])
    kind = kind.append(pa.field("rank", pa.int32()))
    ranked = back.select(kind.names).to_arrow().cast(kind)
    exchange.scatter(out, back["part"].to_numpy(), n_parts, ranked.take, kind, fingerprint)
