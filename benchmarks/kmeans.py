"""Training k-means on one sample: ours in 8 bits against FAISS with 25 rounds and scikit-learn's MiniBatchKMeans.

All get the same unit vectors, in memory, and the same number of centroids; what is timed is training, the import of libraries that
it alone needs included. Beside the seconds stands the mean similarity of the sample with the nearest centroid, measured
alike for all after the clock has stopped: larger is better.

Vectors are groups of a few sizes around centres that share a direction, as those of an encoder do, or your own:
`--vectors FILE.npy --concepts K`.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from timing import Contender, arguments, call, compare, write

from curate.linalg import unit_rows

#: Vectors, their width, and centroids.
SIZES = {"toy": (1_000, 16, 10), "short": (64_000, 256, 500), "long": (256_000, 512, 1_000)}
SEED = 1


def make(path: Path, rows: int, dim: int, groups: int) -> None:
    """Write vectors in groups whose sizes fall off as 1 / rank."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((groups, dim)) + rng.standard_normal(dim)
    share = 1 / np.arange(1, groups + 1)
    made = np.empty((rows, dim), np.float32)
    group = rng.choice(groups, rows, p=share / share.sum())
    for start in range(0, rows, 8192):
        some = centres[group[start : start + 8192]]
        made[start : start + 8192] = unit_rows(some + rng.standard_normal(some.shape))[0]
    np.save(path, made)


def ours(vectors: str, k: int, out: str) -> Iterator[None]:
    """Train in 8 bits, as `cluster.precision: int8` does."""
    from curate.clustering import lloyd

    rows = np.load(vectors)
    yield
    np.save(out, lloyd.train(rows, k, seed=SEED, iterations=25))


def by_faiss(vectors: str, k: int, out: str, rounds: int) -> Iterator[None]:
    """Train as `cluster.precision: float32` does, all rows used."""
    import faiss

    rows = np.load(vectors)
    yield
    found = faiss.Kmeans(
        rows.shape[1], k, niter=rounds, seed=SEED, spherical=True,
        max_points_per_centroid=len(rows), min_points_per_centroid=1,
    )  # fmt: skip
    found.train(rows)
    np.save(out, found.centroids)


def by_sklearn(vectors: str, k: int, out: str) -> Iterator[None]:
    """Train on batches of 4,096 rows; centroids are scaled to length 1 afterwards."""
    from sklearn.cluster import MiniBatchKMeans

    rows = np.load(vectors)
    yield
    np.save(out, MiniBatchKMeans(k, batch_size=4096, n_init=1, random_state=SEED).fit(rows).cluster_centers_)


def similarity(vectors: Path, centroids: Path) -> dict[str, Any]:
    """Return the mean similarity of the vectors with the nearest centroid."""
    import faiss

    units, valid = unit_rows(np.load(centroids))
    index = faiss.IndexFlatIP(units.shape[1])
    index.add(units[valid])
    nearest = index.search(np.load(vectors), 1)[0]
    return {"similarity": round(float(nearest.mean(dtype=np.float64)), 5)}


def main(given: list[str] | None = None) -> None:
    """Compare the ways at one size."""
    parser = arguments(__doc__)
    parser.add_argument("--vectors", type=Path, help=".npy of (n, d) numbers, in the place of made ones")
    parser.add_argument("--concepts", type=int, help="the number of centroids")
    options = parser.parse_args(given)
    rows, dim, k = SIZES[options.size]
    with tempfile.TemporaryDirectory() as folder:
        vectors = Path(folder, "vectors.npy")
        if options.vectors is None:
            make(vectors, rows, dim, 2 * k)
        else:
            units = unit_rows(np.load(options.vectors).astype(np.float32))[0]
            np.save(vectors, units)
            rows, dim = units.shape
        k = options.concepts or k

        def contender(name: str, way: Callable[..., Iterator[None]], **more: int) -> Contender:
            out = Path(folder, f"{name.replace(' ', '_')}.npy")
            words = call(__file__, way.__name__, vectors=vectors, k=k, out=out, **more)
            return Contender(name, words, fresh=[out], facts=lambda: similarity(vectors, out))

        found = compare(
            f"{rows:,} x {dim}, {k:,} centroids",
            contender("8 bits", ours),
            [
                contender("FAISS 25 rounds", by_faiss, rounds=25),
                contender("FAISS 10 rounds", by_faiss, rounds=10),
                contender("MiniBatchKMeans", by_sklearn),
            ],
            pairs=options.pairs,
        )
    write("kmeans", [found], options)


if __name__ == "__main__":
    main()
