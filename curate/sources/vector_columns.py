"""Vectors in a column of lists, as a table of the user's has them.

They come back as float32 and as they are; the embed stage normalises. A row that cannot be used has a reason, a
column that cannot be used is an EmbeddingError.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import EmbeddingError

__all__ = ["FLOATS", "from_column", "why_unusable"]

FLOATS: dict[Any, np.dtype[Any]] = {
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
    if not is_list or kind.value_type not in FLOATS:
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
    dtype = FLOATS[values.type]
    buffer = values.buffers()[1]
    if buffer is None or not len(values):
        return np.empty(0, dtype)
    return np.frombuffer(buffer, dtype, count=len(values), offset=values.offset * dtype.itemsize)
