"""Threads for products: each call of torch takes one, and rows are shared out between calls; BLAS takes one for small ones.

Threads that share one small product wait for each other, and do so by working: on two cores, assignment to a thousand
concepts takes four times as many processor seconds with two threads a product, and no less time.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

__all__ = ["TILE_ROWS", "each_tile", "for_rows", "one_thread"]

#: Rows to multiply at a time: their products with a thousand others stay in the processor's cache.
TILE_ROWS = 256

_ROWS_OF_A_THREAD = 4096

#: Rows that are multiplied with each other in one thread of BLAS: of fewer, threads spend more on waiting than they save.
_ROWS_FOR_THREADS = 2048


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread for each call inside."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _OneThreadOfBlas:
    """One thread of BLAS while anybody is inside: of threads that overlap, the last to leave gives back what there was."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._limit = _blas().limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._limit is not None:
                self._limit.restore_original_limits()


_ONE = _OneThreadOfBlas()


def for_rows(rows: int) -> contextlib.AbstractContextManager[None]:
    """Let BLAS use one thread inside, unless there are enough rows for several."""
    return contextlib.nullcontext() if rows >= _ROWS_FOR_THREADS else _ONE


@functools.cache
def _blas() -> Any:  # noqa: ANN401  (threadpoolctl has no types)
    """Return what sets the threads of the BLAS of NumPy; finding it takes milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def each_tile(
    rows: int, work: Callable[[slice], None], *, threads: bool = True, tile: int = TILE_ROWS
) -> None:
    """Call `work` with slices of up to `tile` of so many rows, in as many threads as torch may use.

    Each call of torch within takes one thread of its own. threads : False to call one after the other, for work whose BLAS
    has threads.
    """
    each = max(1, _ROWS_OF_A_THREAD // tile) * tile
    starts = range(0, rows, each)

    def some(start: int) -> None:
        for first in range(start, min(rows, start + each), tile):
            work(slice(first, min(rows, first + tile)))

    if not threads:
        for start in starts:
            some(start)
        return
    import torch

    before = torch.get_num_threads()
    if min(before, len(starts)) < 2:
        with one_thread():
            for start in starts:
                some(start)
        return
    # The number is one of each thread: oneDNN asks for that of its own, whatever another thread has set.
    pool = ThreadPoolExecutor(min(before, len(starts)), "products", torch.set_num_threads, (1,))
    try:
        for _ in pool.map(some, starts):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # for threads to come
