"""Kind `head`: a linear softmax head over labels, on vectors that are there; for losses of labelled images."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from curate.errors import UsageError
from curate.execution.context import Progress
from curate.training.batches import epoch_batches
from curate.training.loop import Course, Curve, fit
from curate.training.pairs import Pairs

__all__ = ["Head", "classes_of", "train_head"]

Ints = npt.NDArray[np.int64]


class Head(torch.nn.Module):
    """Logits ``weight x + bias``, from zero: at the start every class is as likely."""

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(classes, dim))
        self.bias = torch.nn.Parameter(torch.zeros(classes))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits, (n, classes)."""
        return image @ self.weight.T + self.bias


def classes_of(pairs: Pairs, start: Mapping[str, Any] | None) -> list[str]:
    """Return the classes of a head: those of the one it goes on from, else all labels of the set, sorted.

    Raises UsageError for fewer than two, and where the set has a label that the head to go on from does not know, or one
    that is called otherwise there.
    """
    labels = sorted({label for label in pairs.labels if label is not None})
    known = list(start["classes"]) if start is not None else labels
    unknown = next((label for label in labels if label not in set(known)), None)
    if unknown is not None:
        raise UsageError(
            f"start: the head knows no label {unknown!r} of the set; it was trained on {len(known):,} others"
        )
    ours, theirs = pairs.class_names, (start or {}).get("class_names") or {}
    other = next((one for one in ours if one in theirs and ours[one] != theirs[one]), None)
    if other is not None:
        raise UsageError(
            f"start: label {other!r} is {theirs[other]!r} to the head and {ours[other]!r} in the set; they are other classes"
        )
    if len(known) < 2:
        raise UsageError(f"set: a head needs at least two labels, got {len(known)}")
    return known


def train_head(
    model: Head, pairs: Pairs, classes: list[str], held: npt.NDArray[np.bool_], course: Course,
    *, batch: int, progress: Progress,
) -> Curve:  # fmt: skip
    """Train a head in place and return its curve. held : (n,) which rows are not trained on but validate."""
    model.to(course.device)
    place = {name: code for code, name in enumerate(classes)}
    codes = torch.tensor([place[str(label)] for label in pairs.labels])
    image = torch.from_numpy(pairs.image)
    rows = np.flatnonzero(~held)
    names = [pairs.uids[row] for row in rows.tolist()]

    def loss(some: Ints, _: int) -> torch.Tensor:
        chosen = torch.from_numpy(some)
        return functional.cross_entropy(
            model(image[chosen].to(course.device)), codes[chosen].to(course.device)
        )

    def batches_of(epoch: int) -> list[Ints]:
        near = pairs.image[rows]
        return [rows[some] for some in epoch_batches(names, batch, course.seed, epoch, image=near, text=near)]

    def validate() -> float:
        with torch.no_grad():
            return float(loss(np.flatnonzero(held), 0))

    return fit(model, loss, batches_of, course, validate=validate if held.any() else None, progress=progress)
