"""Removing old dated runs, and the parts in their store that no run lists any more (see `curate.runs.dated`)."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from curate.errors import RunError, UsageError
from curate.io import checksums, storage
from curate.runs.dated import STORE, clear, dated_runs, held, latest, part_name, stored_folders, time_of
from curate.runs.folder import LATEST, RunFolder

__all__ = ["Freed", "gc"]


@dataclass(frozen=True)
class Freed:
    """What `gc` removed (or would remove).

    runs : names of dated runs. parts : files of the store. bytes : what that gives back to the disk; a file that
    a kept run has too gives nothing back. kept : names of the runs that stay. in_use : those of them that should
    go, but are being written.
    """

    runs: tuple[str, ...]
    parts: int
    bytes: int
    kept: tuple[str, ...]
    in_use: tuple[str, ...]


def gc(
    root: Path | str, *, keep: int | None = None, days: float | None = None, dry_run: bool = False
) -> Freed:
    """Remove old runs, and the parts in the store that no run lists any more; say what that frees.

    keep : how many finished runs stay, the newest. days : or, how old they may be. With neither all finished runs
    stay. The latest and what is newer stays in any case, and so does a run that is being written; a run that was
    given up (older than the latest, and not finished) goes. Raises UsageError where `root` holds no dated runs.
    """
    root = Path(root)
    if keep is not None and days is not None:
        raise UsageError("gc: --keep and --days exclude each other; give one of them")
    if (keep is not None and keep < 1) or (days is not None and not days >= 0):
        raise UsageError(
            f"gc: --keep must be at least 1 and --days at least 0, got {keep if days is None else days}"
        )
    if latest(root) is None:
        raise UsageError(f"{root} holds no dated runs: there is no file {LATEST!r} in it")
    with held(root):
        clear(root)
        every = dated_runs(root)
        old = _old(every, latest(root) or root, keep, days)
        in_use = [run for run in old if _is_written(run)]
        gone = [run for run in old if run not in in_use]
        kept = [run for run in every if run not in gone]
        parts = _unlisted(root / STORE, kept)
        freed = _freed([file for run in gone for file in run.rglob("*")] + parts)
        if not dry_run:
            _remove(root, gone, parts)
    return Freed(
        tuple(run.name for run in gone), len(parts), freed, tuple(run.name for run in kept),
        tuple(run.name for run in in_use),
    )  # fmt: skip


def _old(every: list[Path], newest: Path, keep: int | None, days: float | None) -> list[Path]:
    """Return the runs that have had their time: never the latest, nor a newer one."""
    before = [run for run in every if run.name < newest.name]
    finished = [run for run in before if (run / "manifest.json").exists()]
    old = set(before) - set(finished)
    if keep is not None:
        old |= set(finished[: max(0, len(finished) - (keep - 1))])
    if days is not None:
        limit = datetime.now(UTC) - timedelta(days=days)
        old |= {run for run in finished if time_of(run) < limit}
    return sorted(old)


def _is_written(run: Path) -> bool:
    """Whether a living process holds a run."""
    if not (run / ".lock").exists():
        return False
    try:
        with RunFolder(run).lock():
            return False
    except RunError:
        return True


def _unlisted(store: Path, kept: Iterable[Path]) -> list[Path]:
    """Return the parts of the store that no kept run lists."""
    listed: set[tuple[str, str]] = set()
    for run in map(RunFolder, kept):
        found = storage.read_json(run.manifest)
        rows = found["parts"] if isinstance(found, dict) else storage.read_json(run.work / "parts.json") or ()
        names = [row["name"] for row in rows]
        listed |= {(folder, name) for folder in stored_folders(run) for name in names}
    files = sorted(store.rglob("part-*"))
    return [f for f in files if (str(f.parent.relative_to(store)), part_name(f)) not in listed]


def _freed(files: Iterable[Path]) -> int:
    """Return the bytes that removing files gives back: of those that have no other name."""
    names: dict[tuple[int, int], list[int]] = {}
    for file in files:
        facts = file.lstat()
        if not file.is_dir():
            left = names.setdefault((facts.st_dev, facts.st_ino), [facts.st_nlink, facts.st_size])
            left[0] -= 1
    return sum(size for links, size in names.values() if links <= 0)


def _remove(root: Path, runs: Iterable[Path], parts: Iterable[Path]) -> None:
    """Remove runs (whole: half of one would look like a damaged run) and parts of the store."""
    for run in runs:
        gone = root / f".{run.name}{storage.PARTIAL}{os.getpid()}"
        with storage.explained(run), RunFolder(run).lock():
            run.replace(gone)
        storage.remove(gone)
    with storage.explained(root / STORE):
        for file in parts:
            file.unlink()
            checksums.drop_sidecars(file)
