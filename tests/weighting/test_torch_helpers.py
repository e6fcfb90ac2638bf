import subprocess
import sys
from collections import Counter

import numpy as np
import polars as pl
import pytest
import torch
from torch.utils.data import WeightedRandomSampler

import curate
from curate.errors import RecipeError, UsageError
from curate.runs.folder import RunFolder
from curate.torch import LossReweighter, sampler
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
    assert isinstance(drawn, WeightedRandomSampler) and len(drawn) == 4000
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


def test_importing_curate_and_weights_loads_no_torch():
    code = "import curate, sys, curate.weighting.loss; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
