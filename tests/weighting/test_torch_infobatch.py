import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from curate.errors import UsageError
from curate.hashing import hash_uids, nth_hash
from curate.torch import Indexed, InfoBatch
from tests.reference.infobatch import select_infobatch


def epoch_of(prune, epoch, losses=None):
    """Return the indices of an epoch; notes `losses` of them, all at once."""
    prune.set_epoch(epoch)
    rows = list(prune)
    if losses is not None and rows:
        prune(torch.tensor(rows), torch.tensor(losses)[rows])
    return rows


@given(
    st.lists(st.integers(-6, 6), min_size=1, max_size=30),
    st.integers(0, 999),
    st.sampled_from([0, 0.3, 0.5, "90%", 1]),
)
@settings(max_examples=80, deadline=None)
def test_an_epoch_is_what_the_reference_keeps(values, seed, r):
    n, losses = len(values), np.array(values) / 4
    uids = [f"u{i}" for i in range(n)]
    prune = InfoBatch(n, 9, r, uids=uids, seed=seed)
    assert sorted(epoch_of(prune, 0, losses)) == list(range(n)), "nothing is known: all come"
    assert prune.scores.tolist() == losses.tolist()
    draw = nth_hash(hash_uids(uids, seed, "infobatch"), 2)
    want = select_infobatch(losses, draw, np.array(uids), str(r))
    rows = epoch_of(prune, 1)
    assert sorted(rows) == np.flatnonzero(want.keep).tolist() and len(rows) == len(prune)
    weights = prune(torch.tensor(rows), torch.zeros(len(rows), dtype=torch.float64))
    np.testing.assert_allclose(weights.numpy(), want.weight[rows])
    assert not weights.requires_grad


def test_draws_belong_to_the_uid_and_not_to_the_place():
    losses = np.random.default_rng(0).random(40)
    uids = [f"u{i}" for i in range(40)]
    order = np.random.default_rng(1).permutation(40)
    one, other = InfoBatch(40, 9, uids=uids), InfoBatch(40, 9, uids=[uids[i] for i in order])
    epoch_of(one, 0, losses)
    epoch_of(other, 0, losses[order])
    assert [uids[i] for i in epoch_of(one, 1)] == [uids[order[i]] for i in epoch_of(other, 1)]


def test_each_epoch_leaves_out_others_and_in_the_mean_nothing():
    losses = np.array([0.1, 0.2, 0.3, 0.4, 2.0, 2.0, 2.0])
    prune = InfoBatch(7, 10_000, 0.5, seed=4)
    epoch_of(prune, 0, losses)
    total, kept = np.zeros(7), set()
    for epoch in range(1, 801):
        rows = epoch_of(prune, epoch)
        kept.add(tuple(sorted(rows)))
        total[rows] += prune(torch.tensor(rows), torch.tensor(losses)[rows]).numpy()
    np.testing.assert_allclose(total / 800, 1, atol=0.15)
    assert kept == {(*pair, 4, 5, 6) for pair in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]}


@pytest.mark.parametrize(
    ("epochs", "delta", "pruned"), [(8, 0.875, 7), (10, 0.875, 9), (4, 0, 0), (4, 1, 4), (1, 0.5, 1)]
)
def test_the_last_epochs_have_all(epochs, delta, pruned):
    prune = InfoBatch(20, epochs, 0.5, delta)
    losses = np.arange(20.0)
    prune.scores[:] = losses  # as from a checkpoint: the first epoch would have all anyway
    sizes = [len(epoch_of(prune, epoch, losses)) for epoch in range(epochs)]
    assert sizes == [15] * pruned + [20] * (epochs - pruned)
    if sizes[-1] == 20:
        rows = torch.arange(20)
        assert (prune(rows, rows.double()) == 1).all()


def test_losses_that_are_not_finite_are_not_noted():
    prune = InfoBatch(4, 9)
    epoch_of(prune, 0, np.array([1.0, np.nan, np.inf, 3.0]))
    assert np.isnan(prune.scores).tolist() == [False, True, True, False]
    assert sorted(epoch_of(prune, 1)) == [0, 1, 2, 3], (
        "one easy sample, of which one stays; unknown ones stay"
    )


