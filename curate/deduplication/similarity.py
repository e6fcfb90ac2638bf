"""Exact similarities at the price of a float32 matrix product.

The similarity of two rows is the float64 product of their unit vectors (`row_dots`), clamped to
[-1, 1] and rounded to float32: a function of the two rows alone. A float32 matrix product proposes;
it is wrong by less than `margin`, so it settles nearly all questions. What it leaves open is computed
pair by pair where few pairs are in question, else by a float64 matrix product, which fixes the
float32 value of all pairs but those a hair from a rounding boundary; these are computed as pairs.

`products` below is (r, c) float32: the proposed similarity of row `of[i]` to row `against[j]`, and
-inf where that pair must not be looked at.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from curate.linalg import margin, row_dots

__all__ = ["EXCLUDED", "most_similar", "pair_similarities", "reaching"]

#: In `products`: a pair that must not be looked at.
EXCLUDED = np.float32(-np.inf)

_FEW = 16  # open pairs per row up to which pairs are cheaper than a float64 matrix product
_PAIRS = 256  # pairs of a block: what fits the processor's cache
_COLUMNS = 2048  # columns of a float64 product

Vectors = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def pair_similarities(rows: Vectors, i: Indices, j: Indices) -> npt.NDArray[np.float32]:
    """Return the similarity of rows `i` to rows `j`, both (m,); in [-1, 1].

    >>> pair_similarities(np.eye(2, dtype=np.float32), np.array([0, 0]), np.array([0, 1]))
    array([1., 0.], dtype=float32)
    """
    similarities = np.empty(len(i), np.float32)
    for start in range(0, len(i), _PAIRS):
        part = slice(start, start + _PAIRS)
        similarities[part] = _rounded(row_dots(rows[i[part]], rows[j[part]]))
    return similarities


def most_similar(
    rows: Vectors, of: Indices, against: Indices, products: Vectors
) -> tuple[Indices, npt.NDArray[np.float32]]:
    """Return for each row `of` the most similar row of `against`, the first where equal, and how similar.

    Returns ((r,) int64, (r,) float32); -1 and NaN where all pairs are excluded.
    """
    nearest = np.full(len(of), -1, np.int64)
    largest = np.full(len(of), np.nan, np.float32)
    if products.size == 0:
        return nearest, largest
    every = np.arange(len(of))
    column = products.argmax(axis=1)
    top = products[every, column]
    products[every, column] = EXCLUDED
    second = products.max(axis=1)
    products[every, column] = top
    some = np.flatnonzero(top > EXCLUDED)
    nearest[some] = against[column[some]]
    largest[some] = pair_similarities(rows, of[some], nearest[some])
    bound = top - np.float32(margin(rows.shape[1]))
    contested = some[second[some] >= bound[some]]
    if len(contested):
        found = _contest(rows, of[contested], against, products[contested], bound[contested])
        nearest[contested], largest[contested] = found
    return nearest, largest


def reaching(
    rows: Vectors, of: Indices, against: Indices, products: Vectors, lowest: np.float32
) -> npt.NDArray[np.bool_]:
    """Return which pairs have a similarity >= `lowest`, (r, c); excluded pairs do not."""
    slack = np.float32(margin(rows.shape[1]))
    over = products >= lowest + slack
    i, j = np.nonzero((products >= lowest - slack) & ~over)
    if len(i) <= _FEW * len(of):
        over[i, j] = pair_similarities(rows, of[i], against[j]) >= lowest
        return over
    for part, low, high in _bracketed(rows, of, against):
        allowed = products[:, part] > EXCLUDED
        over[:, part] = (low >= lowest) & allowed
        i, j = np.nonzero((high >= lowest) & (low < lowest) & allowed)
        over[i, part.start + j] = pair_similarities(rows, of[i], against[part][j]) >= lowest
    return over


def _contest(
    rows: Vectors, of: Indices, against: Indices, products: Vectors, bound: npt.NDArray[np.float32]
) -> tuple[Indices, npt.NDArray[np.float32]]:
    """Return what `most_similar` does, for rows with several pairs at or above their `bound`."""
    i, j = np.nonzero(products >= bound[:, None])
    if len(i) > _FEW * len(of):
        return _contest_many(rows, of, against, products)
    similarities = pair_similarities(rows, of[i], against[j])
    starts = np.searchsorted(i, np.arange(len(of)))
    largest = np.maximum.reduceat(similarities, starts)
    winners = np.flatnonzero(similarities == largest[i])
    first = winners[np.searchsorted(i[winners], np.arange(len(of)))]
    return against[j[first]], largest


def _contest_many(
    rows: Vectors, of: Indices, against: Indices, products: Vectors
) -> tuple[Indices, npt.NDArray[np.float32]]:
    """Return what `most_similar` does, by float64 matrix products."""
    nearest = np.full(len(of), -1, np.int64)
    largest = np.full(len(of), EXCLUDED, np.float32)
    for part, low, high in _bracketed(rows, of, against):
        excluded = products[:, part] == EXCLUDED
        low[excluded] = high[excluded] = EXCLUDED
        floor = np.maximum(low.max(axis=1), largest)
        i, j = np.nonzero((high > low) & (high >= floor[:, None]))
        low[i, j] = pair_similarities(rows, of[i], against[part][j])
        column = low.argmax(axis=1)
        value = low[np.arange(len(of)), column]
        better = value > largest
        nearest[better] = against[part][column[better]]
        largest[better] = value[better]
    return nearest, largest


def _bracketed(
    rows: Vectors, of: Indices, against: Indices
) -> Iterator[tuple[slice, npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Yield slices of `against` with two bounds on the similarity of all `of` to these rows.

    The bounds are float32 and (r, c); they are equal unless the product lies within the error of
    float64 summation from a rounding boundary.
    """
    error = (rows.shape[1] + 64) * 2.0**-52
    left = rows[of].astype(np.float64)
    for start in range(0, len(against), _COLUMNS):
        part = slice(start, start + _COLUMNS)
        dots = left @ rows[against[part]].astype(np.float64).T
        yield part, _rounded(dots - error), _rounded(dots + error)


def _rounded(dots: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return np.clip(dots, -1.0, 1.0).astype(np.float32)
