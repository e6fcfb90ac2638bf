import itertools
import math

import numpy as np
import pytest
import torch

from curate.errors import UsageError
from curate.training.jest import JointBatchSampler, conditional_learnability, joint_batch, sigmoid_losses


def learnability_of(score, rows):
    """The learnability of a batch, by definition: the sum over its pictures and captions."""
    return sum(float(score[i, j]) for i in rows for j in rows)


def by_definition(learner, reference, size, chunks, seed):
    """Algorithm 1 with loops: what each row adds is the difference of two sums; the draw is by Gumbel keys."""
    score = learner.double() - reference.double()
    draw = np.random.Generator(np.random.Philox(key=seed))
    chosen = []
    for part in np.array_split(np.arange(size), min(chunks, size)):
        noise = draw.gumbel(size=len(score))
        keys = {
            row: learnability_of(score, [*chosen, row]) - learnability_of(score, chosen) + noise[row]
            for row in range(len(score))
            if row not in chosen
        }
        chosen += sorted(keys, key=lambda row: -keys[row])[: len(part)]
    return chosen


@pytest.mark.parametrize(("n", "size", "chunks"), [(9, 4, 2), (12, 5, 3), (6, 6, 4), (5, 1, 16), (7, 3, 3)])
def test_a_batch_is_that_of_the_definition(n, size, chunks):
    for seed in range(5):
        learner, reference = torch.from_numpy(np.random.default_rng(seed).gamma(2, 1, (2, n, n)))
        found = joint_batch(learner, reference, size, chunks=chunks, seed=seed)
        assert found.tolist() == by_definition(learner, reference, size, chunks, seed)
        assert len(set(found.tolist())) == size


def test_what_a_row_adds_is_a_difference_of_sums():
    score = torch.from_numpy(np.random.default_rng(1).standard_normal((6, 6)))
    for some in itertools.chain.from_iterable(itertools.combinations(range(6), k) for k in range(4)):
        mask = torch.zeros(6, dtype=torch.bool)
        mask[list(some)] = True
        found = conditional_learnability(score, mask)
        for row in range(6):
            if row in some:
                assert found[row] == -math.inf
            else:
                want = learnability_of(score, [*some, row]) - learnability_of(score, some)
                assert float(found[row]) == pytest.approx(want)


def test_odds_are_those_of_a_softmax():
    score = torch.diag(torch.tensor([0.0, 1.0, 2.0]))
    n = 600
    counts = np.bincount(
        [int(joint_batch(score, torch.zeros(3, 3), 1, seed=seed)[0]) for seed in range(n)], minlength=3
    )
    want = np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()
    assert np.abs(counts / n - want).max() < 4 * math.sqrt(0.25 / n)


def test_sigmoid_losses_by_definition():
    rng = np.random.default_rng(0)
    image, text = torch.from_numpy(rng.standard_normal((2, 5, 3)))
    found = sigmoid_losses(image, text, 4.0, -1.0)
    for i, j in itertools.product(range(5), repeat=2):
        z = 4.0 * float(image[i] @ text[j]) - 1.0
        sign = 1 if i == j else -1
        assert float(found[i, j]) == pytest.approx(-math.log(1 / (1 + math.exp(-sign * z))))


def test_a_sampler_gives_the_rows_of_each_super_batch():
    seen = []

    def losses(indices):
        seen.append(list(indices))
        gain = torch.tensor([100.0 if index % 5 == 0 else 0.0 for index in indices])
        return torch.diag(gain), torch.zeros(len(indices), len(indices))

    sampler = JointBatchSampler(range(43), losses, 20, keep=0.2, chunks=2)
    assert len(sampler) == 2
    assert [sorted(batch) for batch in sampler] == [[0, 5, 10, 15], [20, 25, 30, 35]]
    assert seen == [list(range(20)), list(range(20, 40))]
    assert sampler.epoch == 1


def test_draws_differ_between_epochs_and_not_between_runs():
    def flat(indices):
        return torch.zeros(len(indices), len(indices)), torch.zeros(len(indices), len(indices))

    def batches(epoch):
        sampler = JointBatchSampler(range(64), flat, 32, keep=0.25)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches(0) == batches(0)
    assert batches(0) != batches(1)


def test_refuses():
    square = torch.zeros(3, 3)
    with pytest.raises(UsageError, match=r"losses must be \(n, n\) alike, got \(3, 3\) and \(3, 2\)"):
        joint_batch(square, torch.zeros(3, 2), 1)
    for size in (0, 4):
        with pytest.raises(
            UsageError, match=f"size must be from 1 to the 3 rows of the super-batch, got {size}"
        ):
            joint_batch(square, square, size)
    with pytest.raises(UsageError, match="chunks must be at least 1, got 0"):
        joint_batch(square, square, 1, chunks=0)
    with pytest.raises(UsageError, match="losses must be finite"):
        joint_batch(torch.full((3, 3), math.nan), square, 1)
    for keep in (0.0, 1.5, 0.01):
        with pytest.raises(UsageError, match=r"keep must be in \(0, 1\] and leave a row of 20"):
            JointBatchSampler(range(9), lambda _: (square, square), 20, keep=keep)


def test_a_sampler_refuses_losses_of_other_rows_and_an_epoch_without_a_batch():
    def fewer(indices):
        return torch.zeros(3, 3), torch.zeros(3, 3)

    with pytest.raises(
        UsageError, match=r"losses of 4 indices must be as many rows and columns, got \(3, 3\)"
    ):
        list(JointBatchSampler(range(8), fewer, 4, keep=0.5))
    with pytest.raises(UsageError, match=r"has 8 indices, fewer than super_batch \(40\)"):
        list(JointBatchSampler(range(8), fewer, 40))
