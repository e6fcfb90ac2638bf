"""Near-duplicates inside one concept (SemDeDup, Abbas et al. 2023, arXiv:2303.09540).

All rules are stated in similarities as `curate.deduplication.similarity` defines them, numbers that depend on
two rows alone, so no result depends on tiles, threads or BLAS kernels.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from curate.clustering.kmeans import assign, fit
from curate.deduplication.pairs import STEP, Pairs, Proposals
from curate.deduplication.products import Products
from curate.deduplication.similarity import pair_similarities
from curate.errors import CurateError, EmbeddingError, RecipeError
from curate.linalg import first_equal, margin
from curate.products import bf16, for_rows

__all__ = [
    "CANDIDATES",
    "FROM_ROWS",
    "Duplicates",
    "find_duplicates",
    "near_any",
    "split_large",
    "threshold_for_share",
    "threshold_of",
]

log = logging.getLogger(__name__)

#: A smaller epsilon cannot tell rounding of the vectors from a difference.
MIN_EPSILON = 1e-6

#: Where pairs have to be confirmed, so many of a row are put to the question, the most similar ones.
CANDIDATES = 16

#: Rows of a concept from which on bfloat16 proposes; with fewer, products cost less than what is around them.
FROM_ROWS = 1000

_TILE = 1 << 24  # inner products held at a time: 64 MB
_BLOCK_ROWS = 1024
_TRIES = 1  # blocks with too many pairs for bfloat16, after which the others are not tried

Vectors = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
#: Says of a row and some others which of these pairs are duplicates beyond doubt.
Confirm = Callable[[int, Indices], npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Duplicates:
    """What each row of a concept duplicates; all (n,), in the order of the rows given.

    max_similarity_earlier : float32, similarity to the most similar earlier row, kept or not; NaN for
    the first row. duplicate_of : int64, index of the row that this one duplicates, -1 where it is
    kept. similarity : float32, similarity to that row, NaN where it is kept.
    """

    max_similarity_earlier: npt.NDArray[np.float32]
    duplicate_of: Indices
    similarity: npt.NDArray[np.float32]

    @property
    def keep(self) -> npt.NDArray[np.bool_]:
        """Which rows are kept."""
        return self.duplicate_of < 0


def find_duplicates(
    vectors: Vectors,
    *,
    threshold: float,
    mode: Literal["greedy", "reference"] = "greedy",
    inclusive: bool = False,
    fixed: npt.NDArray[np.bool_] | None = None,
    confirm: Confirm | None = None,
    cheap: bool | None = None,
    tile: int = _TILE,
) -> Duplicates:
    """Return which rows of one concept duplicate an earlier row.

    vectors : (n, d) float32 unit rows, first to keep first (by the caller: preference, tie, uid).
    A row is dropped if its similarity to any earlier KEPT row (greedy) or to any earlier row at all
    (reference) is > threshold, or >= with `inclusive`. Greedy: duplicate_of is the most similar
    kept earlier row, the earliest where equal. Reference: it is the most similar earlier row, which
    may be dropped itself (a chain), and similarity equals max_similarity_earlier.
    Rows equal by value (-0.0 = 0.0) are copies of the first of them, whatever the threshold: their
    max_similarity_earlier is their product with themselves; duplicate_of is that first row, or in
    greedy mode the row that the first one duplicates, if it is dropped.
    fixed : (n,) rows that are kept whatever they are near, copies too; they must come before all others,
    which may be their duplicates.
    confirm : which of the pairs above the threshold are duplicates, given a row and earlier ones. A row is dropped if
    a pair with one of its `CANDIDATES` most similar earlier rows (kept ones, if greedy; the earlier where equal)
    is confirmed; duplicate_of is the most similar of those. Rows equal by value have to be confirmed too.
    max_similarity_earlier stays what the vectors say.
    cheap : whether pairs are proposed in bfloat16 (`curate.deduplication.pairs`); None where that pays. It never changes
    a result.
    Cost: half of the product of all pairs; memory 4 `tile` bytes beside the vectors, a few times that
    where nearly all rows are alike. `tile` (products held at a time) never changes a result.
    Raises EmbeddingError where a vector is not finite, CurateError where fixed rows do not come first.

    >>> angles = np.radians([0, 20, 40])
    >>> chain = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    >>> find_duplicates(chain, threshold=np.cos(np.radians(25))).duplicate_of
    array([-1,  0, -1])
    >>> find_duplicates(chain, threshold=np.cos(np.radians(25)), mode="reference").duplicate_of
    array([-1,  0,  1])
    """
    if mode not in ("greedy", "reference"):
        raise RecipeError(f"dedup.mode must be greedy or reference, got {mode!r}")
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise EmbeddingError(f"vectors to compare must be (n, d) and finite, got shape {vectors.shape}")
    n_fixed = _leading_rows(fixed, len(vectors))
    lowest = _lowest_over(threshold, inclusive)
    with for_rows(len(vectors)):
        return _find(vectors, lowest, mode == "greedy", tile, n_fixed, cheap, confirm)


def _find(
    vectors: Vectors,
    lowest: np.float32,
    greedy: bool,
    tile: int,
    n_fixed: int,
    cheap: bool | None,
    confirm: Confirm | None,
) -> Duplicates:
    """Return the duplicates, rows that are equal by value compared once unless pairs have to be confirmed."""
    if confirm is not None:
        return _compare(vectors, lowest, greedy, tile, n_fixed, cheap, confirm)
    first = first_equal(vectors)
    originals = np.flatnonzero(first == np.arange(len(first)))
    distinct = vectors if len(originals) == len(vectors) else vectors[originals]
    n_distinct_fixed = int(np.searchsorted(originals, n_fixed))
    found = _compare(distinct, lowest, greedy, tile, n_distinct_fixed, cheap)
    if len(originals) < len(vectors):
        found = _with_copies(found, vectors, first, originals, greedy)
        found.duplicate_of[:n_fixed], found.similarity[:n_fixed] = -1, np.nan
    return found


def threshold_of(epsilon: float | str) -> float:
    """Return the similarity above which rows are duplicates, 1 - epsilon in exact decimals, rounded once.

    epsilon : in (0, 1). Raises RecipeError outside; warns below 1e-6, where rounding of the vectors
    decides.

    >>> threshold_of(0.07), 1 - 0.07
    (0.93, 0.9299999999999999)
    """
    try:
        exact = Fraction(str(epsilon))
    except (ValueError, ZeroDivisionError) as error:
        raise RecipeError(f"dedup.epsilon must be a number in (0, 1), got {epsilon!r}") from error
    if not 0 < exact < 1:
        raise RecipeError(f"dedup.epsilon must be in (0, 1), got {epsilon}")
    if exact < Fraction(str(MIN_EPSILON)):
        log.warning("dedup.epsilon %s is below %s: rounding of the vectors decides", epsilon, MIN_EPSILON)
    return float(1 - exact)


def threshold_for_share(max_similarities: npt.NDArray[np.float32], share: float | str) -> tuple[float, int]:
    """Return the epsilon that drops nearest to `share` of the rows in reference mode, and how many it drops.

    max_similarities : (n,) `max_similarity_earlier` of all concepts; NaN (no earlier row) is never
    dropped but counts in n. share : in (0, 1). The number dropped is a step function of epsilon, so it
    is exact for the epsilon returned but seldom equal to share * n: rows with equal similarities are dropped
    together, only those above 1e-6 can be, and copies (similarity 1) always are. Of two counts equally
    near, the smaller. Epsilon is the shortest decimal between two neighbouring similarities.

    >>> threshold_for_share(np.array([np.nan, 0.5, 0.9, 0.9, 0.2], np.float32), 0.4)
    (0.3, 2)
    """
    wanted = _fraction_of_rows(share) * len(max_similarities)
    positive = max_similarities[max_similarities > MIN_EPSILON].astype(np.float64)
    values, counts = np.unique(np.minimum(positive, 1.0), return_counts=True)
    # A threshold in [edges[i], edges[i + 1]) drops dropped[i] rows.
    edges = np.concatenate([[MIN_EPSILON], values, [1.0]])
    dropped = np.concatenate([np.cumsum(counts[::-1])[::-1], [0]])
    possible = np.flatnonzero(edges[1:] > edges[:-1])
    gaps = [abs(int(dropped[place]) - wanted) for place in possible]
    place = possible[len(gaps) - 1 - gaps[::-1].index(min(gaps))]
    return _shortest_epsilon(edges[place], edges[place + 1]), int(dropped[place])


def split_large(vectors: Vectors, max_rows: int, *, seed: int) -> npt.NDArray[np.int32]:
    """Return sub-concept ids that cut a concept into groups of at most `max_rows` similar rows.

    vectors : (n, d) float32 unit rows sorted by uid. Returns (n,) ids 0, 1, ...; all 0 if n <= max_rows.
    k-means with 1.5 n / max_rows centroids, again inside each group that is still too large. Rows equal
    by value stay together and count as one row, because the comparison collapses them.

    >>> split_large(np.eye(3, dtype=np.float32), 3, seed=0)
    array([0, 0, 0], dtype=int32)
    >>> split_large(np.eye(3, dtype=np.float32)[[0, 1, 1, 2]], 1, seed=0)
    array([0, 1, 1, 2], dtype=int32)
    """
    if max_rows < 1:
        raise RecipeError(f"dedup.max_concept must be at least 1, got {max_rows}")
    originals, original = np.unique(first_equal(vectors), return_inverse=True)
    ids = np.zeros(len(originals), np.int32)
    waiting, done = [np.arange(len(originals))], 0
    while waiting:
        rows = waiting.pop()
        if len(rows) <= max_rows:
            ids[rows] = done
            done += 1
            continue
        group = _groups(vectors[originals[rows]], max_rows, seed)
        waiting += [rows[group == j] for j in range(int(group.max()), -1, -1)]
    return ids[original]


def _leading_rows(fixed: npt.NDArray[np.bool_] | None, n: int) -> int:
    """Return how many rows are fixed; raises CurateError unless they are the first ones."""
    if fixed is None:
        return 0
    count = int(fixed.sum())
    if fixed.shape != (n,) or not fixed[:count].all():
        raise CurateError(
            f"fixed rows must be the first of {n:,}, got a mask of {fixed.shape}, {count:,} set"
        )
    return count


def near_any(
    vectors: Vectors, *, threshold: float, cheap: bool | None = None, tile: int = _TILE
) -> npt.NDArray[np.bool_]:
    """Return which rows may be a pair with another row at a threshold, (n,): all that are, and a few a hair away.

    cheap : as for `find_duplicates`.

    >>> near_any(np.eye(3, dtype=np.float32)[[0, 1, 1]], threshold=0.9)
    array([False,  True,  True])
    """
    lowest = np.float32(threshold) - np.float32(margin(vectors.shape[1]))
    with for_rows(len(vectors)):
        return _near_any(vectors, lowest, cheap, tile)


def _near_any(vectors: Vectors, lowest: np.float32, cheap: bool | None, tile: int) -> npt.NDArray[np.bool_]:
    n, near = len(vectors), np.zeros(len(vectors), np.bool_)
    proposals = _proposals(vectors, lowest, cheap)
    start = tried = 0
    while start < n:
        stop = min(n, start + max(1, min(_BLOCK_ROWS if proposals is None else STEP, tile // n)))
        pairs = None if proposals is None else proposals.pairs(start, stop)
        if pairs is None:
            products = vectors[start:stop] @ vectors[:stop].T
            over = (products >= lowest) & np.tri(stop - start, stop, start - 1, dtype=np.bool_)
            near[start:stop] |= over.any(axis=1)
            near[:stop] |= over.any(axis=0)
        else:
            over = pairs.similarity >= lowest
            near[pairs.i[over]] = near[pairs.j[over]] = True
        tried += pairs is None
        start, proposals = stop, None if tried > _TRIES else proposals
    return near


def _compare(
    rows: Vectors,
    lowest: np.float32,
    greedy: bool,
    tile: int,
    n_fixed: int,
    cheap: bool | None,
    confirm: Confirm | None = None,
) -> Duplicates:
    """Return the duplicates among distinct rows, compared block by block with all rows before."""
    n = len(rows)
    found = Duplicates(np.full(n, np.nan, np.float32), np.full(n, -1), np.full(n, np.nan, np.float32))
    proposals = _proposals(rows, lowest, cheap)
    start = tried = 0
    while start < n:
        stop = min(n, start + max(1, min(_BLOCK_ROWS if proposals is None else STEP, tile // n)))
        here = np.arange(start, stop)
        pairs = None if proposals is None else proposals.pairs(start, stop)
        tried += pairs is None
        block = Products(rows, start, stop) if pairs is None else pairs
        found.max_similarity_earlier[here] = block.largest
        lost = here[(block.largest >= lowest) & (here >= n_fixed)]
        if confirm is not None:
            lost, nearest, largest = _confirmed(block, lost, found.keep, greedy, lowest, confirm)
        elif greedy:
            lost, nearest, largest = block.decide_greedily(lost, found.keep, lowest)
        else:
            nearest, largest = block.nearest[lost - start], block.largest[lost - start]
        found.duplicate_of[lost], found.similarity[lost] = nearest, largest
        start, proposals = stop, None if tried > _TRIES else proposals
    return found


def _confirmed(
    block: Pairs | Products,
    suspects: Indices,
    keep: npt.NDArray[np.bool_],
    greedy: bool,
    lowest: np.float32,
    confirm: Confirm,
) -> tuple[Indices, Indices, npt.NDArray[np.float32]]:
    """Return the suspects of one block with a confirmed pair, the row each duplicates, and how similar.

    keep : decisions on the rows before, of which the dropped ones do not count where `greedy`.
    """
    counts = keep.copy() if greedy else np.ones(len(keep), np.bool_)
    lost, nearest, similarity = [], [], []
    for row in suspects.tolist():
        near, exact = block.near(row, counts, lowest, CANDIDATES)
        order = np.lexsort((near, -exact))[:CANDIDATES]
        yes = order[confirm(row, near[order])] if len(order) else order
        if len(yes):
            counts[row] = not greedy
            lost.append(row)
            nearest.append(near[yes[0]])
            similarity.append(exact[yes[0]])
    return np.array(lost, np.int64), np.array(nearest, np.int64), np.array(similarity, np.float32)


def _proposals(rows: Vectors, lowest: np.float32, cheap: bool | None) -> Proposals | None:
    """Return what proposes pairs in bfloat16, where that pays or is asked for."""
    if cheap is None:
        return Proposals(rows, lowest) if len(rows) >= FROM_ROWS and bf16.ready() else None
    return Proposals(rows, lowest, always=True) if cheap and len(rows) else None


def _with_copies(
    found: Duplicates, vectors: Vectors, first: Indices, originals: Indices, follow: bool
) -> Duplicates:
    """Return `found`, which is about the rows `originals`, with all copies of these rows put in."""
    place = np.searchsorted(originals, first)
    largest, similarity = found.max_similarity_earlier[place], found.similarity[place]
    of = np.where(found.keep, -1, originals[found.duplicate_of])[place]
    copy = np.flatnonzero(first != np.arange(len(first)))
    largest[copy] = pair_similarities(vectors, copy, copy)
    direct = copy[of[copy] < 0] if follow else copy
    of[direct], similarity[direct] = first[direct], largest[direct]
    return Duplicates(largest, of, similarity)


def _lowest_over(threshold: float, inclusive: bool) -> np.float32:
    """Return the smallest float32 similarity that makes a duplicate."""
    nearest, exact = np.float32(threshold), float(threshold)
    over = float(nearest) >= exact if inclusive else float(nearest) > exact
    return nearest if over else np.nextafter(nearest, np.float32(np.inf))


def _fraction_of_rows(share: float | str) -> Fraction:
    """Return the share to drop as an exact number in (0, 1)."""
    try:
        exact = Fraction(str(share))
    except (ValueError, ZeroDivisionError) as error:
        raise RecipeError(f"dedup.epsilon.drop must be a number in (0, 1), got {share!r}") from error
    if not 0 < exact < 1:
        raise RecipeError(f"dedup.epsilon.drop must be in (0, 1), got {share}")
    return exact


def _shortest_epsilon(low: float, high: float) -> float:
    """Return the shortest decimal epsilon in (0, 1) for which low <= 1 - epsilon < high."""
    middle = Fraction(low) / 2 + Fraction(high) / 2
    for digits in range(1, 40):
        threshold = round(middle, digits)
        if Fraction(low) <= threshold < Fraction(high) and 0 < threshold < 1:
            break
    return float(1 - threshold)


def _groups(vectors: Vectors, max_rows: int, seed: int) -> npt.NDArray[np.int32]:
    """Return k-means groups of `vectors`, or equal runs of rows where k-means does not part them."""
    n_groups = -(-3 * len(vectors) // (2 * max_rows))
    group, _ = assign(vectors, fit(vectors, n_groups, seed=seed, iterations=10).centroids)
    if np.bincount(group).max() == len(vectors):
        group = (np.arange(len(vectors)) // max_rows).astype(np.int32)
    return group
