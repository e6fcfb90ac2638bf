"""DUAL pruning: a draw by difficulty times uncertainty, that turns to easier rows the less is kept."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from curate.errors import CurateError
from curate.ordering.cutoff import Pairs, nth_smallest
from curate.ordering.keys import priority_key
from curate.ordering.span import Cuts
from curate.selection.base import ByScore, RowSource, free_rows
from curate.selection.rules import Floats, Mask, Rows
from curate.selection.weighted import race_keys

if TYPE_CHECKING:
    from curate.selection.rows.counterfactual import Standing
    from curate.selection.rows.finished import Finished, Row

__all__ = ["BetaDraw", "Dual", "beta_shape", "log_odds"]

#: Rows of the highest score whose mean probability the distribution is laid out by, and what both of its numbers add up to.
ANCHORS, TOTAL = 10, 16.0
#: Probabilities are kept so far from 0 and 1.
NEAR = 1e-6

Hashes = npt.NDArray[np.uint64]


class Dual(ByScore):
    """Rows drawn with odds that are their score (`by`) times the density of a Beta distribution at their `mean` probability.

    The fewer are kept, the more the distribution leans to rows with a high probability: to easy ones.
    """

    keeps = "a draw with odds by a score (`by`, by default `dual`), leaning to rows of higher probability (`mean`) the less is kept"
    needs = "two scores, by default `dual` (heads.dynamics) and `early_agreement` of heads"
    direction = "larger values have better odds"
    paper = "Cho et al. 2025, arXiv:2502.06905"
    cost = "some passes over both scores"
    avoid = (
        "when classes are rare: on a tail of 100:1 it was no better than a draw, where floors gained 12 points at 10 %; "
        "when heads know nearly every row for sure, odds mean little"
    )
    as_it_is = True
    ranks_ahead = False
    known_odds = False
    cut_setting = "mean"
    own_score = "dual"
    place = 12

    method: Literal["dual"] = "dual"
    mean: str = "early_agreement"
    lean: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 4.0

    @model_validator(mode="after")
    def _two_scores(self) -> Self:
        if self.score_column == self.mean:
            raise ValueError(f"needs two scores for method dual, got {self.mean} for by and mean")
        return self

    @property
    def cut_by(self) -> str:
        """The mean probability: it travels as the second score of a row."""
        return self.mean

    @property
    def drawn(self) -> bool:
        """Chance decides."""
        return True

    def key(self, score: Floats, draw: Hashes) -> Hashes:
        """Return the draws: which rows are kept is known only when all were seen."""
        return draw

    def fit(self, rows: RowSource, n_keep: int, total: int) -> "BetaDraw":
        """Return the rows that arrive first in a race by their odds."""
        shape = beta_shape(self._anchor(rows, min(ANCHORS, total)), n_keep / max(1, total), self.lean)
        race = BetaDraw(shape, Cuts(None, None))

        def arrivals() -> Iterator[Pairs]:
            for block in free_rows(rows, "score", "cutoff", "draw", "tie"):
                yield race.arrival(block), block["tie"]

        return BetaDraw(shape, Cuts(None, nth_smallest(arrivals, n_keep)))

    def _anchor(self, rows: RowSource, count: int) -> float:
        """Return the mean probability of the rows with the highest score."""

        def highest() -> Iterator[Pairs]:
            for block in free_rows(rows, "score", "tie"):
                yield priority_key(block["score"], "hardest"), block["tie"]

        cuts = Cuts(None, nth_smallest(highest, count))
        chosen: list[float] = []
        for block in free_rows(rows, "score", "cutoff", "tie"):
            held = cuts.holds(priority_key(block["score"], "hardest"), block["tie"])
            chosen += np.abs(block["cutoff"][held]).tolist()
        return math.fsum(chosen) / max(1, len(chosen))

    def standing(self, run: "Finished", row: "Row") -> "Standing | str":
        """Return that odds depend on how many rows are kept."""
        return (
            "the odds of method dual depend on how many rows are kept: curate select with another --keep says"
        )


def beta_shape(anchor: float, keep: float, lean: float = 4.0) -> tuple[float, float]:
    """Return the two numbers a, b of the Beta distribution that rows are drawn by.

    Parameters
    ----------
    anchor : float
        In [0, 1], the mean probability of the label of the rows with the highest score.
    keep : float
        In [0, 1], the share that is kept.
    lean : float
        At least 0: how late the distribution leans to easy rows; the paper takes more for easier data (4 to 11).

    Returns
    -------
    tuple of float
        a and b >= 0, a + b is 16: a = 16 - b, b = 15 (1 - anchor) (1 - (1 - keep)^(2 + lean)).

    Notes
    -----
    Cho et al. 2025, arXiv:2502.06905, as its published code has it.

    Examples
    --------
    >>> beta_shape(0.4, 1.0), tuple(round(one, 3) for one in beta_shape(0.4, 0.1))
    ((7.0, 9.0), (11.783, 4.217))
    """
    b = (TOTAL - 1) * (1 - anchor) * (1 - (1 - keep) ** (2 + lean))
    return TOTAL - b, b


def log_odds(probability: Floats, shape: tuple[float, float]) -> Floats:
    """Return the logarithm of the density of a Beta distribution, up to a constant; probabilities near 0 and 1 are clipped.

    >>> log_odds(np.array([0.5, 0.25]), (2.0, 1.0)).round(4)
    array([-0.6931, -1.3863])
    """
    p = np.clip(probability, NEAR, 1 - NEAR)
    odds: Floats = (shape[0] - 1) * np.log(p) + (shape[1] - 1) * np.log1p(-p)
    return odds


@dataclass(frozen=True)
class BetaDraw:
    """The rows that arrive first in a race. shape : of the distribution. upto : the last arrival."""

    shape: tuple[float, float]
    upto: Cuts

    def arrival(self, rows: Rows) -> Hashes:
        """Return when each row arrives, (n,); rows of score 0 come last."""
        probability = np.abs(rows["cutoff"])
        if len(probability) and probability.max() > 1:
            raise CurateError(
                f"select.mean of method dual must be a probability, in [0, 1], got {probability.max():g}; use another column"
            )
        odds = log_odds(probability, self.shape)
        weight = np.maximum(rows["score"], 0.0) * np.exp(odds - _highest(self.shape))
        return race_keys(weight, rows["draw"])

    def keep(self, rows: Rows) -> Mask:
        """Return which rows are kept."""
        return self.upto.holds(self.arrival(rows), rows["tie"])

    def probability(self, rows: Rows, keep: Mask) -> Floats:
        """Return that it is not known."""
        return np.full(len(keep), np.nan)

    def cut_off(self, rows: Rows) -> Mask:
        """Return that no row was taken out before."""
        return np.zeros(len(rows["key"]), np.bool_)


def _highest(shape: tuple[float, float]) -> float:
    """Return the largest value that `log_odds` takes at a grid of probabilities, so that no power under- or overflows."""
    return float(log_odds(np.linspace(NEAR, 1 - NEAR, 1_001), shape).max())
