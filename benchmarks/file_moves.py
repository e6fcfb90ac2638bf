"""How often a small run moves from one file of `curate` to another: what a reader has to follow.

    python benchmarks/file_moves.py [--rows 80] [--top 15]

A move is a call whose caller is in another file of the package than what it calls; both are counted by what is really
called (`sys.setprofile`), in one process, for a run with vectors of its own.
"""

import argparse
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import polars as pl

import curate

PACKAGE = str(Path(curate.__file__).parent)


def recipe(folder: Path, rows: int) -> dict[str, Any]:
    """Write `rows` samples in eight groups, with their vectors, into two shards; return the settings of a run."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(8, 16))[np.arange(rows) % 8] + 0.2 * random.normal(size=(rows, 16))
    table = pl.DataFrame(
        {
            "uid": [f"s{row:05d}" for row in range(rows)],
            "caption": [f"a picture of thing {row}" for row in range(rows)],
            "vector": pl.Series(vectors.astype(np.float32).tolist(), dtype=pl.List(pl.Float32)),
        }
    )
    (folder / "in").mkdir()
    for shard in range(2):
        table[shard * rows // 2 : (shard + 1) * rows // 2].write_parquet(folder / "in" / f"{shard}.parquet")
    return {
        "run": str(folder / "run"),
        "source": {"path": str(folder / "in" / "*.parquet"), "uid": "uid"},
        "embed": {"column": "vector"},
        "cluster": {"concepts": 8},
        "dedup": {"epsilon": 0.01},
        "select": {"keep": 0.5},
        "workers": 1,
    }


def count_moves(work: Callable[[], object]) -> tuple[Counter[tuple[str, str]], set[str]]:
    """Return how often each file called each other one while `work` ran, and all files that were entered."""
    moves: Counter[tuple[str, str]] = Counter()
    entered: set[str] = set()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(PACKAGE):
            return
        callee = frame.f_code.co_filename
        entered.add(callee)
        caller = frame.f_back.f_code.co_filename if frame.f_back else ""
        if caller.startswith(PACKAGE) and caller != callee:
            moves[caller, callee] += 1

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return moves, entered


def main() -> None:
    """Count the moves of one run and print them, with the files that are moved to most."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=80)
    parser.add_argument("--top", type=int, default=15)
    given = parser.parse_args()
    logging.disable(logging.INFO)
    from curate.pipeline import runner
    from curate.recipe.loading import parse_recipe

    with tempfile.TemporaryDirectory() as folder:
        settings = parse_recipe(recipe(Path(folder), given.rows))
        moves, entered = count_moves(lambda: runner.run(settings))
    into: Counter[str] = Counter()
    for (_, callee), count in moves.items():
        into[callee] += count
    lines = [f"{moves.total():,} moves between {len(entered)} files"]
    lines += [
        f"{count:6,}  into {Path(name).relative_to(PACKAGE)}" for name, count in into.most_common(given.top)
    ]
    lines += [
        f"{count:6,}  {Path(a).relative_to(PACKAGE)} -> {Path(b).relative_to(PACKAGE)}"
        for (a, b), count in moves.most_common(given.top)
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
