"""A pool as a run of curate, and the rows that a recipe keeps of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

import curate
from curate.embedding.store import EmbeddingPart
from subsets.pools import Pool

__all__ = ["PoolRun", "test_vectors", "unit_vectors"]

Settings = Mapping[str, Any]

#: Rows per shard: a run reads some shards at once.
_SHARD = 2000


@dataclass(frozen=True)
class PoolRun:
    """A pool as shards in a folder, and the runs over them, one for each way to embed, dedup and score."""

    pool: Pool
    folder: Path

    def base(self) -> dict[str, Any]:
        """Return the settings that all recipes over the pool share."""
        pool = self.pool
        source: dict[str, Any] = {
            "path": str(self.folder / "rows" / "*.parquet"),
            "uid": "id",
            "image": "image",
        }
        scores: list[object] = (
            ["clip_score", "pair", {"metaclip": {"least": 5}}] if pool.captions else ["heads", "noise"]
        )
        if pool.captions:
            source["caption"] = "caption"
        if pool.labels:
            source["label"] = "label"
        # Copies that are equal to the byte stay, so that every row of a pool has a vector.
        settings = {"source": source, "score": scores, "workers": 1, "dedup": {"exact": False}}
        if pool.vectors is not None:
            settings["embed"] = {"files": str(self.folder / "rows" / "*.npy")}
        else:
            settings["embed"] = {"model": "tiny"}
        return settings

    def write(self) -> None:
        """Write the rows of the pool as Parquet shards, and its vectors beside them."""
        pool, folder = self.pool, self.folder / "rows"
        if (folder / "done").exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        table = pa.table(
            {"id": pool.uids, "image": pool.images, **_given(label=pool.labels, caption=pool.captions)}
        )
        for number, start in enumerate(range(0, len(pool), _SHARD)):
            pq.write_table(table.slice(start, _SHARD), folder / f"part-{number:03d}.parquet")
            if pool.vectors is not None:
                np.save(folder / f"part-{number:03d}.npy", pool.vectors[start : start + _SHARD])
        (folder / "done").touch()

    def keep(self, name: str, settings: Settings, share: float) -> np.ndarray:
        """Return the rows that a recipe keeps: a share of all rows, or what is left where that is less.

        name : of the run folder; recipes that differ in `select` alone can have one.
        """
        run = curate.run(self.base(), out=self.folder / name, until="select", settings={
            "select.keep": share, "select.of": "input", "select.at_most": True, **settings}, progress=False)  # fmt: skip
        return rows_of(run.kept()["uid"])


def rows_of(uids: pl.Series) -> np.ndarray:
    """Return numbers of rows from their names."""
    return np.sort(uids.cast(pl.Int64).to_numpy())


def _given(**columns: list[str]) -> dict[str, list[str]]:
    """Return the columns that have values."""
    return {name: column for name, column in columns.items() if column}


def unit_vectors(run: Path, column: str = "image") -> np.ndarray:
    """Return the unit vectors of a run whose rows are all usable and numbered, (n, d), in order of their numbers."""
    parts = [EmbeddingPart(path) for path in sorted((run / "1_embeddings").glob("part-*.arrow"))]
    rows = np.array([int(uid) for part in parts for uid in part.uids()])
    vectors = np.concatenate([block for part in parts for _, block in part.blocks(column)])
    return vectors[np.argsort(rows)]


def test_vectors(pool: Pool, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors of the rows that judge, of pictures and of captions (none for labels)."""
    if pool.test_vectors is not None:
        unit = pool.test_vectors / np.linalg.norm(pool.test_vectors, axis=1, keepdims=True)
        return unit.astype(np.float32), np.zeros((0, unit.shape[1]), np.float32)
    judging = Pool(pool.name, pool.seed, pool.test_images, [], captions=pool.test_captions)
    rows = PoolRun(judging, folder)
    rows.write()
    curate.run({**rows.base(), "score": []}, out=folder / "run", until="embed", progress=False,
               settings={"select.keep": 1.0})  # fmt: skip
    image = unit_vectors(folder / "run")
    return image, unit_vectors(folder / "run", "text") if pool.captions else image[:0]
