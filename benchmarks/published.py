"""Vectors to decisions: `curate filter` against the published procedure step by step, and against its bare products.

The procedure is that of "Effective pruning of web-scale datasets based on complexity of concept clusters" (Abbas et al.
2024, arXiv:2401.04578) with SemDeDup (arXiv:2303.09540), as a careful user writes it for one machine: all vectors in
memory as float32, spherical k-means in FAISS (its defaults: 25 rounds, 256 rows a centroid), similarities concept by
concept, rows above 1 - epsilon of an earlier one out, complexity from distances to the own centroid and to its 20 nearest,
the quadratic program (solved exactly, by bisection), and the rows farthest from their centroid of each concept. It
writes the ids that stay, and nothing else: no table of reasons, no shards, no report, no checks.

Ours is the whole command on the same files, with the same k, epsilon, share and preference; it also writes shards, tables and a
report, and takes `memory: 2GB`. Both are whole processes. Bare products: the matrix products that the published procedure
cannot do without, in float32 by BLAS: 25 rounds of sample x centroids, all rows x centroids, and similarities inside
the concepts of our run.
"""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from synthetic import copies_found, write_vectors
from timing import CURATE, Contender, arguments, call, compare, write

DIM, FILES, ROUNDS, PER_CENTROID = 512, 10, 25, 256
EPSILON, KEEP, TEMPERATURE, NEIGHBOURS = 0.05, 0.3, 0.1, 20
#: Rows, concepts.
SIZES = {"toy": (2_000, 10), "short": (100_000, 500), "long": (1_000_000, 1_000)}

