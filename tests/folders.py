"""What a run folder holds, for comparing runs: the bytes of its tables, the times of its files."""

import hashlib
import shutil
from pathlib import Path

TABLES = ("0_samples", "1_embeddings", "2_concepts", "3_scores", "4_duplicates", "5_decisions", "6_filtered")


def files_below(folder):
    """Return every file below a folder (markers and hidden files too), sorted."""
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


def tables(run):
    """Return the hash of every file of the tables by name, without the markers and seals (they hold times)."""
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for name in TABLES
        for path in files_below(Path(run) / name)
        if path.name != "_done.json" and path.suffix != ".seal"
    }


def changed(before, after):
    """Return the names that are not the same in two results of `tables` (or `times`)."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def times(run):
    """Return inode and time of every file of a run by name."""
    return {
        str(path.relative_to(run)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files_below(run)
    }


def leftovers(run):
    """Return what an interrupted run may leave and a finished one may not."""
    return [path for path in Path(run).rglob(".*") if ".partial-" in path.name or path.name == ".lock"]


def again(run, copy):
    """Copy a run with nothing scored yet, so that only its scores are computed by the next call; return the copy."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "3_scores")
    return copy
