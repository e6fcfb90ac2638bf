"""Products by torch take one thread a call (threads that share a small one only wait for each other), in few shapes."""

import numpy as np
import pytest

from curate.clustering.kmeans import assign
from curate.deduplication import semantic
from curate.deduplication.semantic import find_duplicates, near_any
from curate.linalg import unit_rows
from curate.products import for_rows, one_thread


@pytest.fixture
def threads_of_products(monkeypatch):
    """Two threads for torch, and the numbers of threads that products were made with."""
    import torch

    before, product, seen = torch.get_num_threads(), torch.mm, []

    def noted(*given, **named):
        seen.append(torch.get_num_threads())
        return product(*given, **named)

    monkeypatch.setattr(torch, "mm", noted)
    torch.set_num_threads(2)
    yield seen
    torch.set_num_threads(before)


def some(n, d, seed=0):
    return unit_rows(np.random.default_rng(seed).standard_normal((n, d)))[0]


def test_assignment_shares_rows_out_and_finds_the_same(threads_of_products):
    import torch

    rows, centroids = some(9_000, 32), some(64, 32, seed=1)
    cheap, exact = (assign(rows, centroids, cheap=one) for one in (True, False))
    assert np.array_equal(cheap[0], exact[0])
    assert np.array_equal(cheap[1], exact[1])
    assert len(threads_of_products) >= 9
    assert set(threads_of_products) == {1}
    assert torch.get_num_threads() == 2


def test_a_row_that_is_not_finite_is_said_by_whatever_thread_it_is_in(threads_of_products):
    from curate.errors import EmbeddingError

    rows = some(9_000, 32)
    rows[8_500, 3] = np.nan
    with pytest.raises(EmbeddingError, match=r"8,?500"):
        assign(rows, some(64, 32, seed=1), cheap=True)


def test_near_duplicates_are_proposed_by_one_thread(threads_of_products):
    import torch

    rows = some(1_500, 32)
    rows[700:] = rows[:800]
    found = find_duplicates(rows, threshold=0.9, cheap=True)
    assert np.array_equal(found.duplicate_of, find_duplicates(rows, threshold=0.9, cheap=False).duplicate_of)
    assert set(threads_of_products) == {1}
    assert torch.get_num_threads() == 2


def test_the_number_comes_back_after_an_error(threads_of_products):
    import torch

    with pytest.raises(ZeroDivisionError), one_thread():
        assert torch.get_num_threads() == 1
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == 2


def test_products_are_made_in_few_shapes(monkeypatch):
    """What oneDNN prepares for a shape it keeps: with each size of concept another shape, memory grew by hundreds of MB."""
    import torch

    product, seen = torch.mm, set()

    def noted(left, right):
        seen.add((tuple(left.shape), tuple(right.shape)))
        return product(left, right)

    monkeypatch.setattr(torch, "mm", noted)
    rng = np.random.default_rng(0)
    for n in range(1_000, 1_400, 7):
        rows = unit_rows(rng.standard_normal((n, 16)))[0]
        cheap, exact = (find_duplicates(rows, threshold=0.9, cheap=one) for one in (True, False))
        assert np.array_equal(cheap.max_similarity_earlier, exact.max_similarity_earlier, equal_nan=True)
    assert len(seen) <= 30


def threads_of_blas():
    from threadpoolctl import threadpool_info

    return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}


@pytest.fixture
def two_threads_of_blas():
    from threadpoolctl import threadpool_limits

    with threadpool_limits(2, user_api="blas"):
        yield


def test_few_rows_take_one_thread_of_blas_and_many_take_all(two_threads_of_blas):
    assert threads_of_blas() == {2}
    with for_rows(100):
        assert threads_of_blas() == {1}
    with for_rows(10_000):
        assert threads_of_blas() == {2}
    with pytest.raises(ZeroDivisionError), for_rows(100):
        1 / 0  # noqa: B018
    assert threads_of_blas() == {2}


@pytest.mark.parametrize("compare", [find_duplicates, near_any])
def test_a_small_concept_is_compared_by_one_thread_of_blas(compare, two_threads_of_blas, monkeypatch):
    """Two threads took twenty times as long for a hundred rows wherever the processor had other work."""
    seen = []
    monkeypatch.setattr(semantic, "_proposals", lambda *given: seen.append(threads_of_blas()))
    rows = some(200, 32)
    rows[100:] = rows[:100]
    compare(rows, threshold=0.9)
    assert seen == [{1}]
    assert threads_of_blas() == {2}


def test_threads_that_overlap_give_all_threads_of_blas_back(two_threads_of_blas):
    """Each by itself would take the one thread that the other set for what there was before."""
    first, second = for_rows(10), for_rows(10)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert threads_of_blas() == {1}
    second.__exit__(None, None, None)
    assert threads_of_blas() == {2}
