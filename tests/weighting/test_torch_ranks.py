"""Two processes that train together (gloo, on this machine). This one is the first: torch takes seconds to import.

All jobs run once, in both processes, when the first test asks; each returns what the tests then look at.
"""

import itertools
import os
import runpy
import socket
import subprocess
import sys
from datetime import timedelta

import numpy as np
import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from curate.torch import Indexed, InfoBatch, LossReweighter, RunSampler, SoftCapSampler
from curate.torch.ranks import gather, world
from curate.weighting.loss import METHODS, loss_weights
from tests.fixtures.training import ROOT, training_place

NAN = float("nan")
#: Losses of a batch in each process: as many, fewer, none, only broken ones, one empty.
BATCHES = {
    "even": ([0.1, 4.0, 1.0], [2.0, 0.3, 8.0]),
    "ragged": ([0.1, 4.0, 1.0, 0.7, 0.2], [2.0, 0.3]),
    "with broken ones": ([0.1, NAN, 4.0, float("inf")], [2.0, 0.3, 8.0]),
    "broken in one": ([NAN, NAN], [2.0, 0.3, 8.0]),
    "empty in one": ([0.5, 2.0, 3.0], []),
    "equal": ([0.5, 0.5], [0.5]),
    "nothing": ([], []),
}
WEIGHTS = torch.tensor([3.0, 0.0, 1.0, 1.0, 0.5, 0.0, 2.0], dtype=torch.float64)
N, EPOCHS = 23, 5


def weigh(rank):
    """Return the weights of every batch, by every method: over both processes, by each alone, and in burn-in."""
    found = {}
    for name, method in itertools.product(BATCHES, METHODS):
        losses = torch.tensor(BATCHES[name][rank], dtype=torch.float64)
        for cap in (None, 1.3):
            both = LossReweighter(method, r=0.4, max_weight=cap)
            alone = LossReweighter(method, r=0.4, max_weight=cap, over_ranks=False)
            uniform = LossReweighter(method, burn_in=1)
            found[name, method, cap] = [one(losses).tolist() for one in (both, alone, uniform)]
    return found


def gathered(rank):
    """Return rows of two numbers, of which one process has none, and where those of this process stand."""
    rows = torch.arange(6.0).reshape(3, 2) if rank else torch.empty(0, 2)
    every, mine = gather(rows)
    assert torch.equal(every[mine], rows)
    return world(), every.tolist()


def rows_of(rank, batch):
    """Return inputs and targets of a batch: the first process has 5 rows, the second 5, then 3."""
    generator = torch.Generator().manual_seed(10 * batch + rank)
    n = 3 if rank and batch else 5
    return torch.randn(n, 4, generator=generator), torch.randn(n, generator=generator)


def gradients(rank):
    """Return the gradients that DDP makes of the weighted mean, for two batches, the second of them ragged."""
    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Linear(4, 1))
    reweight = LossReweighter("linupper", r=0.5)
    found = []
    for batch in range(2):
        inputs, targets = rows_of(rank, batch)
        model.zero_grad()
        losses = (model(inputs)[:, 0] - targets) ** 2
        (reweight(losses) * losses).mean().backward()
        found.append([one.grad.tolist() for one in model.parameters()])
    return found


def draws(rank):
    """Return what loaders with samplers of each kind give in two epochs, the second of them resumed."""
    found = {}
    for name, new in SAMPLERS.items():
        drawn = new()  # as on the command line of a training: it asks who it is when it is used
        first = list(epoch_of(drawn, 0))
        begun = list(itertools.islice(epoch_of(drawn, 1), 2))
        other = new()
        other.load_state_dict(drawn.state_dict(given=len(begun)))
        found[name] = [first, begun + list(epoch_of(other, 1))]
    return found


def epoch_of(drawn, epoch):
    drawn.set_epoch(epoch)
    for batch in DataLoader(range(7), batch_size=1, sampler=drawn):
        yield from batch.tolist()


SAMPLERS = {
    "with replacement": lambda **who: RunSampler(WEIGHTS, 9, seed=1, **who),
    "without": lambda **who: RunSampler(WEIGHTS, 5, seed=1, replacement=False, **who),
    "soft cap": lambda **who: SoftCapSampler(WEIGHTS, 11, seed=1, **who),
    "left out": lambda **who: RunSampler(WEIGHTS, 9, seed=1, drop_last=True, **who),
}


def pruned(rank):
    """Return what epochs with InfoBatch have, and the losses known after each; it stops in the third, and goes on from rank 0's state."""
    prune, record = InfoBatch(N, EPOCHS, 0.5, 0.8, seed=3), []
    for epoch in range(EPOCHS):
        batches = pruned_epoch(prune, epoch)
        if epoch == 2:
            done = list(itertools.islice(batches, 1))
            states = [prune.state_dict(given=4)]
            distributed.broadcast_object_list(states, src=0)
            prune = InfoBatch(N, EPOCHS, 0.5, 0.8, seed=3)
            prune.load_state_dict(states[0])
            batches = itertools.chain(done, pruned_epoch(prune, epoch))
        record.append((list(batches), prune.scores.tolist()))
    return record


def pruned_epoch(prune, epoch):
    prune.set_epoch(epoch)
    data = Indexed([float(i) for i in range(N)])
    for index, value in DataLoader(data, batch_size=4, sampler=prune):
        losses = (value * 1.7 + epoch) % 3
        yield index.tolist(), prune(index, losses).tolist()


JOBS = [weigh, gathered, gradients, draws, pruned]


