"""Products of whole numbers of 8 bits: exact, so the same on any processor, with any number of threads, beside any rows.

Where the processor has instructions for them (`fast_precisions`), torch multiplies three to six times as many in a second
as float32. Elsewhere float32 multiplies them, to the same sums: no sum leaves what float32 holds exactly.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.products import processor

__all__ = ["WholeProducts", "largest_whole"]

_COLUMNS = 1024  # others whose products are looked at together
_FEWEST_ROWS = 32  # fewer rows take slower kernels, or none
_FEWEST_COLUMNS = 16  # of one column, torch multiplies something else
_PADDED = 16  # others are a multiple of this many

Whole = npt.NDArray[np.int8]


def largest_whole(dim: int) -> int:
    """Return the largest number that 8 bits are used for: any sum of `dim` products of such is exact in float32 too.

    >>> largest_whole(512), largest_whole(4096)
    (127, 64)
    """
    return min(127, math.isqrt((1 << 24) // max(1, dim)))


class WholeProducts:
    """Products of rows of whole numbers with a fixed set of others.

    others : (k, d) int8, from `-largest_whole(d)` to `largest_whole(d)`, as are the rows. fast : whether torch multiplies, rather than
    NumPy; by default where the processor is fast at it. It changes no result. Threads may share an object.

    Examples
    --------
    >>> some = WholeProducts(np.array([[1, 0], [5, 2], [5, 2]], np.int8), fast=False)
    >>> some.nearest(np.array([[1, 1], [-9, 0]], np.int8))
    (array([1, 0], dtype=int32), array([ 7, -9], dtype=int32))
    """

    def __init__(self, others: Whole, *, fast: bool | None = None) -> None:
        wide = others.shape[1] >= _FEWEST_COLUMNS
        self.fast = wide and ("int8" in processor.fast_precisions() if fast is None else fast)
        blocks = [others[start : start + _COLUMNS] for start in range(0, len(others), _COLUMNS)]
        self._sizes = [len(block) for block in blocks]
        self._blocks: list[Any] = [
            self._right(block) for block in blocks
        ]  # arrays or tensors, (d, up to _COLUMNS)

    def _right(self, others: Whole) -> Any:  # noqa: ANN401  (torch is not always loaded)
        if not self.fast:
            return others.astype(np.float32).T
        import torch

        missing = -len(others) % _PADDED
        padded = np.pad(others, ((0, missing), (0, 0)))
        return torch.from_numpy(np.ascontiguousarray(padded.T))

    def nearest(self, rows: Whole) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return which of the others has the largest product with each row, the first where equal, and that product.

        rows : (m, d) int8, C-contiguous. Returns ((m,) int32, (m,) int32).
        """
        place = np.zeros(len(rows), np.int32)
        largest = np.full(len(rows), np.iinfo(np.int32).min, np.int32)
        left, every = self._left(rows), np.arange(len(rows))
        for block, (right, size) in enumerate(zip(self._blocks, self._sizes, strict=True)):
            products = self._products(left, right)[: len(rows), :size]
            found = products.argmax(axis=1)
            product = products[every, found].astype(np.int32)
            better = product > largest
            place[better] = found[better] + block * _COLUMNS
            largest[better] = product[better]
        return place, largest

    def _left(self, rows: Whole) -> Any:  # noqa: ANN401
        if not self.fast:
            return rows.astype(np.float32)
        import torch

        missing = max(0, _FEWEST_ROWS - len(rows))
        return torch.from_numpy(np.pad(rows, ((0, missing), (0, 0))) if missing else rows)

    def _products(self, left: Any, right: Any) -> npt.NDArray[Any]:  # noqa: ANN401
        if not self.fast:
            return np.asarray(left @ right)
        import torch

        return np.asarray(torch._int_mm(left, right))
