"""Reading ahead where paths lead: rows in order, and never more bytes at a time than twice those allowed and one image."""

import random
import threading
import time

import numpy as np
import pytest

from curate.sources.base import Rows
from curate.sources.rows import followed


def rows(n):
    none = [None] * n
    refs = [f"{row}" for row in range(n)]
    return Rows(np.arange(n), None, refs, none, refs, none, none, ["ok"] * n, none)


class Store:
    """Images of given sizes; notes how many bytes were under way at most."""

    def __init__(self, sizes, chunk=10):
        self.sizes, self.chunk = sizes, chunk
        self.held = self.peak = 0
        self.lock = threading.Lock()

    def read(self, reference, *, take):
        size = self.sizes[int(reference)]
        for start in range(0, size, self.chunk):
            piece = min(self.chunk, size - start)
            take(self.chunk)
            take(piece - self.chunk)
            with self.lock:
                self.held += piece
                self.peak = max(self.peak, self.held)
            time.sleep(random.random() / 5000)
        return b"x" * size, "ok", None

    def release(self, size):
        with self.lock:
            self.held -= size


@pytest.mark.parametrize("limit", [1, 50, 400, 10_000])
def test_what_is_read_ahead_is_bounded_in_bytes(limit):
    sizes = [5] * 40 + [300, 0, 250, 299, 1] * 8 + [60] * 20
    store, found = Store(sizes), []
    for piece in followed(rows(len(sizes)), store.read, limit):
        found += [len(image) for image in piece.image]
        store.release(sum(map(len, piece.image)))
    assert found == sizes
    assert store.peak <= 2 * limit + max(sizes) + store.chunk


def test_pieces_are_as_large_as_asked():
    pieces = list(followed(rows(10), Store([30] * 10).read, 100))
    assert [len(piece) for piece in pieces] == [4, 4, 2]
    assert [list(piece.row) for piece in pieces] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_who_stops_early_leaves_no_thread_waiting():
    before = threading.active_count()
    results = followed(rows(60), Store([100] * 60).read, 150)
    assert len(next(results)) == 2
    results.close()
    assert threading.active_count() == before


def test_an_error_of_one_row_gets_out():
    def read(reference, *, take):
        take(100)
        if reference == "7":
            raise ValueError("seven")
        return b"x" * 100, "ok", None

    with pytest.raises(ValueError, match="seven"):
        list(followed(rows(60), read, 150))
