"""Inner products of unit rows in bfloat16: several times cheaper than float32, and wrong by a bound that is known.

Processors with bfloat16 units (`fast_precisions`) add the products up in float32. Such a product only proposes:
what lies within its error of being decided otherwise is computed again from the rows (`curate.linalg`).

Where x and y stand in the place of u and v, a product is wrong by at most |x - u| |v| + |x| |y - v| (Cauchy and Schwarz). These
lengths are measured, not estimated, and they shrink with the rows: who can, takes out of all rows what they have in common.
"""

import functools
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from curate.products.processor import fast_precisions

if TYPE_CHECKING:
    import torch

__all__ = [
    "GROUPS",
    "LOAD_FROM",
    "Right",
    "Rounded",
    "cut_keys",
    "expect",
    "largest_bound",
    "reaching",
    "ready",
    "value_below",
    "whole_groups",
]

#: Multiplications from which on it pays to load torch for them: two seconds of float32 products.
LOAD_FROM = 200_000_000_000

#: Rows on the right are a multiple of this, so that the largest products of groups can be looked at first.
GROUPS = 8

#: The left side is a multiple of this many rows, and a right side of more than so many one of `_WIDTH`: oneDNN keeps what it
#: prepared for each shape, some 0.7 MB, for up to a thousand shapes.
_HEIGHT, _WIDTH = 64, 128

_BLOCK = 4096  # rows that are rounded at a time

_TINY = 2.0**-20  # room for what float32 rounds of lengths near 1, of bounds and of similarities

Vectors = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.int16]
Indices = npt.NDArray[np.int64]


def expect(multiplications: float) -> None:
    """Load torch if so many multiplications of numbers, still to come in this process, pay for it."""
    if "bfloat16" in fast_precisions() and multiplications >= LOAD_FROM:
        import torch  # noqa: F401


def ready() -> bool:
    """Return whether products should be made in bfloat16: the processor is fast at it, and torch is loaded."""
    return "bfloat16" in fast_precisions() and "torch" in sys.modules and _sums_in_float32()


@functools.cache
def _sums_in_float32() -> bool:
    """Whether products add up in float32: 256 and 255 ones would be lost in a narrower sum."""
    import torch

    left = torch.ones(64, 1024, dtype=torch.bfloat16)
    left[:, 0] = 256.0
    right = torch.zeros(1024, 64, dtype=torch.bfloat16)
    right[:512] = 1.0
    right[512:767] = -1.0
    right[0] = 1.0
    # 256 + 511 - 255 = 512; with a bfloat16 sum, ones beside 256 vanish
    return bool((torch.mm(left, right) == 512.0).all())


@dataclass(frozen=True)
class Rounded:
    """Rows rounded to bfloat16. values : (n, d). error, length : (n,), |x - x'| and |x'|, rounded up."""

    values: "torch.Tensor"
    error: Vectors
    length: Vectors

    @classmethod
    def of(cls, rows: Vectors, centre: Vectors | None = None) -> "Rounded":
        """Return rows (n, d), up to 2 long, each number of which may have been rounded to float32 before.

        centre : (d,), what is taken off each of them first.
        """
        import torch

        n, dim = rows.shape
        values = torch.empty(n, dim, dtype=torch.bfloat16)
        error, length = np.empty(n, np.float32), np.empty(n, np.float32)
        up = np.float32(1.0 + dim * 2.0**-22)
        for start in range(0, n, _BLOCK):
            part = slice(start, start + _BLOCK)
            exact = torch.from_numpy(rows[part] if centre is None else rows[part] - centre)
            values[part] = exact
            back = values[part].float()
            length[part] = torch.linalg.vector_norm(back, dim=1).numpy() * up
            error[part] = torch.linalg.vector_norm(back.sub_(exact), dim=1).numpy() * up + np.float32(
                2.0**-23
            )
        return cls(values, error, length)

    def with_ones(self) -> "torch.Tensor":
        """Return the values with two ones behind each row, which meet what stands beside a `Right`; (n, d + 2)."""
        import torch

        return torch.cat([self.values, torch.ones(len(self.values), 2, dtype=torch.bfloat16)], dim=1)


