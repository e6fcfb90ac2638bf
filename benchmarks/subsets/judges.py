"""The judges of `curate evaluate` over the pools: trained on a subset, tested on the rows that a pool keeps for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from curate.evaluation.judges import LabelJudge, PairJudge, perceptron
from subsets.pools import Pool, pixels
from subsets.runs import PoolRun, test_vectors, unit_vectors

__all__ = ["Judge", "judge"]


class Judge(Protocol):
    """Trains on some rows of a pool and says how good the result is."""

    def score(self, rows: np.ndarray) -> dict[str, float]:
        """Return `value`, by which subsets are compared, and what else is known."""


def judge(kind: str, pool: Pool, run: PoolRun, folder: Path) -> Judge:
    """Return the judge of a pool: heads (on frozen vectors), pixels (from scratch) or pairs."""
    torch.set_num_threads(1)
    if kind == "pixels":
        train, test = (_prepared(images) for images in (pool.images, pool.test_images))
        return Labels(LabelJudge(_network, train, test, *_codes(pool)), seeds=1)
    vectors = unit_vectors(run.folder / "run")
    # the test pictures of all Fashion-MNIST pools are the same
    images, texts = test_vectors(
        pool, folder / "tests" / f"{len(pool.test_images)}-{pool.seed * bool(pool.captions)}"
    )
    if kind == "pairs":
        return Pairs(PairJudge(vectors, unit_vectors(run.folder / "run", "text"), images, texts))
    centre, spread = vectors.mean(axis=0), vectors.std(axis=0) + 1e-6
    train, test = (torch.from_numpy((one - centre) / spread) for one in (vectors, images))
    return Labels(LabelJudge(perceptron, train, test, *_codes(pool)), seeds=3)


def _codes(pool: Pool) -> tuple[np.ndarray, np.ndarray, int]:
    names = sorted(set(pool.labels) | set(pool.test_labels))
    place = {name: code for code, name in enumerate(names)}
    train, test = ([place[one] for one in some] for some in (pool.labels, pool.test_labels))
    return np.array(train), np.array(test), len(names)


def _prepared(images: list[bytes]) -> torch.Tensor:
    return torch.from_numpy(pixels(images)[:, None].astype(np.float32) / 255 - 0.3) * 3


def _network(width: int, classes: int) -> nn.Module:
    """Return two convolutions and two layers, for small grey pictures: three times as many products as `network` takes."""
    return nn.Sequential(
        nn.Conv2d(width, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, classes),
    )  # fmt: skip


@dataclass
class Labels:
    """Accuracy on test rows of a network trained on labels, over some seeds."""

    network: LabelJudge
    seeds: int

    def score(self, rows: np.ndarray) -> dict[str, float]:
        """Return accuracy and balanced accuracy."""
        labels = self.network.test_labels
        found = np.stack([self.network.logits(rows, seed).argmax(axis=1) for seed in range(self.seeds)])
        right = (found == labels).mean(axis=0)
        classes = [right[labels == one].mean() for one in np.unique(labels)]
        return {
            "value": float(right.mean()),
            "balanced": float(np.mean(classes)),
            "worst": float(min(classes)),
        }


@dataclass
class Pairs:
    """Recall on test pairs after maps of pictures and captions are trained to bring pairs together, over some seeds."""

    adapter: PairJudge
    seeds: int = 3

    def score(self, rows: np.ndarray) -> dict[str, float]:
        """Return recall at 1 and 10 both ways; `value` is the mean of both at 1."""
        found = [self.adapter.measure(rows, seed) for seed in range(self.seeds)]
        mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
        kept = {name: value for name, value in mean.items() if name.endswith(("_1", "_10"))}
        return {"value": kept.pop("recall_1"), **{name: kept[name] for name in kept if "recall" not in name}}
