"""Spherical k-means in whole numbers of 8 bits: fewer and cheaper rounds than FAISS, to the same quality.

Rows are rounded to 8 bits once. Centroids are rounded for the products that find the nearest one, and there only: their sums are
those of the rows. Products and sums are exact, so that the result is the same on any processor and with any number of threads.
It begins on a part of the rows, from a start that is spread over them, and rounds end when they gain little.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curate.linalg import row_dots
from curate.products import WholeProducts, each_tile, largest_whole

__all__ = ["train"]

#: Shares of the rows that rounds are made on, and the most rounds on all but the last.
_GROWING, _EARLY_ROUNDS = (1 / 16, 1 / 4, 1.0), 4
#: A round that gains less than this share of the mean distance is the last on its rows.
_LEAST_GAIN = 5e-4
#: Parts of the rows have at least so many, and so many for each concept: fewer lead rounds astray.
_FEWEST, _FEWEST_PER_CONCEPT = 10_000, 32
_START_BATCHES = 32  # the start is drawn in so many batches, each far from those before
_LOOKED_AT = 8192  # rows that say how much columns vary
_BLOCK = 4096
_TINY = 1e-30

Vectors = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Rounded:
    """Rows in 8 bits. whole : (n, d) int8. unit : (d,) float64, what one stands for in each column."""

    whole: npt.NDArray[np.int8]
    unit: Floats

    def take(self, rows: Places) -> "_Rounded":
        return self if len(rows) == len(self.whole) else _Rounded(self.whole[rows], self.unit)

    def vectors(self, rows: Places) -> Floats:
        """Return some of the rows with length 1; zeros where nothing is left of one."""
        return _unit(self.whole[rows] * self.unit)[0]


def train(vectors: Vectors, k: int, *, seed: int, iterations: int) -> Vectors:
    """Return k centroids of unit rows, (k, d) float32 of length 1; more rows than centroids.

    vectors : (n, d) float32. iterations : the most rounds. The result depends on rows, their order, and `seed`.
    """
    rounded = _rounded(vectors)
    draw = np.random.Generator(np.random.Philox(seed))
    order = draw.permutation(len(vectors))
    fewest = min(len(vectors), max(_FEWEST, _FEWEST_PER_CONCEPT * k))
    centroids = _start(rounded, np.sort(order[:fewest]), k, draw)
    counts = [max(fewest, int(share * len(vectors))) for share in _GROWING]
    stages = sorted({count for count in counts if count <= len(vectors) / 2} | {len(vectors)})
    for count in stages:
        rounds = min(iterations, _EARLY_ROUNDS if count < len(vectors) else iterations)
        centroids = _improve(rounded.take(np.sort(order[:count])), centroids, rounds, draw)
        iterations -= rounds if count < len(vectors) else 0
    return centroids.astype(np.float32)


def _rounded(vectors: Vectors) -> _Rounded:
    """Return rows in 8 bits. Columns that are large in all rows and differ little get fewer of them (`_balance`)."""
    looked_at = vectors[:: -(-len(vectors) // _LOOKED_AT)].astype(np.float64)
    weights = _balance(looked_at)
    largest = float(np.abs(looked_at * weights).max())
    most = largest_whole(vectors.shape[1])
    scale = (weights * (most / max(largest, _TINY))).astype(np.float32)
    whole = np.empty(vectors.shape, np.int8)
    for start in range(0, len(vectors), _BLOCK):
        block = np.rint(vectors[start : start + _BLOCK] * scale)
        whole[start : start + _BLOCK] = np.clip(block, -most, most, out=block)
    return _Rounded(whole, 1.0 / scale.astype(np.float64))


def _balance(rows: Floats) -> Floats:
    """Return a weight of each column, (d,): the less, the less of its size is variation.

    A product is what varies in a row times what varies between centroids; the rest only takes room.
    """
    size = np.sqrt((rows**2).mean(axis=0))
    least = max(1e-3 * float(size.max()), _TINY)
    weights: Floats = np.sqrt(np.maximum(rows.std(axis=0), least) / np.maximum(size, least))
    return weights


def _start(rounded: _Rounded, rows: Places, k: int, draw: np.random.Generator) -> Floats:
    """Return k of some rows, drawn in batches with a chance that grows with the distance to those before (k-means++)."""
    batch = max(1, -(-k // _START_BATCHES))
    among = rounded.take(rows)
    chosen = draw.permutation(len(rows))[:batch]
    newest, largest = chosen, np.full(len(rows), -1.0)
    while len(chosen) < k:
        largest = np.maximum(largest, _similarities(among, among.vectors(newest)))
        far = np.maximum(1.0 - largest, 0.0) + 1e-9
        far[chosen] = _TINY
        waits = draw.standard_exponential(len(rows)) / far
        newest = np.argsort(waits, kind="stable")[: min(batch, k - len(chosen))]
        chosen = np.concatenate([chosen, newest])
    return among.vectors(chosen)


def _similarities(rounded: _Rounded, centroids: Floats) -> Floats:
    """Return the inner product of each row with the nearest of some centroids, (n,), about."""
    weighted = centroids * rounded.unit
    step = max(float(np.abs(weighted).max()), _TINY) / largest_whole(weighted.shape[1])
    found = _nearest(rounded.whole, np.rint(weighted / step).astype(np.int8))[1]
    return found.astype(np.float64) * step


def _nearest(rows: npt.NDArray[np.int8], others: npt.NDArray[np.int8]) -> tuple[Ids, Ids]:
    """Return which of the others has the largest product with each row, and that product."""
    products = WholeProducts(others)
    place, largest = np.empty(len(rows), np.int32), np.empty(len(rows), np.int32)

    def work(tile: slice) -> None:
        place[tile], largest[tile] = products.nearest(rows[tile])

    each_tile(len(rows), work, threads=products.fast)
    return place, largest


def _improve(rounded: _Rounded, centroids: Floats, rounds: int, draw: np.random.Generator) -> Floats:
    """Return centroids after up to so many rounds of k-means on some rows."""
    before = -math.inf
    for _ in range(rounds):
        concept = _nearest(rounded.whole, _whole_centroids(centroids, rounded.unit))[0]
        sums, sizes = _sums(rounded, concept, len(centroids))
        units, lengths = _unit(sums)
        centroids = np.where(lengths[:, None] > 0, units, centroids)
        after = math.fsum(lengths.tolist()) / len(concept)  # the mean similarity: exact, at no cost
        empty = np.flatnonzero(sizes == 0)
        if len(empty):
            centroids[empty] = _split(rounded, concept, sizes - lengths, len(empty), draw)
        if after - before < _LEAST_GAIN * max(1.0 - after, 0.0) and not len(empty):
            break
        before = after
    return centroids


def _whole_centroids(centroids: Floats, unit: Floats) -> npt.NDArray[np.int8]:
    """Return centroids in 8 bits, their mean taken out: it changes all products of a row alike, and takes room."""
    rest = (centroids - centroids.mean(axis=0)) * unit
    step = max(float(np.abs(rest).max()), _TINY) / largest_whole(len(unit))
    return np.asarray(np.rint(rest / step).astype(np.int8))


def _sums(rounded: _Rounded, concept: Ids, k: int) -> tuple[Floats, Places]:
    """Return the sum of the rows of each concept, (k, d), and their number, (k,)."""
    order = np.argsort(concept, kind="stable")
    sizes = np.bincount(concept, minlength=k)
    ends = np.cumsum(sizes)
    sums = np.zeros((k, len(rounded.unit)), np.int64)
    for j in np.flatnonzero(sizes).tolist():
        rounded.whole[order[ends[j] - sizes[j] : ends[j]]].sum(axis=0, dtype=np.int32, out=sums[j])
    return sums * rounded.unit, sizes


def _split(rounded: _Rounded, concept: Ids, loss: Floats, count: int, draw: np.random.Generator) -> Floats:
    """Return a row of each of the `count` concepts whose rows are furthest from them all together; again where there are fewer."""
    worst = np.argsort(-loss, kind="stable")[: max(1, min(count, int((loss > 0).sum())))]
    picks = []
    for j in np.resize(worst, count).tolist():
        members = np.flatnonzero(concept == j)
        picks.append(
            int(members[draw.integers(len(members))]) if len(members) else int(draw.integers(len(concept)))
        )
    return rounded.vectors(np.array(picks))


def _unit(rows: Floats) -> tuple[Floats, Floats]:
    """Return rows scaled to length 1, zeros where they have none, and their lengths."""
    lengths = np.sqrt(row_dots(rows, rows))
    return rows / np.where(lengths > 0, lengths, 1.0)[:, None], lengths
