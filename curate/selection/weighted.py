"""Draw rows with a probability that grows with their score, without replacement, by exponential races."""

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from curate.errors import CurateError, RecipeError
from curate.ordering.cutoff import nth_smallest
from curate.ordering.keys import priority_key
from curate.ordering.span import Cuts
from curate.selection import rules
from curate.selection.base import ByScore, RowSource, pairs
from curate.selection.rules import Stretch

__all__ = ["Weighted", "race_keys"]

Floats = npt.NDArray[np.floating[Any]]
Hashes = npt.NDArray[np.uint64]


class Weighted(ByScore):
    """Rows drawn without replacement, with odds that grow with the score."""

    keeps = "a draw with odds score^`gamma`"
    needs = "a score (`by`) of at least 0"
    direction = "larger values have better odds"
    paper = "Efraimidis and Spirakis 2006"
    avoid = "when weights must undo the selection: the odds of a row have no closed form"
    as_it_is = True
    ties = "draw"
    floor_order = "key"
    known_odds = False
    place = 10

    method: Literal["weighted"] = "weighted"
    gamma: Annotated[float, Field(allow_inf_nan=False)] = 1.0

    @property
    def drawn(self) -> bool:
        """Chance decides."""
        return True

    def key(self, score: rules.Floats, draw: Hashes) -> Hashes:
        """Return when each row arrives in the race; raises CurateError for a negative score."""
        if (score < 0).any():
            raise CurateError(
                f"select.method weighted draws in proportion to select.by {self.by!r}, which must be at least 0, "
                f"got {score.min():g}; use another column"
            )
        return race_keys(score, draw, self.gamma)

    def fit(self, rows: RowSource, n_keep: int, total: int) -> Stretch:
        """Return the first rows to arrive."""
        cuts = Cuts(None, nth_smallest(pairs(rows, ties="draw"), n_keep))
        return Stretch(cuts, "draw", known=False)


def race_keys(score: Floats, draw: Hashes, gamma: float = 1.0) -> Hashes:
    """Return unsigned keys whose n smallest are n draws without replacement with p in proportion to score^gamma.

    score : (n,) finite, >= 0. draw : (n,) uniform hashes, one per row. The key is the order of
    -ln(u) / score^gamma with u in (0, 1) from the hash, kept as a logarithm, so that no power over- or
    underflows. Rows of weight 0 come last (with gamma < 0 a score of 0 comes first). Equal keys are
    decided by the draw itself, then by uid.

    >>> draw = np.array([1 << 60, 1 << 63, 1 << 62], np.uint64)
    >>> race_keys(np.array([1.0, 100.0, 0.0]), draw).argsort()
    array([1, 0, 2])
    """
    if not np.isfinite(gamma):
        raise RecipeError(f"select.gamma must be finite, got {gamma}")
    if not (np.isfinite(score) & (score >= 0)).all():
        raise CurateError("scores to draw by must be finite and at least 0")
    uniform = ((draw >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    finish = np.log(-np.log(uniform))
    if gamma != 0:
        with np.errstate(divide="ignore"):
            finish = finish - gamma * np.log(score.astype(np.float64))
    largest = np.finfo(np.float64).max
    return priority_key(np.clip(finish, -largest, largest), "easiest")
