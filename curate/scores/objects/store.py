"""The table of objects of a part, beside the scores: one row per object with a vector, in the order of the embeddings."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.io import storage
from curate.runs.folder import RunFolder

__all__ = [
    "FOLDER",
    "StoredObjects",
    "kind_of",
    "objects_folder",
    "objects_path",
    "read_objects",
    "write_objects",
]

#: The family, and its folder below 3_scores.
FOLDER = "objects"
#: Below that folder; readers of a whole folder pass over what begins with `_`.
_VECTORS = "_vectors"


@dataclass(frozen=True)
class StoredObjects:
    """Objects of a part: place of the row among its samples with vectors, place in the row's list, class, vector."""

    position: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]
    category: npt.NDArray[np.object_]
    vectors: npt.NDArray[np.float16]


def kind_of(dim: int) -> pa.Schema:
    """Return the schema of a table of objects. x0 to y1 : the box in pixels, within the picture."""
    box = [(name, pa.float32()) for name in ("x0", "y0", "x1", "y1")]
    named = [("uid", pa.string()), ("position", pa.int32()), ("index", pa.int32()), ("category", pa.string())]
    return pa.schema([*named, ("confidence", pa.float32()), *box, ("vector", pa.list_(pa.float16(), dim))])


def objects_folder(run: RunFolder) -> Path:
    """Return the folder of the tables of objects."""
    return run.scores(FOLDER) / _VECTORS


def objects_path(run: RunFolder, part: str) -> Path:
    """Return the table of objects of a part."""
    return run.part(objects_folder(run), part)


def write_objects(
    path: Path, tables: Iterable[pa.Table], dim: int, fingerprint: str, counts: Mapping[str, int]
) -> None:
    """Write the objects of a part. counts : what became of objects, known when the last table was made."""
    storage.write_parquet(path, tables, kind_of(dim), fingerprint, facts=counts)


def read_objects(run: RunFolder, part: str) -> StoredObjects:
    """Return the objects of a part."""
    table = storage.read_table(objects_path(run, part), ["position", "index", "category", "vector"])
    dim = table.schema.field("vector").type.list_size
    flat = table["vector"].combine_chunks()
    values = (
        flat.flatten()
        if isinstance(flat, pa.Array)
        else pa.concat_arrays([one.flatten() for one in flat.chunks])
    )
    return StoredObjects(
        table["position"].to_numpy().astype(np.int64),
        table["index"].to_numpy().astype(np.int64),
        np.array(table["category"].to_pylist(), object),
        values.to_numpy(zero_copy_only=False).reshape(-1, dim),
    )