class Right:
    """Rounded rows as the right side of products. beside : (n,), what is added to the products with each row, if anything."""

    def __init__(self, rows: Rounded, beside: Vectors | None = None) -> None:
        import torch

        columns, self._beside = [rows.values], 0.0
        if beside is not None:
            whole = torch.from_numpy(beside)
            first = whole.bfloat16()
            columns.append(torch.stack([first, (whole - first.float()).bfloat16()], dim=1))
            self._beside = float(np.abs(beside).max(initial=0.0))
        n, width = len(rows.values), sum(column.shape[1] for column in columns)
        self._values = torch.zeros(whole_groups(n), width, dtype=torch.bfloat16)
        torch.cat(columns, dim=1, out=self._values[:n])
        self._error = float(rows.error.max(initial=0.0))
        self._length = float(rows.length.max(initial=0.0))

    def slack(self, left: Rounded) -> Floats:
        """Return how far a product, before it is rounded, and what it stands for can be apart, of each row on the left; (n,)."""
        error, length = left.error.astype(np.float64), left.length.astype(np.float64)
        rounding = error * (self._length + self._error) + length * self._error + 2.0**-16 * self._beside
        sums = (self._values.shape[1] + 8) * 2.0**-23 * (length * self._length + self._beside)
        return rounding + sums + _TINY

    def keys(self, left: "torch.Tensor", rows: slice) -> Keys:
        """Return the products of the left side with some rows, (m, r) int16, as keys; behind all rows are zeros.

        The key of a bfloat16 number is its bits: of positive numbers the order is that of the numbers, and all negative
        ones lie below.
        """
        import torch

        m = len(left)
        if missing := -m % _HEIGHT:
            left = torch.nn.functional.pad(left, (0, 0, 0, missing))
        found: Keys = torch.mm(left, self._values[rows].T).view(torch.int16).numpy()
        return found[:m]


def whole_groups(rows: int) -> int:
    """Return the number of rows rounded up to a multiple of `GROUPS`, of few sizes.

    >>> whole_groups(33), whole_groups(1000)
    (40, 1024)
    """
    step = GROUPS if rows <= _WIDTH else _WIDTH
    return -(-rows // step) * step


def value_below(keys: Keys) -> Floats:
    """Return the smallest number that may have been rounded to each positive key.

    >>> value_below(np.array([0x3F80, 0x4000], np.int16))
    array([0.99804688, 1.99609375])
    """
    bits = keys.astype(np.uint32) << 16
    below = (keys - np.int16(1)).astype(np.uint32) << 16
    return (bits.view(np.float32).astype(np.float64) + below.view(np.float32)) / 2


def cut_keys(bounds: Floats) -> Keys:
    """Return the smallest key that numbers at or above each bound can have; 0 where a bound is not above 2^-100.

    >>> cut_keys(np.array([1.0, 1.0 - 2.0**-9, -3.0])) == np.array([0x3F80, 0x3F7F, 0])
    array([ True,  True,  True])
    """
    down = np.nextafter(bounds.astype(np.float32), np.float32(-np.inf))
    bits = np.where(down > 2.0**-100, down, 0.0).astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF)) >> np.uint32(16)).astype(np.int16)


def largest_bound(tops: Keys, slack: Floats) -> Floats:
    """Return what the largest number of each row cannot be below; -inf where the key of the largest is not above 0.

    tops : (n,) the largest key of each row. slack : (n,), how far each number and what it stands for can be apart.
    """
    return np.where(tops > 0, value_below(np.maximum(tops, np.int16(1))) - 2 * slack, -np.inf)


def reaching(keys: Keys, tops: Keys, cut: Keys) -> tuple[Indices, Indices]:
    """Return which products reach the cut of their row, as rows and columns.

    keys : (r, GROUPS, c), row by row of the last two. tops : (r, c), `keys.max(axis=1)`. cut : (r,), above 0.
    """
    row, group = np.nonzero(tops >= cut[:, None])
    member, place = np.nonzero(keys[row, :, group] >= cut[row, None])
    return row[member], place * tops.shape[1] + group[member]
