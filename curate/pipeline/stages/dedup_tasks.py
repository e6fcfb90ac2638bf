"""What workers do for the stage `dedup`: vectors to buckets of concepts, comparing there, results back to parts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from curate import schema
from curate.clustering import kmeans
from curate.deduplication import semantic
from curate.embedding.store import EmbeddingPart
from curate.errors import RunError
from curate.execution import exchange
from curate.execution.context import eligible
from curate.io import storage
from curate.linalg import load_unit
from curate.ordering.keys import with_priority
from curate.recipe import Dedup
from curate.runs.folder import RunFolder
from curate.selection.rows.previous import Shipped

__all__ = ["BackTask", "CompareTask", "Groups", "SpreadTask", "bring_back", "compare_bucket", "spread"]

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
class SpreadTask:
    """One part whose vectors go to buckets."""

    run: RunFolder
    part: str
    index: int
    families: tuple[str, ...]
    on: str
    prefer: str
    seed: int
    shipped: Shipped | None
    groups: Groups
    out: Path
    fingerprint: str


@dataclass(frozen=True)
class CompareTask:
    """One bucket to compare."""

    bucket: int
    files: tuple[Path, ...]
    n_parts: int
    settings: Dedup
    epsilon: float
    mode: Literal["greedy", "reference"]
    seed: int
    out: Path
    fingerprint: str


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


def spread(task: SpreadTask) -> None:
    """Send the rows of a part that are compared, with their vectors, to their buckets."""
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
    ).select(ROWS.names)
    table = columns.to_arrow().cast(ROWS)
    kind = ROWS.append(pa.field("vector", pa.list_(pa.float16(), vectors.dim)))

    def take(rows: npt.NDArray[np.int64]) -> pa.Table:
        half = vectors.take(task.on, position[rows])
        lists = pa.FixedSizeListArray.from_arrays(pa.array(half.reshape(-1)), vectors.dim)
        return table.take(rows).append_column("vector", lists)

    exchange.scatter(task.out, bucket, task.groups.n_buckets, take, kind, task.fingerprint)


def compare_bucket(task: CompareTask) -> None:
    """Compare the rows of one bucket, concept by concept; what was found is ordered by part."""
    table = exchange.gather(task.files, task.bucket)
    rows = pl.DataFrame(table.drop_columns(["vector"])).with_row_index("at")
    dim = table.schema.field("vector").type.list_size
    vectors = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
    found = [
        _compare_group(group, vectors, task)
        for _, group in rows.group_by("concept", "subconcept", maintain_order=True)
    ]
    empty = pl.DataFrame(FOUND.empty_table())
    merged = pl.concat([empty, *found]).sort("part", "position")
    result = merged.to_arrow().cast(FOUND)
    exchange.scatter(task.out, merged["part"].to_numpy(), task.n_parts, result.take, FOUND, task.fingerprint)


def _compare_group(group: pl.DataFrame, vectors: npt.NDArray[np.float16], task: CompareTask) -> pl.DataFrame:
    """Compare the rows of one concept (or sub-concept; split further where it is still too large)."""
    if len(group) > task.settings.max_concept:
        group = group.sort("uid")
        unit = load_unit(vectors[group["at"].to_numpy()])
        ids = semantic.split_large(unit, task.settings.max_concept, seed=task.seed)
        inner = group.with_columns(pl.Series("subconcept", group["subconcept"].to_numpy() * 1_000 + ids))
        pieces = inner.group_by("subconcept", maintain_order=True)
        return pl.concat([_compare_group(piece, vectors, task) for _, piece in pieces])
    group = group.sort(~pl.col("pinned"), "key", "tie", "uid")
    result = semantic.find_duplicates(
        load_unit(vectors[group["at"].to_numpy()]),
        threshold=semantic.threshold_of(task.epsilon),
        mode=task.mode,
        inclusive=task.settings.inclusive,
        fixed=group["pinned"].to_numpy(),
    )
    found = pl.Series("found", result.duplicate_of)
    index = pl.select(pl.when(found >= 0).then(found)).to_series()
    return group.select(
        "part", "position", "pinned", "uid", "concept", "subconcept",
        pl.Series("max_similarity_earlier", result.max_similarity_earlier).fill_nan(None),
        group["uid"].gather(index).alias("duplicate_of"),
        pl.Series("similarity", result.similarity).fill_nan(None),
    )  # fmt: skip


def bring_back(task: BackTask) -> None:
    """Write what was found about the rows of one part, in their order."""
    table = schema.DUPLICATES.empty_table()
    if task.files:
        rows = pl.DataFrame(exchange.gather(task.files, task.index)).sort("position")
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
