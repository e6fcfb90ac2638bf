"""How many labels are wrong, and which classes are taken for which: confident learning (Northcutt et al. 2021, arXiv:1911.00068).

A row is counted where out-of-fold probabilities are confident of another class: its probability reaches the mean that rows
with that label have. The numbers say how many, not how sure each one is; for the order of rows see neg_aum.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate.errors import UsageError
from curate.scores.calibration import fit_logistic
from curate.scores.status import OK

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.scores.heads.result import HeadScores

__all__ = [
    "GATE",
    "SURE",
    "LabelErrors",
    "confident_classes",
    "count_errors",
    "errors_of",
    "estimated_errors",
    "thresholds",
]

#: The estimated rate from which errors are believed: on clean sets some 2 to 4 % of rows are counted, being hard.
GATE = 0.06
#: The share of rows that are wrong for sure, with a probability above .9, up to which a count says little: heads that know little
#: count many rows, and are sure of few. It is said, and drops nothing less: see CONTRIBUTING.
SURE = 0.02
_SURELY = 0.9
#: Labels are not visible in the pictures where heads are right about less than this share of what guessing the largest class
#: gets wrong, or about no more than chance explains, or where more than this share of the labels looks wrong.
SKILL, MOST = 0.1, 0.5
#: What a probability may lack and still reach a threshold.
_TOLERANCE = 1e-6
#: Pairs of classes that are named.
_NAMED = 20
#: Scores that are larger where labels are more doubtful.
_RANKED = ("neg_aum", "loss", "el2n")

Ints = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class LabelErrors:
    """Rows whose label is counted as wrong.

    count : of `rows`. rate : their share; low, high : its 95 % interval as a share of a sample of rows (Wilson), which does
    not cover what the heads get wrong. pairs : the most frequent (label, class of the heads, rows). calibration : by the name
    of a score, slope and intercept of the curve that makes it the probability that a row is counted (`scores/calibration.py`).
    sure : rows for which that of neg_aum is above .9. accuracy : the share of rows whose label is the class of the heads.
    largest : the share of the largest class. differ : rows whose label is another class than that of the heads: these are to be looked
    at, and what is counted is among them. All four are None in runs made before.
    """

    rows: int
    count: int
    rate: float
    low: float
    high: float
    pairs: tuple[tuple[str, str, int], ...]
    calibration: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    sure: int | None = None
    accuracy: float | None = None
    largest: float | None = None
    differ: int | None = None

    @property
    def to_drop(self) -> int:
        """The rows to drop: all that are counted, none where so few are that hard rows explain them."""
        return self.count if self.rate > GATE else 0

    @property
    def few_sure(self) -> bool:
        """Whether many rows are counted and few of them for sure, so that heads that know little may be the cause."""
        return self.rate > GATE and self.sure is not None and self.sure <= SURE * self.rows

    @property
    def unseen(self) -> bool:
        """Whether the labels are not visible in the pictures (folders by year, or by person): then none is known to be wrong."""
        if self.accuracy is None or self.largest is None:
            return False
        room = 1 - self.largest
        chance = 2 * math.sqrt(self.largest * room / max(1, self.rows))
        return self.rate > MOST or self.accuracy - self.largest <= max(SKILL * room, chance)

    def as_facts(self) -> dict[str, Any]:
        """Return the numbers as JSON says them."""
        curves = {name: list(curve) for name, curve in self.calibration.items()}
        return asdict(self) | {
            "pairs": [list(pair) for pair in self.pairs],
            "gate": GATE,
            "sure_gate": SURE,
            "few_sure": self.few_sure,
            "unseen": self.unseen,
            "calibration": curves,
        }


def thresholds(confidence: Floats, label: Ints, n_classes: int) -> Floats:
    """Return the mean probability of their own label of the rows of each class, (C,); infinite for a class without rows.

    confidence : (n,), NaN where there is none. label : (n,).
    """
    there = np.isfinite(confidence)
    sizes = np.bincount(label[there], minlength=n_classes)
    sums = np.bincount(label[there], weights=confidence[there], minlength=n_classes)
    means: Floats = np.where(sizes > 0, sums / np.maximum(sizes, 1), np.inf)
    return means


def confident_classes(probs: Floats, limits: Floats) -> Ints:
    """Return the class of each row that probabilities are confident of, (n,); -1 where there is none.

    probs : (n, C). limits : (C,), see `thresholds`. Of several classes that reach theirs, the most probable one counts.

    >>> confident_classes(np.array([[0.7, 0.3], [0.5, 0.5]]), np.array([0.6, 0.4])).tolist()
    [0, 1]
    """
    reached = np.where(probs >= limits - _TOLERANCE, probs, -np.inf)
    best = reached.argmax(axis=1)
    found: Ints = np.where(np.isfinite(reached[np.arange(len(probs)), best]), best, -1)
    return found


def count_errors(label: Ints, confident: Ints, predicted: Ints, names: Sequence[str | int]) -> LabelErrors:
    """Return how many rows are confidently of another class than their label, which is not the most probable one either.

    label, confident (-1: none), predicted : (n,) codes of `names`.
    """
    wrong = _counted(label, confident, predicted)
    n, count = len(label), int(wrong.sum())
    codes, sizes = np.unique(
        label[wrong].astype(np.int64) * len(names) + confident[wrong], return_counts=True
    )
    order = np.lexsort((codes, -sizes))[:_NAMED]
    pairs = tuple(
        (str(names[int(codes[i]) // len(names)]), str(names[int(codes[i]) % len(names)]), int(sizes[i]))
        for i in order
    )
    low, high = _wilson(count, n)
    return LabelErrors(n, count, count / max(1, n), low, high, pairs)


def _counted(label: Ints, confident: Ints, predicted: Ints) -> npt.NDArray[np.bool_]:
    """Return which rows are counted, (n,)."""
    return np.asarray((confident >= 0) & (confident != label) & (predicted != label), np.bool_)


def errors_of(scores: "HeadScores", names: Sequence[str | int | None]) -> LabelErrors:
    """Return how many of some labels heads count as wrong. names : (n,), the label of each row, None where it has none."""
    code: dict[str | int | None, int] = {name: number for number, name in enumerate(scores.classes)}
    label = np.fromiter((code.get(name, -1) for name in names), np.int64, len(names))
    rows = np.flatnonzero((scores.status == OK) & (label >= 0))
    given = label[rows], scores.confident_label[rows], scores.pred_label[rows]
    ranked = {name: np.asarray(getattr(scores, name), np.float64)[rows] for name in _RANKED}
    curves = {name: fit_logistic(values, _counted(*given)) for name, values in ranked.items()}
    calibration = {name: (curve.slope, curve.intercept) for name, curve in curves.items()}
    sure = int((curves["neg_aum"].probability(ranked["neg_aum"]) > _SURELY).sum())
    counted = replace(count_errors(*given, scores.classes), calibration=calibration, sure=sure)
    if not len(rows):
        return counted
    right, largest = float((given[0] == given[2]).mean()), float(np.bincount(given[0]).max() / len(rows))
    differ = int((given[0] != given[2]).sum())
    return replace(counted, accuracy=round(right, 6), largest=round(largest, 6), differ=differ)


def _wilson(count: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    share, square = count / n, z * z / n
    centre = (share + square / 2) / (1 + square)
    half = z * math.sqrt(share * (1 - share) / n + square / (4 * n)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def estimated_errors(context: "Context") -> LabelErrors:
    """Return what the heads of a run estimate; raises UsageError where they do not."""
    facts = context.facts(context.run.scores("heads"))
    found = facts.get("label_errors")
    if found is None:
        why = "the heads of this run were scored before errors were counted; remove 3_scores/heads and run again"
        if not facts:
            why = "there are no heads; add heads to score"
        elif facts.get("kind") not in ("mlp", "linear"):
            why = f"heads of kind {facts.get('kind')} estimate none; take mlp or linear"
        elif facts.get("label_source") != "label":
            why = "the heads were trained on concepts, for want of labels; set source.label"
        raise UsageError(f"select.drop_noise auto needs the number of wrong labels: {why}, or name a share")
    pairs = tuple((str(a), str(b), int(n)) for a, b, n in found["pairs"])
    plain = {name: found[name] for name in ("rows", "count", "rate", "low", "high")}
    return LabelErrors(**plain, pairs=pairs, sure=found.get("sure"))
