"""Weigh samples by their loss (Sow et al. 2025, "Dynamic loss-based sample reweighting"; focal: Lin et al. 2017).

Losses are clipped to two quantiles, laid out on [-delta, delta], shaped by a method and made into weights by a
softmax with temperature r: the larger r, the more equal. `curate.torch.LossReweighter` does the same per batch.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from curate.errors import CurateError, RecipeError
from curate.settings import Share
from curate.weighting.base import Kept, Weigher
from curate.weighting.effective_size import effective_sample_size

__all__ = [
    "METHODS",
    "Extremes",
    "Focal",
    "LinUpper",
    "LossWeights",
    "Quadratic",
    "Upper",
    "cap_weights",
    "check_settings",
    "focal_weights",
    "loss_weights",
    "shape",
]

Method = Literal["linupper", "quadratic", "extremes", "upper", "focal"]
METHODS = ("linupper", "quadratic", "extremes", "upper", "focal")
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LossWeights:
    """weight : (n,), mean 1 over the rows that have one, NaN where `valid` (n,) is False.

    effective : the effective sample size.
    """

    weight: Floats
    valid: npt.NDArray[np.bool_]
    effective: float

    @property
    def status(self) -> npt.NDArray[np.str_]:
        """The status of each row, ok or nonfinite, (n,)."""
        return np.where(self.valid, "ok", "nonfinite")


class ByLoss(Weigher):
    """Weights that go by a column of losses, `by`."""

    needs = "a column of losses (`by`, by default `loss`)"

    by: str | None = None

    @property
    def column(self) -> str:
        """The losses."""
        return self.by or "loss"


class _Shaped(ByLoss):
    """Losses clipped to two quantiles, shaped, and made into weights by a softmax with temperature `r`."""

    paper = "Sow et al. 2025, arXiv:2502.06733"
    #: The shape that `loss_weights` gives them.
    shape: ClassVar[Method]

    r: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    delta: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    clip: tuple[Share, Share] | None = (0.01, 0.99)
    max_weight: Annotated[float, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _lower_first(self) -> Self:
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError(f"needs clip as two quantiles, the lower first, got {list(self.clip)}")
        return self

    def weigh(self, kept: Kept) -> Floats:
        """Return the weights of the losses."""
        return loss_weights(
            kept.score, self.shape, r=self.r, delta=self.delta, clip=self.clip, max_weight=self.max_weight
        ).weight


class LinUpper(_Shaped):
    """Weights that grow with the loss up to the middle of its range, and are flat above."""

    weighs = "grows with the loss up to the middle of its range; outliers count no more than the middle"
    direction = "samples that are not easy"
    avoid = "when easy samples must keep their share"
    shape = "linupper"
    place = 1

    method: Literal["linupper"] = "linupper"


class Quadratic(_Shaped):
    """Weights that are largest in the middle of the range of the loss."""

    weighs = "largest in the middle of the range of the loss"
    direction = "samples that are neither easy nor hard"
    avoid = "when hard samples are what is to be learnt"
    shape = "quadratic"
    place = 2

    method: Literal["quadratic"] = "quadratic"


class Extremes(_Shaped):
    """Weights that are largest at both ends of the range of the loss."""

    weighs = "largest at both ends of the range of the loss"
    direction = "the easiest and the hardest samples"
    avoid = "when labels are noisy: wrong ones have the largest losses"
    shape = "extremes"
    place = 3

    method: Literal["extremes"] = "extremes"


class Upper(_Shaped):
    """Weights that grow with the loss over its whole range (in the authors' code, as (h + delta) / 2)."""

    weighs = "grows with the loss over its whole range, up to the largest"
    direction = "hard samples, the hardest most"
    avoid = "when labels are noisy or some losses are outliers: those weigh most"
    shape = "upper"
    place = 4

    method: Literal["upper"] = "upper"


class Focal(ByLoss):
    """(1 - p)^gamma, where p = exp(-loss) is the probability of the own label."""

    weighs = "(1 - p)^`gamma`, with p = exp(-loss) the probability of the own label"
    direction = "samples the model is unsure of"
    paper = "Lin et al. 2017, arXiv:1708.02002"
    avoid = "when labels are noisy, or the loss is no cross entropy"
    place = 5

    method: Literal["focal"] = "focal"
    gamma: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    max_weight: Annotated[float, Field(ge=1)] | None = None

    def weigh(self, kept: Kept) -> Floats:
        """Return the weights of the probabilities."""
        return loss_weights(kept.score, "focal", gamma=self.gamma, max_weight=self.max_weight).weight


def loss_weights(
    loss: npt.NDArray[np.floating[Any]],
    method: Method = "linupper",
    *,
    r: float = 1.0,
    delta: float = 1.0,
    gamma: float = 2.0,
    clip: tuple[float, float] | None = (0.01, 0.99),
    max_weight: float | None = None,
) -> LossWeights:
    """Return one weight per sample from its loss, with mean 1.

    loss : (n,), larger is harder. method: linupper grows up to the middle of the range and is flat above
    (outliers get no more than the middle), quadratic prefers the middle, extremes both ends, upper grows up to
    the largest; focal is (1 - p)^gamma with p = exp(-loss), the probability of the own label under cross entropy, and uses
    neither r, delta nor clip. Rows whose loss is NaN or infinite get no weight and count nowhere; equal
    losses and a single row get weight 1. Cost: one sort.

    >>> loss_weights(np.array([0.0, 1.0, 2.0, 4.0]), clip=None).weight.round(4)
    array([0.4947, 0.8157, 1.3448, 1.3448])
    """
    check_settings(method, r, delta, gamma, clip, max_weight)
    valid = np.isfinite(loss)
    weight = np.full(len(loss), np.nan)
    known = loss[valid].astype(np.float64)
    if method == "focal":
        weight[valid] = focal_weights(np.exp(-np.maximum(known, 0.0)), gamma, max_weight)
    elif len(known):
        lower, upper = np.quantile(known, clip) if clip else (known.min(), known.max())
        value = shape(np.clip(known, lower, upper), method, float(lower), float(upper), delta) / r
        with np.errstate(under="ignore"):
            raw = np.exp(value - value.max())
        weight[valid] = _to_mean_one(raw, max_weight)
    return LossWeights(weight, valid, effective_sample_size(weight))


def focal_weights(p_label: Floats, gamma: float = 2.0, max_weight: float | None = None) -> Floats:
    """Return (1 - p_label)^gamma scaled to mean 1; 1 for all where every row is certain.

    p_label : (n,) in [0, 1], the probability of the own label.

    >>> focal_weights(np.array([0.0, 0.5]), gamma=1.0)
    array([1.33333333, 0.66666667])
    """
    if not ((p_label >= 0) & (p_label <= 1)).all():
        raise CurateError("probabilities of labels must be in [0, 1]")
    check_settings("focal", 1.0, 1.0, gamma, None, max_weight)
    return _to_mean_one((1.0 - p_label) ** gamma, max_weight)


def shape(loss: Floats, method: Method, lower: float, upper: float, delta: float = 1.0) -> Floats:
    """Return f(h) for losses in [lower, upper], h = 2 delta (loss - lower) / (upper - lower) - delta.

    linupper min(h + delta, delta), quadratic 1 - h^2 / delta^2, extremes |h|, upper (h + delta) / 2; all 0 where
    lower = upper.

    >>> shape(np.array([0.0, 1.0, 2.0, 4.0]), "linupper", 0.0, 4.0)
    array([0. , 0.5, 1. , 1. ])
    """
    scale = 1.0 if math.isfinite(upper - lower) else 0.5
    width = upper * scale - lower * scale
    if not width > 0:
        return np.zeros(len(loss))
    h: Floats = 2 * delta * ((loss * scale - lower * scale) / width) - delta
    value: Floats = 1 - (h / delta) ** 2
    if method == "linupper":
        value = np.minimum(h + delta, delta)
    elif method == "extremes":
        value = np.abs(h)
    elif method == "upper":
        value = (h + delta) / 2
    return value


def cap_weights(weight: Floats, cap: float) -> Floats:
    """Return weights of mean 1, none above `cap`: rows over it get the cap, the others are scaled up.

    weight : (n,) >= 0 with mean 1. cap : >= 1. Scaling can push others over the cap, which are then fixed
    too, until none is; done at once on sorted weights. Where all others are 0, they share what is left.

    >>> cap_weights(np.array([0.5, 0.5, 3.0]), 2.0), cap_weights(np.array([0.0, 2.0]), 1.5)
    (array([0.5, 0.5, 2. ]), array([0.5, 1.5]))
    """
    if not cap >= 1:
        raise RecipeError(f"weight.max_weight must be at least 1, got {cap}")
    n = len(weight)
    if n == 0 or weight.max() <= cap:
        return weight
    descending = -np.sort(-weight)
    rest = np.cumsum(descending[::-1])[::-1]  # the sum of the others, were the first c rows fixed
    left = n - cap * np.arange(n)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scale = left / rest
        fits = (rest == 0) | (descending * scale <= cap)
    first = int(fits.argmax()) if fits.any() else n
    if first == n:
        return np.ones(n)
    if rest[first] == 0:
        return np.where(weight > 0, cap, left[first] / (n - first))
    capped: Floats = np.minimum(weight * scale[first], cap)
    return capped


def check_settings(
    method: str,
    r: float,
    delta: float,
    gamma: float,
    clip: tuple[float, float] | None,
    max_weight: float | None,
) -> None:
    """Raise RecipeError unless the settings of a reweighting are in their ranges."""
    if method not in METHODS:
        raise RecipeError(f"weight.method must be one of {', '.join(METHODS)}, got {method!r}")
    for name, value in (("r", r), ("delta", delta)):
        if not (value > 0 and math.isfinite(value)):
            raise RecipeError(f"weight.{name} must be a finite number > 0, got {value}")
    if not (gamma >= 0 and math.isfinite(gamma)):
        raise RecipeError(f"weight.gamma must be a finite number >= 0, got {gamma}")
    if clip is not None and not 0 <= clip[0] < clip[1] <= 1:
        raise RecipeError(f"weight.clip must be two quantiles in [0, 1], the lower first, got {clip}")
    if max_weight is not None and not max_weight >= 1:
        raise RecipeError(f"weight.max_weight must be at least 1, got {max_weight}")


def _to_mean_one(raw: Floats, max_weight: float | None) -> Floats:
    total = math.fsum(raw.tolist())
    if total == 0 or raw.min() == raw.max():
        return np.ones(len(raw))
    weight: Floats = raw * (len(raw) / total)
    return weight if max_weight is None else cap_weights(weight, max_weight)
