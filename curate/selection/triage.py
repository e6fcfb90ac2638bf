"""Triage by error and uncertainty: what is right but unsure, and, where asked, what is sure but wrong.

Ranks of both axes are compared with one common quantile, so that the share asked for is met to the row. The kept rows
are nested: a larger quantile adds rows and takes none away.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from curate.errors import BudgetError
from curate.ordering.cutoff import Pairs, nth_smallest
from curate.ordering.keys import priority_key
from curate.ordering.span import Cuts
from curate.selection.base import Arrays, ByScore, RowSource, free_rows
from curate.selection.rules import Floats, Mask, Rows

if TYPE_CHECKING:
    from curate.selection.rows.counterfactual import Standing
    from curate.selection.rows.finished import Finished

__all__ = ["Corners", "Triage", "layers"]

Hashes = npt.NDArray[np.uint64]
Ranks = npt.NDArray[np.integer[Any]]


class Triage(ByScore):
    """Rows of the corners of the plane of error (`by`) and `uncertainty`, as deep as the share asks for.

    Of n rows, those among the m with the least error and the m with the most uncertainty are kept
    (calibration); with `misconception` also those among the m with the most error and the least uncertainty. m is the
    least that gives as many rows as are asked for, at most half of n.
    """

    keeps = (
        "low error (`by`, the loss) with high `uncertainty` (the entropy), as deep as the share asks for; with "
        "`misconception` also high error with low uncertainty"
    )
    needs = "two scores, by default `loss` and `entropy` of heads"
    direction = "the row deepest in its corner"
    paper = 'Wang et al. 2025, "Winning the pruning gamble" (Q-Tuning); source: not checked'
    cost = "some passes over both scores for each of log2(rows) steps of a bisection"
    avoid = (
        "when a subset is to be trained on: it lost 1 to 46 points to a draw in all pools judged; when scores rank alike, "
        "as loss and entropy of good heads do, the corners hold next to nothing"
    )
    ranks_ahead = False
    place = 12

    cut_setting = "uncertainty"
    own_score = "loss"

    method: Literal["triage"] = "triage"
    uncertainty: str = "entropy"
    misconception: bool = False

    @model_validator(mode="after")
    def _two_scores(self) -> Self:
        if self.score_column == self.uncertainty:
            raise ValueError(
                f"needs two scores for method triage, got {self.uncertainty} for by and uncertainty"
            )
        return self

    @property
    def cut_by(self) -> str:
        """The uncertainty: it travels as the second score of a row."""
        return self.uncertainty

    def most(self, rows: RowSource, n_scored: int) -> int:
        """Return how many rows the corners hold that are half of all ranks deep."""
        return _Plane(rows, n_scored, self.misconception).count(n_scored // 2)

    def fit(self, rows: RowSource, n_keep: int, total: int) -> "Corners":
        """Return the corners that hold `n_keep` rows, found by bisection on the common quantile."""
        plane = _Plane(rows, total, self.misconception)
        most = plane.count(total // 2)
        if n_keep > most:
            raise BudgetError(self._too_many(n_keep, most, total))
        low, high = 0, total // 2  # of m: the least that holds enough
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if plane.count(middle) >= n_keep else (middle + 1, high)
        inner = plane.corners(max(0, low - 1))
        layer = plane.corners(low)
        rest = n_keep - (plane.count(low - 1) if low else 0)

        def outermost() -> Iterator[Pairs]:
            for block in plane.blocks():
                there = layer(block) & ~inner(block)
                yield np.zeros(int(there.sum()), np.uint64), block["tie"][there]

        return Corners(inner, layer, Cuts(None, nth_smallest(outermost, rest)))

    def _too_many(self, n_keep: int, most: int, total: int) -> str:
        more = "" if self.misconception else ", set select.misconception: true to keep them too"
        share = most / total if total else 0.0
        return (
            f"select: {n_keep:,} rows asked for, method triage can keep {most:,} of {total:,} at most ({share:.4f} of "
            f"the rows with both scores): ask for fewer{more}, or take another method"
        )

    def scored_standing(self, run: "Finished", own: Mapping[str, Any]) -> "Standing | str":
        """Return the row's place in the order in which the corners grow."""
        from curate.selection.rows.counterfactual import Nested

        blocks = list(free_rows(run.rows, "score", "cutoff", "tie"))
        error, uncertainty, tie = (
            np.concatenate([block[name] for block in blocks]) for name in ("score", "cutoff", "tie")
        )
        depth = layers(_ranks(error, tie), _ranks(uncertainty, tie), misconception=self.misconception)
        (here,) = np.flatnonzero((tie == own["tie"]) & (error == own["score"]))[:1].tolist()
        if depth[here] == 0:
            return "it is in no corner that method triage keeps, at any number of rows"
        inside = depth > 0
        before = inside & ((depth < depth[here]) | ((depth == depth[here]) & (tie < tie[here])))
        shares, most = run.shares, int(inside.sum())
        first, last = shares.range
        counts = range(first, last + 1)
        last = first + bisect_right(counts, most, key=lambda count: shares.of(count)[0]) - 1
        return Nested(int(before.sum()) + 1, lambda count: (0, shares.of(count)[0]), first, last)


