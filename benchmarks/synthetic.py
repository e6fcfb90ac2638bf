"""Data sets that several benchmarks make: vectors in groups, some of them near-copies of others."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["COPIES", "copies_found", "write_vectors"]

#: Of every file the last rows are near-copies of its first ones; this is their share.
COPIES = 0.02
GROUPS = 3000


def write_vectors(folder: Path, rows: int, dim: int, files: int, *, seed: int = 0) -> None:
    """Write float16 unit vectors around 3,000 directions of Zipf weight into .npy files, and a table of ids for each.

    The last rows of a file are near-copies (similarity about .99) of its first ones: `COPIES` of them.
    """
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((GROUPS, dim), dtype=np.float32)
    weight = 1 / np.arange(1, GROUPS + 1) ** 0.7
    spread = rng.uniform(0.3, 1.2, GROUPS).astype(np.float32)
    per_file = rows // files
    for number in range(files):
        which = rng.choice(GROUPS, per_file, p=weight / weight.sum())
        block = rng.standard_normal((per_file, dim), dtype=np.float32)
        block *= spread[which, None]
        block += centres[which]
        copies = int(per_file * COPIES)
        if copies:
            block[-copies:] = block[:copies] + 0.1 * rng.standard_normal((copies, dim), dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        np.save(folder / f"vectors-{number}.npy", block.astype(np.float16))
        ids = [f"{number}-{row:07d}" for row in range(per_file)]
        pq.write_table(pa.table({"id": ids}), folder / f"train-{number:05d}-of-{files:05d}.parquet")


def copies_found(dropped: npt.NDArray[np.bool_], files: int) -> float:
    """Return the share of planted pairs of which at least one row was dropped.

    dropped : (n,), file by file.
    """
    by_file = dropped.reshape(files, -1)
    copies = int(by_file.shape[1] * COPIES)
    return float((by_file[:, :copies] | by_file[:, by_file.shape[1] - copies :]).mean()) if copies else 1.0
