"""Models that judge a subset: trained on its rows for the same number of steps whatever its size, tested on others.

A model is trained by one thread and draws its batches from its own seed, so that results depend on the rows, the seed
and the kind of processor alone, and models can be trained side by side.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from curate.evaluation.metrics import label_metrics, ranks, recall_metrics

__all__ = ["BATCH", "STEPS", "Judge", "LabelJudge", "PairJudge", "network", "perceptron"]

#: How long a model is trained, and rows of a step.
STEPS, BATCH = 500, 128
#: Held-out rows looked at together.
_BLOCK = 2000
#: What likenesses of pairs are divided by.
_TEMPERATURE = 0.05

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
#: Weight and bias of a linear map.
Map = tuple[torch.Tensor, torch.Tensor]
Prepare = Callable[[torch.Tensor], torch.Tensor]

#: Weights of a model come from torch's global generator, which one thread at a time may seed.
_BUILDING = threading.Lock()


class Judge(Protocol):
    """Trains a model on some rows of a pool and says how good it is."""

    @property
    def main(self) -> str:
        """The metric by which subsets are compared first."""

    def measure(self, rows: Ints, seed: int, weights: Floats | None = None) -> dict[str, float]:
        """Return the metrics of a model trained on these rows. weights : (n,), what each counts; alike by default."""


def perceptron(width: int, classes: int) -> nn.Module:
    """Return a network with one hidden layer, for vectors."""
    return nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, classes))


def network(width: int, classes: int) -> nn.Module:
    """Return two convolutions and two layers, for small pictures of `width` colours in the order of channels last."""
    model = nn.Sequential(
        nn.Conv2d(width, 16, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, classes),
    )  # fmt: skip
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return a model whose first weights are those of a seed; torch's global generator is left as it was."""
    with _BUILDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _weighed(losses: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    return losses.mean() if weights is None else (losses * weights).mean()


def _relative(weights: Floats | None, device: str) -> torch.Tensor | None:
    """Return weights scaled to mean 1."""
    if weights is None:
        return None
    return torch.from_numpy((weights / weights.mean(dtype=np.float64)).astype(np.float32)).to(device)


@dataclass
class LabelJudge:
    """A network trained on the labels of rows.

    build : (columns or colours of an input, classes) -> network. train, test : the inputs, on any device. prepare :
    makes what the network reads from a batch of them. labels, test_labels : (n,) and (m,) codes below `classes`.
    """

    build: Callable[[int, int], nn.Module]
    train: torch.Tensor
    test: torch.Tensor
    labels: Ints
    test_labels: Ints
    classes: int
    prepare: Prepare = field(default=lambda batch: batch)
    steps: int = STEPS
    main: str = "accuracy"

    def measure(self, rows: Ints, seed: int, weights: Floats | None = None) -> dict[str, float]:
        """Return accuracy, balanced accuracy, worst class and calibration error."""
        return label_metrics(self.logits(rows, seed, weights), self.test_labels)

    def logits(self, rows: Ints, seed: int, weights: Floats | None = None) -> Floats:
        """Return what a network trained on these rows says of the held-out ones, (m, classes)."""
        device = str(self.train.device)
        model = _seeded(lambda: self.build(self.train.shape[1], self.classes), seed).to(device)
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-3)
        plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=self.steps)
        mine = self.train[torch.from_numpy(rows).to(device)]
        labels = torch.from_numpy(self.labels[rows]).to(device)
        relative = _relative(weights, device)
        draw = torch.Generator().manual_seed(seed)
        for _ in range(self.steps):
            batch = torch.randint(len(rows), (BATCH,), generator=draw).to(device)
            said = model(self.prepare(mine[batch]))
            losses = nn.functional.cross_entropy(said, labels[batch], reduction="none")
            loss = _weighed(losses, None if relative is None else relative[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            plan.step()
        with torch.inference_mode():
            parts = [model(self.prepare(block)) for block in torch.split(self.test, _BLOCK)]
        return np.asarray(torch.cat(parts).cpu().numpy())


@dataclass
class PairJudge:
    """Two linear maps, of images and of captions, trained to bring pairs together.

    The maps start as the identity and move slowly: with some hundred pairs, fast ones end below the model as it is.
    images, texts, test_images, test_texts : (n, d) and (m, d) unit rows.
    """

    images: Floats
    texts: Floats
    test_images: Floats
    test_texts: Floats
    steps: int = STEPS
    device: str = "cpu"
    main: str = "recall_1"

    def measure(self, rows: Ints, seed: int, weights: Floats | None = None) -> dict[str, float]:
        """Return recall at 1, 5 and 10, both ways."""
        maps = self._trained(rows, seed, weights)
        with torch.inference_mode():
            images, texts = (
                _unit(_mapped(torch.from_numpy(rows).to(self.device), one))
                for one, rows in zip(maps, (self.test_images, self.test_texts), strict=True)
            )
            return recall_metrics(ranks((images @ texts.T).cpu().numpy()))

    def _trained(self, rows: Ints, seed: int, weights: Floats | None) -> list[Map]:
        width = self.images.shape[1]
        maps = [
            (
                torch.eye(width, device=self.device).requires_grad_(),
                torch.zeros(width, device=self.device).requires_grad_(),
            )
            for _ in range(2)
        ]
        optimiser = torch.optim.AdamW([one for pair in maps for one in pair], lr=1e-4, weight_decay=1e-2)
        image, text = (torch.from_numpy(one[rows]).to(self.device) for one in (self.images, self.texts))
        relative = _relative(weights, self.device)
        draw = torch.Generator().manual_seed(seed)
        for _ in range(self.steps):
            batch = torch.randperm(len(rows), generator=draw)[:BATCH].to(self.device)
            likeness = (
                _unit(_mapped(image[batch], maps[0])) @ _unit(_mapped(text[batch], maps[1])).T / _TEMPERATURE
            )
            own = torch.arange(len(batch), device=self.device)
            losses = nn.functional.cross_entropy(likeness, own, reduction="none")
            losses = losses + nn.functional.cross_entropy(likeness.T, own, reduction="none")
            loss = _weighed(losses, None if relative is None else relative[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return maps


def _mapped(rows: torch.Tensor, one: Map) -> torch.Tensor:
    return nn.functional.linear(rows, *one)


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(rows, dim=1)
