"""What N rows take: processor seconds, wall time, memory and disk, computed from measured rates.

    python benchmarks/capacity.py              # print the tables for the rates in benchmarks/results/rates.json
    python benchmarks/capacity.py --write      # and put them into docs/capacity.md
    python benchmarks/capacity.py --measure 50000 400000    # measure what can be measured here, into rates.json
    python benchmarks/capacity.py --run 100000000 10000 --dim 16 --rates of-16.json     # one run, of other vectors and rates

What is measured is processor seconds of each stage, `curate run --until STAGE` after the stages before, at two numbers of rows, and once more with
an eighth of the concepts; a rate is a difference, so that what starting costs is left out. Rates of images stay what they were: `benchmarks/embedding.py` measures them.
"""

import argparse
import json
import math
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from synthetic import write_vectors
from timing import CURATE, ROOT, Contender, put_between
from timing.machine import commit, processor
from timing.turns import run

RATES, DOCS = ROOT / "benchmarks" / "results" / "rates.json", ROOT / "docs" / "capacity.md"
ROWS = (10**6, 10**7, 10**8, 10**9)
CORES = (4, 32, 128)
DIM, PER_CENTROID, ROUNDS, KEEP = 512, 256, 25, 0.3
#: How much larger the mean square of the sizes of concepts is than the square of their mean.
UNEVEN = 1.5
#: The share of the report's processor seconds that one process spends while the others wait (12 of 70 for ten million rows).
REPORT_ALONE = 0.2
#: Bytes of a row, from docs/capacity.md.
STORED = {"embeddings": 4 * DIM + 32, "samples": 200, "other tables": 150, "scratch": 150}
IMAGE_BYTES = 50_000
STAGES = ("read", "embed", "cluster", "dedup", "select", "report")


def concepts(rows: int) -> int:
    """Return the number that `cluster.concepts: auto` takes."""
    return min(100_000, round(math.sqrt(rows)))


def work(rows: int, k: int | None = None, dim: int = DIM) -> dict[str, float]:
    """Return how much there is to do of each kind that has a rate. k : by default what `auto` takes."""
    k = k or concepts(rows)
    return {
        "read": rows,
        "fit": 2 * ROUNDS * min(rows, PER_CENTROID * k) * k * dim / 1e9,
        "assignment": 2 * rows * k * dim / 1e9,
        "dedup": dim * UNEVEN * rows * rows / k / 1e9,
        "rows": rows,
        "kept": KEEP * rows,
    }


def seconds(
    rows: int, rate: dict[str, float], *, images: bool, k: int | None = None, dim: int = DIM
) -> dict[str, float]:
    """Return the processor seconds of each step."""
    much = work(rows, k, dim)
    embed = "embed, an image by ViT-B-32 in float32" if images else "embed, a row of vectors you have"
    read = "read, a row with an image of 50 kB" if images else "read, a row of ids"
    return {
        "read": much["read"] * rate[read],
        "embed": much["rows"] * rate[embed],
        "cluster: fit": much["fit"] * rate["cluster, 10^9 flop"],
        "cluster: assignment": much["assignment"] * rate["cluster, 10^9 flop"]
        + rows * rate["cluster, a row"],
        "dedup": much["dedup"] * rate["dedup, 10^9 flop"] + rows * rate["dedup, a row"],
        "score, filter, select": much["rows"] * rate["score, filter and select, a row"],
        "write": much["kept"] * rate["write, a kept row of 50 kB"] if images else 0.0,
        "report": rate["report"] + rows * rate["report, a row"],
    }


def tables(rates: dict[str, object]) -> str:
    """Return what the docs show."""
    rate: dict[str, float] = rates["processor_seconds"]  # type: ignore[assignment]
    lines = [f"Rates: {rates['measured']}.", ""]
    for images in (False, True):
        lines += [f"{'Images, embedded by ViT-B-32 without a GPU' if images else 'Vectors you have'}:", ""]
        lines += ["| step | " + " | ".join(f"{rows:,}" for rows in ROWS) + " |", "|---|" + "---|" * len(ROWS)]
        found = [seconds(rows, rate, images=images) for rows in ROWS]
        lines += [f"| {step} | " + " | ".join(_time(one[step]) for one in found) + " |" for step in found[0]]
        sums = [sum(one.values()) for one in found]
        lines.append("| **all, processor time** | " + " | ".join(f"**{_time(one)}**" for one in sums) + " |")
        for cores in CORES:
            walls = [wall(one, cores) for one in found]
            lines.append(f"| wall on {cores} cores | " + " | ".join(map(_time, walls)) + " |")
        lines.append(
            "| disk, without the source | " + " | ".join(_bytes(disk(n, images)) for n in ROWS) + " |"
        )
        lines += ["| memory of the fit | " + " | ".join(_bytes(memory(rows)) for rows in ROWS) + " |", ""]
    return "\n".join(lines)


def wall(steps: dict[str, float], cores: int) -> float:
    """Return seconds on the clock: all but a part of the report spreads over the cores; nothing is lost between stages."""
    alone = REPORT_ALONE * steps["report"]
    return (sum(steps.values()) - alone) / cores + alone


def disk(rows: int, images: bool) -> float:
    """Return the bytes of a run folder."""
    return rows * (sum(STORED.values()) + images * KEEP * IMAGE_BYTES)


def memory(rows: int) -> float:
    """Return the bytes of the sample that centroids are fitted on, which one machine holds."""
    k = concepts(rows)
    return 4 * DIM * (min(rows, PER_CENTROID * k) + k)


