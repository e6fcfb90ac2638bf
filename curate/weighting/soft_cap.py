"""Draw rows by their score again and again, each time with less odds for those drawn before: Soft Cap Sampling.

Shechter and Carmon 2025, "Filter Like You Test" (arXiv:2503.08805): odds are a softmax of the scores, and a row that
was drawn has its score lowered by a penalty before the next draw. So good rows come several times, and none for ever.
"""

import math
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from curate.errors import BudgetError, CurateError, RecipeError
from curate.hashing import nth_hash
from curate.settings import Count
from curate.weighting.base import Kept, Weigher

__all__ = ["Draws", "SoftCap", "soft_cap_counts", "soft_cap_draws"]

Floats = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint64]

#: Draws that are looked at together, at most.
_BLOCK = 1 << 20


class SoftCap(Weigher):
    """How often each kept row is drawn when odds go by a score, and fall by `penalty` with each draw.

    by : the score, larger is better; `temperature` divides it (null: by 1). penalty : what a draw takes off it: at 0.15
    a row has 86 % of the odds after one draw. draws : how many there are, of all kept rows; null: as many as rows.
    """

    weighs = "how often it is drawn: odds are softmax(`by` / `temperature`), and each draw takes `penalty` off that"
    needs = "a score (`by`), larger is better"
    direction = "samples of a high score, several times"
    paper = "Shechter and Carmon 2025, arXiv:2503.08805"
    cost = "one number per row, and one per draw"
    avoid = "when samples are to come once each, or scores are far from the scale of logits and `temperature` is not set"
    needs_draws: ClassVar[bool] = True
    place = 7

    method: Literal["soft_cap"] = "soft_cap"
    by: str | None = None
    penalty: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.15
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    draws: Annotated[Count, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _has_a_score(self) -> Self:
        if self.by is None:
            raise ValueError("needs by (a score column) for method soft_cap")
        return self

    @property
    def column(self) -> str | None:
        """The score."""
        return self.by

    def extra_rows(self, n_kept: int) -> int:
        """Return the number of draws: each takes less than a row does."""
        return n_kept if self.draws is None else self.draws

    def weigh(self, kept: Kept) -> Floats:
        """Return how often each row is drawn, divided by the mean; NaN for rows without a score."""
        valid = np.isfinite(kept.score)
        total = int(valid.sum()) if self.draws is None else self.draws
        counts = soft_cap_counts(kept.score / (self.temperature or 1.0), total, self.penalty, kept.hashes)
        return np.where(valid, counts * (int(valid.sum()) / max(1, total)), np.nan)

    def counts(self, weight: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
        """Return the numbers of draws again, from the weights of all kept rows."""
        valid = np.isfinite(weight)
        total = int(valid.sum()) if self.draws is None else self.draws
        exact = np.where(valid, weight, 0.0)
        counts = np.rint(exact * (total / max(1.0, float(valid.sum())))).astype(np.int64)
        if int(counts.sum()) != total * bool(valid.any()):
            raise CurateError(
                f"the weights are not those of {total:,} draws by soft_cap: run curate select again"
            )
        return counts


class Draws(NamedTuple):
    """Draws in the order in which they were made: which row, and at what time; both (total,)."""

    row: npt.NDArray[np.int64]
    time: Floats


def soft_cap_counts(logit: Floats, total: int, penalty: float, hashes: Hashes) -> npt.NDArray[np.int64]:
    """Return how often each row is among `total` draws of `soft_cap_draws`, (n,).

    >>> soft_cap_counts(np.array([5.0, 0.0, np.nan]), 20, 1.0, np.arange(3, dtype=np.uint64))
    array([12,  8,  0])
    """
    return np.bincount(soft_cap_draws(logit, total, penalty, hashes).row, minlength=len(logit)).astype(
        np.int64
    )


def soft_cap_draws(logit: Floats, total: int, penalty: float, hashes: Hashes) -> Draws:
    """Draw `total` times with odds softmax(logit), lowering the logit of what was drawn by `penalty` each time.

    logit : (n,); rows that are not finite are never drawn. hashes : (n,), of `hash_uids`, the random numbers of each row:
    the draws depend on no order of rows. The published code draws batches of 100,000 without replacement and lowers
    logits after each batch; here it is done after each draw, which for few draws per row is the same, and exact.

    How: let each row come at the times of a clock of its own, the k-th time after a wait that is exponential with rate
    exp(logit - k penalty). Of such clocks the next to come is a row with odds in proportion to its rate, whatever
    came before. So the draws are the first `total` times of all rows, found without drawing one by one. Times are
    logarithms. Cost: about n + 4 total random numbers.

    >>> soft_cap_draws(np.array([9.0, 0.0]), 3, 100.0, np.arange(2, dtype=np.uint64)).row
    array([0, 1, 0])
    """
    if not (penalty >= 0 and math.isfinite(penalty)):
        raise RecipeError(f"weight.penalty must be a finite number of at least 0, got {penalty}")
    if total < 0:
        raise BudgetError(f"the number of draws must be at least 0, got {total}")
    rows = np.flatnonzero(np.isfinite(logit))
    if total > 0 and len(rows) == 0:
        raise CurateError(f"{total:,} draws asked for, and no row has a finite score")
    found, last, done = Draws(np.empty(0, np.int64), np.empty(0)), np.full(len(rows), -np.inf), 0
    limit = np.inf  # no draw is later
    while len(rows) and total:
        levels = max(1, min(_BLOCK, 4 * total) // len(rows))
        times = _times(logit[rows], last, penalty, hashes[rows], done, levels)
        early = times <= limit
        row = np.broadcast_to(rows[:, None], times.shape)[early]
        found = Draws(np.concatenate([found.row, row]), np.concatenate([found.time, times[early]]))
        if len(found.row) >= total and (limit == np.inf or len(found.row) >= 2 * total):
            limit = float(np.partition(found.time, total - 1)[total - 1])
            found = Draws(found.row[found.time <= limit], found.time[found.time <= limit])
        last, done = times[:, -1], done + levels
        rows, last = rows[last < limit], last[last < limit]
    order = np.lexsort((hashes[found.row], found.time))[:total]
    return Draws(found.row[order], found.time[order])


def _times(logit: Floats, last: Floats, penalty: float, hashes: Hashes, done: int, levels: int) -> Floats:
    """Return when each row comes the next `levels` times, after it came `done` times, the last at `last`; (n, levels)."""
    number = np.arange(done, done + levels, dtype=np.uint64)
    uniform = ((nth_hash(hashes[:, None], number) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    waits = np.log(-np.log(uniform)) - logit[:, None] + penalty * number.astype(np.float64)
    times: Floats = np.logaddexp.accumulate(np.column_stack([last, waits]), axis=1)[:, 1:]
    return times
