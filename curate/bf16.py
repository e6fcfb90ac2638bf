"""Inner products of unit rows in bfloat16: several times cheaper than float32, and wrong by a bound that is known.

Processors with `avx512_bf16` or `amx_bf16` multiply bfloat16 numbers and add the products up in float32. Such a product only
proposes (see `curate.linalg`): what lies within its error of being decided otherwise is computed again from the rows.

Rows are taken relative to a centre c, near which they lie: with u = x - c and v = y - c,

    x . y  =  u . v + c . v + c . x

and only u and v are rounded, so the error shrinks with the spread of the rows: |u . v - u' . v'| <= |u - u'| |v| + |u'| |v - v'|
for the rounded u' and v', whose distances are measured, not estimated. c . v is in the product as two more columns.
"""

import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = ["GROUPS", "LOAD_FROM", "Right", "Rounded", "cut_keys", "pays", "value_below", "whole_groups"]

#: Multiplications from which on it pays to load torch for them: two seconds of float32 products.
LOAD_FROM = 200_000_000_000

#: Rows on the right are a multiple of this, so that the largest products of groups can be looked at first.
GROUPS = 32

_TINY = 2.0**-20  # room for what float32 rounds of lengths near 1, of bounds and of similarities

Vectors = npt.NDArray[np.float32]
Keys = npt.NDArray[np.int16]


@functools.cache
def supported() -> bool:
    """Return whether the processor multiplies bfloat16 numbers; known without torch, on Linux only."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = next((line.split(":")[1].split() for line in info.splitlines() if line.startswith("flags")), [])
    return "amx_bf16" in flags or "avx512_bf16" in flags


def pays(multiplications: float) -> bool:
    """Return whether so many multiplications of numbers should be done in bfloat16, loading torch if need be."""
    return supported() and ("torch" in sys.modules or multiplications >= LOAD_FROM) and _sums_in_float32()


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
    """Rows less a centre, rounded to bfloat16. error, length : (n,), |u - u'| and |u'|, rounded up.

    along : (n,), c . x, up to `spill` of a `Right`.
    """

    values: "torch.Tensor"
    error: Vectors
    length: Vectors
    along: Vectors

    @classmethod
    def of(cls, rows: Vectors, centre: Vectors) -> "Rounded":
        """Return rows (n, d) relative to a centre (d,)."""
        import torch

        rest = torch.from_numpy(rows - centre)
        values = rest.bfloat16()
        back = values.float()
        up = np.float32(1.0 + rows.shape[1] * 2.0**-22)
        length = torch.linalg.vector_norm(back, dim=1).numpy() * up
        error = torch.linalg.vector_norm(rest.sub_(back), dim=1).numpy() * up + np.float32(2.0**-23)
        return cls(values, error, length, rows @ centre)

    def left(self) -> "torch.Tensor":
        """Return the values as the left side of products, (n, d + 2)."""
        import torch

        return torch.cat([self.values, torch.ones(len(self.values), 2, dtype=torch.bfloat16)], dim=1)


class Right:
    """Rounded rows as the right side of products with others that were rounded relative to the same centre (d,)."""

    def __init__(self, rows: Rounded, centre: Vectors) -> None:
        import torch

        beside = torch.from_numpy(rows.along - np.float32(centre @ centre))
        first = beside.bfloat16()
        tail = torch.stack([first, (beside - first.float()).bfloat16()], dim=1)
        self._values = torch.zeros(whole_groups(len(tail)), len(centre) + 2, dtype=torch.bfloat16)
        torch.cat([rows.values, tail], dim=1, out=self._values[: len(tail)])
        self._error = float(rows.error.max(initial=0.0))
        self._length = float(rows.length.max(initial=0.0))
        self._beside = float(beside.abs().max()) if len(beside) else 0.0
        # Three float32 products with the centre, and what two bfloat16 numbers leave over.
        products = 3 * (len(centre) + 8) * 2.0**-24 * 1.01 * float(np.linalg.norm(centre))
        self._spill = products + 2.0**-16 * self._beside

    def slack(self, left: Rounded) -> npt.NDArray[np.float64]:
        """Return how far a product, before it is rounded, and x . y - c . x can be apart, for each row on the left; (n,)."""
        error, length = left.error.astype(np.float64), left.length.astype(np.float64)
        rounding = error * (self._length + self._error) + length * self._error
        sums = (self._values.shape[1] + 8) * 2.0**-23 * (length * self._length + self._beside)
        return rounding + sums + self._spill + _TINY

    def keys(self, left: "torch.Tensor", rows: slice) -> Keys:
        """Return the products of the left side with some rows, (m, r) int16, as keys; behind all rows are zeros.

        The key of a bfloat16 number is its bits: of positive numbers the order is that of the numbers, and all negative
        ones lie below.
        """
        import torch

        found: Keys = torch.mm(left, self._values[rows].T).view(torch.int16).numpy()
        return found


def whole_groups(rows: int) -> int:
    """Return the number of rows rounded up to a multiple of `GROUPS`.

    >>> whole_groups(33)
    64
    """
    return -(-rows // GROUPS) * GROUPS


def value_below(keys: Keys) -> npt.NDArray[np.float64]:
    """Return the smallest number that may have been rounded to each positive key.

    >>> value_below(np.array([0x3F80, 0x4000], np.int16))
    array([0.99804688, 1.99609375])
    """
    bits = keys.astype(np.uint32) << 16
    below = (keys - np.int16(1)).astype(np.uint32) << 16
    return (bits.view(np.float32).astype(np.float64) + below.view(np.float32)) / 2


def cut_keys(bounds: npt.NDArray[np.float64]) -> Keys:
    """Return the smallest key that numbers at or above each bound can have; 0 where a bound is not above 2^-100.

    >>> cut_keys(np.array([1.0, 1.0 - 2.0**-9, -3.0])) == np.array([0x3F80, 0x3F7F, 0])
    array([ True,  True,  True])
    """
    down = np.nextafter(bounds.astype(np.float32), np.float32(-np.inf))
    bits = np.where(down > 2.0**-100, down, 0.0).astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF)) >> np.uint32(16)).astype(np.int16)
