"""Batches chosen as a whole by what they teach: JEST (Evans et al. 2024, arXiv:2406.17711), for contrastive training.

How much a pair teaches depends on the others in its batch. From a super-batch, a batch is drawn in chunks: each chunk
with odds that grow with the learnability of a pair together with all pairs drawn before.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import Sampler

from curate.errors import UsageError

__all__ = ["JointBatchSampler", "conditional_learnability", "joint_batch", "sigmoid_losses"]

Losses = Callable[[list[int]], tuple[torch.Tensor, torch.Tensor]]


def sigmoid_losses(
    image: torch.Tensor, text: torch.Tensor, scale: float | torch.Tensor, bias: float | torch.Tensor = 0.0
) -> torch.Tensor:
    """Return the loss of every picture with every caption (SigLIP; Zhai et al. 2023, arXiv:2303.15343).

    image, text : (n, d) unit rows. Returns (n, n): ``log(1 + exp(-z))`` on the diagonal and ``log(1 + exp(z))`` beside it,
    with ``z = scale cosine + bias``. The loss of a batch is the sum over its pictures and captions, so that of a part of
    it is a part of the sum.

    >>> sigmoid_losses(torch.eye(2), torch.eye(2), 1.0).round(decimals=3)
    tensor([[0.3130, 0.6930],
            [0.6930, 0.3130]])
    """
    logits = scale * image @ text.T + bias
    sign = 1 - 2 * torch.eye(len(logits), device=logits.device, dtype=logits.dtype)
    return functional.softplus(sign * logits)


def conditional_learnability(score: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return what each pair adds to the learnability of the pairs that are chosen already, (n,).

    score : (n, n), loss under the learner less loss under the reference, of picture i with caption j. chosen : (n,) bool.
    A pair adds its own entry, and those between it and every chosen pair, both ways; -inf for those chosen already.

    >>> score = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    >>> conditional_learnability(score, torch.tensor([True, False]))
    tensor([-inf, 14.])
    """
    mask = chosen.to(score.dtype)
    gain = score.diagonal() + mask @ score + score @ mask
    return gain.masked_fill(chosen, -torch.inf)


def joint_batch(
    learner: torch.Tensor, reference: torch.Tensor, size: int, *, chunks: int = 16, seed: int = 0
) -> torch.Tensor:
    """Return the rows of a super-batch that make a batch, (size,) in the order they were drawn (JEST, algorithm 1).

    learner, reference : (n, n) losses of picture i with caption j, such as `sigmoid_losses`, under the model that is trained and
    under one trained on good data. chunks : in how many steps the batch is drawn, at most `size`; sizes differ by one
    at most. In a step rows are drawn without replacement, with odds exp(conditional learnability given the steps before).
    Raises UsageError for losses that are no two square matrices alike or not finite, and for a size beyond n.

    >>> joint_batch(torch.diag(torch.tensor([0.0, 90.0, 0.0, 90.0])), torch.zeros(4, 4), 2).sort().values
    tensor([1, 3])
    """
    n = len(learner)
    if learner.shape != (n, n) or reference.shape != (n, n):
        raise UsageError(
            f"losses must be (n, n) alike, got {tuple(learner.shape)} and {tuple(reference.shape)}"
        )
    if not 1 <= size <= n:
        raise UsageError(f"size must be from 1 to the {n:,} rows of the super-batch, got {size}")
    if chunks < 1:
        raise UsageError(f"chunks must be at least 1, got {chunks}")
    score = (learner.detach() - reference.detach()).double()
    if not bool(torch.isfinite(score).all()):
        raise UsageError("losses must be finite; a model that has diverged teaches nothing about its batches")
    draw = np.random.Generator(np.random.Philox(key=seed))
    chosen = torch.zeros(n, dtype=torch.bool, device=score.device)
    order = []
    for part in np.array_split(np.arange(size), min(chunks, size)):
        # The largest of logit + Gumbel noise are a draw without replacement with odds exp(logit).
        noise = torch.from_numpy(draw.gumbel(size=n)).to(score.device)
        rows = (conditional_learnability(score, chosen) + noise).topk(len(part)).indices
        chosen[rows] = True
        order.append(rows)
    return torch.cat(order)


class JointBatchSampler(Sampler[list[int]]):
    """Batches of indices for the `batch_sampler=` of a `DataLoader`, each drawn jointly from a super-batch (JEST).

    sampler : gives indices of the data set, epoch after epoch (a `RunSampler`, say). losses : the indices of a super-batch ->
    losses (n, n) under the learner as it is now, and under the reference; it runs where the loader is iterated, so take
    `num_workers=0` or batches are chosen by a learner of some steps ago. keep : the share of a super-batch that becomes
    the batch; what is left at the end of an epoch is no super-batch and is passed over.
    """

    def __init__(
        self, sampler: Iterable[int], losses: Losses, super_batch: int, *, keep: float = 0.2, chunks: int = 16, seed: int = 0
    ) -> None:  # fmt: skip
        self.size = round(keep * super_batch)
        if not 0 < keep <= 1 or self.size < 1:
            raise UsageError(f"keep must be in (0, 1] and leave a row of {super_batch:,}, got {keep}")
        self.sampler, self.losses, self.super_batch = sampler, losses, super_batch
        self.chunks, self.seed, self.epoch = chunks, seed, 0

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self.sampler) // self.super_batch  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, and say it to the sampler."""
        self.epoch = epoch
        if (told := getattr(self.sampler, "set_epoch", None)) is not None:
            told(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of one epoch."""
        waiting: list[int] = []
        step = 0
        for index in self.sampler:
            waiting.append(int(index))
            if len(waiting) < self.super_batch:
                continue
            learner, reference = self.losses(waiting)
            if len(learner) != len(waiting):
                raise UsageError(
                    f"losses of {len(waiting):,} indices must be as many rows and columns, got {tuple(learner.shape)}"
                )
            key = int(np.random.SeedSequence([self.seed, self.epoch, step]).generate_state(1, np.uint64)[0])
            rows = joint_batch(learner, reference, self.size, chunks=self.chunks, seed=key)
            yield [waiting[row] for row in rows.tolist()]
            waiting, step = [], step + 1
        if not step:
            raise UsageError(
                f"an epoch of the sampler has {len(waiting):,} indices, fewer than super_batch ({self.super_batch:,})"
            )
        self.epoch += 1
