"""Threads for products by torch: each call takes one, and rows are shared out between calls.

Threads that share one small product wait for each other, and do so by working: on two cores, assignment to a thousand
concepts takes four times as many processor seconds with two threads a product, and no less time.
"""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

__all__ = ["TILE_ROWS", "each_tile", "one_thread"]

#: Rows to multiply at a time: their products with a thousand others stay in the processor's cache.
TILE_ROWS = 256

_ROWS_OF_A_THREAD = 4096


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