def _ranks(values: Floats, tie: Hashes) -> npt.NDArray[np.int64]:
    """Return the rank of each value from 1, the smallest first, equal ones by tie."""
    ranks = np.empty(len(values), np.int64)
    ranks[np.lexsort((tie, priority_key(values, "easiest")))] = np.arange(1, len(values) + 1)
    return ranks


def layers(error: Ranks, uncertainty: Ranks, *, misconception: bool = False) -> npt.NDArray[np.int64]:
    """Return with which m each row enters a corner, 0 where it never does.

    Parameters
    ----------
    error, uncertainty : numpy.ndarray
        (n,), ranks from 1 to n, the smallest value first.
    misconception : bool
        Whether rows with much error and little uncertainty are kept, beside those with little error and much
        uncertainty.

    Returns
    -------
    numpy.ndarray
        (n,) in [0, n // 2]; a smaller one but 0 is deeper in its corner.

    Examples
    --------
    >>> layers(np.array([1, 2, 3, 4]), np.array([4, 2, 3, 1]), misconception=True)
    array([1, 0, 0, 1])
    """
    n = len(error)
    depth = np.maximum(error, n + 1 - uncertainty)
    if misconception:
        depth = np.minimum(depth, np.maximum(n + 1 - error, uncertainty))
    return np.where(depth <= n // 2, depth, 0).astype(np.int64)


@dataclass(frozen=True)
class Corner:
    """Rows within `m` ranks of two ends; the cuts are over (key, tie) of each axis, None where m is 0.

    least, most : of error and uncertainty, the cuts of their first m rows from the bottom and from the top.
    """

    least: tuple[Cuts, ...]
    most: tuple[Cuts, ...]
    misconception: bool

    def __call__(self, rows: Rows) -> Mask:
        """Return which rows are inside, (n,)."""
        tie = rows["tie"]
        ups = [priority_key(rows[name], "easiest") for name in ("score", "cutoff")]
        low = [cut.holds(key, tie) for cut, key in zip(self.least, ups, strict=True)]
        high = [cut.holds(~key, ~tie) for cut, key in zip(self.most, ups, strict=True)]
        inside: Mask = low[0] & high[1]
        return inside | (high[0] & low[1]) if self.misconception else inside


class _Plane:
    """The rows that compete, by the ranks of their two scores."""

    def __init__(self, rows: RowSource, total: int, misconception: bool) -> None:
        self._rows, self._total, self._misconception = rows, total, misconception
        self._counted: dict[int, int] = {}

    def blocks(self) -> Iterator[Arrays]:
        """Yield both scores and the tie of all rows that compete."""
        return free_rows(self._rows, "score", "cutoff", "tie")

    def corners(self, m: int) -> Corner:
        """Return the corners that are m rows deep."""
        ends = [self._cuts(name, m) for name in ("score", "cutoff")]
        return Corner((ends[0][0], ends[1][0]), (ends[0][1], ends[1][1]), self._misconception)

    def count(self, m: int) -> int:
        """Return how many rows are in corners that are m rows deep."""
        if m not in self._counted:
            inside = self.corners(m)
            self._counted[m] = sum(int(inside(block).sum()) for block in self.blocks())
        return self._counted[m]

    def _cuts(self, name: str, m: int) -> tuple[Cuts, ...]:
        """Return the cuts of the m smallest and of the m largest values: of these the order is turned, ties too."""

        def smallest() -> Iterator[Pairs]:
            return ((priority_key(block[name], "easiest"), block["tie"]) for block in self.blocks())

        def largest() -> Iterator[Pairs]:
            return ((~key, ~tie) for key, tie in smallest())

        bits = min(20, 4 + self._total.bit_length() // 2)  # few counters for few rows: there are many passes
        return tuple(Cuts(None, nth_smallest(read, m, bits=bits)) for read in (smallest, largest))


@dataclass(frozen=True)
class Corners:
    """The rows of the inner corners, and of the outermost layer those up to a cut over the ties."""

    inner: Callable[[Rows], Mask]
    layer: Callable[[Rows], Mask]
    upto: Cuts

    def keep(self, rows: Rows) -> Mask:
        """Return which rows are kept."""
        first = np.zeros(len(rows["tie"]), np.uint64)
        return self.inner(rows) | (self.layer(rows) & self.upto.holds(first, rows["tie"]))

    def probability(self, rows: Rows, keep: Mask) -> Floats:
        """Return certainty: ranks decide."""
        return keep.astype(np.float64)

    def cut_off(self, rows: Rows) -> Mask:
        """Return that no row was taken out before."""
        return np.zeros(len(rows["key"]), np.bool_)
