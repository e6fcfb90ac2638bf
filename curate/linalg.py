"""Unit vectors and their inner products: what proposes (float32 matrix products) and what decides.

A float32 matrix product changes its last bits with the tile, the thread count and the BLAS kernel.
So it only proposes: `margin` bounds its error, and every value that is stored or compared comes from
`row_dots`, which is bitwise the same however many rows are in the call.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import EmbeddingError

__all__ = [
    "MIN_NORM",
    "as_float32",
    "distances",
    "first_equal",
    "joined",
    "load_unit",
    "margin",
    "place_between",
    "row_dots",
    "sigmoid",
    "unit_rows",
    "units_and_norms",
]

#: A row with a smaller L2 norm has no direction.
MIN_NORM = 1e-12

#: Rows per block of the float64 passes: what fits the processor's cache. Blocks are made once: where NumPy asks for memory
#: block by block, the system may give new pages each time, which costs several times as much as the numbers.
_ROWS = 128
_PROBE = 64  # columns looked at before whole rows are compared

Floats = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]


def margin(dim: int) -> float:
    """Return how far two float32 inner products of unit vectors can change places by rounding.

    Twice the bound dim x 2^-24 on the error of one product in any order of summation, plus room for
    rounded lengths and values, at least 1e-5.

    >>> margin(4), round(margin(512), 7)
    (1e-05, 6.2e-05)
    """
    return max(1e-5, 2 * dim * 2.0**-24 + 2.0**-20)


def row_dots(a: Floats, b: Floats) -> npt.NDArray[np.float64]:
    """Return the inner product of each row of `a` with the same row of `b`, in float64.

    a, b : (n, d) of float16, float32 or float64; a single row (1, d) on one side meets every row of
    the other. Returns (n,). Products of float32 are exact in float64 and each row is summed pairwise
    by itself, so a value depends on its two rows alone, and a and b can be exchanged.

    >>> row_dots(np.array([[1, 2], [3, 4]], np.float32), np.array([[1, 1]], np.float32))
    array([3., 7.])
    """
    n = len(b) if len(a) == 1 else len(a)
    dots = np.empty(n, np.float64)
    left, right = np.empty((2, min(n, _ROWS), a.shape[1]))
    for start in range(0, n, _ROWS):
        stop = min(n, start + _ROWS)
        # Casts first: a product that casts on its way takes longer than both together.
        one, other = left[: stop - start], right[: stop - start]
        np.copyto(one, a if len(a) == 1 else a[start:stop])
        np.copyto(other, b if len(b) == 1 else b[start:stop])
        np.multiply(one, other, out=one).sum(axis=1, out=dots[start:stop])
    return dots


def distances(dots: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return 1 - `dots` in [0, 2], rounded to float32; inner products are clamped to [-1, 1] first.

    >>> distances(np.array([1.0000001, 0.25, -1.5]))
    array([0.  , 0.75, 2.  ], dtype=float32)
    """
    return (1.0 - np.clip(dots, -1.0, 1.0)).astype(np.float32)


def unit_rows(x: Floats) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return the rows of `x` scaled to length 1, and which rows have a direction at all.

    x : (n, d) of any float type. Returns ((n, d) float32, (n,) bool). A row with a NaN, an infinite
    value or a norm below 1e-12 is invalid and becomes a row of NaN. Norms are float64 of rows scaled
    by a power of two, so that rows of 1e300 do not overflow on the way.

    >>> rows, valid = unit_rows(np.array([[3e300, 4e300], [0.0, 0.0]]))
    >>> rows[0], valid
    (array([0.6, 0.8], dtype=float32), array([ True, False]))
    """
    rows, norms = units_and_norms(x)
    return rows, ~np.isnan(norms)


def units_and_norms(x: Floats) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Return what `unit_rows` does, with the norms of the rows (NaN where a row has no direction) in one pass.

    >>> units_and_norms(np.array([[3.0, 4.0]], np.float32))
    (array([[0.6, 0.8]], dtype=float32), array([5.]))
    """
    rows, norms = np.empty(x.shape, np.float32), np.empty(len(x))
    if x.dtype.itemsize >= 8:
        for start in range(0, len(x), _ROWS):
            some = slice(start, start + _ROWS)
            rows[some], norms[some] = _with_scaling(x[some].astype(np.float64))
        return rows, norms
    for some, block, squares in _blocks(x):
        # Squares of float32 neither overflow nor vanish in float64; scaling by powers of two would change no bit.
        lengths = _lengths(block, squares)
        lengths[~((lengths >= MIN_NORM) & np.isfinite(lengths))] = np.nan
        with np.errstate(invalid="ignore"):
            rows[some] = np.divide(block, lengths[:, None], out=block)
        norms[some] = lengths
    return rows, norms


def _blocks(x: Floats) -> Iterator[tuple[slice, Doubles, Doubles]]:
    """Yield which rows they are, the rows in float64, and room for as many numbers, block by block, in the same memory."""
    block, room = np.empty((2, min(len(x), _ROWS), x.shape[1]))
    for start in range(0, len(x), _ROWS):
        some = slice(start, min(len(x), start + _ROWS))
        here = block[: some.stop - start]
        np.copyto(here, x[some])
        yield some, here, room[: some.stop - start]