Vectors = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def published(folder: str, k: int) -> dict[str, Any]:
    """Run the published procedure on the files of a folder and write the ids that stay; return what came out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(Path(folder).glob("vectors-*.npy"))
    x = np.concatenate([np.load(path).astype(np.float32) for path in files])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    ids = pa.chunked_array(
        [pq.read_table(path)["id"].combine_chunks() for path in sorted(Path(folder).glob("train-*.parquet"))]
    )
    centroids, concept, similarity = cluster(x, k)
    members = np.split(np.argsort(concept, kind="stable"), np.cumsum(np.bincount(concept, minlength=k))[:-1])
    duplicate = near_duplicates(x, members, similarity)
    left = [rows[~duplicate[rows]] for rows in members]
    sizes = np.array([len(rows) for rows in left])
    target = int(KEEP * len(x))
    budget = budgets(complexities(centroids, similarity, left), sizes, min(target, int(sizes.sum())))
    hardest = (rows[np.argsort(similarity[rows], kind="stable")] for rows in left)
    kept = np.concatenate([rows[:count] for rows, count in zip(hardest, budget, strict=True)])
    pq.write_table(pa.table({"id": ids.take(pa.array(np.sort(kept)))}), Path(folder, "kept.parquet"))
    return facts(kept, duplicate, similarity)


def cluster(x: Vectors, k: int) -> tuple[Vectors, Integers, Vectors]:
    """Return centroids, the concept of each row, and its similarity to the centroid."""
    import faiss

    kmeans = faiss.Kmeans(
        x.shape[1], k, niter=ROUNDS, spherical=True, seed=1, max_points_per_centroid=PER_CENTROID
    )
    kmeans.train(x)
    similarity, concept = kmeans.index.search(x, 1)
    return kmeans.centroids, concept[:, 0], similarity[:, 0]


def near_duplicates(x: Vectors, members: list[Integers], similarity: Vectors) -> npt.NDArray[np.bool_]:
    """Return which rows are near an earlier one of their concept, those far from the centroid first (as SemDeDup)."""
    duplicate = np.zeros(len(x), bool)
    for rows in members:
        order = rows[np.argsort(similarity[rows], kind="stable")]
        vectors = x[order]
        pairs = np.triu(vectors @ vectors.T, k=1)
        duplicate[order] = pairs.max(axis=0, initial=0) > 1 - EPSILON
    return duplicate


def complexities(centroids: Vectors, similarity: Vectors, members: list[Integers]) -> Floats:
    """Return mean distance to the own centroid times mean distance of the centroid to its nearest ones."""
    intra = np.array([1 - similarity[rows].mean() if len(rows) else 0 for rows in members])
    between = 1 - centroids @ centroids.T
    np.fill_diagonal(between, np.inf)
    near = min(NEIGHBOURS, len(centroids) - 1)
    return intra * np.sort(np.partition(between, near - 1, axis=1)[:, :near]).mean(axis=1)


def budgets(complexity: Floats, sizes: Integers, n_keep: int) -> Integers:
    """Return whole numbers nearest to the softmax shares, within 1 and the size of each concept, `n_keep` together."""
    weight = np.exp((complexity - complexity.max()) / TEMPERATURE)
    weight[sizes == 0] = 0
    target, floor = weight / weight.sum() * n_keep, np.minimum(1, sizes)
    low, high = -float(n_keep), float(n_keep)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(target + middle, floor, sizes).sum() < n_keep else (low, middle)
    exact = np.clip(target + high, floor, sizes)
    whole = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(whole - exact, kind="stable")
    whole[by_remainder[: n_keep - whole.sum()]] += 1
    return whole


def facts(kept: Integers, duplicate: npt.NDArray[np.bool_], similarity: Vectors) -> dict[str, Any]:
    """Return what is compared between the contenders."""
    return {
        "kept": len(kept),
        "near-duplicates": int(duplicate.sum()),
        "planted copies found": round(copies_found(duplicate, FILES), 4),
        "mean similarity to centroid": round(float(similarity.mean()), 4),
    }


def ours(folder: Path) -> dict[str, Any]:
    """Return what came out of our run."""
    import polars as pl

    import curate

    run = curate.open_run(folder / "run")
    rows = (
        run.samples()
        .select("uid", "shard", "row", "key")
        .join(run.decisions(), on="uid")
        .sort("shard", "row")
    )
    concepts = run.concepts()
    duplicate = rows["reason"].str.starts_with("near_duplicate").to_numpy()
    return facts(
        rows.filter("keep")["uid"].to_numpy(), duplicate, 1 - rows.select(pl.col("distance")).to_numpy()[:, 0]
    ) | {"concepts": len(concepts)}


def bare(folder: str, rows: int, k: int) -> Iterator[None]:
    """Multiply what the published procedure multiplies."""
    import polars as pl

    rng = np.random.default_rng(0)
    table = pl.read_parquet(Path(folder, "run", "2_concepts", "concepts.parquet"))
    sizes = table["n_assigned"].to_list()
    centroids = rng.standard_normal((k, DIM), dtype=np.float32)
    block = rng.standard_normal((max(16_384, *sizes), DIM), dtype=np.float32)
    yield
    total = ROUNDS * min(rows, PER_CENTROID * k) + rows
    for start in range(0, total, 16_384):
        block[: min(16_384, total - start)] @ centroids.T
    for size in sizes:
        block[:size] @ block[:size].T


def main(given: list[str] | None = None) -> None:
    """Measure one size."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--concepts", type=int)
    parser.add_argument("--set", action="append", default=[], help="further settings, as for curate")
    options = parser.parse_args(given)
    rows, k = SIZES[options.size]
    rows, k = options.rows or rows, options.concepts or k
    settings = [
        f"cluster.concepts={k}",
        "source.uid=id",
        "dedup.mode=reference",
        "select.prefer=hardest",
        "memory=2GB",
    ]
    extra = [word for value in [*settings, *options.set] for word in ("--set", value)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_vectors(folder, rows, DIM, FILES)
        command = [
            *CURATE, "filter", str(folder / "train-*.parquet"), "--vectors", str(folder / "*.npy"), "--out", str(folder / "run"),
            "--method", "density", "--keep", str(KEEP), "--epsilon", str(EPSILON), *extra,
        ]  # fmt: skip
        found = compare(
            f"{rows:,} x {DIM}, k = {k:,}",
            Contender("curate filter", command, fresh=[folder / "run"], facts=partial(ours, folder)),
            [
                Contender(
                    "published procedure",
                    call(__file__, "published", folder=folder, k=k),
                    fresh=[folder / "kept.parquet"],
                    whole=True,
                ),
                Contender("its bare products", call(__file__, "bare", folder=folder, rows=rows, k=k)),
            ],
            options.pairs,
        )
    write("published", [found], options)


if __name__ == "__main__":
    main()
