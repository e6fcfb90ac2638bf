import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.products import TILE_ROWS, WholeProducts, each_tile, fast_precisions, largest_whole


def whole(n, d, seed=0, most=None):
    most = largest_whole(d) if most is None else most
    return np.random.default_rng(seed).integers(-most, most + 1, (n, d)).astype(np.int8)


@given(
    n=st.integers(0, 70), k=st.sampled_from([1, 2, 15, 16, 17, 1023, 1024, 1025, 2100]), d=st.sampled_from([1, 7, 16, 17, 31, 64, 130, 200]),
    most=st.sampled_from([1, 127]), fast=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_nearest_by_definition(n, k, d, most, fast, seed):
    """With numbers from -1 to 1 many products are equal: the first is the nearest."""
    left, others = whole(n, d, seed, most), whole(k, d, seed + 1, most)
    exact = left.astype(np.int64) @ others.T.astype(np.int64)
    place, largest = WholeProducts(others, fast=fast).nearest(left)
    np.testing.assert_array_equal(place, exact.argmax(axis=1))
    np.testing.assert_array_equal(largest, exact.max(axis=1))
    assert place.dtype == largest.dtype == np.int32


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("d", [3, 512, 1040, 4096])
def test_the_largest_numbers_there_can_be_are_exact(d, fast):
    most = largest_whole(d)
    left, others = np.full((40, d), most, np.int8), np.full((3, d), most, np.int8)
    left[1::2] = -most
    left[5], others[1] = whole(2, d)
    others[2] = -most
    others[2, -1] += 1  # one less than the largest of all: float32 must tell them apart
    exact = left.astype(np.int64) @ others.T.astype(np.int64)
    place, largest = WholeProducts(others, fast=fast).nearest(left)
    np.testing.assert_array_equal(place, exact.argmax(axis=1))
    np.testing.assert_array_equal(largest, exact.max(axis=1))


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ((), ()),
        (("avx2", "avx_vnni", "GenuineIntel"), ()),
        (("avx512f", "avx512bw", "GenuineIntel"), ()),
        (("avx512_vnni", "GenuineIntel"), ("int8",)),
        (("avx512_vnni", "avx512_bf16", "GenuineIntel"), ("int8",)),
        (("avx512_vnni", "avx512_bf16", "AuthenticAMD"), ("bfloat16", "int8")),
        (("avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "GenuineIntel"), ("bfloat16", "int8")),
    ],
)
def test_what_is_fast_is_told_by_flags(flags, found):
    assert tuple(sorted(fast_precisions(frozenset(flags)))) == found


@pytest.mark.parametrize("threads", [True, False])
@pytest.mark.parametrize("n", [0, 1, TILE_ROWS, 40 * TILE_ROWS + 3])
def test_every_row_is_in_one_tile(n, threads):
    import torch

    seen = np.zeros(n, np.int64)

    def work(tile):
        assert 0 < tile.stop - tile.start <= TILE_ROWS
        assert not threads or torch.get_num_threads() == 1
        seen[tile] += 1

    before = torch.get_num_threads()
    each_tile(n, work, threads=threads)
    assert (seen == 1).all()
    assert torch.get_num_threads() == before


def test_an_error_in_a_tile_ends_the_work():
    import torch

    before = torch.get_num_threads()

    def work(tile):
        raise ValueError(f"rows {tile.start}")

    with pytest.raises(ValueError, match="rows 0"):
        each_tile(50_000, work)
    assert torch.get_num_threads() == before
    assert not [one for one in threading.enumerate() if one.name.startswith("products")]
