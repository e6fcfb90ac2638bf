"""Folders and files outside the run that curate writes: only what it wrote itself is ever replaced.

A hidden file beside (or in) the place says what was written there.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from curate import storage
from curate.errors import UsageError
from curate.runs import MARKER

__all__ = [
    "copy_folder",
    "files_in",
    "is_current",
    "require_own_file",
    "require_own_folder",
    "write_file",
    "write_folder",
]

#: In a folder: the files that are curate's, and which state they are of (None: being written).
LISTING = ".curate.json"

Result = TypeVar("Result")


def files_in(folder: Path) -> set[str]:
    """Return the files below a folder by their path in it, hidden ones and the mark of a stage left out."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return {
        str(path) for path in found if path.name != MARKER and not any(part[0] == "." for part in path.parts)
    }


def require_own_folder(what: str, target: Path) -> None:
    """Raise UsageError if there is anything at `target` that curate did not write; what : the setting."""
    if target.exists() and not target.is_dir():
        raise UsageError(f"{what} {target} is a file; name an empty folder")
    strangers = files_in(target) - _listed(target) if target.is_dir() else set()
    if strangers:
        raise UsageError(f"{what} {target} holds other files ({min(strangers)}); name an empty folder")


def is_current(target: Path, stamp: str) -> bool:
    """Whether a folder holds all that was written with this stamp."""
    noted = storage.read_json(target / LISTING) or {}
    return noted.get("stamp") == stamp and _listed(target) <= files_in(target)


def write_folder(what: str, target: Path, stamp: str, write: Callable[[Path], Result]) -> Result:
    """Let `write` fill a new folder that takes the place of `target`, whole; return what it returned."""
    require_own_folder(what, target)
    with storage.atomic_folder(target) as partial:
        result = write(partial)
        storage.write_json(partial / LISTING, {"stamp": stamp, "files": sorted(files_in(partial))})
    return result


def copy_folder(what: str, folder: Path, target: Path, stamp: str) -> None:
    """Make `target` a copy of the files in `folder`, unless it is one."""
    require_own_folder(what, target)
    before, names = _listed(target), files_in(folder)
    if is_current(target, stamp) and before == names:
        return
    with storage.explained(target):
        storage.write_json(target / LISTING, {"stamp": None, "files": sorted(before | names)})
        for name in sorted(names):
            with storage.atomic(target / name) as partial:
                shutil.copyfile(folder / name, partial)
        for name in before - names:
            storage.remove(target / name)
        storage.write_json(target / LISTING, {"stamp": stamp, "files": sorted(names)})


def require_own_file(what: str, target: Path) -> None:
    """Raise UsageError if there is a file at `target` that curate did not write, or that changed since."""
    if target.is_dir():
        raise UsageError(f"{what} {target} is a folder; name a file")
    if not target.exists():
        return
    noted = storage.read_json(_beside(target)) or {}
    if noted.get("hash") != storage.hash_file(target):
        raise UsageError(f"{what} {target} is there already and not from an export; name another file")


def write_file(what: str, target: Path, write: Callable[[Path], Result]) -> Result:
    """Let `write` make the file `target`; return what it returned."""
    require_own_file(what, target)
    result = write(target)
    storage.write_json(_beside(target), {"hash": storage.hash_file(target)})
    return result


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.curate.json")


def _listed(target: Path) -> set[str]:
    noted = storage.read_json(target / LISTING)
    return set(noted.get("files", ())) if isinstance(noted, dict) else set()
