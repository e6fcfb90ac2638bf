"""The stored centroids of a run, and the levels above them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from curate.io import storage

__all__ = ["PARENTS", "load_centroids", "load_parents"]

#: Beside the centroids where concepts are in levels: concept, and concept_2, concept_3, ... that it is in.
PARENTS = "parents.parquet"


def load_centroids(path: Path) -> npt.NDArray[np.float32]:
    """Return the centroids, (k, d) float32: one unit row per concept in order of ids."""
    column = storage.read_table(path, ["centroid"])["centroid"].combine_chunks()
    return np.asarray(column.values.to_numpy().reshape(len(column), -1 if len(column) else 0))


def load_parents(folder: Path) -> tuple[npt.NDArray[np.int32], ...]:
    """Return the concepts of the levels above that each concept is in, (k,) per level; none where there is one level."""
    path = folder / PARENTS
    if not path.exists():
        return ()
    table = storage.read_table(path)
    return tuple(np.asarray(table[name].to_numpy(), np.int32) for name in table.column_names[1:])