def _time(value: float) -> str:
    for name, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if value >= 2 * size:
            return f"{value / size:,.0f} {name}" if value >= 10 * size else f"{value / size:.1f} {name}"
    return f"{value:.1f} s"


def _bytes(value: float) -> str:
    for name, size in (("TB", 1e12), ("GB", 1e9)):
        if value >= size:
            return f"{value / size:.1f} {name}"
    return f"{value / 1e6:.0f} MB"


def of_one_run(rates: dict[str, object], rows: int, k: int | None, dim: int) -> str:
    """Return what one run of own vectors takes, step by step, to be held against `benchmarks/scale.py`."""
    rate: dict[str, float] = rates["processor_seconds"]  # type: ignore[assignment]
    found = seconds(rows, rate, images=False, k=k, dim=dim)
    lines = [f"{step}: {value:,.1f} s" for step, value in found.items()]
    return "\n".join(
        [*lines, f"all: {sum(found.values()):,.1f} s of processor, {_time(wall(found, 2))} on two cores"]
    )


def measure(small: int, large: int, dim: int = DIM) -> dict[str, float]:
    """Return the rates of a run on vectors: from two numbers of rows, and from an eighth of the concepts.

    Fewer concepts are less to fit and more to compare, with as many rows: that tells what a row costs from what its products do.
    """
    k = max(16, concepts(large))
    few, many, coarse = (
        _measured(rows, concepts_of, dim)
        for rows, concepts_of in ((small, max(2, concepts(small))), (large, k), (large, k // 8))
    )
    rows = large - small
    cluster = _slope(many, coarse, "cluster", "products of cluster")
    dedup = _slope(coarse, many, "dedup", "products of dedup")

    def of_a_row(stage: str, product: float = 0.0, kind: str = "") -> float:
        more = many[stage] - few[stage] - (product * (many[kind] - few[kind]) if kind else 0.0)
        return max(more, 0.0) / rows

    return {
        "read, a row of ids": of_a_row("read"),
        "embed, a row of vectors you have": of_a_row("embed"),
        "cluster, 10^9 flop": cluster,
        "cluster, a row": of_a_row("cluster", cluster, "products of cluster"),
        "dedup, 10^9 flop": dedup,
        "dedup, a row": of_a_row("dedup", dedup, "products of dedup"),
        "score, filter and select, a row": of_a_row("select"),
        "report": few["report"],
        "report, a row": of_a_row("report"),
    }


def _slope(more: dict[str, float], less: dict[str, float], stage: str, kind: str) -> float:
    return max(more[stage] - less[stage], 0.0) / (more[kind] - less[kind])


def _measured(rows: int, k: int, dim: int) -> dict[str, float]:
    """Return the processor seconds of each stage of a run, and the products of two of them in 10^9 flop."""
    with tempfile.TemporaryDirectory() as scratch:
        write_vectors(Path(scratch), rows, dim, 4)
        print(f"{rows:,} rows, {k:,} concepts", flush=True)
        found = stages(Path(scratch), k)
        sizes = pl.read_parquet(Path(scratch, "run", "2_concepts", "concepts.parquet"))["n_assigned"]
    much = work(rows, k, dim)
    squares = float((sizes.cast(pl.Float64) ** 2).sum())
    return found | {
        "products of cluster": much["fit"] + much["assignment"], "products of dedup": dim * squares / 1e9,
    }  # fmt: skip


def stages(folder: Path, k: int) -> dict[str, float]:
    """Return the processor seconds of each stage of one run, and what starting costs with each."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps(recipe_of(folder, k)))
    found = {}
    for stage in STAGES:
        turn = run(Contender(stage, [*CURATE, "run", str(recipe), "--until", stage]))
        print(f"   {stage}: {turn.processor:.2f} s of processor, {turn.memory / 1e6:,.0f} MB", flush=True)
        found[stage] = turn.processor
    return found


def recipe_of(folder: Path, k: int) -> dict[str, object]:
    """Return the recipe that is measured."""
    return {
        "run": str(folder / "run"),
        "source": {"path": str(folder / "*.parquet"), "uid": "id"},
        "embed": {"files": str(folder / "*.npy")},
        "cluster": {"concepts": k},
        "dedup": {"epsilon": 0.05},
        "select": {"method": "density", "keep": KEEP},
        "memory": "2GB",
    }


def main(given: list[str] | None = None) -> None:
    """Print, write or measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/capacity.md")
    parser.add_argument(
        "--measure", type=int, nargs=2, metavar=("SMALL", "LARGE"), help="such as 50000 400000"
    )
    parser.add_argument(
        "--rates", type=Path, default=RATES, help="where rates are read, and written if measured"
    )
    parser.add_argument("--dim", type=int, default=DIM, help="numbers of a vector")
    parser.add_argument(
        "--run", type=int, nargs=2, metavar=("ROWS", "K"), help="what this one run takes, and no tables"
    )
    options = parser.parse_args(given)
    rates = json.loads((options.rates if options.rates.exists() else RATES).read_text())
    if options.measure:
        small, large = options.measure
        rates["processor_seconds"] |= measure(small, large, options.dim)
        rates["measured"] = (
            f"{datetime.now(UTC):%Y-%m-%d}, commit {commit()}, {processor()['processor']}, processor seconds between {small:,} and "
            f"{large:,} x {options.dim}; those of images as before"
        )
        options.rates.write_text(json.dumps(rates, indent=1) + "\n")
    if options.run:
        print(of_one_run(rates, *options.run, options.dim))
        return
    found = tables(rates)
    print(found)
    if options.write:
        put_between(DOCS, "capacity", found)


if __name__ == "__main__":
    main()
