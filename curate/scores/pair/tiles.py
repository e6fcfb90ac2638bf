"""Tiles of a matrix of products, reduced to a few numbers per row and per column as they pass.

Used by `pair.py`: log-sum-exp, sums of squared probabilities and of weighted vectors along both
directions, and lists of the pairs inside a tile that must not be counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

__all__ = ["LOWEST", "Copies", "Running", "add_tile"]

#: Exponents are cut here: the squares of exp() of it are no denormals, which are slow.
LOWEST = {"float32": -40.0, "float64": -340.0}

_NEAR = 16.0  # largest values this near share one exponential: exp(16 + the lowest above) is nothing

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer[Any]]


@dataclass
class Running:
    """Per row (or column): the largest value so far, and the sums of exp(value - largest) and its square.

    Values arrive in tiles, without the row's own one. Sums over a tile have the precision of the tile;
    tiles are added up in float64.
    """

    peak: Floats
    total: Floats
    squares: Floats | None

    @classmethod
    def empty(cls, n: int, squares: bool) -> Self:
        """Return the state before the first tile."""
        return cls(np.full(n, -np.inf), np.zeros(n), np.zeros(n) if squares else None)

    def lift(self, part: slice, largest: npt.NDArray[np.floating[Any]]) -> Floats:
        """Take note of the largest values of a tile; return what the sums so far are multiplied by."""
        before = self.peak[part].copy()
        np.maximum(before, largest, out=self.peak[part])
        decay = np.exp(before - self.shift(part))
        self.total[part] *= decay
        if self.squares is not None:
            self.squares[part] *= decay**2
        return decay

    def shift(self, part: slice) -> Floats:
        """Return the largest values so far, and 0 where there was none."""
        peak = self.peak[part]
        return np.where(peak == -np.inf, 0.0, peak)

    def add(
        self, part: slice, powers: npt.NDArray[np.floating[Any]], axis: Literal[0, 1], shift: Floats
    ) -> Floats:
        """Add exp(value - shift) of a tile, summed along `axis`; return what the sums are multiplied by."""
        weight = np.exp(shift - self.shift(part))
        self.total[part] += weight * powers.sum(axis=axis)
        if self.squares is not None:
            squares = np.einsum("ij,ij->i" if axis == 1 else "ij,ij->j", powers, powers)
            self.squares[part] += weight**2 * squares
        return weight

    def softmax(self, own: Floats, part: slice = slice(None)) -> tuple[Floats, Floats, Floats]:
        """Return the loss, 1 - p of the own value, and what turns the sums into probabilities."""
        peak = self.peak[part]
        some = peak > -np.inf
        others = np.full(len(own), -np.inf)
        others[some] = peak[some] + np.log(self.total[part][some])
        loss = np.logaddexp(0.0, others - own)
        return loss, -np.expm1(-loss), np.exp(peak - own - loss)


def add_tile(
    values: npt.NDArray[np.floating[Any]],
    spare: npt.NDArray[np.floating[Any]],
    rows: Running,
    columns: Running,
    down: slice,
    across: slice,
    right: npt.NDArray[np.floating[Any]],
    pull: Floats | None,
) -> None:
    """Add a tile to the sums of its rows and of its columns, and to `pull`, the sums of P_ij v_j.

    Where the largest values of all its rows and columns are near to each other, as they are for CLIP
    vectors, one exponential serves both directions; else each direction has its own, shifted by its own
    largest value.
    """
    largest = values.max(axis=1)
    top = float(largest.max())
    if top == -np.inf:
        return
    decay = rows.lift(down, largest)
    columns.lift(across, values.max(axis=0))
    near = min(rows.peak[down].min(), columns.peak[across].min()) >= top - _NEAR
    shift = np.full(len(largest), top) if near else rows.shift(down)
    _powers(values, top if near else shift[:, None], spare)
    weight = rows.add(down, spare, 1, shift)
    if pull is not None:
        pull *= decay[:, None]
        pull += weight[:, None] * (spare @ right)
    if near:
        columns.add(across, spare, 0, np.full(len(right), top))
        return
    shift = columns.shift(across)
    _powers(values, shift, spare)
    columns.add(across, spare, 0, shift)


def _powers(
    values: npt.NDArray[np.floating[Any]], shift: float | Floats, out: npt.NDArray[np.floating[Any]]
) -> None:
    """Write exp(values - shift); what is too small to be seen in a sum becomes small, but no denormal."""
    lowest = LOWEST[values.dtype.name]
    np.subtract(values, np.asarray(shift, values.dtype), out=out)
    if out.min() < lowest:
        np.maximum(out, lowest, out=out)
    np.exp(out, out=out)


class Copies:
    """Which pairs of rows are copies of each other, by tile, from one or two columns of codes."""

    def __init__(self, *columns: Integers | None) -> None:
        self.codes = [_grouped(column) for column in columns if column is not None]
        self.sorted: dict[tuple[int, int], npt.NDArray[np.int64]] = {}

    def inside(self, down: slice, across: slice) -> Iterator[tuple[Integers, Integers]]:
        """Yield (i, j), places in the tile: the rows' own columns first, then all copies."""
        own = np.arange(max(down.start, across.start), min(down.stop, across.stop))
        if len(own):
            yield own - down.start, own - across.start
        for which, codes in enumerate(self.codes):
            order = self._columns(which, across)
            left = np.flatnonzero(codes[down] >= 0)
            if not (len(order) and len(left)):
                continue
            wanted, held = codes[down][left], codes[across][order]
            first = np.searchsorted(held, wanted, "left")
            counts = np.searchsorted(held, wanted, "right") - first
            ends = np.cumsum(counts)
            place = np.arange(ends[-1]) - np.repeat(ends - counts - first, counts)
            yield np.repeat(left, counts), order[place]

    def _columns(self, which: int, across: slice) -> npt.NDArray[np.int64]:
        """Return the columns of a tile that have copies at all, in the order of their code."""
        key = (which, across.start)
        if key not in self.sorted:
            codes = self.codes[which][across]
            order = np.argsort(codes, kind="stable")
            self.sorted[key] = order[codes[order] >= 0]
        return self.sorted[key]

    def admissible(self, n: int) -> npt.NDArray[np.int64]:
        """Return for each row how many columns are no copies of it, itself included."""
        left = np.full(n, n, np.int64)
        for codes in self.codes:
            left -= _copies_of(codes)
        if len(self.codes) == 2:
            first, second = self.codes
            left += _copies_of(np.where((first >= 0) & (second >= 0), first * n + second, -1))
        return left


def _grouped(codes: Integers) -> npt.NDArray[np.int64]:
    """Return the codes as small numbers, -1 where no other row has the same code."""
    _, which, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    alone = (codes < 0) | (sizes[which] == 1)
    return np.where(alone, -1, which)


def _copies_of(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return for each row how many other rows have its code; 0 where that is negative."""
    _, which, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    return np.where(codes < 0, 0, sizes[which] - 1)
