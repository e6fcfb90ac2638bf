"""How complex a concept is: how far its members lie from its centroid, and it from its neighbours.

After Abbas et al. 2024, "Effective pruning of web-scale datasets based on complexity of concept
clusters" (arXiv:2401.04578): complexity = d_inter x d_intra; larger is more complex, and kept more.
"""

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from curate.errors import EmbeddingError, RecipeError
from curate.linalg import margin, row_dots

__all__ = ["KINDS", "Kind", "complexity", "inter_distance"]

Kind = Literal["inter*intra", "inter", "intra", "uniform", "size", "dimension"]
KINDS: tuple[Kind, ...] = ("inter*intra", "inter", "intra", "uniform", "size", "dimension")

_TILE = 1 << 23  # inner products held at a time: 32 MB

Floats = npt.NDArray[np.float64]


def inter_distance(
    centroids: npt.NDArray[np.float32], neighbours: int = 20, *, tile: int = _TILE
) -> npt.NDArray[np.float64]:
    """Return the mean distance of each centroid to its nearest other centroids.

    centroids : (k, d) float32 unit rows. Returns (k,) in [0, 2]: the mean of 1 - inner product over the
    min(neighbours, k - 1) nearest centroids; a centroid is left out by index, so an equal one counts, at
    distance 0. A single centroid gets 1. Inner products are float64 and the sum is exactly
    rounded, so no result depends on `tile` (products held at a time).

    >>> inter_distance(np.eye(3, dtype=np.float32)), inter_distance(np.eye(1, dtype=np.float32))
    (array([1., 1., 1.]), array([1.]))
    """
    k = len(centroids)
    if neighbours < 1:
        raise RecipeError(f"select.neighbours must be at least 1, got {neighbours}")
    if k == 1:
        return np.ones(1)
    n_nearest = min(neighbours, k - 1)
    means = np.empty(k)
    step = max(1, min(1024, tile // max(1, k)))
    for start in range(0, k, step):
        block = centroids[start : start + step]
        products = block @ centroids.T
        own = np.arange(len(block))
        products[own, start + own] = -np.inf
        bound = _lower_bound(products, n_nearest) - np.float32(margin(centroids.shape[1]))
        row, column = np.nonzero(products >= bound[:, None])
        dots = _pair_dots(block, centroids, row, column)
        edges = np.searchsorted(row, np.arange(len(block) + 1)).tolist()
        for i in range(len(block)):
            largest = np.sort(dots[edges[i] : edges[i + 1]])[-n_nearest:]
            means[start + i] = math.fsum((1.0 - np.clip(largest, -1.0, 1.0)).tolist()) / n_nearest
    return means


def _pair_dots(
    a: npt.NDArray[np.float32],
    b: npt.NDArray[np.float32],
    i: npt.NDArray[np.int64],
    j: npt.NDArray[np.int64],
) -> Floats:
    """Return `row_dots` of rows `i` of `a` with rows `j` of `b`, without holding all these rows."""
    parts = (slice(start, start + 1024) for start in range(0, len(i), 1024))
    return np.concatenate([np.empty(0), *(row_dots(a[i[part]], b[j[part]]) for part in parts)])


def _lower_bound(products: npt.NDArray[np.float32], n: int) -> npt.NDArray[np.float32]:
    """Return a number per row that at least `n` of its products reach, and not many more.

    The n-th largest of the maxima of strided groups, of which there are 8 n where the row has so many.
    """
    k = products.shape[1]
    size = k // (8 * n)
    if size > 1:
        n_groups = k // size
        products = products[:, : n_groups * size].reshape(len(products), size, n_groups).max(axis=1)
    bound: npt.NDArray[np.float32] = np.partition(products, products.shape[1] - n, axis=1)[:, -n]
    return bound


def complexity(
    d_inter: Floats,
    d_intra: Floats,
    kind: Kind = "inter*intra",
    *,
    sizes: npt.NDArray[np.integer[Any]] | None = None,
    dimension: Floats | None = None,
) -> Floats:
    """Return the complexity of each concept, (k,), at least 0; larger is more complex.

    kind : inter*intra, the product; inter or intra, one of the two alone; uniform, 1 for all; size,
    the size as a share of the largest (needs `sizes`); dimension, the intrinsic dimension as a share of the largest
    (needs `dimension`). Values down to -1e-6 are rounding and become 0.
    Raises EmbeddingError where a value is not finite or lower, RecipeError where `kind` lacks what it needs.

    >>> complexity(np.array([0.5, 1.0]), np.array([0.2, -1e-9]))
    array([0.1, 0. ])
    """
    if kind not in KINDS:
        raise RecipeError(f"select.complexity must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "uniform":
        return np.ones(len(d_inter))
    if kind == "size":
        if sizes is None:
            raise RecipeError("select.complexity: size needs the sizes of the concepts")
        return sizes / max(1, int(sizes.max(initial=0)))
    if kind == "dimension":
        if dimension is None:
            raise RecipeError("select.complexity: dimension needs the intrinsic dimensions of the concepts")
        return _not_negative("dimension", dimension) / max(1e-12, float(dimension.max(initial=0)))
    inter, intra = _not_negative("d_inter", d_inter), _not_negative("d_intra", d_intra)
    return {"inter*intra": inter * intra, "inter": inter, "intra": intra}[kind]


def _not_negative(name: str, values: Floats) -> Floats:
    """Return `values` with rounding errors below 0 removed."""
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= -1e-6)))
    if len(bad):
        raise EmbeddingError(
            f"{name} must be finite and at least 0, got {values[bad[0]]} for concept {bad[0]}; "
            "are the vectors not normalised?"
        )
    return np.maximum(values, 0.0)
