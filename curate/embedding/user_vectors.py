"""Vectors the user already has: a column of lists, or `.npy` files row-aligned with the source.

They come back as float32 and as they are; whoever stores them normalises. A row that cannot be used is
told apart by its reason, a column or file that cannot be used is an EmbeddingError.
"""

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from fsspec.implementations.local import LocalFileSystem

from curate.errors import EmbeddingError, UsageError

__all__ = ["NpyRows", "check_aligned", "from_column", "open_npy_files", "why_unusable"]

_FLOATS: dict[Any, np.dtype[Any]] = {
    pa.float16(): np.dtype("f2"),
    pa.float32(): np.dtype("f4"),
    pa.float64(): np.dtype("f8"),
}

Vectors = npt.NDArray[np.float32]


def from_column(
    column: pa.Array | pa.ChunkedArray, *, name: str, dim: int | None = None
) -> tuple[Vectors, npt.NDArray[np.bool_], list[str | None]]:
    """Return a column of lists as (vectors, usable, reasons); reasons are for the outcome `bad_vector`.

    column : list, large_list or fixed_size_list of float16, float32 or float64. dim : the length all
    vectors must have; by default the declared one, else that of the first list that is not null or
    empty. vectors : (n, dim) float32, NaN where not usable. Raises EmbeddingError for other types.

    >>> vectors, usable, reasons = from_column(pa.array([[3.0, 4.0], None, [1.0]]), name="emb")
    >>> vectors.shape, usable, reasons
    ((3, 2), array([ True, False, False]), [None, 'the vector is null', 'the vector has 1 number, expected 2'])
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind = array.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or kind.value_type not in _FLOATS:
        raise EmbeddingError(f"column {name!r} must hold lists of float16, float32 or float64, found {kind}")
    starts, lengths = _extents(array)
    null = np.asarray(array.is_null())
    if dim is None:
        given = lengths[~null & (lengths > 0)]
        dim = kind.list_size if pa.types.is_fixed_size_list(kind) else int(given[0]) if len(given) else 0

    vectors = np.full((len(array), dim), np.nan, np.float32)
    fits = ~null & (lengths == dim)
    with np.errstate(over="ignore"):  # a float64 beyond float32 is reported as not finite
        vectors[fits] = _rows(_numbers(array.values), starts[fits], dim)
    holes = np.zeros(len(array), bool)
    if array.values.null_count:
        holes[fits] = _rows(np.asarray(array.values.is_null()), starts[fits], dim).any(axis=1)

    reasons = why_unusable(vectors)
    for row in np.flatnonzero(null | ~fits | holes):
        numbers = f"{lengths[row]} number{'s' * bool(lengths[row] != 1)}"
        reasons[row] = f"the vector has {numbers}, expected {dim}"
        if null[row]:
            reasons[row] = "the vector is null"
        elif holes[row]:
            reasons[row] = "the vector has a null in it"
    usable = np.array([reason is None for reason in reasons], bool)
    vectors[~usable] = np.nan
    return vectors, usable, reasons


def why_unusable(vectors: Vectors) -> list[str | None]:
    """Return for each row of (n, d) why it cannot be used (not finite, zero), or None.

    >>> why_unusable(np.array([[1, 0], [0, 0], [np.inf, 0]], np.float32))
    [None, 'the vector is zero', 'the vector is not finite']
    """
    reasons: list[str | None] = [None] * len(vectors)
    finite = np.isfinite(vectors).all(axis=1)
    for row in np.flatnonzero(finite & ~vectors.any(axis=1)):
        reasons[row] = "the vector is zero"
    for row in np.flatnonzero(~finite):
        reasons[row] = "the vector is not finite"
    return reasons


def _extents(array: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return where in `array.values` each list begins, and its length (of a null list, anything)."""
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        starts = (np.arange(len(array), dtype=np.int64) + array.offset) * size
        return starts, np.full(len(array), size, np.int64)
    offsets = np.asarray(array.offsets).astype(np.int64)
    lengths = pc.fill_null(pc.list_value_length(array), 0)
    return offsets[:-1], np.asarray(lengths).astype(np.int64)


def _rows(flat: npt.NDArray[Any], starts: npt.NDArray[np.int64], dim: int) -> npt.NDArray[Any]:
    """Return the rows of length `dim` that begin at `starts`: a view where they follow each other."""
    if len(starts) and (np.diff(starts) == dim).all():
        return flat[starts[0] : starts[0] + len(starts) * dim].reshape(len(starts), dim)
    return np.asarray(flat[starts[:, None] + np.arange(dim)])


def _numbers(values: pa.Array) -> npt.NDArray[Any]:
    """Return the numbers of a float array without a copy; what stands at a null is arbitrary."""
    dtype = _FLOATS[values.type]
    buffer = values.buffers()[1]
    if buffer is None or not len(values):
        return np.empty(0, dtype)
    return np.frombuffer(buffer, dtype, count=len(values), offset=values.offset * dtype.itemsize)


