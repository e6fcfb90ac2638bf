"""Score samples by heads that are trained without them: seeds, folds, epochs, and evaluation.

Results hang on the uids, labels, vectors, settings and kind of processor alone. Training goes through blocks in hash
order; groups of seeds, and batches to evaluate, are computed by one torch thread each, so that the number of
workers changes no bit.
"""

import copy
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from curate.errors import CurateError, RecipeError
from curate.scores.heads.accumulators import Accumulator
from curate.scores.heads.batches import Batches, Normalise, Rows
from curate.scores.heads.course import Course, CourseName, course_columns, look_after
from curate.scores.heads.evaluation import EVALUATION_ROWS, Each, Evaluation, fixed_threads, spread_over
from curate.scores.heads.factory import Kind, make_group, split_seeds
from curate.scores.heads.folds import Ints, Label, Labelled, assign_folds, labelled, row_hashes
from curate.scores.heads.label_errors import thresholds
from curate.scores.heads.model import Group
from curate.scores.heads.result import HeadScores, collect, spread_course
from curate.scores.heads.temperature import ProbabilitySample

__all__ = ["BAD_SHARE", "HeadSettings", "SeedsFailed", "check_epochs", "train_heads"]

BAD_SHARE = Fraction(1, 100)

#: Hidden values times samples, where their number is found by itself.
_HIDDEN_CELLS = 1_280_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeadSettings:
    """How heads are trained. All but `device`, `workers`, `memory` and `look_rows` decide results.

    epochs : the last of them is scored, or those in `score_epochs` (1, 2, ...); margins are over all.
    cross_fit : number of folds, each scored by a head that never saw it; 0 scores what was trained on.
    hidden : None takes the power of two in [64, 512] that comes nearest to 1,280,000 / samples.
    batch : None takes the power of two in [32, 1024] that comes nearest to 50 steps an epoch.
    rate : step per mean squared length of the inputs. min_class : None takes max(2, cross_fit).
    first_seed : seeds are first_seed, first_seed + 1, ...; seed : what all random numbers hang on.
    dynamics : which scores of the course of training are wanted (`course`), over windows of `window` epochs.
    """

    kind: Kind = "mlp"
    hidden: int | None = None
    n_seeds: int = 10
    epochs: int = 5
    cross_fit: int = 5
    score_epochs: tuple[int, ...] | None = None
    batch: int | None = None
    rate: float = 1.0
    momentum: float = 0.9
    normalise: Normalise = "standardize"
    min_class: int | None = None
    seed: int = 0
    first_seed: int = 0
    device: str = "cpu"
    workers: int | None = None
    memory: int = 1 << 30
    look_rows: int = EVALUATION_ROWS
    dynamics: tuple[CourseName, ...] = ()
    window: int = 4

    def __post_init__(self) -> None:
        check_epochs("heads", self.epochs, self.scored, self.cross_fit)
        if self.kind not in ("linear", "mlp"):
            raise RecipeError(f"heads.kind must be linear or mlp, got {self.kind!r}")
        if self.normalise not in ("standardize", "l2"):
            raise RecipeError(f"heads.normalise must be standardize or l2, got {self.normalise!r}")
        for name in ("n_seeds", "hidden", "batch", "workers", "look_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecipeError(f"heads.{name} must be at least 1, got {value}")
        if not self.rate > 0:
            raise RecipeError(f"heads.rate must be > 0, got {self.rate}")
        if not 0 <= self.momentum < 1:
            raise RecipeError(f"heads.momentum must be in [0, 1), got {self.momentum}")

    @property
    def scored(self) -> tuple[int, ...]:
        """The epochs after which samples are scored, counted from 1."""
        return (self.epochs,) if self.score_epochs is None else self.score_epochs

    @property
    def smallest_class(self) -> int:
        """Classes of fewer samples are not scored."""
        return max(2, self.cross_fit) if self.min_class is None else self.min_class

    def hidden_for(self, n: int) -> int:
        """Return the hidden values of a head for n samples: fewer samples pay for more, and need them more."""
        return self.hidden or 1 << max(6, min(9, round(math.log2(_HIDDEN_CELLS / max(1, n)))))

    def batch_for(self, n: int) -> int:
        """Return the rows of a minibatch for n samples."""
        return self.batch or 1 << max(5, min(10, round(math.log2(max(1, n / 50)))))


def check_epochs(family: str, epochs: int, scored: tuple[int, ...], cross_fit: int) -> None:
    """Raise RecipeError unless there are epochs, some of them scored, and a number of folds that can be."""
    if epochs == 0:
        raise RecipeError(
            f"{family}.epochs must be at least 1, got 0: scores of untrained weights (GraNd at initialisation) "
            "follow the length of the input and are known not to find hard samples"
        )
    if epochs < 0:
        raise RecipeError(f"{family}.epochs must be at least 1, got {epochs}")
    if not scored or not all(1 <= epoch <= epochs for epoch in scored):
        raise RecipeError(f"{family}.score_epochs must be in [1, {epochs}] and not empty, got {scored}")
    if cross_fit != 0 and not 2 <= cross_fit <= 255:
        raise RecipeError(f"{family}.cross_fit must be 0 or in [2, 255], got {cross_fit}")


class SeedsFailed(Exception):
    """Some seeds left the finite numbers."""

    def __init__(self, seeds: list[int]) -> None:
        super().__init__(seeds)
        self.seeds = seeds


def train_heads(
    rows: Rows, uids: Iterable[str], labels: Sequence[Label], settings: HeadSettings | None = None
) -> HeadScores:
    """Return scores of all samples, in the order of the input; higher is harder.

    rows : n unit vectors, such as those of parts (`PartRows`). uids : n different names.
    labels : n labels, None where there is none. A seed in which weights, or more than 1 % of the samples, are
    not finite is left out and the others are trained again without it; CurateError if none is left.
    Costs 4 n d C (linear) per epoch, seed and fold.
    """
    settings = HeadSettings() if settings is None else settings
    hashes = row_hashes(uids, settings.seed)
    if len(hashes) != len(rows):
        raise CurateError(f"there must be one uid per vector, got {len(hashes)} for {len(rows)} vectors")
    data = labelled(hashes, labels, rows.status, min_class=settings.smallest_class)
    seeds = list(range(settings.first_seed, settings.first_seed + settings.n_seeds))
    if not len(data.rows):
        found = collect(data, Accumulator(0, len(seeds), settings.epochs), seeds, trained=True)
        return replace(
            found,
            course={name: np.full_like(found.loss, np.nan) for name in course_columns(settings.dynamics)},
        )
    with fixed_threads():
        batches = Batches(
            rows,
            data.rows,
            data.hashes,
            normalise=settings.normalise,
            memory=settings.memory,
            device=settings.device,
        )
        while seeds:
            try:
                training = _Training(batches, data, seeds, settings)
                found = collect(data, training.run(), seeds, trained=True)
                more = spread_course(training.course, data)
                return replace(found, course=more, calibration=training.calibration)
            except SeedsFailed as failure:
                log.warning("heads: seeds %s left the finite numbers and are left out", failure.seeds)
                seeds = [seed for seed in seeds if seed not in failure.seeds]
    raise CurateError(
        f"heads: every seed left the finite numbers; heads.rate {settings.rate} may be too large"
    )


class _Training:
    """The state of one call: groups of heads, folds, and the sums. calibration : what is known of it, empty without folds."""

    _steps = 0

    def __init__(self, batches: Batches, data: Labelled, seeds: list[int], settings: HeadSettings) -> None:
        self.batches, self.data, self.seeds, self.settings = batches, data, seeds, settings
        self.code = torch.from_numpy(data.code).to(batches.device)
        self.folds = self._folds()
        self.sums = Accumulator(len(batches), len(seeds), settings.epochs)
        self.calibration: dict[str, Any] = {}
        self.course = Course(settings.dynamics, len(batches), len(seeds), settings.window)
        split = split_seeds(settings.kind, len(seeds), settings.cross_fit, len(data.classes))
        self.groups = [self._group([seeds[place] for place in places]) for places in split]
        self.batch = settings.batch_for(len(batches))

    def _folds(self) -> npt.NDArray[np.uint8]:
        folds = np.zeros((len(self.batches), len(self.seeds)), np.uint8)
        if self.settings.cross_fit:
            for place, seed in enumerate(self.seeds):
                folds[:, place] = assign_folds(
                    self.data.hashes, self.data.code, self.settings.cross_fit, self.settings.seed, seed
                )
        return folds

    def _group(self, seeds: list[int]) -> Group:
        chosen = self.settings
        return make_group(
            chosen.kind,
            seeds,
            chosen.cross_fit,
            self.batches.dim,
            len(self.data.classes),
            hidden=chosen.hidden_for(len(self.batches)),
            seed=chosen.seed,
            momentum=chosen.momentum,
            device=self.batches.device,
        )

    def run(self) -> Accumulator:
        """Train and evaluate, epoch by epoch; return the sums."""
        chosen = self.settings
        course = self.course if chosen.dynamics else None
        probabilities = ProbabilitySample(self.data.code, len(self.data.classes))
        evaluation = Evaluation(
            self.code, self.folds, self.groups, self.sums, rows=chosen.look_rows, course=course
        )
        with spread_over(chosen.workers, self.batches.device) as each:
            for epoch in range(1, chosen.epochs + 1):
                for x, places in self.batches.shuffled(chosen.seed, epoch):
                    self._learn_block(
                        each, x, places, evaluation if epoch == 1 and self.course.looks else None
                    )
                self._steps = 0
                self._check(
                    [seed for group in self.groups for seed, good in group.finite().items() if not good]
                )
                self.sums.n_bad[:] = 0
                last = epoch == max(chosen.scored)
                evaluation.sample = probabilities if last and chosen.cross_fit else None
                for start in self.batches.starts:
                    evaluation.block(
                        each,
                        self.batches.block(start),
                        start,
                        epoch=epoch,
                        scored=epoch in chosen.scored,
                        last=last,
                    )
                if last and chosen.cross_fit:
                    self.calibration = probabilities.facts()
                    evaluation.temperature = float(self.calibration.get("temperature", 1.0))
                    self._count_errors(evaluation, each)
                if self.course.compares:
                    evaluation.earlier = self._snapshot()
                limit = BAD_SHARE * len(self.batches)
                self._check([s for s, bad in zip(self.seeds, self.sums.n_bad, strict=True) if bad > limit])
        return self.sums

    def _count_errors(self, evaluation: Evaluation, each: Each) -> None:
        """Look once more at all samples, for the classes that the heads are confident of."""
        limits = thresholds(self.sums.confidence, self.data.code, len(self.data.classes))
        for start in self.batches.starts:
            evaluation.confident(each, self.batches.block(start), start, limits)

    def _check(self, failed: list[int]) -> None:
        if failed:
            raise SeedsFailed(failed)

    def _learn_block(self, each: Each, x: torch.Tensor, places: Ints, looking: Evaluation | None) -> None:
        """Learn from a block; with `looking`, step by step up to each of those that a look follows."""
        if looking is None:
            each(partial(self._learn, x=x, places=places), len(self.groups))
            return
        begin, steps = 0, -(-len(x) // self.batch)
        for step in range(1, steps + 1):
            self._steps += 1
            end = min(step * self.batch, len(x))
            if look_after(self._steps) or step == steps:
                some = slice(begin, end)
                each(partial(self._learn, x=x[some], places=places[some]), len(self.groups))
                begin = end
            if look_after(self._steps):
                for start in self.batches.starts:
                    looking.look(each, self.batches.block(start), start)

    def _snapshot(self) -> list[Group]:
        """Return the groups as they are now."""
        for group in self.groups:
            group.forget_space()
        return [copy.deepcopy(group) for group in self.groups]

    def _learn(self, index: int, x: torch.Tensor, places: Ints) -> Iterator[None]:
        group = self.groups[index]
        mine = [self.seeds.index(seed) for seed in group.seeds]
        fold = torch.from_numpy(self.folds[places][:, mine]).to(x.device)
        label = self.code[torch.from_numpy(places).to(x.device)]
        share = (1 - 1 / self.settings.cross_fit) if self.settings.cross_fit else 1.0
        rate = self.settings.rate / (self.batches.mean_square * self.batch * share)
        for start in range(0, len(x), self.batch):
            rows = slice(start, start + self.batch)
            group.step(x[rows], label[rows], fold[rows], rate)
            yield
