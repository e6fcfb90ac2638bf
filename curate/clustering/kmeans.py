"""Spherical k-means and the assignment of vectors to the concepts it finds.

Quality measured by the mean inner product of a vector with its centroid; larger is better.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import faiss
import numpy as np
import numpy.typing as npt

from curate.clustering import lloyd
from curate.errors import EmbeddingError
from curate.linalg import distances, first_equal, load_unit, margin, row_dots, unit_rows
from curate.products import bf16, each_tile

__all__ = [
    "MAX_CONCEPTS", "SAMPLE_PER_CONCEPT", "Concepts", "Precision", "assign", "auto_concepts", "described", "fit", "precision_of",
]  # fmt: skip

#: Largest number of concepts chosen by itself.
MAX_CONCEPTS = 100_000
#: Vectors to train on per concept; more changes little, fewer than about 40 is too few.
SAMPLE_PER_CONCEPT = 256
#: Products of numbers in one round from which on 8 bits pay for what they need to be loaded.
LARGE_FIT = 10_000_000_000

Precision = Literal["auto", "float32", "int8"]

_TILE = 1 << 24  # inner products held at a time: 64 MB
_TILE_ROWS = 4096
_PAIRS = 256  # pairs of a block: what fits the processor's cache
_CONE = 0.8  # length of the mean of centroids from which on rows are mostly what they share
_FEW_CENTROIDS = 128  # with fewer, products cost less than what is around them
_ALL_POINTS = 1 << 30  # max_points_per_centroid: FAISS then never leaves points out

Vectors = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Concepts:
    """The concepts of a training sample, in the order of (members desc, first member).

    centroids : (k, d) float32, unit rows. sizes : (k,) int64, members in the sample, at least 1 each.
    p99 : (k,) float32, distance that 99 % of the sample's members do not exceed.
    objective : mean inner product of the sample's vectors with their own centroid, in [-1, 1].
    requested : number of concepts asked for. trained_on : number of vectors in the sample.
    """

    centroids: Vectors
    sizes: npt.NDArray[np.int64]
    p99: npt.NDArray[np.float32]
    objective: float
    requested: int
    trained_on: int


def auto_concepts(n_valid: int) -> int:
    """Return the number of concepts for `n_valid` vectors: their square root, in [1, 100000].

    >>> auto_concepts(0), auto_concepts(1_000_000), auto_concepts(10**12)
    (1, 1000, 100000)
    """
    return max(1, min(MAX_CONCEPTS, round(math.sqrt(n_valid))))


def precision_of(asked: Precision, n: int, k: int, dim: int) -> Literal["float32", "int8"]:
    """Return what a fit of n vectors of `dim` numbers is made in: of auto, 8 bits where a round takes 10^10 products.

    That goes by the size alone, not by the processor, so that the same data and recipe are fitted alike everywhere.

    >>> precision_of("auto", 256_000, 1000, 512), precision_of("auto", 10_000, 100, 512)
    ('int8', 'float32')
    """
    if asked == "auto":
        return "int8" if n * k * dim >= LARGE_FIT else "float32"
    return asked


def fit(
    vectors: Vectors, n_concepts: int, *, seed: int, iterations: int = 25, precision: Precision = "float32"
) -> Concepts:
    """Return the concepts of `vectors`, found by spherical k-means.

    vectors : (n, d) float32, C-contiguous unit rows, sorted by uid by the caller: the result depends
    on the order of rows, and on nothing else but `seed` (not on the number of threads). All rows are
    used. precision : float32 for FAISS, int8 for `curate.clustering.lloyd`, or auto (`precision_of`). Where there are no more distinct vectors than concepts asked for, each is
    its own concept. After training, centroids are scaled to length 1, the sample is assigned once
    more, and centroids that no row chose are dropped, so there may be fewer concepts than `requested`.
    Raises EmbeddingError without vectors or with values that are not finite. About
    2 n d k (iterations + 1) operations in float32, a quarter or less of them in 8 bits; Ctrl-C interrupts between blocks of rows.

    >>> rows = np.eye(4, dtype=np.float32)[[0, 2, 2]]
    >>> concepts = fit(rows, 8, seed=0)
    >>> concepts.centroids.argmax(axis=1), concepts.sizes, concepts.objective
    (array([2, 0]), array([2, 1]), 1.0)
    """
    _check(vectors)
    if len(vectors) == 0:
        raise EmbeddingError("cluster needs at least 1 usable vector, got 0")
    if n_concepts < 1:
        raise EmbeddingError(f"cluster.concepts must be at least 1, got {n_concepts}")
    for start in range(0, len(vectors), _TILE_ROWS):
        _check_finite(vectors[start : start + _TILE_ROWS], start)
    distinct = np.unique(first_equal(vectors))
    if len(distinct) <= n_concepts:
        found = vectors[distinct]
    else:
        found = _train(vectors, n_concepts, seed, iterations, precision)
    return described(vectors, found, n_concepts)


def described(vectors: Vectors, centroids: Vectors, requested: int) -> Concepts:
    """Return the concepts that some centroids make of a sample: those that are chosen, in their final order.

    vectors : (n, d) as for `fit`. centroids : (k, d) of any length; those without a direction are left out.
    """
    units, valid = unit_rows(centroids)
    concept, distance = assign(vectors, units[valid])
    return _describe(units[valid], concept, distance, requested)


def assign(
    vectors: npt.NDArray[np.float32] | npt.NDArray[np.float16],
    centroids: Vectors,
    *,
    cheap: bool | None = None,
    tile: int = _TILE,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return the nearest concept of each vector and the distance to its centroid.

    vectors : (n, d) float32 unit rows, or float16 rows as stored, which pass through `load_unit` block
    by block. centroids : (k, d) float32 unit rows. Returns ((n,) int32, (n,) float32 in [0, 2]):
    the concept with the largest float64 inner product, the lowest id where equal, and 1 minus that
    product. cheap : whether bfloat16 products propose (`curate.products.bf16`); None where that pays. `tile` bounds how many
    products are held at a time. Neither changes a result.
    Raises EmbeddingError where a vector is not finite.

    >>> concept, distance = assign(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[:2])
    >>> concept, distance
    (array([0, 1, 0], dtype=int32), array([0., 0., 1.], dtype=float32))
    """
    _check(vectors, centroids)
    concept = np.empty(len(vectors), np.int32)
    distance = np.empty(len(vectors), np.float32)
    if cheap is None:
        cheap = len(centroids) >= _FEW_CENTROIDS and bf16.ready()
    nearest = _Rough(centroids) if cheap else _Exact(centroids)
    step = max(1, min(nearest.rows, tile // len(centroids)))

    def work(some: slice) -> None:
        rows = vectors[some]
        if rows.dtype == np.float16:
            block = load_unit(rows)
        else:
            block = rows.astype(np.float32, copy=False)
            _check_finite(block, some.start)
        best, dots = nearest.of(block)
        concept[some] = best
        distance[some] = distances(dots)

    each_tile(len(vectors), work, threads=cheap, tile=step)
    return concept, distance


class _Exact:
    """The nearest centroids of rows, as float32 products propose them."""

    rows = _TILE_ROWS

    def __init__(self, centroids: Vectors) -> None:
        self._centroids = centroids
        self._products = np.empty((0, len(centroids)), np.float32)

    def of(self, block: Vectors) -> tuple[Indices, Floats]:
        """Return the nearest centroid of each row and the float64 inner product."""
        if len(block) > len(self._products):
            self._products = np.empty((len(block), len(self._centroids)), np.float32)
        products = self._products[: len(block)]
        np.matmul(block, self._centroids.T, out=products)
        every = np.arange(len(block))
        best = products.argmax(axis=1)
        bound = products[every, best] - margin(block.shape[1])
        products[every, best] = -np.inf
        close = np.flatnonzero(products.max(axis=1) >= bound)
        row, column = np.nonzero(products[close] >= bound[close, None])
        row, column = np.concatenate([every, close[row]]), np.concatenate([best, column])
        return _largest_dots(block, self._centroids, row, column)


class _Rough:
    """The nearest centroids of rows, as bfloat16 products propose them. Threads may share an object."""

    rows = 1024

    def __init__(self, centroids: Vectors) -> None:
        self._centroids = centroids
        # Without the mean of all, products of a row are as far from each other as before, and less is rounded away.
        # Where all rows lie near the mean, it is taken out of them too, for which its products with centroids are added.
        mean = centroids.mean(axis=0, dtype=np.float64).astype(np.float32)
        rest = centroids - mean
        self._mean = mean if float(np.linalg.norm(mean)) > _CONE else None
        self._right = bf16.Right(bf16.Rounded.of(rest), None if self._mean is None else rest @ mean)
        self._spill = 0.0 if self._mean is None else (len(mean) + 8) * 2.0**-22

    def of(self, block: Vectors) -> tuple[Indices, Floats]:
        """Return the nearest centroid of each row and the float64 inner product."""
        k = len(self._centroids)
        left = bf16.Rounded.of(block if self._mean is None else block - self._mean)
        values = left.values if self._mean is None else left.with_ones()
        keys = self._right.keys(values, slice(0, bf16.whole_groups(k)))
        keys[:, k:] = np.iinfo(np.int16).min
        keys = keys.reshape(len(keys), bf16.GROUPS, -1)
        tops = keys.max(axis=1)
        cut = bf16.cut_keys(bf16.largest_bound(tops.max(axis=1), self._right.slack(left) + self._spill))
        hard = np.flatnonzero(cut <= 0)  # no centroid is on their side of the mean of all
        cut[hard] = np.iinfo(np.int16).max
        row, column = bf16.reaching(keys, tops, cut)
        best, dots = _largest_dots(block, self._centroids, row, column)
        if len(hard):
            best[hard], dots[hard] = _Exact(self._centroids).of(block[hard])
        return best, dots


def _largest_dots(
    block: Vectors, centroids: Vectors, row: Indices, column: Indices
) -> tuple[Indices, Floats]:
    """Return the column of the largest float64 inner product of each row, the lowest where equal, and the product.

    row, column : (m,) the pairs that can be the largest; rows without any get 0.
    """
    order = np.lexsort((column, row))
    row, column = row[order], column[order]
    exact = np.empty(len(row), np.float64)
    for start in range(0, len(row), _PAIRS):
        part = slice(start, start + _PAIRS)
        exact[part] = row_dots(block[row[part]], centroids[column[part]])
    best, dots = np.zeros(len(block), np.int64), np.zeros(len(block), np.float64)
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    if len(starts):
        dots[row[starts]] = np.maximum.reduceat(exact, starts)
        winners = np.flatnonzero(exact == dots[row])
        first = winners[np.flatnonzero(np.diff(row[winners], prepend=-1))]
        best[row[first]] = column[first]
    return best, dots


def _train(vectors: Vectors, n_concepts: int, seed: int, iterations: int, precision: Precision) -> Vectors:
    """Return (n_concepts, d) centroids, as training leaves them; more vectors than concepts."""
    if precision_of(precision, len(vectors), n_concepts, vectors.shape[1]) == "int8":
        return lloyd.train(vectors, n_concepts, seed=seed, iterations=iterations)
    kmeans = faiss.Kmeans(
        vectors.shape[1],
        n_concepts,
        niter=iterations,
        seed=seed % (1 << 31),
        spherical=True,
        max_points_per_centroid=_ALL_POINTS // n_concepts,
        min_points_per_centroid=1,
    )
    kmeans.train(vectors)
    return np.asarray(kmeans.centroids, np.float32)


def _describe(
    centroids: Vectors, concept: npt.NDArray[np.int32], distance: npt.NDArray[np.float32], requested: int
) -> Concepts:
    """Return the chosen centroids in their final order, with what the sample says of them."""
    order = np.lexsort((distance, concept))
    ids, starts, sizes = np.unique(concept[order], return_index=True, return_counts=True)
    last99 = starts + (99 * sizes + 99) // 100 - 1
    first_member = np.full(len(centroids), len(concept), np.int64)
    np.minimum.at(first_member, concept, np.arange(len(concept)))
    final = np.lexsort((first_member[ids], -sizes))
    return Concepts(
        centroids=centroids[ids[final]],
        sizes=sizes[final].astype(np.int64),
        p99=distance[order][last99[final]],
        objective=1.0 - math.fsum(distance.tolist()) / len(distance),
        requested=requested,
        trained_on=len(concept),
    )


def _check(*arrays: npt.NDArray[np.floating[Any]]) -> None:
    """Raise EmbeddingError unless all arrays have two dimensions and the same width."""
    shapes = [array.shape for array in arrays]
    if any(len(shape) != 2 for shape in shapes) or len({shape[-1] for shape in shapes}) != 1:
        raise EmbeddingError(f"vectors and centroids must be (n, d) and (k, d), got {shapes}")
    if len(arrays) == 2 and len(arrays[1]) == 0:
        raise EmbeddingError("assign needs at least 1 centroid, got 0")


def _check_finite(block: Vectors, start: int) -> None:
    """Raise EmbeddingError naming the first row of `block` (rows from `start` on) that is not finite."""
    finite = np.isfinite(block).all(axis=1)
    if not finite.all():
        raise EmbeddingError(f"vectors must be finite, row {start + int(finite.argmin())} is not")
