"""Near-duplicates: `curate` against imagededup and fastdup (images), SemHash (texts as vectors), and FAISS (equal concepts).

Images: the sample that ships, 2,000 pictures of which 180 are exact copies, or crops and changes of light; whole processes, from
files to a list of what goes. `curate filter FOLDER --dedup` embeds with the tiny CLIP, which is what the others' own
hashes and networks are to them, and finds epsilon by itself, on copies that it makes. Each of the others has a threshold at which it finds
about as many copies as ours.

Texts: vectors of which 2 % are near-copies of others, given to both, because SemHash's own static embeddings must be
downloaded: `curate filter --vectors` against `SemHash.from_embeddings(...).self_deduplicate`, whole processes.

Concepts: vectors in equal concepts, in memory: `find_duplicates` against FAISS `range_search` inside each concept; the
rows that have an earlier one above the threshold must be the same. All in one thread, as each worker of a run has.

imagededup, SemHash and fastdup live in environments of their own: `python benchmarks/peers` makes them.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from peers import interpreter
from synthetic import write_vectors
from timing import CURATE, ROOT, Comparison, Contender, arguments, call, compare, write

PEERS = Path(__file__).with_name("peers")
ONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
EPSILON, PER_CONCEPT, TEXT_DIM = 0.05, 1_000, 256
#: Pictures; texts; vectors in concepts of 1,000.
SIZES = {"toy": (100, 1_000, 2_000), "short": (2_000, 50_000, 50_000), "long": (2_000, 500_000, 500_000)}
#: How many bits of imagededup's hash may differ, and fastdup's similarity.
HASH_DISTANCE, FASTDUP_SIMILARITY = 10, 0.95


def peer(name: str, package: str, function: str, *, script: str, **given: Any) -> Contender:  # noqa: ANN401
    """Return a contender of another environment, or one that says why it cannot run."""
    python, missing = interpreter(package)
    command = missing or call(PEERS / script, function, python=python, **given)
    return Contender(name, command, whole=True)


def images(options: argparse.Namespace, n: int, scratch: Path) -> Comparison:
    """Compare tools that find copies of images in a folder."""
    folder = scratch / "images"
    folder.mkdir()
    table = pq.read_table(ROOT / "data" / "sample").filter(pa.compute.field("broken") == False)
    rows = table.to_pylist()
    of = {row["id"]: row["near_duplicate_of"] or row["exact_duplicate_of"] for row in rows}
    # Copies and what they are copies of come first, so that a small selection has some.
    originals = set(of.values()) - {None}
    rows.sort(key=lambda row: of[row["id"]] is None and row["id"] not in originals)
    family = {}
    for row in rows[:n]:
        root = row["id"]
        while of[root]:
            root = of[root]
        stored = row["image"]["bytes"]
        name = row["id"] + (".png" if stored.startswith(b"\x89PNG") else ".jpg")
        (folder / name).write_bytes(stored)
        family[name] = root
    Path(f"{folder}.json").write_text(json.dumps(family))
    command = [
        *CURATE, "filter", str(folder), "--model", "tiny", "--dedup", "--out", str(scratch / "run"),
    ]  # fmt: skip
    ours = Contender(
        "curate filter --dedup", command, fresh=[scratch / "run"], facts=partial(_judged, folder, scratch)
    )
    given = {"folder": str(folder)}
    others = [
        peer("imagededup, PHash", "imagededup", "judged", script="with_imagededup.py", distance=HASH_DISTANCE, **given),
        peer("fastdup", "fastdup", "judged", script="with_fastdup.py", similarity=FASTDUP_SIMILARITY, **given),
    ]  # fmt: skip
    return compare(f"{len(family):,} images", ours, others, options.pairs)


def _judged(folder: Path, scratch: Path) -> dict[str, float]:
    from peers.truth import judge

    import curate

    run = curate.open_run(scratch / "run")
    rows = run.samples().select("uid", "key", "shard", "row").join(run.decisions(), on="uid")
    kept = set(rows.filter("keep")["key"].to_list())
    return judge(str(folder), [path.name for path in folder.iterdir() if path.name not in kept])


def texts(options: argparse.Namespace, n: int, scratch: Path) -> Comparison:
    """Compare tools that find near-copies among vectors of texts."""
    write_vectors(scratch, n, TEXT_DIM, 1)
    (scratch / "vectors-0.npy").rename(scratch / "vectors.npy")
    copies = int(n * 0.02)
    (scratch / "pairs.json").write_text(json.dumps([[row, n - copies + row] for row in range(copies)]))
    command = [
        *CURATE, "filter", str(scratch / "train-*.parquet"), "--vectors", str(scratch / "vectors.npy"), "--out",
        str(scratch / "run"), "--epsilon", str(EPSILON), "--set", "source.uid=id", "--set", "memory=2GB",
    ]  # fmt: skip
    ours = Contender(
        "curate filter --epsilon", command, fresh=[scratch / "run"], facts=partial(_pairs_found, scratch)
    )
    other = peer(
        "SemHash", "semhash", "judged", script="with_semhash.py", folder=str(scratch), similarity=1 - EPSILON
    )
    return compare(f"{n:,} texts x {TEXT_DIM}", ours, [other], options.pairs)


def _pairs_found(scratch: Path) -> dict[str, float]:
    import curate

    run = curate.open_run(scratch / "run")
    lost = run.duplicates().drop_nulls("duplicate_of")["uid"].to_list()
    dropped = {int(uid.partition("-")[2]) for uid in lost}
    pairs = json.loads((scratch / "pairs.json").read_text())
    there = sum(a in dropped or b in dropped for a, b in pairs)
    return {"dropped": len(dropped), "planted copies found": round(there / len(pairs), 4)}


def grouped(folder: str) -> list[np.ndarray]:
    """Return the vectors of each concept, float32 of unit length."""
    x = np.load(Path(folder, "vectors-0.npy")).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    concept = np.load(Path(folder, "concepts.npy"))
    order = np.argsort(concept, kind="stable")
    return np.split(x[order], np.cumsum(np.bincount(concept))[:-1])


def inside_with_curate(folder: str) -> Iterator[None]:
    """Compare every pair of each concept with our own code."""
    from curate.deduplication.semantic import find_duplicates, threshold_of

    groups, threshold = grouped(folder), threshold_of(EPSILON)
    yield
    lost = [~find_duplicates(vectors, threshold=threshold, mode="reference").keep for vectors in groups]
    return _lost(folder, "curate", lost)


def inside_with_faiss(folder: str) -> Iterator[None]:
    """Search each concept for all pairs above the threshold, and drop rows with an earlier one."""
    import faiss

    groups = grouped(folder)
    yield
    lost = []
    for vectors in groups:
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        limits, _, others = index.range_search(vectors, 1 - EPSILON)
        rows = np.repeat(np.arange(len(vectors)), np.diff(limits.astype(np.int64)))
        gone = np.zeros(len(vectors), bool)
        gone[rows[others < rows]] = True
        lost.append(gone)
    return _lost(folder, "faiss", lost)


def inside_with_numpy(folder: str) -> Iterator[None]:
    """Multiply each concept with itself, as SemDeDup's own code does."""
    groups = grouped(folder)
    yield
    lost = [np.triu(one @ one.T, k=1).max(axis=0, initial=0) > 1 - EPSILON for one in groups]
    return _lost(folder, "numpy", lost)


