"""Leaving a run as it was where a command on it fails: its recipe, and the stages that were finished."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from curate.io import storage
from curate.io.remote import cache
from curate.runs.folder import MARKER, RunFolder

__all__ = ["undone"]


@contextlib.contextmanager
def undone(run: RunFolder) -> Iterator[None]:
    """On an error inside, put recipe, manifest, and finished stages from the scores on back as they were.

    What was not finished before stays where it is, so that the same command goes on with it. Costs no
    space: files of a run are replaced and never written in place, so a hard link holds the old one. The
    caller holds the lock. At a URL nothing holds the old ones: the recipe is put back, and what the command had begun
    to change is made anew by the next run.
    """
    if cache.store_of(run.path) is not None:
        with _recipe_undone(run):
            yield
        return
    saved = run.work / "undo"
    storage.remove(saved)  # of a process that was killed: newer tables than these may be there by now
    files = [path for path in (run.recipe, run.manifest) if path.exists()]
    folders = [path for path in _late_folders(run) if (path / MARKER).exists()]
    with storage.explained(saved):
        for path in files:
            _hold(path, saved / path.name)
        for path in folders:
            shutil.copytree(path, saved / path.relative_to(run.path), copy_function=_hold)
    try:
        yield
    except BaseException:
        for path in (run.recipe, run.manifest):
            (saved / path.name).replace(path) if path in files else path.unlink(missing_ok=True)
        for path in folders:
            _bring_back(saved / path.relative_to(run.path), path)
        raise
    finally:
        storage.remove(saved)


@contextlib.contextmanager
def _recipe_undone(run: RunFolder) -> Iterator[None]:
    """On an error inside, put the recipe back."""
    before = {
        path: storage.ensure_local(path).read_bytes()
        for path in (run.recipe, run.work / "recipe.json")
        if path.exists()
    }
    try:
        yield
    except BaseException:
        for path, data in before.items():
            with storage.atomic(path) as partial:
                partial.write_bytes(data)
        raise


def _late_folders(run: RunFolder) -> list[Path]:
    """Return the folders that a new choice of scores, filters or samples can change."""
    return [*run.path.glob("3_scores/*"), run.duplicates, run.decisions, run.filtered, run.report]


def _hold(path: str | Path, saved: str | Path) -> None:
    """Keep the bytes of a file under a second name; as a copy where the file system has no hard links."""
    Path(saved).parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, saved)
    except OSError:
        shutil.copy2(path, saved)


def _bring_back(saved: Path, folder: Path) -> None:
    """Put a stage's folder back, if the stage has begun or was done anew: its mark is gone or another."""
    mark = folder / MARKER
    if not mark.exists() or mark.read_bytes() != (saved / MARKER).read_bytes():
        storage.remove(folder)
        saved.replace(folder)
