import itertools
import json
import subprocess
import sys
from collections import Counter

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Sampler

import curate
from curate.errors import RecipeError, UsageError
from curate.runs.folder import RunFolder
from curate.torch import InfoBatch, LossReweighter, RunSampler, SoftCapSampler, sampler
from curate.weighting.loss import METHODS, loss_weights

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("max_weight", [None, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("clip", [None, (0.01, 0.99)])
def test_equals_the_weights_of_a_column(device, method, max_weight, clip):
    rng = np.random.default_rng(0)
    batches = [
        rng.exponential(size=16), np.array([0.0, 1, 2, 4]), np.full(5, 0.3), np.array([2.0]), np.array([]),
        np.array([np.nan, 1.0, np.inf, 3.0, 0.2, 8.0]), np.array([np.nan, -np.inf]),
    ]  # fmt: skip
    for loss in batches:
        options = {"r": 0.4, "max_weight": max_weight, "clip": clip}
        want = loss_weights(loss, method, **options).weight
        for dtype, rtol in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
            got = LossReweighter(method, **options)(torch.tensor(loss, dtype=dtype, device=device))
            assert got.dtype == dtype and got.device.type == device
            np.testing.assert_allclose(got.cpu().numpy(), want, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(device, dtype):
    losses = torch.tensor([0.0, 1.0, 2.0, 4.0], dtype=dtype, device=device)
    got = LossReweighter(clip=None)(losses)
    assert got.dtype == dtype
    want = loss_weights(np.array([0.0, 1, 2, 4]), clip=None).weight
    np.testing.assert_allclose(got.float().cpu().numpy(), want, rtol=1e-2)


def test_burn_in_is_uniform_and_goes_on_from_a_checkpoint():
    losses = torch.tensor([0.0, 1.0, 2.0, torch.nan])
    first = LossReweighter(burn_in=2)
    for _ in range(2):
        np.testing.assert_array_equal(first(losses).numpy(), [1, 1, 1, np.nan])
    assert first(losses)[0] < 1
    other = LossReweighter(burn_in=2)
    other.load_state_dict(first.state_dict())
    assert other(losses)[0] < 1 and other.steps == 4


def test_weights_carry_no_gradient():
    losses = torch.tensor([0.0, 1.0, 2.0, 4.0], requires_grad=True)
    weights = LossReweighter()(losses)
    assert not weights.requires_grad
    (weights * losses).sum().backward()
    np.testing.assert_array_equal(losses.grad.numpy(), weights.numpy())


def test_settings_are_checked():
    with pytest.raises(RecipeError, match=r"weight.r must be a finite number > 0, got 0"):
        LossReweighter(r=0)
    with pytest.raises(UsageError, match="burn_in must be at least 0, got -1"):
        LossReweighter(burn_in=-1)
    with pytest.raises(UsageError, match=r"reduction='none'\), got \(2, 2\)"):
        LossReweighter()(torch.zeros(2, 2))


def decided(folder, rows):
    """A run folder with decisions and nothing else; rows : (uid, occurrence, shard, row, keep, weight)."""
    run = RunFolder(folder)
    run.decisions.mkdir(parents=True)
    run.recipe.write_text("run: x\n")
    names = ["uid", "occurrence", "shard", "row", "keep", "weight"]
    frame = pl.DataFrame(rows, schema=names, orient="row").with_columns(pl.col("weight").cast(pl.Float32))
    for number, part in enumerate((frame[2:], frame[:2])):  # parts are not in the order of shards
        part.write_parquet(run.part(run.decisions, str(number)))
    run.mark(run.decisions, "stamp", {})
    return folder


@pytest.fixture
def folder(tmp_path):
    rows = [
        ("a", 0, "s0", 0, True, 3.0), ("b", 0, "s0", 1, False, 0.0), ("a", 1, "s1", 0, False, 0.0),
        ("c", 0, "s1", 1, True, 1.0),
    ]  # fmt: skip
    return decided(tmp_path / "run", rows)


def test_sampler_follows_weights_in_the_order_of_rows_read(folder):
    drawn = sampler(folder, num_samples=4000, seed=1)
    assert isinstance(drawn, Sampler) and len(drawn) == 4000
    assert drawn.weights.tolist() == [3, 0, 0, 1]
    counts = Counter(drawn)
    assert set(counts) == {0, 3} and counts[0] / 4000 == pytest.approx(0.75, abs=0.03)
    assert list(sampler(folder, num_samples=50, seed=1)) == list(sampler(folder, num_samples=50, seed=1))
    assert list(sampler(folder, num_samples=50, seed=1)) != list(sampler(folder, num_samples=50, seed=2))
    one = sampler(folder, num_samples=50)
    assert list(one) != list(one)  # the next epoch draws anew


def test_sampler_in_the_order_of_a_data_set(folder):
    assert sampler(folder, ["c", "b", "a", "a"]).weights.tolist() == [1, 0, 3, 0]
    one = sampler(curate.open_run(folder), ["c"])
    assert len(one) == 1 and list(one) == [0]
    assert len(sampler(folder)) == 2
    with pytest.raises(UsageError, match="2 of 3 items of the data set are not in the run, such as 'x'"):
        sampler(folder, ["c", "x", "y"])
    with pytest.raises(UsageError, match="a weight to none of the 1 items"):
        sampler(folder, ["b"])
    with pytest.raises(UsageError, match="not a run folder"):
        sampler(folder / "nowhere")


# Several processes, epochs, checkpoints

WEIGHTS = torch.tensor([3.0, 0.0, 1.0, 1.0, 0.5, 0.0, 2.0], dtype=torch.float64)
SOME = [0, 2, 3, 4, 6]


def of_ranks(n, num_samples, epoch=0, **how):
    """Return the indices that each of n processes gets in an epoch."""
    found = []
    for rank in range(n):
        one = RunSampler(WEIGHTS, num_samples, num_replicas=n, rank=rank, **how)
        one.set_epoch(epoch)
        found.append(list(one))
        assert len(found[-1]) == len(one) == one.num_samples == -(-num_samples // n)
        assert one.total_size == n * len(one)
    return found


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("num_samples", [1, 4, 5])
def test_processes_share_one_draw_and_none_gets_more(n, num_samples, replacement):
    found = of_ranks(n, num_samples, replacement=replacement)
    whole = [index for several in zip(*found, strict=True) for index in several]
    assert set(whole) <= set(SOME)
    if replacement:
        assert whole == of_ranks(1, len(whole))[0]
    else:
        first = whole[: len(SOME)]
        assert len(set(first)) == len(first), "no index twice"
        assert whole == list(itertools.islice(itertools.cycle(first), len(whole))), (
            "but for what pads the epoch"
        )


def test_draws_with_replacement_follow_the_weights():
    n = 40_000
    counts = Counter(itertools.chain.from_iterable(of_ranks(2, n)))
    expected = WEIGHTS[SOME] / WEIGHTS.sum() * n
    got = torch.tensor([float(counts[index]) for index in SOME])
    assert float(((got - expected) ** 2 / expected).sum()) < 23.5  # chi-square, 4 degrees: 1 in 10,000


def chosen_in_turn(weights, k):
    """Return the chance of each item to be among k that are drawn one by one, by its weight among those left."""
    inside = [0.0] * len(weights)
    for order in itertools.permutations(range(len(weights)), k):
        left, chance = sum(weights), 1.0
        for item in order:
            chance *= weights[item] / left
            left -= weights[item]
        for item in order:
            inside[item] += chance
    return inside


@pytest.mark.parametrize("k", [1, 2, 4])
def test_draws_without_replacement_have_the_chances_of_drawing_one_by_one(k):
    epochs, counts, places = 2_000, Counter(), Counter()
    one = RunSampler(WEIGHTS, k, replacement=False, seed=3)
    for _ in range(epochs):
        drawn = list(one)
        counts.update(drawn)
        places[drawn.index(0) if 0 in drawn else -1] += 1
    expected = chosen_in_turn(WEIGHTS[SOME].tolist(), k)
    for index, chance in zip(SOME, expected, strict=True):
        assert counts[index] / epochs == pytest.approx(
            chance, abs=4 * (chance * (1 - chance) / epochs) ** 0.5
        )
    inside = epochs - places[-1]
    for place in range(k):  # the heaviest stands anywhere
        assert places[place] / inside == pytest.approx(1 / k, abs=4 * (0.25 / inside) ** 0.5)


def test_tiny_and_huge_weights_are_weights_too():
    weights = torch.tensor([1e-300, 1e300, 5e-324, 0.0], dtype=torch.float64)
    assert sorted(RunSampler(weights, 3, replacement=False)) == [0, 1, 2]
    assert list(RunSampler(weights, 1, replacement=False)) == [1]
    assert set(RunSampler(weights, 50)) == {1}


@pytest.mark.parametrize("replacement", [True, False])
def test_an_epoch_is_that_of_its_number(replacement):
    def new():
        return RunSampler(WEIGHTS, 5, replacement=replacement, seed=5)

    one = new()
    epochs = [list(one) for _ in range(4)]
    assert len({tuple(epoch) for epoch in epochs}) == 4, "each epoch draws anew"
    other = new()
    for number in (2, 0, 3):
        other.set_epoch(number)
        assert list(other) == epochs[number]
    other.set_epoch(1)
    next(iter(other))  # looked at, and broken off
    assert list(other) == epochs[2], "the next iteration is of the next epoch"
    other.set_epoch(1)
    assert list(other) == epochs[1]
    assert list(RunSampler(WEIGHTS, 5, replacement=replacement, seed=6)) != epochs[0]


def test_training_goes_on_from_a_checkpoint_where_it_stood():
    def new():
        return RunSampler(WEIGHTS, 40, num_replicas=2, rank=1)

    one, whole = new(), new()
    one.set_epoch(3)
    whole.set_epoch(3)
    begun = list(itertools.islice(one, 7))
    state = json.loads(json.dumps(one.state_dict()))
    other = new()
    other.load_state_dict(state)
    other.set_epoch(3)
    expected = list(whole)
    assert begun + list(other) == expected
    assert list(other) == list(whole), "and then the next epoch"
    other.load_state_dict(one.state_dict(given=4))  # a loader had fetched three more
    assert list(other) == expected[4:]
    other.load_state_dict(state)
    other.set_epoch(4)
    whole.set_epoch(4)
    assert list(other) == list(whole)
    with pytest.raises(UsageError, match="a sampler with seed 0, this one has 1"):
        RunSampler(WEIGHTS, 40, seed=1).load_state_dict(state)
    with pytest.raises(UsageError, match="an epoch begun by 2 processes, and there are 1"):
        RunSampler(WEIGHTS, 40).load_state_dict(state)


def test_settings_of_a_sampler_are_checked():
    for how, said in (
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"num_samples": 2.5}, r"num_samples must be a whole number, got 2\.5"),
        ({"num_samples": 6, "replacement": False}, "must be at most 5, the items with a weight, .* got 6"),
        ({"num_samples": 1, "rank": 0}, "num_replicas and rank must be given together"),
        (
            {"num_samples": 1, "rank": 2, "num_replicas": 2},
            "rank must be from 0 to num_replicas - 1, got 2 of 2",
        ),
    ):
        with pytest.raises(UsageError, match=said):
            RunSampler(WEIGHTS, **how)


@pytest.mark.usefixtures("plain_forks")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("n_batches", [0, 1, 3, 5, 9, 10])
def test_a_checkpoint_tells_what_was_used_and_not_what_a_loader_fetched(n_batches, workers):
    """Two workers fetch four batches ahead: from the sixth of ten on, the sampler has given the whole epoch."""

    def new():
        return RunSampler(WEIGHTS, 40, seed=3)

    whole = [list(epoch) for one in [new()] for epoch in (one, one)]
    first, used = new(), []
    first.set_epoch(0)
    loader = DataLoader(range(7), batch_size=4, sampler=first, num_workers=workers)
    for place, batch in enumerate(loader):
        if place == n_batches:
            break
        used += batch.tolist()
    other = new()
    other.load_state_dict(first.state_dict(given=len(used)))
    other.set_epoch(0)
    assert used + list(other) == whole[0], "nothing is left of an epoch that was used up"
    assert list(other) == whole[1]


SAMPLERS = {
    "replacement": lambda size, **who: RunSampler(WEIGHTS, size, **who),
    "none twice": lambda size, **who: RunSampler(WEIGHTS, min(size, 5), replacement=False, **who),
    "soft cap": lambda size, **who: SoftCapSampler(WEIGHTS, size, **who),
    "infobatch": lambda size, **who: InfoBatch(size, 9, **who),
}


@given(
    st.sampled_from(sorted(SAMPLERS)), st.integers(1, 5), st.integers(5, 30), st.integers(0, 3), st.booleans(),
    st.integers(0, 30),
)  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_shares_are_disjoint_places_of_one_draw_and_go_on_anywhere(kind, n, size, epoch, drop_last, stop):
    """The places of one draw, as long as all shares, go round; and a share goes on after any of its indices."""

    def of(rank, n):
        one = SAMPLERS[kind](size, seed=size, num_replicas=n, rank=rank, drop_last=drop_last)
        one.set_epoch(epoch)
        return one

    samplers = [of(rank, n) for rank in range(n)]
    shares = [list(one) for one in samplers]
    whole = [index for places in zip(*shares, strict=True) for index in places]
    assert len(whole) == samplers[0].total_size and len(shares[0]) == len(samplers[0])
    if kind in ("replacement", "soft cap"):
        alone = SAMPLERS[kind](len(whole), seed=size)
        alone.set_epoch(epoch)
        assert whole == list(alone)
    else:
        distinct = whole[: min(5, size) if kind == "none twice" else size]
        assert (
            len(set(distinct)) == len(distinct)
            and whole[len(distinct) :] == distinct[: len(whole) - len(distinct)]
        )
    for rank, share in enumerate(shares):
        other = of(rank, n)
        other.load_state_dict(samplers[rank].state_dict(given=stop))
        assert list(other) == share[stop:]


def test_a_checkpoint_of_another_epoch_is_refused():
    one = RunSampler(WEIGHTS, 40)
    next(iter(one))
    state = one.state_dict()
    with pytest.raises(UsageError, match="of an epoch of 40 indices, and this one has 41"):
        RunSampler(WEIGHTS, 41).load_state_dict(state)
    RunSampler(WEIGHTS, 40).load_state_dict({name: state[name] for name in state if name != "total_size"})
    RunSampler(WEIGHTS, 41).load_state_dict(state | {"given": 0})
    two = RunSampler(WEIGHTS, 41, num_replicas=2, rank=1)
    list(two)
    whole = RunSampler(WEIGHTS, 41)
    whole.load_state_dict(two.state_dict(given=21))
    assert (whole.epoch, whole.state_dict()["given"]) == (1, 0), (
        "at the end of an epoch, with any number of processes"
    )
    with pytest.raises(UsageError, match="an epoch begun by 2 processes, and there are 1"):
        whole.load_state_dict(two.state_dict(given=20))
    with pytest.raises(UsageError, match="given must be at least 0, got -1"):
        one.state_dict(given=-1)


@pytest.mark.parametrize("replacement", [True, False])
def test_what_cannot_be_shared_evenly_may_be_left_out(replacement):
    def share(rank, n, drop_last):
        return RunSampler(WEIGHTS, 5, replacement=replacement, num_replicas=n, rank=rank, drop_last=drop_last)

    found = [list(share(rank, 2, True)) for rank in range(2)]
    assert [len(one) for one in found] == [2, 2] == [len(share(rank, 2, True)) for rank in range(2)]
    whole = [index for pair in zip(*found, strict=True) for index in pair]
    assert whole == list(RunSampler(WEIGHTS, 4, replacement=replacement)), (
        "fewer are drawn, in the first place"
    )
    assert len(list(share(6, 7, False))) == 1
    with pytest.raises(UsageError, match="an epoch has 5 indices, and drop_last leaves none for 7 processes"):
        list(share(6, 7, True))


def test_importing_curate_and_weights_loads_no_torch():
    code = "import curate, sys, curate.weighting.loss; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_losses_that_are_no_floats_are_refused():
    with pytest.raises(UsageError, match=r"losses must be floats, got torch\.int64"):
        LossReweighter()(torch.tensor([3, 1]))
