"""Embeddings to decisions against the bare matrix products: time at 1M and 100k, and anonymous memory.

Makes N x 512 float16 vectors in ten .npy files, runs the pipeline on them (k = 1,000, dedup on, keep
30 %, memory 2GB), and runs the same matrix products alone: k-means training on its sample (25 rounds of
sample x centroids), assignment (N x centroids), and similarities inside concepts. Prints both times, their ratio,
and the peak of the private memory of all processes. `--rows 100000` for a smaller one.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

DIM, CONCEPTS, FILES = 512, 1000, 10
SAMPLE, ROUNDS = 256 * CONCEPTS, 25
RUN = "from curate.cli import main; main()"


def make(folder: Path, rows: int) -> None:
    """Write vectors around 3,000 directions of Zipf weight, 2 % of them near-copies, and a table of ids."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((3000, DIM), dtype=np.float32)
    weight = 1 / np.arange(1, 3001) ** 0.7
    spread = rng.uniform(0.3, 1.2, 3000).astype(np.float32)
    per_file = rows // FILES
    for number in range(FILES):
        which = rng.choice(3000, per_file, p=weight / weight.sum())
        block = centres[which] + spread[which, None] * rng.standard_normal((per_file, DIM), dtype=np.float32)
        copies = per_file // 50
        block[-copies:] = block[:copies] + 0.02 * rng.standard_normal((copies, DIM), dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        np.save(folder / f"vectors-{number}.npy", block.astype(np.float16))
        ids = [f"{number}-{row:07d}" for row in range(per_file)]
        pq.write_table(pa.table({"id": ids}), folder / f"train-{number:05d}-of-{FILES:05d}.parquet")


def private_memory(process: psutil.Process) -> int:
    """Return the anonymous memory of a process and its children."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            status = Path(f"/proc/{one.pid}/status").read_text()
            total += 1024 * next(
                int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")
            )
        except (OSError, StopIteration, psutil.Error):
            continue
    return total


def run_pipeline(folder: Path, rows: int, extra: list[str]) -> tuple[float, int]:
    """Run `curate filter` in a new process; return seconds and the peak of private memory."""
    command = [
        sys.executable, "-c", RUN, "filter", str(folder / "*.parquet"), "--vectors", str(folder / "*.npy"),
        "--out", str(folder / "run"), "--keep", "0.3", "--epsilon", "0.05", "--set", "source.uid=id",
        "--set", f"cluster.concepts={CONCEPTS}", "--set", "memory=2GB", *extra,
    ]  # fmt: skip
    started = time.monotonic()
    process = subprocess.Popen(command)
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, private_memory(psutil.Process(process.pid)))
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    watcher.join()
    if code != 0:
        raise SystemExit(f"the run failed with {code}")
    return time.monotonic() - started, peak


def bare_products(folder: Path, rows: int) -> dict[str, float]:
    """Return the seconds of the same matrix products alone, in float32, block by block."""
    rng = np.random.default_rng(1)
    sample_rows = min(rows, SAMPLE)
    centroids = rng.standard_normal((CONCEPTS, DIM), dtype=np.float32)
    block = rng.standard_normal((16_384, DIM), dtype=np.float32)
    seconds = {}

    def products(total: int) -> float:
        started = time.monotonic()
        for start in range(0, total, len(block)):
            block[: min(len(block), total - start)] @ centroids.T
        return time.monotonic() - started

    one_round = [products(sample_rows) for _ in range(3)]
    seconds["k-means training"] = float(np.median(one_round)) * (ROUNDS + 1)
    seconds["assignment"] = products(rows)
    import polars as pl

    sizes = pl.read_parquet(folder / "run" / "2_concepts" / "concepts.parquet")["n_assigned"].to_list()
    started = time.monotonic()
    for size in sizes:
        # Two different operands: NumPy would halve the work of a product with its own transpose.
        members = rng.standard_normal((size, DIM), dtype=np.float32)
        other = members.copy()
        before = time.monotonic()
        members @ other.T
        seconds["similarities"] = seconds.get("similarities", 0.0) + time.monotonic() - before
    del started
    return seconds


def main() -> None:
    """Measure one size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--set", action="append", default=[], help="further settings, as for curate")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make(folder, options.rows)
        extra = [word for value in options.set for word in ("--set", value)]
        seconds, peak = run_pipeline(folder, options.rows, extra)
        bare = bare_products(folder, options.rows)
        times = (folder / "run" / ".work" / "times.json").read_text()
    print(times)
    print(f"{options.rows:,} rows: {seconds:.1f} s, private memory {peak / 1e9:.2f} GB")
    print("bare products: " + ", ".join(f"{name} {value:.1f} s" for name, value in bare.items()))
    print(f"ratio {seconds / sum(bare.values()):.2f}")


if __name__ == "__main__":
    main()
