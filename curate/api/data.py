"""What may be passed as data: paths, vectors, frames, data sets, images; in memory, it becomes Parquet beside the run."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import UsageError
from curate.io import lock, storage
from curate.io.filesystem import is_remote
from curate.recipe import Recipe
from curate.recipe.loading import load_recipe

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Given", "given_data", "table_of"]

#: About how large a shard of what was in memory is.
SHARD_BYTES = 256_000_000
#: The columns that vectors, and what is given beside them, are written to.
VECTOR, UID, LABEL, CAPTION, IMAGE = "vector", "uid", "label", "caption", "image"
_SHARD = re.compile(r"data-\d{5}-[0-9a-f]{16}\.parquet")
TAKES = (
    "paths, vectors (a NumPy array), a Polars or pandas frame, an Arrow table or what gives one (a DuckDB relation), a "
    "Hugging Face Dataset, a list of PIL images or a recipe"
)


@dataclass(frozen=True)
class Given:
    """Data as settings of a recipe, and the column (or files) of its vectors; None where a model makes them."""

    settings: dict[str, Any]
    vectors: str | None


@contextlib.contextmanager
def given_data(data: object, out: str, columns: Mapping[str, object]) -> Iterator[Given]:
    """Give data as a source for a run at `out`; what is in memory is written to `<out>-source` first.

    columns : vectors, uids, labels and captions; names of columns, or for vectors one value per row. The folder is
    held while inside: another call with other data for the same run must wait. Raises UsageError for what cannot be
    data.
    """
    if isinstance(data, Recipe) or _is_recipe_file(data):
        recipe = data if isinstance(data, Recipe) else load_recipe(str(data))
        yield _named(recipe.model_dump(mode="json"), columns)
        return
    if (paths := _paths(data)) is not None:
        yield _named({"source": {"path": paths}}, columns)
        return
    table, named = table_of(data, columns)
    if is_remote(out):
        raise UsageError(
            f"data in memory is written beside the run, which must be a folder here, got {out}; write it as Parquet "
            "and pass the path"
        )
    folder = Path(f"{out.rstrip('/')}-source")
    with lock.held(folder):
        write_shards(table, folder)
        yield _named({"source": {"path": f"{folder}/data-*.parquet", "format": "parquet"}}, named)


def _is_recipe_file(data: object) -> bool:
    return isinstance(data, str | Path) and Path(data).suffix in (".yaml", ".yml")


def _paths(data: object) -> str | list[str] | None:
    """Return paths as a recipe has them; None where the data is something else."""
    if isinstance(data, str | Path):
        return str(data)
    if isinstance(data, list | tuple) and data and all(isinstance(one, str | Path) for one in data):
        return [str(one) for one in data]
    return None


def _named(settings: dict[str, Any], columns: Mapping[str, object]) -> Given:
    """Return settings that name the columns of uids, labels and captions in every source."""
    names = {key: columns.get(f"{key}s") for key in (UID, LABEL, CAPTION)}
    for key, name in [*names.items(), ("vectors", columns.get("vectors"))]:
        rule = key == CAPTION and isinstance(name, Mapping)  # as source.caption: {take: longest, of: [a, b]}
        if name is not None and not isinstance(name, str) and not rule:
            what = "vectors" if key == "vectors" else f"{key}s"
            raise UsageError(f"{what} must name a column of this data, got {type(name).__name__}")
    known = {key: name for key, name in names.items() if name is not None}
    sources = settings["source"] if isinstance(settings["source"], list) else [settings["source"]]
    vectors = columns.get("vectors")
    return Given(
        {**settings, "source": [{**source, **known} for source in sources]},
        None if vectors is None else str(vectors),
    )


def table_of(data: object, columns: Mapping[str, object]) -> tuple[pa.Table, dict[str, object]]:
    """Return data in memory as an Arrow table, and the names of its columns by role.

    columns : as in `given_data`. Images that are PIL objects become PNG. Raises UsageError for what cannot be data.
    """
    if isinstance(data, np.ndarray):
        return _from_vectors(data, columns)
    return _from_table(data), dict(columns)


def _from_vectors(
    vectors: npt.NDArray[Any], columns: Mapping[str, object]
) -> tuple[pa.Table, dict[str, object]]:
    if vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise UsageError(
            f"vectors must be an array of floats of shape (n, d), got {vectors.dtype} of shape {vectors.shape}"
        )
    if columns.get("vectors") is not None:
        raise UsageError("vectors names a column, and an array has none")
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    found = {VECTOR: pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])}
    for key in (UID, LABEL, CAPTION):
        values = columns.get(f"{key}s")
        if values is None:
            continue
        if isinstance(values, str) or (
            not isinstance(values, Sequence | np.ndarray) and not hasattr(values, "to_list")
        ):
            raise UsageError(f"{key}s of vectors must be a list, one per row, got {type(values).__name__}")
        column = pa.array(values.to_list() if hasattr(values, "to_list") else values)
        if len(column) != len(vectors):
            raise UsageError(f"{key}s must be as many as vectors, {len(vectors):,}, got {len(column):,}")
        found[key] = column
    names: dict[str, object] = {f"{key}s": key for key in (UID, LABEL, CAPTION) if key in found}
    return pa.table(found), {"vectors": VECTOR, **names}


def _from_table(data: object) -> pa.Table:
    """Return frames, tables, data sets and lists of images as an Arrow table."""
    if isinstance(data, pa.Table):
        return data
    kind = f"{type(data).__module__.partition('.')[0]}.{type(data).__name__}"
    if kind in ("polars.DataFrame", "polars.LazyFrame"):
        return _from_polars(data)
    if kind == "pandas.DataFrame":
        return _from_pandas(data)
    if kind == "datasets.Dataset":
        return _from_dataset(data)
    if kind == "datasets.DatasetDict":
        splits = ", ".join(cast(Mapping[str, object], data))
        raise UsageError(f"a DatasetDict has several splits, {splits}; pass one of them")
    if hasattr(data, "__arrow_c_stream__"):  # a DuckDB relation, a reader of batches
        try:
            return pa.table(data)
        except pa.ArrowInvalid as error:
            raise UsageError(
                f"this {type(data).__name__} cannot be read as an Arrow table: {error}"
            ) from None
    if isinstance(data, list | tuple) and data and all(map(_is_picture, data)):
        return pa.table({IMAGE: pa.array([_png(one) for one in data], pa.large_binary())})
    got = (
        f"an empty {type(data).__name__}"
        if isinstance(data, list | tuple) and not data
        else type(data).__name__
    )
    raise UsageError(f"curate.filter takes {TAKES}, got {got}")


def _from_polars(data: Any) -> pa.Table:  # noqa: ANN401  (a frame of a package that may not be loaded)
    import polars as pl

    frame = data.lazy().collect()
    for name, kind in frame.schema.items():
        if kind == pl.Object:
            frame = frame.with_columns(
                pl.Series(name, _encoded(name, frame[name].to_list()), dtype=pl.Binary)
            )
    return frame.to_arrow()


def _from_pandas(data: Any) -> pa.Table:  # noqa: ANN401  (as above)
    pictured = {
        name: _encoded(name, data[name].to_list())
        for name in data.columns
        if any(map(_is_picture, data[name].head(100)))
    }
    try:
        return pa.Table.from_pandas(data.assign(**pictured), preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UsageError(f"this pandas frame cannot be written as Parquet: {error}") from None


def _from_dataset(data: Any) -> pa.Table:  # noqa: ANN401  (as above)
    """Return a Hugging Face data set as a table that declares its features: names of classes, images."""
    table = data.with_format("arrow")[:]
    return table.replace_schema_metadata(data.features.arrow_schema.metadata)


def _encoded(name: str, values: Sequence[object]) -> list[bytes | None]:
    """Return a column of PIL images (or bytes) as bytes."""
    found: list[bytes | None] = []
    for value in values:
        if value is not None and not isinstance(value, bytes) and not _is_picture(value):
            raise UsageError(f"column {name!r} must hold images or bytes, got {type(value).__name__}")
        found.append(_png(value) if _is_picture(value) else value)  # type: ignore[arg-type]
    return found


def _is_picture(value: object) -> bool:
    from PIL.Image import Image

    return isinstance(value, Image)


def _png(image: "Image") -> bytes:
    """Return an image as PNG, which loses nothing and is the same each time."""
    packed = BytesIO()
    image.save(packed, "PNG")
    return packed.getvalue()


def write_shards(table: pa.Table, folder: Path) -> list[Path]:
    """Write a table as shards named by place and content; shards that are there are left, all others removed.

    So the same data is the same files, and of data that has grown only the shards that changed are new.
    """
    rows = max(1, round(len(table) * SHARD_BYTES / max(table.nbytes, 1)))
    paths = []
    for number, start in enumerate(range(0, max(len(table), 1), rows)):
        with storage.atomic(folder / f".data-{number:05d}") as new:
            pq.write_table(table.slice(start, rows), new, compression="zstd")
        whole = folder / f".data-{number:05d}"
        path = folder / f"data-{number:05d}-{storage.hash_file(whole)[:16]}.parquet"
        if path.exists():
            storage.remove(whole)
        else:
            whole.replace(path)
        paths.append(path)
    for old in folder.iterdir():
        if _SHARD.fullmatch(old.name) and old not in paths:
            storage.remove(old)
    return paths