def example(rank, port, folder, shards, run):
    """Run the loop in docs/training.md, with what torchrun tells a process."""
    told = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    call = [
        "train.py", run, shards, "--checkpoint", f"{folder}/two.pt", "--samples", "45", "--batch-size", "4",
        "--epochs", "2", "--workers", "0",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        for steps in ("8", "99"):  # stops in the second epoch, and goes on
            patch.setattr(sys, "argv", [*call, "--steps", steps])
            runpy.run_path(f"{folder}/train.py", run_name="__main__")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def work(rank, folder, shards, run):
    """Do all jobs in one of two processes; return what they gave in both, by job."""
    store = f"{folder}/store"
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    try:
        every = [None, None]
        distributed.all_gather_object(
            every, {job.__name__: job(rank) for job in JOBS} | {"port": free_port()}
        )
    finally:
        distributed.destroy_process_group()
    example(rank, every[0]["port"], folder, shards, run)
    return {job.__name__: [one[job.__name__] for one in every] for job in JOBS}


@pytest.fixture(scope="module")
def place(tmp_path_factory, no_flush):
    folder = tmp_path_factory.mktemp("ranks")
    shards, run = training_place(folder)
    return str(folder), shards, str(run.path)


@pytest.fixture(scope="module")
def both(place):
    code = "import sys; from tests.weighting.test_torch_ranks import work; work(1, *sys.argv[1:])"
    other = subprocess.Popen(
        [sys.executable, "-c", code, *place], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        found = work(0, *place)
    finally:
        told = other.communicate(timeout=90)  # without this process, the other one gives up after a minute
    assert other.returncode == 0, told
    return found


@pytest.mark.parametrize("cap", [None, 1.3])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", BATCHES)
def test_weights_are_those_of_all_losses_together(both, name, method, cap):
    losses = [np.array(one) for one in BATCHES[name]]
    settings = {"method": method, "r": 0.4, "max_weight": cap}
    want = loss_weights(np.concatenate(losses), **settings).weight
    known = [np.isfinite(one).sum() for one in losses]
    want = np.split(want, [len(losses[0])])
    for rank in range(2):
        over, alone, uniform = both["weigh"][rank][name, method, cap]
        share = 2 * known[rank] / max(1, sum(known))
        np.testing.assert_allclose(over, want[rank] * share, rtol=1e-9)
        np.testing.assert_allclose(alone, loss_weights(losses[rank], **settings).weight, rtol=1e-9)
        np.testing.assert_allclose(uniform, np.where(np.isfinite(losses[rank]), share, np.nan), rtol=1e-12)
    if name == "even":
        assert both["weigh"][0][name, method, cap][0] != both["weigh"][0][name, method, cap][1]


def test_rows_of_all_processes_stand_one_behind_the_other(both):
    assert both["gathered"] == [((2, rank), [[0, 1], [2, 3], [4, 5]]) for rank in range(2)]
    assert world() == (1, 0)


def test_gradients_of_ddp_are_those_of_the_weighted_mean_of_all_rows(both):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    for batch in range(2):
        inputs, targets = (torch.cat(rows) for rows in zip(rows_of(0, batch), rows_of(1, batch), strict=True))
        model.zero_grad()
        losses = (model(inputs)[:, 0] - targets) ** 2
        weight = torch.tensor(loss_weights(losses.detach().double().numpy(), "linupper", r=0.5).weight)
        (weight.float() * losses).mean().backward()
        for rank in range(2):
            for got, one in zip(both["gradients"][rank][batch], model.parameters(), strict=True):
                np.testing.assert_allclose(got, one.grad.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_processes_share_one_draw(both, name):
    for epoch in (0, 1):
        shares = []
        for rank in range(2):
            alone = SAMPLERS[name](num_replicas=2, rank=rank)
            alone.set_epoch(epoch)
            shares.append(list(alone))
            assert both["draws"][rank][name][epoch] == shares[-1], "as one that was told who it is"
        whole = [index for pair in zip(*shares, strict=True) for index in pair]
        one = SAMPLERS[name]()
        one.set_epoch(epoch)
        if name == "with replacement":
            assert whole[:9] == list(RunSampler(WEIGHTS, 10, seed=1, num_replicas=1, rank=0))[:9] or epoch
            assert len(whole) == 10
        elif name == "without":
            assert whole[:5] == list(one) and whole[5:] == whole[:1], "the first comes once more"
        elif name == "soft cap":
            assert len(whole) == 12 and set(whole) <= set(range(7))
        else:
            assert len(whole) == 8


def test_infobatch_makes_the_epochs_of_one_process(both):
    """Each knows the losses of both; the same epochs as in one process, but for the sample that fills up the last place."""
    first, second = both["pruned"]
    alone = InfoBatch(N, EPOCHS, 0.5, 0.8, seed=3)
    for epoch in range(EPOCHS):
        batches = list(pruned_epoch(alone, epoch))
        want = dict(pair for rows, weights in batches for pair in zip(rows, weights, strict=True))
        got = [
            pair for found in (first, second) for rows, weights in found[epoch][0]
            for pair in zip(rows, weights, strict=True)
        ]  # fmt: skip
        assert dict(got) == want
        assert len(got) == len(want) + len(want) % 2
        assert first[epoch][1] == second[epoch][1] == alone.scores.tolist()
    sizes = [sum(len(rows) for rows, _ in epoch[0]) for epoch in first]
    assert sizes[0] == sizes[4] == 12 and max(sizes[1:4]) < 12, "some are left out, and none at the end"


def test_the_example_trains_in_two_processes(both, place):
    state = torch.load(f"{place[0]}/two.pt")
    assert state["draws"] == {"seed": 0, "epoch": 1, "given": 23, "num_replicas": 2, "total_size": 46}
    assert state["reweight"] == {"steps": 12}
    assert all(torch.isfinite(value).all() for value in state["model"].values())
