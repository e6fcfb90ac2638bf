"""The stored centroids of a run."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from curate.io import storage

__all__ = ["load_centroids"]


def load_centroids(path: Path) -> npt.NDArray[np.float32]:
    """Return the centroids, one unit row per concept in order of ids."""
    column = storage.read_table(path, ["centroid"])["centroid"].combine_chunks()
    return np.asarray(column.values.to_numpy().reshape(len(column), -1 if len(column) else 0))
