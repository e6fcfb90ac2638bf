"""Inner products that cost less than float32 ones and say how wrong they can be: they propose, and never decide.

Whole numbers of 8 bits multiply three to six times as many numbers in a second as float32, on every processor with VNNI
or AMX, and their sums are exact: the same on any processor, with any number of threads, whatever rows stand beside.
bfloat16 keeps the length of numbers and so errs less in the worst case. It is faster than float32 on fewer processors.
"""

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from curate.linalg import margin

if TYPE_CHECKING:
    import torch

__all__ = ["TILE_ROWS", "Precision", "Proposals", "each_tile", "fast_precisions", "largest_whole"]

Precision = Literal["float32", "bfloat16", "int8"]
Vectors = npt.NDArray[np.float32]

#: Rows to multiply at a time: their products with a thousand others stay in the processor's cache.
TILE_ROWS = 256

_ROWS_OF_A_THREAD = 16 * TILE_ROWS
_FEWEST_ROWS = 32  # fewer rows take other kernels, or none
_TINY = 1e-30
_ROUNDED = 1 + 2.0**-16  # room for what float32 rounds away while a bound is computed


@functools.cache
def _processor_flags() -> frozenset[str]:
    """Return what this processor says it can do, and its vendor; nothing where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    lines = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    said = {name.strip(): value.split() for name, _, value in lines}
    return frozenset(said.get("flags", []) + said.get("vendor_id", []))


def fast_precisions(flags: frozenset[str] | None = None) -> frozenset[Precision]:
    """Return the precisions whose products are faster than float32 here, by the flags of the processor.

    8 bits need VNNI with registers of 512 bits, or AMX: older instructions saturate. bfloat16 needs AMX, or AMD's
    processors; with the same instructions, Intel's are slower than float32. Found out by no clock.

    >>> sorted(fast_precisions(frozenset({"avx512_vnni", "avx512_bf16", "GenuineIntel"})))
    ['int8']
    """
    has = _processor_flags() if flags is None else flags
    found: set[Precision] = set()
    if has & {"avx512_vnni", "amx_int8"}:
        found.add("int8")
    if "amx_bf16" in has or has >= {"avx512_bf16", "AuthenticAMD"}:
        found.add("bfloat16")
    return frozenset(found)


def largest_whole(dim: int) -> int:
    """Return the largest number that 8 bits are used for: sums of `dim` products of such are exact in float32 too.

    >>> largest_whole(512), largest_whole(4096)
    (127, 64)
    """
    return min(127, math.isqrt((1 << 24) // max(1, dim)))


def each_tile(rows: int, work: Callable[[slice], None], *, threads: bool = True) -> None:
    """Call `work` with slices of up to `TILE_ROWS` of so many rows, in as many threads as torch may use.

    Each call of torch within takes one thread of its own: threads that wait for each other's small pieces cost more than
    they save. threads : False to call one after the other, for work whose BLAS has threads.
    """
    starts = range(0, rows, _ROWS_OF_A_THREAD)

    def some(start: int) -> None:
        for first in range(start, min(rows, start + _ROWS_OF_A_THREAD), TILE_ROWS):
            work(slice(first, min(rows, first + TILE_ROWS)))

    if not threads:
        for start in starts:
            some(start)
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # of this thread, and of threads that have not used torch yet
    pool = ThreadPoolExecutor(max(1, min(before, len(starts))), "products")
    try:
        for _ in pool.map(some, starts):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


class Proposals:
    """Scores of rows against a fixed set of others: in the order of their inner products, up to a slack.

    others : (k, d) float32, finite, such as centroids. Their mean is taken out: that changes all scores of a row alike, and
    what is left is shorter, so that less of it is rounded away. 8 bits are multiplied as float32 where they are not faster,
    with the same scores and slack; torch is imported only where a precision needs it. Threads may share an object.

    Attributes
    ----------
    fast : bool
        Whether torch multiplies (`each_tile` then works in threads), rather than NumPy.

    Examples
    --------
    >>> scores, slack = Proposals(np.eye(4, dtype=np.float32), "int8").propose(np.eye(4, dtype=np.float32)[:2])
    >>> scores.argmax(axis=1), scores.dtype, bool((np.sort(scores)[:, -2] < scores.max(axis=1) - slack).all())
    (array([0, 1]), dtype('int32'), True)
    """

    def __init__(self, others: Vectors, precision: Precision) -> None:
        self.precision: Precision = precision
        self.fast = precision == "bfloat16" or (precision == "int8" and "int8" in fast_precisions())
        self._dim = others.shape[1]
        self._weights = np.ones(self._dim, np.float32)
        rest = others - others.mean(axis=0, dtype=np.float64)
        if precision == "int8":
            self._weights = _balance(others, rest)
            rest /= self._weights
        self._longest = _longest(rest)
        self._step = max(float(np.abs(rest).max(initial=0.0)) / largest_whole(self._dim), _TINY)
        right, stands_for = self._rounded(rest)
        self._right: Any = right  # an array or a tensor, (d, k)
        self._lost = _longest(rest - stands_for)

    def _rounded(
        self, rest: npt.NDArray[np.float64]
    ) -> "tuple[Vectors | torch.Tensor, npt.NDArray[np.float64]]":
        """Return the right side of the product, (d, k), and the numbers that it stands for, (k, d)."""
        if self.precision == "int8":
            whole = np.rint(rest / self._step)
            return self._right_of_whole(whole), whole * self._step
        single = rest.astype(np.float32)
        if self.precision == "float32":
            return single.T, single.astype(np.float64)
        import torch

        half = torch.from_numpy(single).bfloat16()
        return half.t().contiguous(), half.double().numpy()

    def _right_of_whole(self, whole: npt.NDArray[np.float64]) -> "Vectors | torch.Tensor":
        if not self.fast:
            return whole.astype(np.float32).T
        import torch

        return torch.from_numpy(np.ascontiguousarray(whole.T.astype(np.int8)))

    def propose(self, block: Vectors) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the scores of rows, and by how much two scores of a row can stand in the wrong order.

        block : (m, d) float32, C-contiguous, finite. Returns ((m, k), (m,)), both int32 of 8 bits, else both float32. Row i's
        inner product with j is larger than with l wherever score[i, j] > score[i, l] + slack[i]. This is proven: where a'
        and b' are multiplied in the place of a and b, a product errs by at most |a - a'| |b| + |a'| |b - b'| (Cauchy and
        Schwarz; the lengths of what was rounded away are computed), and by what sums in any order round away.
        """
        if self.precision == "int8":
            return self._propose_whole(block)
        lengths = _lengths(block)
        if self.precision == "float32":
            scores, lost, rounded = block @ self._right, 0 * lengths, 0 * lengths
        else:
            scores, lost = self._half_products(block)
            rounded = np.abs(scores).max(axis=1) * np.float32(
                2.0**-8
            )  # a product itself is rounded to 8 bits
        summed = (lengths + lost) * (margin(self._dim) / 2) * (self._longest + self._lost)
        error = lost * self._longest + (lengths + lost) * self._lost + summed + rounded
        return scores, (2 * _ROUNDED * error).astype(np.float32)

    def _half_products(self, block: Vectors) -> tuple[Vectors, Vectors]:
        """Return products of bfloat16 as float32, (m, k), and the length of what the rows lost, (m,)."""
        import torch

        half = torch.from_numpy(block).bfloat16()
        lost = _lengths(block - half.float().numpy())
        products: Vectors = torch.mm(half, self._right).float().numpy()
        return products, lost

    def _propose_whole(self, block: Vectors) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        weighted = block * self._weights
        largest = np.maximum(weighted.max(axis=1), -weighted.min(axis=1))
        weighted *= (largest_whole(self._dim) / np.maximum(largest, np.float32(_TINY)))[:, None]
        whole = np.rint(weighted)
        weighted -= whole
        lost, lengths = _lengths(weighted), _lengths(whole)
        lost_of_others = self._lost + self._longest * 2.0**-22  # and what weighting a row rounds away
        error = (lost * self._longest + lengths * lost_of_others) / self._step
        return self.whole_products(whole), np.ceil(2 * _ROUNDED * error + 1).astype(np.int32)

    def whole_products(self, whole: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """Return the exact products, (m, k) int32, of the others in 8 bits with rows of whole numbers.

        whole : (m, d) of any type, numbers up to `largest_whole` and down to its negative.
        """
        if not self.fast:
            return np.asarray(whole.astype(np.float32, copy=False) @ self._right).astype(np.int32)
        import torch

        rows = whole.astype(np.int8, copy=False)
        if len(rows) < _FEWEST_ROWS:
            rows = np.pad(rows, ((0, _FEWEST_ROWS - len(rows)), (0, 0)))
        products: npt.NDArray[np.int32] = torch._int_mm(torch.from_numpy(rows), self._right).numpy()
        return products[: len(whole)]


def _balance(others: Vectors, rest: npt.NDArray[np.float64]) -> Vectors:
    """Return a weight of each column, (d,), for the rows; the others are divided by it, which leaves products as they are.

    Encoders have columns that are large in all rows and differ little. Weighted so, they take no more of the 8 bits than
    others. others : (k, d). rest : the same without their mean.
    """
    size = np.sqrt((others.astype(np.float64) ** 2).mean(axis=0))
    least = max(1e-3 * float(size.max(initial=0.0)), _TINY)
    spread = np.sqrt((rest**2).mean(axis=0))
    return np.sqrt(np.maximum(spread, least) / np.maximum(size, least)).astype(np.float32)


def _longest(rows: npt.NDArray[np.float64]) -> float:
    return float(np.sqrt((rows**2).sum(axis=1).max(initial=0.0))) * _ROUNDED


def _lengths(rows: Vectors) -> Vectors:
    squares = np.einsum("ij,ij->i", rows, rows)
    roots: Vectors = np.sqrt(squares)
    return roots
