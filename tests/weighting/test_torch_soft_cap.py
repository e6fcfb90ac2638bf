from collections import Counter

import numpy as np
import polars as pl
import pytest
import torch
from torch.utils.data import DataLoader

from curate.errors import RecipeError, UsageError
from curate.hashing import hash_uids, nth_hash
from curate.torch import SoftCapSampler
from curate.weighting.soft_cap import soft_cap_counts

SCORES = np.array([0.3, 0.1, np.nan, 0.5, 0.2, -np.inf, 0.4])


def of_ranks(n, num_samples, epoch=0, **how):
    """Return the indices that each of n processes gets in an epoch."""
    found = []
    for rank in range(n):
        one = SoftCapSampler(SCORES, num_samples, temperature=0.1, num_replicas=n, rank=rank, **how)
        one.set_epoch(epoch)
        found.append(list(one))
        assert len(found[-1]) == len(one)
    return found


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_processes_share_the_draws_of_the_formula(n, drop_last):
    uids = [f"u{i}" for i in range(7)]
    size = 40 // n * n if drop_last else -(-40 // n) * n
    for epoch in (0, 3):
        found = of_ranks(n, 40, epoch, uids=uids, seed=5, drop_last=drop_last)
        counts = Counter(index for one in found for index in one)
        keys = nth_hash(hash_uids(uids, 5, "soft cap"), 2 * epoch)
        want = soft_cap_counts(SCORES / 0.1, size, 0.15, keys)
        assert [counts[i] for i in range(7)] == want.tolist()
    assert found != of_ranks(n, 40, 2, uids=uids, seed=5, drop_last=drop_last)


def test_order_is_random_and_items_are_known_by_uid():
    [whole] = of_ranks(1, 2000)
    halves = Counter(whole[:1000]), Counter(whole[1000:])
    for item in set(whole):
        assert abs(halves[0][item] - halves[1][item]) < 5 * Counter(whole)[item] ** 0.5
    uids, order = [f"u{i}" for i in range(7)], [6, 0, 3, 5, 1, 2, 4]
    moved = SoftCapSampler(SCORES[order], 50, uids=[uids[i] for i in order])
    assert [order[i] for i in moved] == list(SoftCapSampler(SCORES, 50, uids=uids))


@pytest.mark.usefixtures("plain_forks")
def test_scores_of_many_kinds_in_a_loader():
    one = SoftCapSampler(torch.tensor(SCORES), seed=1)
    assert len(one) == 5
    for other in (SCORES.tolist(), pl.Series([None if not np.isfinite(x) else x for x in SCORES])):
        assert list(SoftCapSampler(other, seed=1)) == list(SoftCapSampler(SCORES, seed=1))
    batches = DataLoader(range(7), batch_size=2, sampler=one, num_workers=2)
    first = [item for batch in batches for item in batch.tolist()]
    assert (
        first
        == list(SoftCapSampler(SCORES, seed=1))
        != [item for batch in batches for item in batch.tolist()]
    )


def test_what_is_wrong_is_said():
    for how, said in (
        ({"scores": [[1.0]]}, r"scores must be one number per item, got \(1, 1\)"),
        ({"scores": [np.nan, np.inf]}, "none of the 2 items has a finite score"),
        ({"scores": [1.0], "num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"scores": [1.0], "num_samples": 2.5}, r"num_samples must be a whole number, got 2\.5"),
        ({"scores": [1e308, -1e308], "temperature": 1e-9}, "none of the 2 items has a finite score"),
        ({"scores": [1.0], "temperature": 0}, "temperature must be above 0, got 0"),
        (
            {"scores": [1.0], "uids": ["a", "b"]},
            r"uids must be 1 different ones, one per item, got 2 \(2 different\)",
        ),
    ):
        with pytest.raises(UsageError, match=said):
            SoftCapSampler(**how)
    with pytest.raises(RecipeError, match=r"weight.penalty must be a finite number of at least 0, got -1"):
        SoftCapSampler([1.0], penalty=-1)
