"""Folders and files outside the run that curate writes: only what it wrote itself is ever replaced.

A hidden file beside (or in) the place says what was written there. A place is a path on this machine or a URL;
what goes to a URL is finished on this machine first (`io.remote.destination`).
"""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from curate.errors import UsageError
from curate.io import storage
from curate.io.filesystem import StorageOptions, is_remote
from curate.io.records import MARKER
from curate.io.remote import destination as remote
from curate.settings import local_folder

__all__ = [
    "Place",
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


@dataclass(frozen=True)
class Place:
    """A folder or file that is written: what : the setting that names it. where : a path, or a URL.

    scratch : folder on this machine where what goes to a URL is made.
    """

    what: str
    where: str
    scratch: Path
    storage_options: StorageOptions = field(default=None, repr=False)

    @property
    def remote(self) -> bool:
        """Return True if it is a URL."""
        return is_remote(self.where)

    @property
    def path(self) -> Path:
        """The path, of a place on this machine."""
        return Path(local_folder(self.where))


def files_in(folder: Path) -> set[str]:
    """Return the files below a folder by their path in it, hidden ones and the mark of a stage left out."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return {
        str(path) for path in found if path.name != MARKER and not any(part[0] == "." for part in path.parts)
    }


def require_own_folder(place: Place) -> None:
    """Raise UsageError if there is anything in the folder that curate did not write."""
    if place.remote:
        remote.require_own_folder(place.what, place.where, place.storage_options)
        return
    what, target = place.what, place.path
    if target.exists() and not target.is_dir():
        raise UsageError(f"{what} {target} is a file; name an empty folder")
    strangers = files_in(target) - _listed(target) if target.is_dir() else set()
    if strangers:
        raise UsageError(f"{what} {target} holds other files ({min(strangers)}); name an empty folder")


def is_current(place: Place, fingerprint: str) -> bool:
    """Return True if a folder holds all that was written with this fingerprint."""
    if place.remote:
        return remote.is_current(place.where, place.storage_options, fingerprint)
    noted = storage.read_json(place.path / LISTING) or {}
    return noted.get("stamp") == fingerprint and _listed(place.path) <= files_in(place.path)


def write_folder(place: Place, fingerprint: str, write: Callable[[Path], Result]) -> Result:
    """Let `write` fill a new folder that takes the place of the old one, whole; return what it returned."""
    require_own_folder(place)
    if place.remote:
        with _outgoing(place) as folder:
            result = write(folder)
            copy_folder(place, folder, fingerprint)
        return result
    target = place.path  # what a link leads to is replaced, and not the link
    with storage.atomic_folder(target.resolve() if target.is_symlink() else target) as partial:
        result = write(partial)
        storage.write_json(partial / LISTING, {"stamp": fingerprint, "files": sorted(files_in(partial))})
    return result


def copy_folder(place: Place, folder: Path, fingerprint: str) -> None:
    """Make the place a copy of the files in `folder`, unless it is one."""
    names = files_in(folder)
    if place.remote:
        options = place.storage_options
        if not remote.is_current(place.where, options, fingerprint, names):
            sources = {name: folder / name for name in names}
            remote.copy_folder(place.what, sources, place.where, options, fingerprint)
        return
    require_own_folder(place)
    target = place.path
    before = _listed(target)
    if is_current(place, fingerprint) and before == names:
        return
    with storage.explained(target):
        storage.write_json(target / LISTING, {"stamp": None, "files": sorted(before | names)})
        for name in sorted(names):
            with storage.atomic(target / name) as partial:
                shutil.copyfile(storage.ensure_local(folder / name), partial)
        for name in before - names:
            storage.remove(target / name)
            _remove_empty(target, (target / name).parent)
        storage.write_json(target / LISTING, {"stamp": fingerprint, "files": sorted(names)})


def _remove_empty(folder: Path, inside: Path) -> None:
    """Remove a folder below `folder`, and those that it lies in, as far as they hold nothing."""
    while inside != folder and not any(inside.iterdir()):
        inside.rmdir()
        inside = inside.parent


def require_own_file(place: Place) -> None:
    """Raise UsageError if there is a file that curate did not write, or that changed since."""
    if place.remote:
        remote.require_own_file(place.what, place.where, place.storage_options)
        return
    what, target = place.what, place.path
    if target.is_dir():
        raise UsageError(f"{what} {target} is a folder; name a file")
    if not target.exists():
        return
    noted = storage.read_json(_beside(target)) or {}
    if noted.get("hash") != storage.hash_file(target):
        raise UsageError(f"{what} {target} is there already and not from an export; name another file")


def write_file(place: Place, write: Callable[[Path], Result]) -> Result:
    """Let `write` make the file; return what it returned."""
    require_own_file(place)
    if place.remote:
        with _outgoing(place) as folder:
            path = folder / place.where.rpartition("/")[2]
            result = write(path)
            remote.copy_file(place.what, path, place.where, place.storage_options)
        return result
    result = write(place.path)
    storage.write_json(_beside(place.path), {"hash": storage.hash_file(place.path)})
    return result


@contextlib.contextmanager
def _outgoing(place: Place) -> Iterator[Path]:
    """Give a new folder, gone afterwards, for what goes to a URL."""
    with storage.explained(place.scratch):
        place.scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".outgoing{storage.PARTIAL}", dir=place.scratch))
    try:
        yield folder
    finally:
        storage.remove(folder)


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.curate.json")


def _listed(target: Path) -> set[str]:
    noted = storage.read_json(target / LISTING)
    return set(noted.get("files", ())) if isinstance(noted, dict) else set()
