"""Small data sets for tests: planted clusters of vectors, with copies, near-copies and bad rows."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DIM = 16


def planted(n, *, seed=0, dim=DIM, clusters=12, copies=0, near=0):
    """Return (n, dim) float16 vectors around heavy-tailed directions; the last rows copy the first ones."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, dim))
    spread = rng.uniform(0.1, 0.6, clusters)
    which = rng.choice(
        clusters, n, p=(1 / np.arange(1, clusters + 1)) / (1 / np.arange(1, clusters + 1)).sum()
    )
    rows = centres[which] + spread[which, None] * rng.standard_normal((n, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if near:
        rows[n - copies - near : n - copies] = rows[:near] + 0.002 * rng.standard_normal((near, dim))
    if copies:
        rows[n - copies :] = rows[:copies]
    return rows.astype(np.float16)


def write_shards(folder: Path, vectors, *, shards=3, uid=True, order=None, extra=None):
    """Write vectors as a list column (with ids) into Parquet shards; return the glob."""
    folder.mkdir(parents=True, exist_ok=True)
    order = np.arange(len(vectors)) if order is None else order
    width = vectors.shape[1]
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors[order].reshape(-1)), width)
    columns = {"embedding": lists, "note": [f"row {i}" for i in order]}
    if uid:
        columns["id"] = [f"s{i:06d}" for i in order]
    for name, values in (extra or {}).items():
        columns[name] = [values[i] for i in order]
    table = pa.table(columns)
    for number, rows in enumerate(np.array_split(np.arange(len(order)), shards)):
        pq.write_table(table.take(rows), folder / f"train-{number:05d}-of-{shards:05d}.parquet")
    return str(folder / "*.parquet")


def recipe_values(glob, out, **changes):
    """Return the settings of a small run on own vectors; keyword arguments replace whole sections."""
    values = {
        "run": str(out),
        "source": {"path": glob, "uid": "id"},
        "embed": {"column": "embedding"},
        "cluster": {"concepts": 8},
        "dedup": {"epsilon": 0.001},
        "select": {"method": "density", "keep": 0.3},
        "memory": "2GB",
        "workers": 1,
    }
    return values | changes