def _lengths(block: Doubles, squares: Doubles) -> Doubles:
    """Return the length of each row; squares : room for as many numbers."""
    found: Doubles = np.sqrt(np.multiply(block, block, out=squares).sum(axis=1))
    return found


def as_float32(x: npt.NDArray[np.floating[Any]], out: npt.NDArray[np.float32]) -> None:
    """Write numbers of any float type into `out`, rounded to float32; inf where they are too large.

    Half precision becomes double on its way: NumPy takes half as long for both casts as for the one.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if x.dtype != np.float16:
            np.copyto(out, x, casting="same_kind")
            return
        for some, block, _ in _blocks(x):
            np.copyto(out[some], block, casting="same_kind")
            # What stands in a NaN may change on the way, and who a row is goes by its bits.
            if np.isnan(out[some]).any():
                np.copyto(out[some], x[some])


def _with_scaling(block: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return unit rows and norms of a block; the norm of a row may be infinite although it has a direction."""
    largest = np.abs(block).max(axis=1, initial=0.0)
    finite = np.isfinite(largest)
    exponent = np.frexp(np.where(finite, largest, 1.0))[1]
    block[~finite] = 0.0
    block = np.ldexp(block, -exponent[:, None])
    norms = np.sqrt(row_dots(block, block))
    with np.errstate(over="ignore"):
        lengths = np.ldexp(norms, exponent)
    bad = ~(finite & (lengths >= MIN_NORM))
    norms[bad] = lengths[bad] = np.nan
    return block / norms[:, None], lengths


def place_between(values: Floats, low: float, high: float) -> npt.NDArray[np.float64]:
    """Return where values stand between `low` and `high`, low < high: 0 at the one, 1 at the other, never outside.

    Neither the widest nor the narrowest range of float64 is lost; NaN stays NaN.

    >>> place_between(np.array([-1.7e308, 0.0, 1.7e308]), -1.7e308, 1.7e308), place_between(np.array([0, 5e-324]), 0.0, 5e-324)
    (array([0. , 0.5, 1. ]), array([0., 1.]))
    """
    width = high / 2 - low / 2
    unit = 2.0 if width > np.finfo(np.float64).max / 2 else 1.0  # halves lose the smallest numbers
    return np.clip((values / unit - low / unit) / (high / unit - low / unit), 0.0, 1.0)


def sigmoid(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return 1 / (1 + exp(-x)) of each number, without overflow.

    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def load_unit(block: Floats) -> npt.NDArray[np.float32]:
    """Return stored embeddings as float32 unit rows: the one way stored vectors are read.

    block : (n, d) as stored, usually float16, which is rounded and so not quite of unit length.
    Cast to float32, norm in float64, divided; each row by itself, so that no batch changes a bit.
    Raises EmbeddingError where a row is not finite or has no direction.

    >>> load_unit(np.array([[0.6, 0.8]], np.float16)).round(4)
    array([[0.6002, 0.7999]], dtype=float32)
    """
    rows = np.empty(block.shape, np.float32)
    for some, part, squares in _blocks(block.astype(np.float32) if block.dtype == np.float64 else block):
        norms = _lengths(part, squares)
        bad = np.flatnonzero(~(norms >= MIN_NORM) | np.isinf(norms))
        if len(bad):
            raise EmbeddingError(
                f"stored vectors must be finite and not zero, row {some.start + bad[0]} has norm {norms[bad[0]]}"
            )
        rows[some] = np.divide(part, norms[:, None], out=part)
    return rows


def joined(image: npt.NDArray[np.float32], text: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return image and caption of each row as one vector, (n, 2 d): side by side, each scaled by sqrt(1/2).

    image, text : (n, d) float32 unit rows. The inner product of two rows is the mean of those of their images and of their
    captions, so the rows have length 1, up to rounding.

    >>> one = np.eye(2, dtype=np.float32)
    >>> rows = joined(one, one[[0, 0]])
    >>> row_dots(rows[:1], rows).round(6)
    array([1. , 0.5])
    """
    return np.concatenate([image, text], axis=1) * np.float32(np.sqrt(0.5))


def first_equal(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return for each row the index of the first row with the same values (-0.0 equals 0.0).

    vectors : (n, d), finite. Returns (n,); a row that is the first of its kind names itself.
    Rows that agree in a few columns are compared in full, so the answer is exact.

    >>> first_equal(np.array([[0.0, 1.0], [1.0, 0.0], [-0.0, 1.0]], np.float32))
    array([0, 1, 0])
    """
    first = np.arange(len(vectors), dtype=np.int64)
    probe = vectors[:, :: max(1, vectors.shape[1] // _PROBE)]
    weights = np.random.Generator(np.random.Philox(0)).standard_normal((1, probe.shape[1]))
    keys = row_dots(probe, weights)
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    suspects = order[np.union1d(same, same + 1)]
    seen: dict[bytes, int] = {}
    for row in sorted(suspects.tolist()):
        first[row] = seen.setdefault((vectors[row] + np.float32(0)).tobytes(), row)
    return first
