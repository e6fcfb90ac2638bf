"""How much each kept sample counts: read the decisions of all parts, weigh the kept rows together, write them back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from curate import schema
from curate.clustering.complexity import complexity
from curate.execution.context import Context, log
from curate.hashing import hash_uids
from curate.io import storage
from curate.scores.base import require_memory
from curate.scores.registry import folders_for
from curate.selection.density import DensityBudgets, budgets_of
from curate.weighting.base import Floats, Kept, Weigher
from curate.weighting.effective_size import effective_by_group, effective_sample_size

__all__ = ["Weights", "run"]

#: What a kept row takes here: 24 for what is read, up to 90 while its weight is found (measured).
ROW_BYTES = 120


@dataclass(frozen=True)
class Weights:
    """The effective sample size of each concept, (k,), and what the manifest says of the weights."""

    effective_by_concept: Floats
    facts: Mapping[str, Any] = field(default_factory=dict)


def run(
    context: Context,
    settings: Weigher,
    tables: Sequence[Path],
    concepts: pl.DataFrame,
    n_kept: int,
    fingerprint: str,
    folder: Path,
) -> Weights:
    """Weigh the `n_kept` kept rows of decided tables, and write the decisions with their weights into `folder`."""
    require_memory(context, "weight", n_kept + settings.extra_rows(n_kept), ROW_BYTES)
    kept = _kept(context, tables, settings, concepts)
    weight = settings.weigh(kept) if len(kept.concept) else np.empty(0)
    starts = np.concatenate([[0], kept.ends[:-1]]).astype(np.int64)
    for part, table, start, stop in zip(context.parts, tables, starts, kept.ends, strict=True):
        out = context.run.part(folder, part.name)
        _write(table, out, weight[start:stop].astype(np.float32), fingerprint)
    effective, none = effective_sample_size(weight), int(np.isnan(weight).sum())
    facts = {
        "method": settings.method, "effective": effective, "rows": len(weight), "nonfinite": none,
        "smallest": _end(weight, np.nanmin), "largest": _end(weight, np.nanmax),
    }  # fmt: skip
    log.info(
        "select: weights by %s, effective sample size %.1f of %s", settings.method, effective, len(weight)
    )
    if none:
        log.warning("select: %s kept rows have no weight: no finite %s", f"{none:,}", settings.column)
    return Weights(effective_by_group(weight, kept.concept, len(concepts)), facts)


def _end(weight: Floats, which: Any) -> float | None:  # noqa: ANN401  (a NumPy reduction)
    return float(which(weight)) if np.isfinite(weight).any() else None


def _kept(context: Context, tables: Sequence[Path], settings: Weigher, concepts: pl.DataFrame) -> Kept:
    """Read what weights are made of, of the kept rows only."""
    column = settings.column
    seed = context.recipe.seed if settings.needs_draws else None
    parts = [_kept_part(context, part.name, table, column, seed)
             for part, table in zip(context.parts, tables, strict=True)]  # fmt: skip
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    frame = pl.concat([_EMPTY, *parts])
    select = context.recipe.select

    def density(sizes: npt.NDArray[np.int64], n_keep: int) -> DensityBudgets:
        value = concepts["complexity"].to_numpy()
        if select.density.complexity == "size":
            value = complexity(value, value, "size", sizes=sizes)
        return budgets_of(concepts, value, sizes, n_keep, select.density)

    return Kept(
        frame["concept"].to_numpy(), frame["distance"].to_numpy(), frame["inclusion_prob"].to_numpy(),
        frame["score"].to_numpy(), ends, len(concepts), select.method, density, frame["hash"].to_numpy(),
    )  # fmt: skip


_EMPTY = pl.DataFrame(
    schema={
        "concept": pl.Int32,
        "distance": pl.Float32,
        "inclusion_prob": pl.Float64,
        "score": pl.Float64,
        "hash": pl.UInt64,
    }
)


def _kept_part(
    context: Context, part: str, table: Path, column: str | None, seed: int | None
) -> pl.DataFrame:
    names = ["uid", "keep", "concept", "distance", "inclusion_prob"]
    frame = pl.DataFrame(storage.read_table(table, names)).filter("keep")
    score = pl.lit(None, pl.Float64)
    if column == "distance":
        score = pl.col("distance").cast(pl.Float64)
    elif column is not None:
        (folder,) = folders_for(context.recipe, [column])
        path = context.run.part(context.run.scores(folder), part)
        scores = pl.DataFrame(storage.read_table(path, ["uid", column])).rename({column: "by"})
        frame = frame.join(scores, on="uid", how="left", maintain_order="left", validate="m:1")
        score = pl.col("by").cast(pl.Float64)
    hashes = np.zeros(len(frame), np.uint64) if seed is None else hash_uids(frame["uid"], seed, "weight")
    kept = frame.select(
        "concept",
        "distance",
        pl.col("inclusion_prob").cast(pl.Float64),
        score.alias("score"),
        pl.Series("hash", hashes),
    )
    return kept.with_columns(pl.col("inclusion_prob", "score").fill_null(float("nan")))


def _write(table: Path, out: Path, weight: npt.NDArray[np.float32], fingerprint: str) -> None:
    """Write the decisions of a part with the weights of its kept rows; null where one has none."""
    frame = pl.DataFrame(storage.read_table(table))
    full = np.zeros(len(frame), np.float32)
    full[frame["keep"].to_numpy()] = weight
    frame = frame.with_columns(pl.Series("weight", full).fill_nan(None))
    rows = frame.select(schema.DECISIONS.names).to_arrow().cast(schema.DECISIONS)
    storage.write_parquet(out, rows, schema.DECISIONS, fingerprint)
