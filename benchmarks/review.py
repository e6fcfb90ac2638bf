"""How long `curate review` takes for its answers on the tables of a million rows: python benchmarks/review.py [--times 50].

Makes a run of 20,000 random vectors with captions, labels and scores, and opens it as if its parts were there fifty times over
(so uids repeat; columns, kinds and sizes are those of any run). Prints the seconds until the tables are there and of each answer, the
first time and at best of three, and the memory.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np
import polars as pl
import psutil
from starlette.testclient import TestClient

import curate
from curate.analysis.explain import opened
from curate.execution.context import Context
from curate.recipe.loading import parse_recipe
from curate.review.app import make_app
from curate.review.security import Guard
from curate.review.site import Site

ASKED = (
    ("first page", "/api/rows?limit=60"),
    ("by reason", "/api/rows?limit=60&reason=over_budget"),
    ("by class", "/api/rows?limit=60&label=class+7"),
    ("by concept", "/api/rows?limit=60&concept=3"),
    ("score range, sorted", "/api/rows?limit=60&score=fit&min=0.2&max=0.3&order=fit"),
    ("words in captions", "/api/rows?limit=60&text=number+77"),
    ("SQL", "/api/rows?limit=60&where=fit+%3C+0.1+and+concept+%25+3+%3D+0&order=doubt&down=1"),
    ("deep page", "/api/rows?limit=60&order=fit&offset=500000"),
    ("at the cut", "/api/rows?limit=48&order=margin&where=margin+%3C%3D+0+and+keep&down=1"),
    ("one row", "/api/row/12345"),
    ("groups", "/api/near?epsilon=0.02"),
    ("copies", "/api/copies"),
    ("concepts", "/api/concepts"),
)


def make(folder: Path, rows: int = 20_000, dim: int = 16) -> Path:
    """Make a run, unless it is there; return its folder."""
    run = folder / "run"
    if (run / "manifest.json").exists():
        return run
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    centres = rng.standard_normal((200, dim))
    shards = 4
    for number, size in enumerate(np.diff(np.linspace(0, rows, shards + 1).astype(int))):
        vectors = centres[rng.integers(0, 200, size)] + 0.3 * rng.standard_normal((size, dim))
        np.save(folder / f"vectors-{number:03d}.npy", vectors.astype(np.float16))
        first = number * 1_000_000
        frame = pl.DataFrame(
            {
                "id": [f"sample-{first + i:09d}" for i in range(size)],
                "caption": [f"a caption of some words about number {i}" for i in range(size)],
                "label": [f"class {i}" for i in rng.integers(0, 100, size)],
                "fit": rng.random(size).astype(np.float32),
                "doubt": rng.random(size).astype(np.float32),
            }
        )
        frame.write_parquet(folder / f"rows-{number:03d}.parquet")
    values = {
        "run": str(run), "source": {"path": str(folder / "rows-*.parquet"), "uid": "id"},
        "embed": {"files": str(folder / "vectors-*.npy")}, "cluster": {"concepts": 100},
        "score": [{"source": {"column": "fit", "higher_is": "better"}}, {"source": {"column": "doubt", "higher_is": "noisier", "name": "doubt"}}],
        "dedup": {"epsilon": 0.01}, "select": {"method": "density", "keep": 0.3}, "memory": "2GB", "workers": 1,
    }  # fmt: skip
    curate.run(parse_recipe(values), progress=True)
    return run


def repeated(context: Context, times: int) -> Context:
    """Return a run whose parts are there several times over."""
    parts = []
    for number in range(times * len(context.parts)):
        part = context.parts[number % len(context.parts)]
        first = part.first + number // len(context.parts) * context.rows
        parts.append(dataclasses.replace(part, index=number, first=first))
    return dataclasses.replace(context, parts=tuple(parts))


def measure(run: Path, times: int) -> None:
    """Print seconds of the first answers, and of the same ones once more."""
    started = time.perf_counter()
    site = Site(repeated(opened(run), times))
    print(f"{site.context.rows:,} rows")
    print(f"{'ready to serve':24} {time.perf_counter() - started:8.3f} s")
    started, worked = time.perf_counter(), time.process_time()
    site.table.load()
    print(
        f"{'tables read':24} {time.perf_counter() - started:8.3f} s {time.process_time() - worked:8.3f} s of processors"
    )
    client = TestClient(make_app(site, Guard("127.0.0.1", 8600, "t")), base_url="http://127.0.0.1:8600")
    client.cookies.set("curate_review_8600", "t")
    for name, path in (("about", "/api/about"), *ASKED):
        seconds, processor = [], []
        for _ in range(3):
            started, worked = time.perf_counter(), time.process_time()
            answer = client.get(path)
            seconds.append(time.perf_counter() - started)
            processor.append(time.process_time() - worked)
            assert answer.status_code == 200, answer.text
        print(
            f"{name:24} {seconds[0]:8.3f} s, again {min(seconds):.3f} s {min(processor):8.3f} s of processors"
        )
    print(f"memory {psutil.Process().memory_info().rss / 1e6:,.0f} MB")
    site.close()


def main() -> None:
    """Make the run, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--folder", type=Path, default=Path("runs/review-bench"))
    given = parser.parse_args()
    measure(make(given.folder), given.times)


if __name__ == "__main__":
    main()
