"""What the subsets that curate keeps are worth: one command, on pools with known faults, against random draws.

`python benchmarks/quality.py --data ../shared/data --out runs/quality` (about three hours on two cores; `--fast` takes
minutes). A cell is one subset of one pool, judged by one model trained on it; cells that are in `cells.jsonl` of the
folder are not repeated; a new folder begins with those measured before, in `benchmarks/cells` (`--fresh`: with none).
`--table` prints the tables of what is there, `--plots` draws them.

Each pool and share has ten random draws, one more as a placebo, all recipes, and what the truth would give. A star
marks a difference to the mean of the draws beyond t x sd x sqrt(1 + 1 / draws), t of 95 % for the draws there are.
"""

import argparse
import json
import multiprocessing
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # one worker per core

import numpy as np
from subsets import judges, methods, pools, runs, tables, verdict

DRAWS = 10
PLACEBO = 999
CELLS = Path(__file__).resolve().parent / "cells"
HEAD_SHARES = (0.1, 0.2, 0.3, 0.5, 0.7)
PIXEL_SHARES = (0.1, 0.3)
PIXEL_POOLS = ("clean", "noise 20 %", "human-like 20 %", "copies 30 %", "tail 100:1", "all three")
PIXEL_RECIPES = (
    "random",
    "auto",
    "noise out (auto), then random",
    "floor half, then random",
    "density, prefer hardest",
    "density, prefer random",
    "dual",
    "dual, floor half",
)
FAST_POOLS = ("noise 20 %", "tail 100:1", "emoji")


@dataclass(frozen=True)
class Job:
    """All cells of one pool and one judge."""

    pool: str
    seed: int
    judge: str
    shares: tuple[float, ...]
    draws: int
    data: Path
    out: Path
    recipes: tuple[str, ...] | None = None


def jobs(options: argparse.Namespace) -> list[Job]:
    """Return what is to do, the long ones first."""
    names = FAST_POOLS if options.fast else tuple(pools.POOLS)
    seeds = tuple(options.seeds) if options.seeds else (0,) if options.fast else (0, 1)
    pixel_seeds = tuple(options.seeds) if options.seeds else (0, 1, 2)
    chosen = []
    if not options.fast:
        chosen = [
            Job(name, seed, "pixels", PIXEL_SHARES, 5, options.data, options.out)
            for seed in pixel_seeds for name in PIXEL_POOLS
        ]  # fmt: skip
    shares = tuple(options.shares or ((0.1, 0.3) if options.fast else HEAD_SHARES))
    chosen += [
        Job(name, seed, "pairs" if name.startswith("emoji") else "heads", shares, options.draws, options.data, options.out)
        for seed in seeds for name in names
    ]  # fmt: skip
    recipes = None if options.recipes is None else tuple(options.recipes)
    return [
        replace(job, recipes=recipes)
        for job in chosen
        if (options.only is None or job.pool in options.only)
        and (options.judges is None or job.judge in options.judges)
    ]


def subsets(
    job: Job, pool: pools.Pool, run: runs.PoolRun, share: float, done: set[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the subsets of one share that are not judged yet, by name."""
    n_keep = round(share * len(pool))
    for draw in range(job.draws + 1):
        name = "placebo" if draw == job.draws else f"draw {draw}"
        # The number of the placebo is its own, so that more draws later do not repeat it.
        number = PLACEBO if draw == job.draws else draw
        rng = np.random.default_rng([job.seed, 9, round(share * 1000), number])
        if name not in done:
            yield name, np.sort(rng.choice(len(pool), n_keep, replace=False))
    recipes = methods.by_labels() if pool.labels else methods.by_pairs()
    for name, settings in recipes.items():
        wanted = PIXEL_RECIPES if job.judge == "pixels" else job.recipes
        if name not in done and (wanted is None or name in wanted):
            yield name, run.keep(methods.run_name(settings), settings, share)
    for kind in methods.ORACLES:
        name = f"oracle: {kind}"
        if name not in done and (rows := methods.oracle(pool, kind, share, job.seed)) is not None:
            yield name, rows


def work(job: Job) -> str:
    """Judge all cells of a job that are not there yet; return what was done."""
    started = time.monotonic()
    cells = job.out / "cells" / f"{job.judge}-{re.sub('[^a-z0-9]+', '_', job.pool)}-{job.seed}.jsonl"
    cells.parent.mkdir(parents=True, exist_ok=True)
    before = tables.read(cells)
    pool = pools.make(job.pool, job.seed, job.data)
    run = runs.PoolRun(pool, job.out / "pools" / f"{job.pool}-{job.seed}".replace(" ", "_"))
    run.write()
    run.keep("run", methods.by_pairs()["random"], 0.5)
    judge = judges.judge(job.judge, pool, run, job.out)
    made = 0
    with cells.open("a") as stream:
        whole = [("all rows", np.arange(len(pool)))] if not before else []
        for share in (1.0, *job.shares):
            done = {cell["name"] for cell in before if cell["share"] == share}
            if share == 1.0:
                found = iter([] if done else whole)
            else:
                found = subsets(job, pool, run, share, done)
            for name, rows in found:
                cell = {
                    "pool": job.pool, "seed": job.seed, "judge": job.judge, "share": share, "name": name,
                    "rows": len(rows), "wrong": float(pool.wrong[rows].mean()) if len(rows) else 0.0,
                    **judge.score(rows),
                }  # fmt: skip
                stream.write(json.dumps(cell) + "\n")
                stream.flush()
                made += 1
    return f"{job.judge} {job.pool} {job.seed}: {made} cells, {time.monotonic() - started:.0f} s"


def main() -> None:
    """Judge what is not judged yet, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--fast", action="store_true", help="three pools, two shares, heads only")
    parser.add_argument("--only", nargs="+", metavar="POOL", help="some pools")
    parser.add_argument("--recipes", nargs="+", metavar="NAME", help="some recipes")
    parser.add_argument("--judges", nargs="+", choices=("heads", "pixels", "pairs"), help="some judges")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="some pools of each kind")
    parser.add_argument(
        "--shares", nargs="+", type=float, metavar="SHARE", help="some shares, for heads and pairs"
    )
    parser.add_argument("--draws", type=int, default=DRAWS, help="random draws, for heads and pairs")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--table", action="store_true", help="only print the tables of what is there")
    parser.add_argument(
        "--results", type=Path, help="a page whose tables are to be these, such as RESULTS.md"
    )
    parser.add_argument("--plots", type=Path, help="a folder for a picture of each pool")
    parser.add_argument("--fresh", action="store_true", help="forget what is there")
    options = parser.parse_args()
    options.out = options.out.resolve()
    if options.fresh:
        shutil.rmtree(options.out, ignore_errors=True)
    elif not (options.out / "cells").exists():
        shutil.copytree(CELLS, options.out / "cells")
    if not options.table:
        if not (options.data / "fashion_mnist").is_dir():
            parser.error(f"{options.data} has no fashion_mnist; --data names the folder of the data")
        with multiprocessing.get_context("spawn").Pool(options.workers, maxtasksperchild=1) as workers:
            for line in workers.imap_unordered(work, jobs(options)):
                print(line, file=sys.stderr, flush=True)
    found = [cell for path in sorted((options.out / "cells").glob("*.jsonl")) for cell in tables.read(path)]
    print(tables.markdown(found))
    print(verdict.markdown(found))
    if options.results:
        tables.into(options.results, found, verdict.markdown(found) + "\n")
    if options.plots:
        tables.plots(found, options.plots)


if __name__ == "__main__":
    main()
