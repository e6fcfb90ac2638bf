"""The writer against a plain copy with PyArrow: both read the same shards and write all their rows with zstd.

    benchmarks/write.py "DATA/train-*.parquet"

Times both in turn, in this process, and prints the medians of the ratios (plain / curate; 1.00 would mean
that planning, checks, page checksums and the final fsync cost nothing), of wall time and of processor time,
which says more on a busy machine.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from curate.sources.base import Columns
from curate.sources.parquet import ParquetReader, find
from curate.writers.parquet import tasks, write_file
from curate.writers.schema import output_schema
from curate.writers.shard_plan import KeptRows, plan

READER = ParquetReader(Columns())
MAX_SHARD_SIZE = 500_000_000


def copy(pattern: str, folder: Path) -> None:
    """Copy every shard, one row group at a time."""
    for shard in find(pattern):
        with (
            pq.ParquetFile(shard.url) as source,
            pq.ParquetWriter(folder / shard.name, source.schema_arrow, compression="zstd") as writer,
        ):
            for group in range(source.num_row_groups):
                writer.write_table(source.read_row_group(group))


def write(pattern: str, folder: Path) -> None:
    """Write every row with the writer of `curate`."""
    kept = {}
    for shard in find(pattern):
        rows = np.arange(READER.count(shard))
        kept[shard.name] = KeptRows(shard, rows, np.full(len(rows), shard.size // max(len(rows), 1)))
    schema = output_schema(READER, [item.shard for item in kept.values()])
    files = plan(kept.values(), MAX_SHARD_SIZE)
    for task in tasks(files, kept.__getitem__, READER, folder, schema):
        write_file(task)


def measured(work: Callable[[str, Path], None], pattern: str) -> np.ndarray:
    """Return (wall, processor) seconds that one way of writing takes, into a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        started = np.array([time.perf_counter(), time.process_time()])
        work(pattern, Path(folder))
        return np.array([time.perf_counter(), time.process_time()]) - started


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="the shards: a file, a folder or a quoted glob")
    parser.add_argument("--pairs", type=int, default=21)
    options = parser.parse_args()
    ratios = []
    for number in range(options.pairs + 1):
        order = (copy, write) if number % 2 else (write, copy)
        seconds = {work: measured(work, options.data) for work in order}
        if number:  # the first pair fills the caches
            ratios.append(seconds[copy] / seconds[write])
            print(f"plain {seconds[copy][0]:.2f} s, curate {seconds[write][0]:.2f} s")
    wall, processor = np.median(ratios, axis=0)
    print(f"ratio {wall:.2f} (wall), {processor:.2f} (processor), medians of {options.pairs} pairs")


if __name__ == "__main__":
    main()
