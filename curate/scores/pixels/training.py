"""Score samples by small networks trained on their pixels: several seeds, epoch by epoch, from a checkpoint on.

Nothing depends on random state: initial weights, folds, order and augmentation are derived from (seed, model seed,
uid, epoch), so a checkpoint is weights, momentum and sums, and a resumed run gives the same bits.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import nn
from torch.nn import functional

from curate.errors import CurateError, RecipeError, RunError
from curate.io import storage
from curate.scores.heads.accumulators import Accumulator
from curate.scores.heads.evaluation import fixed_threads
from curate.scores.heads.folds import Ints, Label, Labelled, assign_folds, labelled, mix, row_hashes
from curate.scores.heads.logits import logit_stats
from curate.scores.heads.result import HeadScores, collect
from curate.scores.heads.softmax import softmax_of
from curate.scores.heads.training import BAD_SHARE, SeedsFailed, check_epochs
from curate.scores.pixels.ghost import gradient_norms
from curate.scores.pixels.images import Images, augmented, gather, minibatches
from curate.scores.pixels.resnet import ResNet

__all__ = ["PixelSettings", "train_pixels"]

VERSION = 1
EVALUATION_ROWS = 64  # what all gradient norms of a ResNet-18 hold in memory: about half a gigabyte

Make = Callable[[int], nn.Module]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PixelSettings:
    """How networks are trained. All but `device` and `memory` decide results, `threads` by last bits.

    width, blocks : of the ResNet; 64 and (2, 2, 2, 2) is ResNet-18. cross_fit : folds, 0 scores what was trained
    on, as Data Diet does. epochs, score_epochs, min_class, seed, first_seed : as `HeadSettings`. grand : the length
    of the whole network's gradient; NaN without. augment : shift by up to an eighth and mirror.
    """

    width: int = 64
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    n_seeds: int = 5
    epochs: int = 5
    cross_fit: int = 0
    score_epochs: tuple[int, ...] | None = None
    batch: int = 128
    rate: float = 0.05
    momentum: float = 0.9
    decay: float = 5e-4
    augment: bool = True
    grand: bool = True
    min_class: int | None = None
    seed: int = 0
    first_seed: int = 0
    threads: int = 2
    device: str = "cpu"
    memory: int = 4 << 30

    def __post_init__(self) -> None:
        check_epochs("pixels", self.epochs, self.scored, self.cross_fit)
        for name in ("width", "n_seeds", "batch", "threads"):
            if getattr(self, name) < 1:
                raise RecipeError(f"pixels.{name} must be at least 1, got {getattr(self, name)}")
        if not self.rate > 0:
            raise RecipeError(f"pixels.rate must be > 0, got {self.rate}")

    @property
    def scored(self) -> tuple[int, ...]:
        """The epochs after which samples are scored, counted from 1."""
        return (self.epochs,) if self.score_epochs is None else self.score_epochs

    @property
    def smallest_class(self) -> int:
        """Classes of fewer samples are not scored."""
        return max(2, self.cross_fit) if self.min_class is None else self.min_class


def train_pixels(
    images: Images | Iterable[Images],
    uids: Iterable[str],
    labels: Sequence[Label],
    settings: PixelSettings | None = None,
    *,
    checkpoint: Path | None = None,
    make: Make | None = None,
) -> HeadScores:
    """Return scores of all samples, in the order of the input; higher is harder.

    images : (n, H, W, 3) uint8 in memory or mapped from a file, or batches of such, held in memory. uids, labels :
    as `train_heads`. checkpoint : a file written after each epoch, from which an interrupted call goes on.
    make : number of classes -> network in place of the ResNet, for `gradient_norms` to understand.
    pred_label is the class that most seeds predict, the smaller code at a tie.
    """
    settings = PixelSettings() if settings is None else settings
    hashes = row_hashes(uids, settings.seed)
    pixels = gather(images, settings.memory)
    if len(pixels) != len(hashes):
        raise CurateError(f"there must be one uid per image, got {len(hashes)} for {len(pixels)} images")
    data = labelled(hashes, labels, None, min_class=settings.smallest_class)
    seeds = list(range(settings.first_seed, settings.first_seed + settings.n_seeds))
    if not len(data.rows):
        return collect(data, Accumulator(0, len(seeds), settings.epochs), seeds, trained=True)
    while seeds:
        try:
            with fixed_threads(settings.threads), _deterministic(settings.device):
                run = _Run(pixels, data, seeds, settings, checkpoint, make)
                return collect(data, run.finish(), seeds, trained=True)
        except SeedsFailed as failure:
            log.warning("pixels: seeds %s left the finite numbers and are left out", failure.seeds)
            seeds = [seed for seed in seeds if seed not in failure.seeds]
            if checkpoint is not None:
                storage.remove(checkpoint)
    raise CurateError(f"pixels: every seed left the finite numbers; rate {settings.rate} may be too large")


class _Run:
    def __init__(
        self,
        pixels: Images,
        data: Labelled,
        seeds: list[int],
        settings: PixelSettings,
        checkpoint: Path | None,
        make: Make | None,
    ) -> None:
        self.pixels, self.data, self.seeds, self.settings = pixels, data, seeds, settings
        self.path, self.device = checkpoint, torch.device(settings.device)
        self.make = make or (lambda n: ResNet(n, width=settings.width, blocks=settings.blocks))
        self.sums = Accumulator(len(data.rows), len(seeds), settings.epochs)
        self.votes = np.zeros((len(data.rows), len(seeds)), np.int32)
        self.label = torch.from_numpy(data.code).to(self.device)
        self.mean, self.factor = self._colours()

    def _colours(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and 1 / deviation of each channel, from exact sums."""
        sums, squares, n = np.zeros(3, np.uint64), np.zeros(3, np.uint64), 0
        for start in range(0, len(self.data.rows), 1024):
            block = self.pixels[self.data.rows[start : start + 1024]].reshape(-1, 3).astype(np.uint64)
            sums, squares, n = sums + block.sum(axis=0), squares + (block * block).sum(axis=0), n + len(block)
        mean = sums / n
        spread = np.sqrt(np.maximum(squares / n - mean**2, 1.0))
        as_tensor = [torch.from_numpy(x.astype(np.float32)).view(3, 1, 1) for x in (mean, 1 / spread)]
        return as_tensor[0].to(self.device), as_tensor[1].to(self.device)

    def finish(self) -> Accumulator:
        """Train what is left to train; return the sums."""
        place, fold, epoch, saved = self._resume()
        n_models = max(1, self.settings.cross_fit)
        while place < len(self.seeds):
            model = self._fresh(self.seeds[place])
            optimiser = torch.optim.SGD(
                model.parameters(),
                lr=self.settings.rate,
                momentum=self.settings.momentum,
                weight_decay=self.settings.decay,
                nesterov=self.settings.momentum > 0,
            )
            if saved is not None and epoch:
                model.load_state_dict(saved["model"])
                optimiser.load_state_dict(saved["optimiser"])
            saved, folds = None, self._folds(self.seeds[place])
            while epoch < self.settings.epochs:
                epoch += 1
                self._learn(model, optimiser, np.flatnonzero(folds != fold), place, epoch)
                own = np.flatnonzero(folds == fold) if self.settings.cross_fit else np.arange(len(folds))
                self._evaluate(model, own, place, epoch)
                self._save(place, fold, epoch, model, optimiser)
            place, fold, epoch = (place, fold + 1, 0) if fold + 1 < n_models else (place + 1, 0, 0)
        self.sums.pred[:] = _majority(self.votes)
        return self.sums

    def _folds(self, seed: int) -> npt.NDArray[np.int64]:
        if not self.settings.cross_fit:
            return np.full(len(self.data.rows), -1)
        n_folds = self.settings.cross_fit
        return assign_folds(self.data.hashes, self.data.code, n_folds, self.settings.seed, seed).astype(
            np.int64
        )

    def _fresh(self, seed: int) -> nn.Module:
        key = xxhash.xxh3_64_intdigest(f"{self.settings.seed}\x1f{seed}\x1fweights".encode()) >> 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key)
            model = self.make(len(self.data.classes))
        return model.to(self.device)

    def _batch(self, places: Ints) -> torch.Tensor:
        raw = torch.from_numpy(self.pixels[self.data.rows[places]]).to(self.device)
        # Contiguous: with channels last, gradients of few channels are not the same twice and spoil the heap (CPU).
        return (raw.permute(0, 3, 1, 2).float().contiguous() - self.mean) * self.factor

    def _learn(
        self, model: nn.Module, optimiser: torch.optim.Optimizer, rows: Ints, place: int, epoch: int
    ) -> None:
        chosen, hashes = self.settings, self.data.hashes
        order = rows[np.argsort(mix(hashes[rows], chosen.seed, epoch, "order"))]
        model.train()
        for places in minibatches(order, chosen.batch):
            x = self._batch(places)
            if chosen.augment:
                x = augmented(x, mix(hashes[places], chosen.seed, self.seeds[place], epoch, "augment"))
            optimiser.zero_grad()
            with torch.enable_grad():
                loss = functional.cross_entropy(model(x), self.label[torch.from_numpy(places)])
            torch.autograd.backward(loss)
            optimiser.step()
        model.eval()

    def _evaluate(self, model: nn.Module, rows: Ints, place: int, epoch: int) -> None:
        scored = epoch in self.settings.scored
        bad = 0
        for start in range(0, len(rows), EVALUATION_ROWS):
            places = rows[start : start + EVALUATION_ROWS]
            x, label = self._batch(places), self.label[torch.from_numpy(places)]
            norms: torch.Tensor | None
            if scored and self.settings.grand:
                logits, norms = gradient_norms(model, x, label)
            else:
                with torch.no_grad():
                    logits, norms = model(x), None
            seen = logit_stats(softmax_of(logits, label))
            bad += int((~seen.finite).sum())
            self.sums.add_epoch(places, place, epoch, seen)
            self.votes[places, place] = seen.pred.cpu().numpy()
            if scored:
                self.sums.add_scores(places, place, seen, None if norms is None else norms.cpu().numpy())
        if bad > BAD_SHARE * len(rows):
            raise SeedsFailed([self.seeds[place]])

    def _fingerprint(self) -> str:
        """Return what the checkpoint belongs to: data, seeds and settings, whatever the machine."""
        chosen = {k: v for k, v in vars(self.settings).items() if k not in ("device", "memory")}
        pixels = xxhash.xxh3_128()
        for start in range(0, len(self.data.rows), 1024):
            pixels.update(self.pixels[self.data.rows[start : start + 1024]].tobytes())
        data = [self.data.hashes.tobytes(), self.data.code.tobytes(), pixels.digest()]
        return storage.fingerprint(VERSION, repr(sorted(chosen.items())), self.seeds, b"".join(data).hex())

    def _arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        return self.sums.arrays() | {"votes": self.votes}

    def _save(
        self, place: int, fold: int, epoch: int, model: nn.Module, optimiser: torch.optim.Optimizer
    ) -> None:
        if self.path is None:
            return
        state = {
            "stamp": self.fingerprint,
            "at": [place, fold, epoch],
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
            "sums": {name: torch.from_numpy(array) for name, array in self._arrays().items()},
        }
        with storage.atomic(self.path) as partial:
            torch.save(state, partial)

    def _resume(self) -> tuple[int, int, int, dict[str, dict[str, object]] | None]:
        if self.path is None:
            return 0, 0, 0, None
        self.fingerprint = self._fingerprint()
        if not self.path.exists():
            return 0, 0, 0, None
        state = torch.load(storage.ensure_local(self.path), map_location=self.device, weights_only=True)
        if state.get("stamp") != self.fingerprint:
            raise RunError(
                f"{self.path} must be of the same data and settings, it is of others; remove it first"
            )
        for name, array in self._arrays().items():
            array[...] = state["sums"][name].cpu().numpy()
        place, fold, epoch = state["at"]
        return place, fold, epoch, state


def _majority(votes: npt.NDArray[np.int32]) -> Ints:
    result = np.empty(len(votes), np.int64)
    for start in range(0, len(votes), 65_536):
        block = votes[start : start + 65_536].astype(np.int64)
        count = (block[:, :, None] == block[:, None, :]).sum(axis=2)
        most = count == count.max(axis=1, keepdims=True)
        result[start : start + len(block)] = np.where(most, block, np.iinfo(np.int64).max).min(axis=1)
    return result


@contextmanager
def _deterministic(device: str) -> Iterator[None]:
    if device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