def open_npy_files(files: str | Sequence[str], storage_options: Mapping[str, Any] | None = None) -> "NpyRows":
    """Return the rows of `.npy` files, one after the other.

    files : a path or URL with wildcards (files in name order), or a list (in its order). Every file
    holds (n, d) of float16, float32 or float64 in C order, with the same d. Raises UsageError if
    nothing matches, EmbeddingError for a file that is something else.
    """
    options = dict(storage_options or {})
    if isinstance(files, str):
        system, path = fsspec.core.url_to_fs(files, **options)
        paths = sorted(system.glob(path))
        if not paths:
            raise UsageError(f"embed.files: {files!r} matches no file")
    else:
        if not files:
            raise UsageError("embed.files: the list is empty")
        system, _ = fsspec.core.url_to_fs(files[0], **options)
        paths = [fsspec.core.url_to_fs(file, **options)[1] for file in files]
    parts = [_open(system, path) for path in paths]
    for part in parts[1:]:
        if part.shape[1] != parts[0].shape[1]:
            raise EmbeddingError(
                f"{part.path}: vectors have {part.shape[1]} numbers, those of {parts[0].path} {parts[0].shape[1]}"
            )
    return NpyRows(parts)


@dataclass(frozen=True)
class _Part:
    """One `.npy` file: where its numbers begin and what they are."""

    system: Any
    path: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    offset: int

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows start to stop; local files are mapped, of others only these rows are fetched."""
        rows, row_bytes = stop - start, self.shape[1] * self.dtype.itemsize
        first = self.offset + start * row_bytes
        if isinstance(self.system, LocalFileSystem):
            mapped: npt.NDArray[Any] = np.load(self.path, mmap_mode="r", allow_pickle=False)
            return mapped[start:stop]
        data = self.system.cat_file(self.path, start=first, end=first + rows * row_bytes)
        return np.frombuffer(data, self.dtype).reshape(rows, self.shape[1])


class NpyRows:
    """Rows of several `.npy` files as one array that is read in blocks."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = list(parts)
        self._ends = list(itertools.accumulate(part.shape[0] for part in parts))

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._parts[0].shape[1]

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows of each file."""
        return {part.path: part.shape[0] for part in self._parts}

    def count(self) -> int:
        """Return the number of rows of all files."""
        return self._ends[-1]

    def read(self, start: int, stop: int) -> Vectors:
        """Return rows start to stop, (stop - start, dim) float32, as they are; see `why_unusable`."""
        if not 0 <= start <= stop <= self.count():
            raise EmbeddingError(f"rows {start} to {stop} asked of {self.count()} vectors")
        block = np.empty((stop - start, self.dim), np.float32)
        index = bisect.bisect_right(self._ends, start)
        done = start
        with np.errstate(over="ignore"):
            while done < stop:
                part, end = self._parts[index], min(stop, self._ends[index])
                begin = self._ends[index] - part.shape[0]
                block[done - start : end - start] = part.read(done - begin, end - begin)
                done, index = end, index + 1
        return block


def check_aligned(n_vectors: int, n_rows: int, *, vectors: str, rows: str) -> None:
    """Raise EmbeddingError unless there are as many vectors as rows; `vectors` and `rows` name them."""
    if n_vectors != n_rows:
        raise EmbeddingError(f"{vectors} has {n_vectors:,} vectors, but {rows} has {n_rows:,} rows")


def _open(system: Any, path: str) -> _Part:  # noqa: ANN401 - fsspec has no types
    try:
        with system.open(path, "rb") as file:
            shape, fortran, dtype = _header(file)
            offset = file.tell()
    except FileNotFoundError as error:
        raise UsageError(f"embed.files: {path!r} does not exist") from error
    except Exception as error:  # NumPy reads the header as Python, and raises what that raises
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise EmbeddingError(f"{path}: not a .npy file: {said}") from error
    if dtype not in _FLOATS.values() and dtype.newbyteorder("=") not in _FLOATS.values():
        raise EmbeddingError(f"{path}: must hold float16, float32 or float64, found {dtype} of shape {shape}")
    if len(shape) != 2 or shape[0] < 0 or shape[1] <= 0:
        raise EmbeddingError(f"{path}: must have the shape (rows, numbers), found {shape}")
    if fortran and min(shape) > 1:
        raise EmbeddingError(f"{path}: shape {shape} is stored column by column; save it in C order")
    expected = offset + shape[0] * shape[1] * dtype.itemsize
    if system.size(path) < expected:
        raise EmbeddingError(
            f"{path}: truncated: {system.size(path):,} bytes, shape {shape} needs {expected:,}"
        )
    return _Part(system, path, (shape[0], shape[1]), dtype, offset)


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)
