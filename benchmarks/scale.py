"""One run of many vectors: processor seconds, wall, private memory of all processes, and disk.

Makes n vectors of d numbers in shards of 100,000 rows, one at a time (near-copies are among them), and runs `curate filter`
on them in processes of its own, with `cluster.concepts` k, near-duplicates out, `memory` as given. Meanwhile the private
memory (USS) of all its processes is added up five times a second. Writes JSON; `--keep-run` leaves the run in `--folder`.

    python benchmarks/scale.py --rows 10000000 --json scale-10m.json      # 25 GB of disk, ten minutes of two quiet cores
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from synthetic import write_vectors
from timing.contender import CURATE
from timing.machine import describe

SHARD_ROWS = 100_000
EVERY = 0.2  # seconds between two looks at the memory


class Memory:
    """The private memory of a process and all below it, looked at until it ends. peak : bytes. seen : how often."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.peak = self.seen = self.processes = 0
        self._process = process
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        while self._process.poll() is None:
            self._look()
            time.sleep(EVERY)

    def _look(self) -> None:
        total = alive = 0
        try:
            top = psutil.Process(self._process.pid)
            for one in [top, *top.children(recursive=True)]:
                total += one.memory_full_info().uss
                alive += 1
        except psutil.Error:  # ended meanwhile: what was counted of the others still stands
            pass
        self.peak, self.processes = max(self.peak, total), max(self.processes, alive)
        self.seen += 1

    def end(self) -> None:
        """Wait until the last look is done."""
        self._watcher.join()


def size_of(folder: Path) -> int:
    """Return the bytes that the files of a folder take on disk; a file with several names counts once."""
    files = {
        (s.st_dev, s.st_ino): s.st_blocks * 512 for s in (p.stat() for p in folder.rglob("*") if p.is_file())
    }
    return sum(files.values())


def command(folder: Path, options: argparse.Namespace) -> list[str]:
    """Return the command that is measured."""
    settings = ["source.uid=id", f"cluster.concepts={options.k}", f"memory={options.memory}", *options.set]
    return [
        *CURATE, "filter", str(folder / "*.parquet"), "--vectors", str(folder / "*.npy"), "--out", str(folder / "run"),
        "--keep", "0.3", "--epsilon", "0.05", *(word for setting in settings for word in ("--set", setting)),
    ]  # fmt: skip


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Make the vectors, run, and return what it took."""
    write_vectors(folder, options.rows, options.dim, -(-options.rows // SHARD_ROWS))
    vectors = size_of(folder)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(command(folder, options))
    memory = Memory(process)
    code = process.wait()
    wall, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    memory.end()
    if code != 0:
        raise SystemExit(f"the run failed with {code}")
    user, system = used.ru_utime - before.ru_utime, used.ru_stime - before.ru_stime
    stages = json.loads((folder / "run" / ".work" / "times.json").read_text())
    return {
        "rows": options.rows, "dim": options.dim, "concepts": options.k, "memory": options.memory, "settings": options.set,
        "processor_s": round(user + system, 2), "user_s": round(user, 2), "system_s": round(system, 2),
        "processor_s_per_million": round((user + system) / options.rows * 1e6, 2), "wall_s": round(wall, 2),
        "peak_private_bytes": memory.peak, "looks": memory.seen, "processes": memory.processes,
        "disk_vectors_bytes": vectors, "disk_run_bytes": size_of(folder / "run"),
        "stages_wall_s": {name: one["seconds"] for name, one in stages.items() if isinstance(one, dict)},
        "machine": describe(),
    }  # fmt: skip


def main(given: list[str] | None = None) -> None:
    """Measure one size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--k", type=int, default=1000, help="concepts")
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--set", action="append", default=[], help="further settings, as for curate")
    parser.add_argument(
        "--folder", type=Path, help="where vectors and run are made; by default a temporary one"
    )
    parser.add_argument("--keep-run", action="store_true", help="leave them there")
    parser.add_argument("--json", type=Path, help="where to write what was found")
    options = parser.parse_args(given)
    folder = Path(tempfile.mkdtemp(prefix="scale-", dir=options.folder))
    try:
        found = measure(folder, options)
    finally:
        if not options.keep_run:
            shutil.rmtree(folder)
    text = json.dumps(found, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
