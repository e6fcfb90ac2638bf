"""D2 pruning: difficulty that spreads over a graph of neighbours, and fades where a neighbour was taken.

The graph is over the rows of a concept, so that one concept is in memory at once; the rows of all concepts are then
compared by what they were worth when they were taken. Values only fall while rows are taken, so the kept rows are nested.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from curate.errors import CurateError
from curate.linalg import margin, place_between, row_dots
from curate.ordering.cutoff import nth_smallest
from curate.ordering.keys import priority_key, rank_within
from curate.ordering.span import Cuts
from curate.selection.base import ByScore, RowSource, Source, free_rows, pairs
from curate.selection.rules import Floats, Mask, Stretch
from curate.settings import Count

if TYPE_CHECKING:
    import polars as pl

    from curate.selection.rows.counterfactual import Standing
    from curate.selection.rows.finished import Finished, Row

__all__ = ["D2", "Messages", "nearest_rows", "pass_messages"]

#: Products that propose neighbours, at once.
_CELLS = 1 << 22

Ints = npt.NDArray[np.int64]
Neighbours = tuple[Ints, Floats]


class D2(ByScore):
    """Difficulty (`by`) and diversity at once: rows that are hard, and around which much is hard, before anything like them.

    Each row is worth its difficulty (the score brought to [0, 1] by its range) and what its `k` nearest rows of the concept
    send, exp(-gamma_f x distance) of theirs. The row that is worth most is taken, and takes exp(-gamma_r x distance) of its
    worth from its own neighbours. Distances are Euclidean, in [0, 2].
    """

    keeps = "hard rows (`by`) with hard rows around them, few of a kind: messages between the `k` nearest rows of a concept"
    needs = "a score (`by`), concepts and vectors"
    direction = "the row that is worth most after the messages of those taken before"
    paper = "Maharana et al. 2023, arXiv:2310.07931"
    cost = "rows of a concept squared x dimensions; a concept is in memory at once, with 16 bytes per row and neighbour"
    avoid = (
        "when little is kept (10 % of clothing photos: 24 points below a draw), and when labels are wrong, since hard is "
        "then wrong: drop the noisiest first (`drop_noise`)"
    )
    compares_vectors = True
    ranks_ahead = False
    place = 12

    method: Literal["d2"] = "d2"
    k: Annotated[Count, Field(ge=1)] = 10
    gamma_f: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    gamma_r: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    def arranged(self, rows: Source, n_keep: int) -> Source:
        """Return the rows in the order in which they are taken, with what they were worth as their keys."""
        low, high = np.inf, -np.inf
        for block in free_rows(rows, "score"):
            if len(block["score"]):
                low, high = min(low, float(block["score"].min())), max(high, float(block["score"].max()))
        return rows.rearranged(Messages(self.k, self.gamma_f, self.gamma_r, low, high))

    def fit(self, rows: RowSource, n_keep: int, total: int) -> Stretch:
        """Return the rows that were worth most when they were taken, over all concepts."""
        return Stretch(Cuts(None, nth_smallest(pairs(rows), n_keep)))

    def standing(self, run: "Finished", row: "Row") -> "Standing | str":
        """Return that messages would have to be passed again."""
        return (
            "method d2 compares it with its neighbours, which is not done again for one row: curate select with "
            "another --keep says"
        )


@dataclass(frozen=True)
class Messages:
    """Passes messages in each concept. low, high : the ends of the score over all rows, which become 0 and 1."""

    k: int
    gamma_f: float
    gamma_r: float
    low: float
    high: float

    def identity(self) -> list[object]:
        """Return what the order depends on besides the rows."""
        return ["d2", self.k, self.gamma_f, self.gamma_r, repr(self.low), repr(self.high)]

    def taken(
        self, rows: "pl.DataFrame", vectors: npt.NDArray[np.float32], first: Mask
    ) -> tuple[Ints, npt.NDArray[np.uint64]]:
        """Return when each row is taken, from 1, and its key; 0 for pinned rows and those without a score.

        Pinned rows are kept anyhow, so they are taken first and take worth from their neighbours.
        """
        score, pinned = rows["score"].to_numpy().astype(np.float64), rows["pinned"].to_numpy()
        tie, uid, key = (rows[name].to_numpy() for name in ("tie", "uid", "key"))
        inside = np.flatnonzero(~np.isnan(score) | pinned)
        order = inside[
            np.argsort(rank_within(np.zeros(len(inside), np.int8), tie[inside], tie[inside], uid[inside]))
        ]
        hard = np.nan_to_num(self._scaled(score[order]), nan=0.0)
        neighbours = nearest_rows(np.ascontiguousarray(vectors[order]), self.k)
        turn, worth = pass_messages(
            hard, neighbours, gamma_f=self.gamma_f, gamma_r=self.gamma_r, first=pinned[order]
        )
        free = ~pinned[order]
        taken, changed = np.zeros(len(rows), np.int64), key.copy()
        taken[order[free]] = turn[free]
        changed[order[free]] = priority_key(worth[free], "hardest")
        return taken, changed

    def _scaled(self, score: Floats) -> Floats:
        if not self.high > self.low:
            return np.where(np.isnan(score), np.nan, 0.5)
        return place_between(score, self.low, self.high)


def nearest_rows(vectors: npt.NDArray[np.float32], k: int) -> Neighbours:
    """Return the `k` nearest other rows of each row, the nearest first, equal ones by place.

    A float32 product proposes, float64 row products decide.

    Parameters
    ----------
    vectors : numpy.ndarray
        (n, d) unit rows.
    k : int
        At least 1; of n rows there are n - 1 others.

    Returns
    -------
    tuple of numpy.ndarray
        Places and Euclidean distances in [0, 2], both (n, min(k, n - 1)).

    Examples
    --------
    >>> places, distances = nearest_rows(np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32), 1)
    >>> places.tolist(), distances.round(4).tolist()
    ([[2], [2], [1]], [[0.8944], [0.6325], [0.6325]])
    """
    if k < 1:
        raise CurateError(f"k must be at least 1, got {k}")
    n = len(vectors)
    k = min(k, max(0, n - 1))
    places, distances = np.zeros((n, k), np.int64), np.zeros((n, k))
    if k == 0:
        return places, distances
    for row, near in _proposed(vectors, k):
        dots = row_dots(vectors[near], vectors[row : row + 1])
        nearest = np.lexsort((near, -dots))[:k]
        places[row] = near[nearest]
        distances[row] = np.sqrt(np.clip(2.0 - 2.0 * dots[nearest], 0.0, 4.0))
    return places, distances


def _proposed(vectors: npt.NDArray[np.float32], k: int) -> Iterator[tuple[int, Ints]]:
    """Yield each row with the places of all rows that may be among its k nearest."""
    n = len(vectors)
    step = max(1, _CELLS // n)
    for start in range(0, n, step):
        dots = vectors[start : start + step] @ vectors.T
        rows = np.arange(len(dots))
        dots[rows, start + rows] = -np.inf  # never its own neighbour
        least = np.partition(dots, n - k, axis=1)[:, n - k] - np.float32(margin(vectors.shape[1]))
        for row in rows.tolist():
            yield start + row, np.flatnonzero(dots[row] >= least[row])


def pass_messages(
    difficulty: Floats,
    neighbours: Neighbours,
    *,
    gamma_f: float,
    gamma_r: float,
    first: Mask | None = None,
) -> tuple[Ints, Floats]:
    """Return the order in which D2 pruning takes rows, and what each was worth then.

    A row's worth is its difficulty and the sum of exp(-gamma_f d) times the difficulty of its neighbours at distance d. The row
    that is worth most is taken, equal ones by place; from each neighbour that is left it takes exp(-gamma_r d) of its own
    worth. A row that is worth less than nothing takes nothing.

    Parameters
    ----------
    difficulty : numpy.ndarray
        (n,) finite, >= 0.
    neighbours : tuple of numpy.ndarray
        Places and distances, both (n, k), as `nearest_rows` gives them.
    gamma_f, gamma_r : float
        >= 0: how fast messages fade with distance, on the way in and when a row was taken.
    first : numpy.ndarray, optional
        (n,) of bool, rows that are taken before all others.

    Returns
    -------
    tuple of numpy.ndarray
        (n,) turns from 1, and (n,) worths, which fall from turn to turn among rows that are not `first`.

    Raises
    ------
    CurateError
        If a difficulty is below 0 or not finite.

    Notes
    -----
    Maharana et al. 2023, arXiv:2310.07931, as its published code has it in the modes `sum` and `weighted`; there a row of
    negative worth adds to its neighbours.

    Examples
    --------
    >>> places, distances = np.array([[1], [0], [1]]), np.array([[0.0], [0.0], [2.0]])
    >>> turn, worth = pass_messages(np.array([1.0, 0.5, 0.4]), (places, distances), gamma_f=0.0, gamma_r=0.0)
    >>> turn, worth  # row 0 leaves nothing of row 1, its copy; row 2 takes from it too
    (array([1, 3, 2]), array([ 1.5, -0.9,  0.9]))
    """
    if not (np.isfinite(difficulty) & (difficulty >= 0)).all():
        raise CurateError("difficulties must be finite and at least 0")
    places, distances = neighbours
    worth = difficulty.astype(np.float64)
    for column in range(places.shape[1]):  # one by one, so that a sum does not depend on what is beside it
        worth = worth + np.exp(-gamma_f * distances[:, column]) * difficulty[places[:, column]]
    turn = np.zeros(len(worth), np.int64)
    early = np.zeros(len(worth), np.bool_) if first is None else first
    for some in (np.flatnonzero(early), np.flatnonzero(~early)):
        _take(some, turn, worth, places, np.exp(-gamma_r * distances))
    return turn, worth


def _take(some: Ints, turn: Ints, worth: Floats, places: Ints, share: Floats) -> None:
    """Take some rows, the most worth first. A worth in the heap may be too large; it is then put back as it is now."""
    heap: list[tuple[Any, int]] = [(-worth[row], row) for row in some.tolist()]
    heapq.heapify(heap)
    turns = int(turn.max(initial=0))
    while heap:
        value, row = heapq.heappop(heap)
        if -value != worth[row]:
            heapq.heappush(heap, (-worth[row], row))
            continue
        turns += 1
        turn[row] = turns
        left = places[row][turn[places[row]] == 0]
        if worth[row] > 0:
            worth[left] -= share[row][turn[places[row]] == 0] * worth[row]
