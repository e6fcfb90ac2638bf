import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.linalg import unit_rows
from curate.products import TILE_ROWS, Proposals, each_tile, fast_precisions, largest_whole
from curate.products import proposals as products

PRECISIONS = ["float32", "bfloat16", "int8"]


def rows(n, d, seed=0, *, cone=0.0, loud=0.0):
    """Unit rows; `cone`: a vector that all share; `loud`: one column that is large in all of them."""
    rng = np.random.default_rng(seed)
    made = rng.standard_normal((n, d)) + cone * np.random.default_rng(99).standard_normal(d)
    made[:, d // 2] += loud
    return unit_rows(made)[0]


def wrong_order(scores, slack, exact):
    """Return the pairs that the scores set apart by more than the slack, the other way round than exact products."""
    apart = scores[:, :, None].astype(np.float64) - scores[:, None, :] > slack[:, None, None]
    return int((apart & (exact[:, :, None] <= exact[:, None, :])).sum())


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(deadline=None, max_examples=40)
@given(
    d=st.sampled_from([1, 2, 7, 64, 130, 512]), k=st.integers(1, 40), n=st.integers(1, 50), seed=st.integers(0, 999),
    cone=st.sampled_from([0.0, 1.0, 30.0]), loud=st.sampled_from([0.0, 50.0]), length=st.sampled_from([1e-6, 1.0, 300.0]),
)  # fmt: skip
def test_scores_further_apart_than_the_slack_stand_in_the_order_of_products(
    precision, d, k, n, seed, cone, loud, length
):
    others = rows(k, d, seed, cone=cone, loud=loud)
    block = rows(n, d, seed + 1, cone=cone, loud=loud) * np.float32(length)
    block[: n // 3] = others[np.arange(n // 3) % k]
    exact = block.astype(np.float64) @ others.T.astype(np.float64)
    scores, slack = Proposals(others, precision).propose(block)
    assert scores.shape == (n, k)
    assert wrong_order(scores, slack, exact) == 0


@pytest.mark.parametrize(("precision", "share"), [("float32", 0.999), ("bfloat16", 0.9), ("int8", 0.5)])
def test_the_slack_is_small_enough_to_decide_most_rows(precision, share):
    others = rows(200, 256)
    block = unit_rows(
        others[np.arange(1000) % 200] + 0.05 * np.random.default_rng(1).standard_normal((1000, 256))
    )[0]
    scores, slack = Proposals(others, precision).propose(block)
    ordered = np.sort(scores.astype(np.float64), axis=1)
    assert (ordered[:, -1] - ordered[:, -2] > slack).mean() >= share


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_the_slack_is_needed(precision):
    """A fraction of it would be wrong somewhere."""
    one = rows(1, 64)
    others = unit_rows(one + 1e-3 * np.random.default_rng(0).standard_normal((50, 64)))[0]
    block = rows(300, 64, 5)
    exact = block.astype(np.float64) @ others.T.astype(np.float64)
    scores, slack = Proposals(others, precision).propose(block)
    assert wrong_order(scores, slack, exact) == 0
    assert wrong_order(scores, slack * 0.05, exact) > 0


@pytest.mark.parametrize("d", [3, 512, 1040, 4096])
def test_products_of_whole_numbers_are_exact(d, monkeypatch):
    most = largest_whole(d)
    whole = np.full((40, d), most, np.int8)
    whole[1::2] = -most
    whole[5] = np.random.default_rng(0).integers(-most, most + 1, d)
    others = rows(10, d)
    there = Proposals(others, "int8")
    found = there.whole_products(whole)
    monkeypatch.setattr(products, "fast_precisions", lambda: frozenset())
    plain = Proposals(others, "int8")
    assert not plain.fast
    right = plain._right.T.astype(np.int64)
    assert np.abs(right).max() == most
    np.testing.assert_array_equal(found, whole.astype(np.int64) @ right.T)
    np.testing.assert_array_equal(found, plain.whole_products(whole))


def test_eight_bits_are_the_same_on_any_processor(monkeypatch):
    others, block = rows(300, 96, cone=2.0), rows(700, 96, 1, cone=2.0)
    here = Proposals(others, "int8").propose(block)
    monkeypatch.setattr(products, "fast_precisions", lambda: frozenset())
    elsewhere = Proposals(others, "int8").propose(block)
    np.testing.assert_array_equal(here[0], elsewhere[0])
    np.testing.assert_array_equal(here[1], elsewhere[1])


def test_eight_bits_of_a_row_depend_on_no_other_row():
    others, block = rows(64, 128), rows(600, 128, 1)
    proposals = Proposals(others, "int8")
    whole, slack = proposals.propose(block)
    for part in (slice(0, 1), slice(17, 18), slice(3, 300), slice(599, 600)):
        np.testing.assert_array_equal(proposals.propose(block[part])[0], whole[part])
        np.testing.assert_array_equal(proposals.propose(block[part])[1], slack[part])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_without_a_direction_and_equal_others_decide_nothing(precision):
    others = np.repeat(rows(1, 32), 5, axis=0)
    scores, slack = Proposals(others, precision).propose(np.zeros((3, 32), np.float32))
    assert (scores.max(axis=1) - scores.min(axis=1) <= slack).all()
    scores, slack = Proposals(others, precision).propose(rows(3, 32, 4))
    assert (scores.max(axis=1) - scores.min(axis=1) <= slack).all()


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
