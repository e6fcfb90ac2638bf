import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.training.augment import augmented
from curate.training.batches import dealt, epoch_batches, neighbours_together
from curate.training.filter_recipe import Augment
from curate.training.losses import info_nce, schedule


def unit(rng, n, d=4):
    rows = rng.standard_normal((n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 70), st.integers(2, 9), st.floats(0, 1), st.integers(0, 3))
def test_an_epoch_has_every_row_once(n, size, hard, epoch):
    rows = unit(np.random.default_rng(n), max(n, 1))[:n]
    found = epoch_batches([f"u{i}" for i in range(n)], size, 0, epoch, hard=hard, image=rows, text=rows)
    assert sorted(np.concatenate([np.empty(0, np.int64), *found]).tolist()) == list(range(n))
    assert all(2 <= len(batch) <= size + 1 for batch in found) or n == 1


def test_batches_hang_on_uids_and_not_on_their_order():
    rng = np.random.default_rng(0)
    uids, rows = [f"u{i}" for i in range(50)], unit(rng, 50)
    turned = rng.permutation(50)

    def names(order, hard):
        found = epoch_batches(
            [uids[i] for i in order], 8, 3, 1, hard=hard, image=rows[order], text=rows[order]
        )
        return [[uids[order[row]] for row in batch] for batch in found]

    for hard in (0.0, 1.0):
        assert names(np.arange(50), hard) == names(turned, hard)
    assert names(np.arange(50), 0.0) != names(np.arange(50), 1.0)


def test_neighbours_by_brute_force():
    rng = np.random.default_rng(1)
    image, text = unit(rng, 23), unit(rng, 23)
    left, want = list(range(23)), []
    while left:
        first = left[0]
        near = {row: float(image[row] @ image[first] + text[row] @ text[first]) for row in left}
        near[first] = 9.0
        group = sorted(left, key=lambda row: -near[row])[:5]
        want.append(group)
        left = [row for row in left if row not in group]
    assert [group.tolist() for group in neighbours_together(image, text, 5)] == want


def test_sources_are_dealt_by_their_shares():
    sources = ["a"] * 30 + ["b"] * 5
    found = dealt(sources, {"a": 3.0, "b": 1.0}, 8, 0, 1)
    assert len(found) == 4
    for batch in found:
        assert sum(row >= 30 for row in batch) == 2
        assert len(batch) == 8
    rows = np.concatenate(found)
    assert set(rows[rows >= 30]) == set(range(30, 35))  # all of the small source, some twice


def test_info_nce_by_definition():
    rng = np.random.default_rng(2)
    image, text = unit(rng, 6), unit(rng, 6)
    total = 0.0
    for one, other in ((image, text), (text, image)):
        for i in range(6):
            logits = [7.0 * float(one[i] @ other[j]) for j in range(6)]
            total += np.log(sum(np.exp(logits))) - logits[i]
    found = float(info_nce(torch.from_numpy(image), torch.from_numpy(text), 7.0))
    assert found == pytest.approx(total / 12, abs=1e-5)


def test_the_rate_rises_then_falls_to_nothing():
    rates = [schedule(step, 20, 5) for step in range(20)]
    assert rates.index(max(rates)) in (4, 5)
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert schedule(0, 1, 0) == 1.0


def test_pictures_stay_where_nothing_is_altered():
    pictures = torch.rand(3, 3, 8, 8)
    plain = Augment(scale=1.0)
    assert torch.equal(augmented(pictures, [plain] * 3, np.random.default_rng(0)), pictures)
    how = [plain, Augment(scale=0.5, flip=True, colour=0.3), plain]
    found = augmented(pictures, how, np.random.default_rng(0))
    assert torch.allclose(found[[0, 2]], pictures[[0, 2]], atol=1e-5)
    assert not torch.allclose(found[1], pictures[1], atol=0.05)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
