"""How long `curate diff` and `curate verify` take to match the rows of two runs, and the memory they hold.

    python benchmarks/diff.py [--rows 2000000] [--memory 1500000000]

The runs are made up: decisions alone, in parts of 131,072 rows, half of which changed. `verify` is measured by what it
asks about all rows together. Each is measured in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from curate import schema
from curate.analysis.diff import diff_runs
from curate.io import storage
from curate.runs.folder import RunFolder

PART_ROWS = 131_072


def make_run(folder: Path, rows: int, seed: int, memory: int) -> None:
    """Write a run of `rows` rows in parts; two seeds share all but a tenth of their uids."""
    run, random = RunFolder(folder), np.random.default_rng(seed)
    run.decisions.mkdir(parents=True)
    run.recipe.write_text(json.dumps({"run": str(folder), "memory": memory, "score": [], "dedup": {}}))
    for start in range(0, rows, PART_ROWS):
        n = min(PART_ROWS, rows - start)
        ids = np.arange(start, start + n) + seed * (rows // 10)
        keep = random.random(n) < 0.5
        given = {
            "uid": pl.Series([f"{one * 2654435761 % 2**61:032x}" for one in ids.tolist()]),
            "occurrence": pl.zeros(n, pl.Int32, eager=True),
            "keep": keep,
            "reason": np.where(keep, "kept", "over_budget"),
            "concept": random.integers(0, 100, n).astype(np.int32),
            "weight": keep.astype(np.float32),
        }
        frame = pl.DataFrame(given).with_columns(
            pl.lit(None).alias(name) for name in schema.DECISIONS.names if name not in given
        )
        table = frame.select(schema.DECISIONS.names).to_arrow().cast(schema.DECISIONS)
        storage.write_parquet(run.part(run.decisions, f"{start:09d}"), table, schema.DECISIONS, "made up")
    run.mark(run.decisions, "made up", {})


def main() -> None:
    """Make two runs, compare them, and print seconds and the most memory held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--memory", type=int, default=1_500_000_000)
    parser.add_argument("--measured", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measured:
        began, folders = time.perf_counter(), [Path(one) for one in given.measured]
        found = diff_runs(*folders, out=folders[0].parent / "changed.parquet")
        seconds, processor = time.perf_counter() - began, time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        sys.stdout.write(
            f"{found['rows']}: {seconds:.1f} s, {processor:.1f} s of processor, {peak / 1e6:,.0f} MB\n"
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder, name) for name in "ab"]
        for seed, place in enumerate(places):
            make_run(place, given.rows, seed, given.memory)
        subprocess.run([sys.executable, __file__, "--measured", *map(str, places)], check=True)


if __name__ == "__main__":
    main()
