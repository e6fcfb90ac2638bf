"""One pass over all samples in a fixed order, by models that did not see them; and how work is spread.

A batch to evaluate, or a group of heads, is computed by one torch thread, so that the number of workers changes
no bit of a result.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from curate.process import cpu_count
from curate.scores.heads.accumulators import Accumulator
from curate.scores.heads.course import Course, kl_change, ldr_temperature
from curate.scores.heads.el2n import error_vectors
from curate.scores.heads.label_errors import confident_classes
from curate.scores.heads.logits import LogitStats, logit_stats
from curate.scores.heads.model import Group
from curate.scores.heads.softmax import softmax_of, squared_norms
from curate.scores.heads.temperature import ProbabilitySample, scaled

__all__ = ["Each", "Evaluation", "fixed_threads", "spread_over"]

EVALUATION_ROWS, EVALUATION_CELLS = 2_048, 1 << 21  # rows of a batch to evaluate, and its logits

Job = Iterator[None]
Each = Callable[[Callable[[int], Job], int], None]


@dataclass(frozen=True)
class HeldOut:
    """Logits (n, C) of rows sorted by fold, with their labels.

    bounds : where each fold ends. hidden : (n, h). there, back : the order by fold and the way back; None for
    one fold.
    """

    logits: torch.Tensor
    label: torch.Tensor
    bounds: list[int]
    hidden: torch.Tensor
    there: torch.Tensor | None
    back: torch.Tensor | None


class Evaluation:
    """What an evaluation needs: labels and folds in training order, the heads, and the sums it adds to.

    label : (n,) codes. folds : (n, seeds), the model of a seed that scores the sample. course : what is kept of the course of
    training, and earlier : the groups as they were after the epoch before, where it compares them. sample : takes the mean
    probabilities of some rows, where these are wanted; temperature : what those are divided by for the column of the course.
    """

    earlier: Sequence[Group] = ()
    sample: ProbabilitySample | None = None
    temperature: float = 1.0

    def __init__(
        self,
        label: torch.Tensor,
        folds: npt.NDArray[np.uint8],
        groups: Sequence[Group],
        sums: Accumulator,
        *,
        rows: int = EVALUATION_ROWS,
        course: Course | None = None,
    ) -> None:
        self.label, self.folds, self.sums, self.course = label, folds, sums, course
        self.n_classes = groups[0].n_classes
        self._members = [
            (number, group, inside)
            for number, group in enumerate(groups)
            for inside in range(len(group.seeds))
        ]
        self._step = max(1, min(rows, max(256, EVALUATION_CELLS // self.n_classes)))
        self._lock, self._space = threading.Lock(), threading.local()

    def block(self, each: Each, x: torch.Tensor, start: int, *, epoch: int, scored: bool, last: bool) -> None:
        """Evaluate the rows from place `start` on; say if the epoch is `scored`, and the `last` to be."""
        starts = range(0, len(x), self._step)

        def one(index: int) -> Job:
            rows = x[starts[index] : starts[index] + self._step]
            begin = start + starts[index]
            return self._batch(rows, slice(begin, begin + len(rows)), epoch=epoch, scored=scored, last=last)

        each(one, len(starts))

    def confident(
        self, each: Each, x: torch.Tensor, start: int, limits: npt.NDArray[np.floating[Any]]
    ) -> None:
        """Note the class that the mean of the seeds is confident of, for the rows from place `start` on.

        limits : (C,) what the probability of a class must reach.
        """
        starts = range(0, len(x), self._step)

        def one(index: int) -> Job:
            rows = x[starts[index] : starts[index] + self._step]
            at = slice(start + starts[index], start + starts[index] + len(rows))
            total = torch.zeros(len(rows), self.n_classes, device=x.device)
            for place in range(len(self._members)):
                self._add_probabilities(rows, at, place, total)
                yield
            mean = (total / len(self._members)).cpu().numpy()
            self.sums.confident[at] = confident_classes(mean, limits)
            if self.course is not None and self.course.calibrates:
                log_p = np.log(np.maximum(mean, np.finfo(np.float32).tiny))
                own = self.label[at].cpu().numpy()
                self.course.calibrated[at] = scaled(log_p, self.temperature)[np.arange(len(own)), own]

        each(one, len(starts))

    def look(self, each: Each, x: torch.Tensor, start: int) -> None:
        """Add the label's probability to the course of training, for the rows from place `start` on."""
        starts = range(0, len(x), self._step)

        def one(index: int) -> Job:
            rows = x[starts[index] : starts[index] + self._step]
            at = slice(start + starts[index], start + starts[index] + len(rows))
            for place in range(len(self._members)):
                held = self._held_out(rows, at, place)
                seen = logit_stats(softmax_of(held.logits, held.label, brief=True))
                p_label = torch.where(seen.finite, seen.p_label, torch.nan)
                if self.course is not None:
                    self.course.add_look(
                        at, (p_label if held.back is None else p_label[held.back]).cpu().numpy()
                    )
                yield

        each(one, len(starts))

    def _add_probabilities(self, x: torch.Tensor, at: slice, place: int, total: torch.Tensor) -> None:
        """Add the probabilities of one seed."""
        seen = self._held_out(x, at, place)
        probs = error_vectors(softmax_of(seen.logits, seen.label))
        probs[torch.arange(len(x), device=x.device), seen.label] += 1.0
        probs.nan_to_num_(0.0)
        total += probs if seen.back is None else probs.index_select(0, seen.back)

    def _held_out(self, x: torch.Tensor, at: slice, place: int) -> "HeldOut":
        """Return what the models of one seed say of rows they did not see, sorted by fold."""
        _, group, inside = self._members[place]
        fold, y = self.folds[at, place], self.label[at]
        bounds, there, back = [len(x)], None, None
        if group.n_folds > 1:
            bounds = np.cumsum(np.bincount(fold, minlength=group.n_folds)).tolist()
            there = torch.from_numpy(np.argsort(fold, kind="stable")).to(x.device)
            back = torch.argsort(there)
            y = y[there]
            x = torch.index_select(x, 0, there, out=self._room("rows", len(x), x.shape[1], x.device))
        logits = self._room("logits", len(x), self.n_classes, x.device)
        hidden = group.held_out(x, bounds, inside, logits)
        return HeldOut(logits, y, bounds, hidden, there, back)

    def _batch(self, x: torch.Tensor, at: slice, *, epoch: int, scored: bool, last: bool) -> Job:
        squares = squared_norms(x)
        total = torch.zeros(len(x), self.n_classes, device=x.device) if last else None
        bad = np.zeros(len(self._members), np.int64)
        for place in range(len(self._members)):
            seen = self._seed(x, squares, at, place, epoch, scored=scored, total=total)
            bad[place] = len(x) - int(seen.finite.sum())
            yield
        if total is not None:
            self.sums.pred[at] = total.argmax(dim=1).cpu().numpy()
            own = total[torch.arange(len(x), device=x.device), self.label[at]]
            self.sums.confidence[at] = (own / len(self._members)).cpu().numpy()
            if self.sample is not None:
                self.sample.add(at, (total / len(self._members)).cpu().numpy())
        with self._lock:
            self.sums.n_bad += bad

    def _room(self, name: str, rows: int, columns: int, device: torch.device) -> torch.Tensor:
        """Return a matrix to write to, the same memory for all batches of a worker."""
        space = getattr(self._space, name, None)
        if space is None or space.numel() < rows * columns:
            space = torch.empty(rows * columns, device=device)
            setattr(self._space, name, space)
        return space[: rows * columns].view(rows, columns)

    def _seed(
        self,
        x: torch.Tensor,
        squares: torch.Tensor,
        at: slice,
        place: int,
        epoch: int,
        *,
        scored: bool,
        total: torch.Tensor | None,
    ) -> LogitStats:
        """Evaluate one seed, rows sorted by fold; add to the sums, and probabilities to `total`."""
        _, group, inside = self._members[place]
        held = self._held_out(x, at, place)
        y, back = held.label, held.back
        squares = squares if held.there is None else squares[held.there]
        change = None if self.course is None else self._moved(self.course, x, at, place, held)
        softmax = softmax_of(held.logits, y, brief=not scored)
        by_fold = logit_stats(softmax)
        seen = by_fold if back is None else by_fold.taken(back)
        self.sums.add_epoch(at, place, epoch, seen)
        if self.course is not None:
            p_label = torch.where(seen.finite, seen.p_label, torch.nan).cpu().numpy()
            self.course.add_epoch(at, place, epoch, p_label, change)
        if not scored:
            return seen
        errors = error_vectors(softmax) if group.needs_errors or total is not None else None
        grand = group.gradient_norms(errors, by_fold.el2n, squares, held.hidden, held.bounds, inside)
        self.sums.add_scores(at, place, seen, (grand if back is None else grand[back]).cpu().numpy())
        if total is not None and errors is not None:
            errors[torch.arange(len(y), device=y.device), y] += 1.0
            errors.nan_to_num_(0.0)
            total += errors if back is None else errors.index_select(0, back)
        return seen

    def _moved(
        self, course: Course, x: torch.Tensor, at: slice, place: int, held: HeldOut
    ) -> npt.NDArray[np.float64] | None:
        """Set the temperatures of ALDR-KL by the logits, and return how far predictions moved since the epoch before."""
        number, _, inside = self._members[place]
        there = slice(None) if held.there is None else held.there

        def in_order(values: torch.Tensor) -> npt.NDArray[np.float64]:
            found: npt.NDArray[np.float64] = (
                (values if held.back is None else values[held.back]).cpu().numpy()
            )
            return found

        if "aldr" in course.names:
            before = torch.from_numpy(course.temperatures(at, place).astype(np.float64)).to(x.device)[there]
            course.set_temperatures(at, place, in_order(ldr_temperature(held.logits, held.label, before)))
        if not (course.compares and self.earlier):
            return None
        earlier = self._room("earlier", len(x), self.n_classes, x.device)
        self.earlier[number].held_out(x[there], held.bounds, inside, earlier)
        return in_order(kl_change(held.logits, earlier))


@contextmanager
def fixed_threads(n: int = 1) -> Iterator[None]:
    """Let torch compute with n threads inside: sums then do not hang on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def spread_over(wanted: int | None, device: torch.device) -> Iterator[Each]:
    """Give a function that runs jobs 0 .. n - 1 side by side; a job is a generator and can be left at a yield."""
    n_workers = wanted or cpu_count()
    stop = threading.Event()

    def run(job: Job) -> None:
        with torch.inference_mode():
            for _ in job:
                if stop.is_set():
                    return

    with ThreadPoolExecutor(n_workers if device.type == "cpu" else 1) as pool:

        def each(job: Callable[[int], Job], n: int) -> None:
            for done in [pool.submit(run, job(index)) for index in range(n)]:
                done.result()

        try:
            yield each
        finally:
            stop.set()
