"""The training loop of every kind of filter: AdamW, warm-up and cosine, clipped gradients, a checkpoint each epoch.

A loop that is killed goes on from its last checkpoint with the same result: batches and augmentation are keyed by seed,
epoch and step, torch's own random numbers are seeded before each step, and the optimiser is in the checkpoint.
"""

import contextlib
import copy
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from curate.errors import ModelError
from curate.execution.context import Progress, silent
from curate.hashing import hash_uids
from curate.io import storage
from curate.training.losses import clamp_scale, parameter_groups, schedule

__all__ = ["Course", "Curve", "autocast", "epochs_for", "fit"]

#: What `epochs: auto` aims at.
STEPS, LEAST_EPOCHS, MOST_EPOCHS = 200, 5, 200

Ints = npt.NDArray[np.int64]
Loss = Callable[[Ints, int], torch.Tensor]
Weights = dict[str, Any]
#: What a checkpoint holds by name: each has `state_dict` and `load_state_dict`.
_State = dict[str, Any]


@dataclass(frozen=True)
class Course:
    """How long and how fast a model is trained.

    warmup : the share of steps over which the rate rises. fingerprint : of all that the result depends on; a checkpoint of
    another one is not used. precision : float32, float16 or bfloat16 (autocast).
    """

    epochs: int
    rate: float
    decay: float
    warmup: float
    seed: int
    fingerprint: str
    checkpoint: Path
    device: str = "cpu"
    precision: str = "float32"
    clip: float = 1.0


@dataclass
class Curve:
    """The mean training loss, the validation loss (NaN without one) and the scale after each epoch; epoch 0 is untrained."""

    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    scale: list[float] = field(default_factory=list)

    @property
    def best(self) -> int:
        """The epoch with the lowest validation loss, the last one without validation."""
        known = [value if math.isfinite(value) else math.inf for value in self.validation]
        return known.index(min(known)) if any(map(math.isfinite, known)) else len(self.validation) - 1

    def to_json(self) -> list[dict[str, float | int | None]]:
        """Return one entry per epoch, for JSON."""
        rows = zip(self.train, self.validation, self.scale, strict=True)
        names = ("train", "validation", "scale")
        return [
            {"epoch": epoch}
            | {
                name: round(value, 6) if math.isfinite(value) else None
                for name, value in zip(names, row, strict=True)
            }
            for epoch, row in enumerate(rows)
        ]


def epochs_for(epochs: int, batches: int) -> int:
    """Return the number of epochs: as asked, or with 0 as many as make 200 steps, 5 at least and 200 at most.

    >>> epochs_for(3, 10), epochs_for(0, 10), epochs_for(0, 1), epochs_for(0, 1000)
    (3, 20, 200, 5)
    """
    return epochs or min(MOST_EPOCHS, max(LEAST_EPOCHS, math.ceil(STEPS / max(1, batches))))


def fit(
    model: torch.nn.Module,
    loss_of: Loss,
    batches_of: Callable[[int], Sequence[Ints]],
    course: Course,
    *,
    validate: Callable[[], float] | None = None,
    progress: Progress = silent,
) -> Curve:
    """Train a model in place and leave the weights of its best epoch in it.

    model : has `log_scale`, which is clamped to [0, ln 100], or no such. loss_of : rows of a batch and a number of the step (of
    seed, epoch and step alone) -> the loss. batches_of : epoch, from 1 -> its batches. validate : the loss on rows
    that are not trained on; the epoch where it is least is kept (the untrained model is epoch 0).
    Raises ModelError where the loss is not finite.
    """
    optimiser = torch.optim.AdamW(
        parameter_groups(model, course.decay), lr=course.rate, betas=(0.9, 0.98), foreach=False
    )
    scaler = torch.amp.GradScaler("cuda", enabled=course.precision == "float16")
    per_epoch = len(batches_of(1))
    total = course.epochs * per_epoch
    state: _State = {"model": model, "optimiser": optimiser, "scaler": scaler}
    begin, curve, best = _resumed(state, course)
    if not curve.train:
        _note(curve, model, math.nan, validate)
        best = copy.deepcopy(model.state_dict())
    for epoch in range(begin, course.epochs + 1):
        losses = []
        for place, batch in enumerate(batches_of(epoch)):
            step = (epoch - 1) * per_epoch + place
            key = int(hash_uids([str(step)], course.seed, "step")[0])
            torch.manual_seed(key)
            for group in optimiser.param_groups:
                group["lr"] = course.rate * schedule(step, total, round(course.warmup * total))
            loss = loss_of(batch, key)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise ModelError(
                    f"training: the loss is {value} in epoch {epoch}; set a smaller rate than {course.rate:g}"
                )
            optimiser.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(model.parameters(), course.clip)
            scaler.step(optimiser)
            scaler.update()
            if (scale := getattr(model, "log_scale", None)) is not None:
                clamp_scale(scale)
            losses.append(value)
            progress("train", step + 1, total, "steps")
        _note(curve, model, float(np.mean(losses)), validate)
        if curve.best == epoch:
            best = copy.deepcopy(model.state_dict())
        _save(state, course, epoch, curve, best)
    model.load_state_dict(best)
    return curve


def _note(curve: Curve, model: torch.nn.Module, train: float, validate: Callable[[], float] | None) -> None:
    curve.train.append(train)
    curve.validation.append(math.nan if validate is None else validate())
    scale = getattr(model, "log_scale", None)
    curve.scale.append(math.nan if scale is None else float(scale.detach().exp()))


def _save(state: _State, course: Course, epoch: int, curve: Curve, best: Weights) -> None:
    kept = {
        "fingerprint": course.fingerprint, "epoch": epoch, "curve": vars(curve), "best": best,
        **{name: one.state_dict() for name, one in state.items()},
    }  # fmt: skip
    with storage.atomic(course.checkpoint) as partial:
        torch.save(kept, partial)


def _resumed(state: _State, course: Course) -> tuple[int, Curve, Weights]:
    """Return the epoch to go on with, the curve so far and the best weights; a torn or foreign checkpoint counts for nothing."""
    kept = None
    with contextlib.suppress(OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        kept = torch.load(course.checkpoint, map_location=course.device, weights_only=True)
    if not isinstance(kept, dict) or kept.get("fingerprint") != course.fingerprint:
        return 1, Curve(), {}
    for name, one in state.items():
        one.load_state_dict(kept[name])
    return int(kept["epoch"]) + 1, Curve(**kept["curve"]), kept["best"]


@contextlib.contextmanager
def autocast(device: str, precision: str) -> Iterator[None]:
    """Compute in half precision where that is asked for."""
    if precision == "float32":
        yield
        return
    with torch.autocast(device.split(":")[0], getattr(torch, precision)):
        yield