@pytest.mark.usefixtures("plain_forks")
def test_a_loop_with_workers_and_ever_other_losses():
    """Losses change with the epoch; pruned samples keep their last one. Followed by hand beside it."""
    n, epochs = 24, 6
    data = Indexed([float(i) for i in range(n)])
    prune = InfoBatch(n, epochs, 0.5, 0.7, seed=2)
    known = np.full(n, np.nan)
    for epoch in range(epochs):
        prune.set_epoch(epoch)
        seen = []
        loader = DataLoader(data, batch_size=5, sampler=prune, num_workers=2 if epoch == 1 else 0)
        assert len(loader) == math.ceil(len(prune) / 5)
        easy = known < np.mean(known) if epoch and epoch < 0.7 * epochs else np.zeros(n, bool)
        kept = max(1, int(easy.sum() * 0.5 + 0.5)) if easy.any() else 0
        for index, value in loader:
            losses = (value * (epoch + 1)) % 7
            weights = prune(index, losses)
            expected = np.where(easy[index.numpy()], easy.sum() / max(1, kept), 1)
            np.testing.assert_allclose(weights.numpy(), expected)
            known[index.numpy()] = losses.numpy()
            seen += index.tolist()
        assert len(set(seen)) == len(seen) == (~easy).sum() + kept
        assert set(np.flatnonzero(~easy)) <= set(seen)
        np.testing.assert_array_equal(prune.scores, known)


@pytest.mark.parametrize("stop", [0, 1, 3, 99])
def test_training_goes_on_from_a_checkpoint_where_it_stood(tmp_path, stop):
    """Interrupted in epoch 2 after `stop` batches, with a loader that had fetched all of the epoch: nothing differs."""

    def new():
        return InfoBatch(30, 6, 0.6, seed=1)

    def batches(prune, epoch, record, upto=99):
        prune.set_epoch(epoch)
        ahead = list(prune)  # what a loader with workers may do
        for place in range(0, len(ahead), 4):
            if place // 4 == upto:
                return
            rows = torch.tensor(ahead[place : place + 4])
            weights = prune(rows, torch.sin(rows * (epoch + 1.0)) + 2)
            record.append((rows.tolist(), weights.tolist()))

    whole, record = new(), []
    for epoch in range(5):
        batches(whole, epoch, record)
    first, done = new(), []
    for epoch in range(2):
        batches(first, epoch, done)
    before = len(done)
    batches(first, 2, done, upto=stop)
    torch.save(first.state_dict(given=4 * (len(done) - before)), tmp_path / "state.pt")
    other = new()
    other.load_state_dict(torch.load(tmp_path / "state.pt"))
    for epoch in range(2, 5):
        batches(other, epoch, done)
    assert done == record
    np.testing.assert_array_equal(other.scores, whole.scores)


def test_at_the_end_of_an_epoch_any_number_of_processes_goes_on():
    one, losses = InfoBatch(9, 9, seed=1), np.arange(9.0)
    for epoch in range(2):
        rows = epoch_of(one, epoch, losses)
    other = InfoBatch(9, 9, seed=1, num_replicas=2, rank=0)
    other.load_state_dict(one.state_dict(given=len(rows)))
    assert other.epoch == 2 and list(other) == epoch_of(one, 2)[::2]


def test_what_is_wrong_is_said():
    for how, said in (
        ({"n": 0, "epochs": 1}, "n must be at least 1, got 0"),
        ({"n": 1, "epochs": 0}, "epochs must be at least 1, got 0"),
        ({"n": 1, "epochs": 1, "r": 1.5}, r"r must be in \[0, 1\], got 1.5"),
        ({"n": 1, "epochs": 1, "delta": -1}, r"delta must be in \[0, 1\], got -1"),
        (
            {"n": 2, "epochs": 1, "uids": ["a", "a"]},
            r"uids must be 2 different ones, one per item, got 2 \(1 different\)",
        ),
    ):
        with pytest.raises(UsageError, match=said):
            InfoBatch(**how)
    prune = InfoBatch(4, 9, 1)
    epoch_of(prune, 0, np.array([0.0, 0, 3, 3]))
    with pytest.raises(UsageError, match=r"got \(2,\) and \(2, 1\)"):
        prune(torch.arange(2), torch.zeros(2, 1))
    gone = ({0, 1} - set(epoch_of(prune, 1))).pop()
    for index in (gone, 4, -1):
        with pytest.raises(UsageError, match="has items that epoch 1 does not have"):
            prune(torch.tensor([index]), torch.zeros(1))
    with pytest.raises(UsageError, match="shared by 2 processes, and losses are gathered from 1; initialise"):
        InfoBatch(4, 9, num_replicas=2, rank=0)(torch.arange(2), torch.zeros(2))
    with pytest.raises(UsageError, match="the state is of 4 items, and there are 5"):
        InfoBatch(5, 9, 1).load_state_dict(prune.state_dict())