def _lost(folder: str, name: str, lost: list[np.ndarray]) -> dict[str, int]:
    everything = np.concatenate(lost)
    np.save(Path(folder, f"lost-{name}.npy"), everything)
    return {"near-duplicates": int(everything.sum())}


def concepts(options: argparse.Namespace, n: int, scratch: Path) -> Comparison:
    """Compare ways to find all pairs inside concepts, in memory."""
    from curate.clustering.kmeans import assign, fit

    write_vectors(scratch, n, 512, 1)
    x = np.load(scratch / "vectors-0.npy").astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    k = max(2, n // PER_CONCEPT)
    np.save(scratch / "concepts.npy", assign(x, fit(x[: 64 * k], k, seed=0, iterations=5).centroids)[0])
    ways = {
        name: call(__file__, f"inside_with_{name}", folder=scratch) for name in ("curate", "faiss", "numpy")
    }
    found = compare(
        f"pairs inside {k:,} concepts of {n:,} x 512",
        Contender("curate find_duplicates", ways["curate"], environment=ONE),
        [
            Contender("FAISS range_search", ways["faiss"], environment=ONE),
            Contender("NumPy, SemDeDup's way", ways["numpy"], environment=ONE),
        ],
        options.pairs,
    )
    first, *rest = [
        np.load(scratch / f"lost-{name}.npy") for name in ways if (scratch / f"lost-{name}.npy").exists()
    ]
    for other in rest:
        if (first != other).mean() > 1e-4:  # a pair at the very threshold may fall on either side
            raise SystemExit("the contenders dropped different rows")
    return found


def main(given: list[str] | None = None) -> None:
    """Measure all three."""
    parser = arguments(__doc__)
    kinds = {"images": images, "texts": texts, "concepts": concepts}
    parser.add_argument("--only", nargs="+", choices=kinds, default=list(kinds))
    options = parser.parse_args(given)
    found = []
    for (kind, measure), n in zip(kinds.items(), SIZES[options.size], strict=True):
        if kind in options.only:
            with tempfile.TemporaryDirectory() as scratch:
                found.append(measure(options, n, Path(scratch)))
    write("duplicates", found, options)


if __name__ == "__main__":
    main()
