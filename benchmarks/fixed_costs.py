"""What a run costs whatever its size: processor seconds of small runs, beside those of importing what they need.

    python benchmarks/fixed_costs.py [--rows 90] [--times 3] [--beside FOLDER]

Measured in turn, so that a busy machine slows all alike: `import torch, open_clip`; `import polars, pyarrow.parquet,
faiss, typer`; a run with the model `tiny`; one with vectors of its own; and each run once more, with nothing to do.
Seconds are those of all processes of a command (user and system), the least of some rounds. --beside : another
checkout of curate, which does the same in turn with this one.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import yaml

HERE = Path(__file__).resolve().parent.parent
BARE_MODEL = "import torch; from curate.embedding.torchvision_guard import import_open_clip as load; load()"
BARE_TABLES = "import polars, pyarrow.parquet, faiss, typer"
#: What each measurement is a multiple of, or lies above.
BASES = {
    "tiny": "bare model", "own vectors": "bare tables", "tiny, again": "bare tables",
    "own vectors, again": "bare tables",
}  # fmt: skip


def seconds_of(command: Sequence[str], checkout: Path) -> float:
    """Return the processor seconds of a command and of all processes it started and waited for."""
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    before = os.times()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    return (after.children_user + after.children_system) - (before.children_user + before.children_system)


def recipes(folder: Path, rows: int) -> dict[str, Path]:
    """Write the data of both runs, in two shards each, and their recipes; return these by name."""
    sample = pl.concat(
        [pl.read_parquet(file) for file in sorted((HERE / "data" / "sample").glob("*.parquet"))]
    )
    pictures = sample.select("id", "image", "caption").head(rows)
    random = np.random.default_rng(0)
    vectors = random.normal(size=(8, 16))[np.arange(rows) % 8] + 0.2 * random.normal(size=(rows, 16))
    own = pl.DataFrame(
        {
            "uid": [f"s{row:05d}" for row in range(rows)],
            "caption": [f"a picture of thing {row}" for row in range(rows)],
            "vector": pl.Series(vectors.astype(np.float32).tolist(), dtype=pl.List(pl.Float32)),
        }
    )
    embeds = {"tiny": (pictures, {"model": "tiny"}), "own vectors": (own, {"column": "vector"})}
    found = {}
    for name, (table, embed) in embeds.items():
        place = folder / name.replace(" ", "_")
        (place / "in").mkdir(parents=True)
        for shard in range(2):
            table[shard * rows // 2 : (shard + 1) * rows // 2].write_parquet(
                place / "in" / f"{shard}.parquet"
            )
        settings = {
            "run": str(place / "run"), "source": {"path": str(place / "in" / "*.parquet")}, "embed": embed,
            "cluster": {"concepts": 8}, "select": {"keep": 0.5},
        }  # fmt: skip
        found[name] = place / "recipe.yaml"
        found[name].write_text(yaml.safe_dump(settings))
    return found


def measure(checkout: Path, found: Mapping[str, Path], names: Sequence[str]) -> dict[str, float]:
    """Return the processor seconds of one round: bare imports, then each run and the same run again."""
    took = {
        "bare tables": seconds_of([sys.executable, "-c", BARE_TABLES], checkout),
        **(
            {"bare model": seconds_of([sys.executable, "-c", BARE_MODEL], checkout)}
            if "tiny" in names
            else {}
        ),
    }
    for name in names:
        shutil.rmtree(found[name].parent / "run", ignore_errors=True)
        command = [sys.executable, "-m", "curate", "run", str(found[name]), "--quiet"]
        took[name] = seconds_of(command, checkout)
        took[f"{name}, again"] = seconds_of(command, checkout)
    return took


def least(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the least seconds of each measurement.

    >>> least([{"tiny": 3.0}, {"tiny": 2.0}])
    {'tiny': 2.0}
    """
    return {name: min(one[name] for one in rounds) for name in rounds[0]}


def lines(took: Mapping[str, float]) -> list[str]:
    """Return a line per measurement: seconds, how many times the bare imports, how many more.

    >>> lines({"bare tables": 0.5, "own vectors": 1.25})
    ['bare tables            0.50', 'own vectors            1.25  2.5 x  +0.75 s']
    """
    shown = []
    for name, seconds in took.items():
        line = f"{name:20}  {seconds:5.2f}"
        if name in BASES:
            base = took[BASES[name]]
            line += f"  {seconds / base:.1f} x  +{seconds - base:.2f} s"
        shown.append(line)
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure in turn and print the least of all rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=90)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--only", choices=("tiny", "own vectors"), action="append")
    given = parser.parse_args(arguments)
    checkouts = [HERE, *([given.beside.resolve()] if given.beside else [])]
    rounds: dict[Path, list[dict[str, float]]] = {checkout: [] for checkout in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        found = recipes(Path(folder), given.rows)
        for _ in range(given.times):
            for checkout in checkouts:
                rounds[checkout].append(measure(checkout, found, given.only or list(found)))
    for checkout, name in zip(checkouts, ("this checkout", "beside it"), strict=False):
        sys.stdout.write("\n".join([f"{name}: processor seconds", *lines(least(rounds[checkout]))]) + "\n")


if __name__ == "__main__":
    main()
