"""Models that judge a subset: trained on it with the same number of steps whatever its size, tested on other rows.

Written for the benchmark alone, apart from `curate evaluate`, so that an error in one does not hide in the other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from subsets.pools import Pool, pixels
from subsets.runs import PoolRun, test_vectors, unit_vectors

__all__ = ["Judge", "judge"]

STEPS, BATCH = 500, 128


class Judge(Protocol):
    """Trains on some rows of a pool and says how good the result is."""

    def score(self, rows: np.ndarray) -> dict[str, float]:
        """Return `value`, by which subsets are compared, and what else is known."""


def judge(kind: str, pool: Pool, run: PoolRun, folder: Path) -> Judge:
    """Return the judge of a pool: heads (on frozen vectors), pixels (from scratch) or pairs."""
    torch.set_num_threads(1)
    if kind == "pixels":
        train, test = (_prepared(images) for images in (pool.images, pool.test_images))
        return Labels(_network, train, test, *_codes(pool), seeds=1)
    vectors = unit_vectors(run.folder / "run")
    # the test pictures of all Fashion-MNIST pools are the same
    images, texts = test_vectors(
        pool, folder / "tests" / f"{len(pool.test_images)}-{pool.seed * bool(pool.captions)}"
    )
    if kind == "pairs":
        return Pairs(vectors, unit_vectors(run.folder / "run", "text"), images, texts)
    centre, spread = vectors.mean(axis=0), vectors.std(axis=0) + 1e-6
    train, test = (torch.from_numpy((one - centre) / spread) for one in (vectors, images))
    return Labels(_perceptron, train, test, *_codes(pool), seeds=3)


def _codes(pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    names = sorted(set(pool.labels) | set(pool.test_labels))
    place = {name: code for code, name in enumerate(names)}
    return np.array([place[one] for one in pool.labels]), np.array([place[one] for one in pool.test_labels])


def _prepared(images: list[bytes]) -> torch.Tensor:
    return torch.from_numpy(pixels(images)[:, None].astype(np.float32) / 255 - 0.3) * 3


def _perceptron(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, classes))


def _network(width: int, classes: int) -> nn.Module:
    """Return two convolutions and two layers, for small grey pictures."""
    return nn.Sequential(
        nn.Conv2d(width, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, classes),
    )  # fmt: skip


@dataclass
class Labels:
    """Accuracy on test rows of a network trained on labels, over some seeds."""

    build: Callable[[int, int], nn.Module]
    train: torch.Tensor
    test: torch.Tensor
    labels: np.ndarray
    test_labels: np.ndarray
    seeds: int

    def score(self, rows: np.ndarray) -> dict[str, float]:
        """Return accuracy and balanced accuracy."""
        found = np.stack([self._predicted(rows, seed) for seed in range(self.seeds)])
        right = (found == self.test_labels).mean(axis=0)
        classes = [right[self.test_labels == one].mean() for one in np.unique(self.test_labels)]
        return {
            "value": float(right.mean()),
            "balanced": float(np.mean(classes)),
            "worst": float(min(classes)),
        }

    def _predicted(self, rows: np.ndarray, seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        classes = int(max(self.labels.max(), self.test_labels.max())) + 1
        model = self.build(self.train.shape[1], classes)
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-3)
        plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=STEPS)
        mine, labels = self.train[torch.from_numpy(rows)], torch.from_numpy(self.labels[rows])
        draw = torch.Generator().manual_seed(seed)
        for _ in range(STEPS):
            batch = torch.randint(len(rows), (BATCH,), generator=draw)
            loss = nn.functional.cross_entropy(model(mine[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            plan.step()
        with torch.inference_mode():
            parts = [model(block).argmax(dim=1) for block in self.test.split(2000)]
        return torch.cat(parts).numpy()


@dataclass
class Pairs:
    """Recall on test pairs after two linear maps, of pictures and of captions, are trained to bring pairs together.

    The maps start as the identity and move slowly: with some hundred pairs, fast ones end below the model as it is.
    """

    images: np.ndarray
    texts: np.ndarray
    test_images: np.ndarray
    test_texts: np.ndarray
    seeds: int = 3

    def score(self, rows: np.ndarray) -> dict[str, float]:
        """Return recall at 1 and 10 both ways; `value` is the mean of both at 1."""
        found = [self._recalls(rows, seed) for seed in range(self.seeds)]
        mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
        return {"value": (mean["image_to_text_1"] + mean["text_to_image_1"]) / 2, **mean}

    def _recalls(self, rows: np.ndarray, seed: int) -> dict[str, float]:
        torch.manual_seed(seed)
        width = self.images.shape[1]
        maps = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])
        for one in maps:
            nn.init.eye_(one.weight)
            nn.init.zeros_(one.bias)
        optimiser = torch.optim.AdamW(maps.parameters(), lr=1e-4, weight_decay=1e-2)
        image, text = (torch.from_numpy(one[rows]) for one in (self.images, self.texts))
        draw = torch.Generator().manual_seed(seed)
        for _ in range(STEPS):
            batch = torch.randperm(len(rows), generator=draw)[:BATCH]
            likeness = _unit(maps[0](image[batch])) @ _unit(maps[1](text[batch])).T / 0.05
            own = torch.arange(len(batch))
            loss = nn.functional.cross_entropy(likeness, own) + nn.functional.cross_entropy(likeness.T, own)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.inference_mode():
            images, texts = (
                _unit(one(torch.from_numpy(rows)))
                for one, rows in zip(maps, (self.test_images, self.test_texts), strict=True)
            )
            likeness = (images @ texts.T).numpy()
        own = np.diag(likeness)
        there = {
            "image_to_text": (likeness > own[:, None]).sum(axis=1),
            "text_to_image": (likeness > own).sum(axis=0),
        }
        return {f"{way}_{k}": float((before < k).mean()) for way, before in there.items() for k in (1, 10)}


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(rows, dim=1)
