"""Finished local files at any fsspec URL: one PUT to the final name each, and a listing of them last.

Object stores have no rename, so that a folder there cannot appear whole: only its hidden listing says that it is.
It names what curate wrote there (nothing else is ever replaced or removed) with the hash and the version of each
file; a copy that was interrupted goes on with the files that are not there yet.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fsspec import AbstractFileSystem

from curate.errors import CurateError, RunError, UsageError
from curate.io import filesystem as files
from curate.io.filesystem import Entry, StorageOptions
from curate.io.retries import again
from curate.io.storage import hash_file

__all__ = ["copy_file", "copy_folder", "is_current", "require_own_file", "require_own_folder"]

LISTING = ".curate.json"


@dataclass
class _Listing:
    """What curate wrote: {name: [hash, version]}, None until it is there; fingerprint : None until all are."""

    fingerprint: str | None = None
    files: dict[str, list[str] | None] = field(default_factory=dict)


@dataclass(frozen=True)
class _Place:
    """A folder in a remote file system."""

    fs: AbstractFileSystem
    path: str
    url: str

    def at(self, name: str) -> str:
        """Return the path of a file in the folder."""
        return f"{self.path}/{name}"

    def entries(self) -> dict[str, Entry]:
        """Return the files below the folder by name, hidden ones left out."""
        try:
            found = files.walk(self.fs, self.path)
        except FileNotFoundError:
            return {}
        inside = len(self.path) + 1
        return {
            path[inside:]: entry for path, entry in found.items() if not entry.is_folder and path[inside:]
        }

    def version(self, name: str) -> str | None:
        """Return the version of a file as it is now."""
        self.fs.invalidate_cache()
        entry = files.lookup(self.fs, [self.at(name)]).get(self.at(name))
        return None if entry is None else entry.version

    def put(self, path: Path, name: str) -> None:
        """Write a local file to its final name."""
        again(lambda: self.fs.put_file(str(path), self.at(name)), f"{self.url}/{name}")

    def remove(self, name: str) -> None:
        """Remove a file, if it is still there."""
        with contextlib.suppress(FileNotFoundError):
            again(lambda: self.fs.rm_file(self.at(name)), f"{self.url}/{name}")

    def listing(self, name: str = LISTING) -> _Listing:
        """Return what a listing says; nothing where it is not there or torn."""
        try:
            noted = json.loads(again(lambda: self.fs.cat_file(self.at(name)), self.url))
        except (FileNotFoundError, ValueError):
            return _Listing()
        named = noted.get("files") if isinstance(noted, dict) else None
        if not isinstance(named, dict):
            return _Listing()
        return _Listing(noted.get("stamp"), {str(key): value for key, value in named.items()})

    def note(self, listing: _Listing, name: str = LISTING) -> None:
        """Write a listing."""
        text = (
            json.dumps({"stamp": listing.fingerprint, "files": listing.files}, indent=2, sort_keys=True)
            + "\n"
        )
        again(lambda: self.fs.pipe_file(self.at(name), text.encode()), self.url)


def require_own_folder(what: str, url: str, storage_options: StorageOptions) -> None:
    """Raise UsageError if there is anything at `url` that curate did not write; what : the setting."""
    with _explained(url, storage_options):
        _require_own(what, _place(url, storage_options))


def is_current(
    url: str, storage_options: StorageOptions, fingerprint: str, names: Iterable[str] | None = None
) -> bool:
    """Return True if the folder at `url` holds all that was written with this fingerprint, unchanged; names : these files."""
    with _explained(url, storage_options):
        place = _place(url, storage_options)
        noted = place.listing()
        if noted.fingerprint != fingerprint or (names is not None and set(names) != noted.files.keys()):
            return False
        there = place.entries()
        return all(
            name in there and known is not None and known[1] == there[name].version
            for name, known in noted.files.items()
        )


def copy_folder(
    what: str, sources: Mapping[str, Path], url: str, storage_options: StorageOptions, fingerprint: str
) -> None:
    """Make the folder at `url` hold these local files ({name: path}), and nothing else of curate's.

    Raises UsageError where it holds anything that curate did not write, RunError where it cannot be written.
    """
    with _explained(url, storage_options):
        place = _place(url, storage_options)
        there, before = _require_own(what, place)
        now = _Listing(None, {name: before.files.get(name) for name in (*before.files, *sources)})
        place.note(now)  # the names are claimed: what an interruption leaves is known as curate's
        for name, path in sorted(sources.items()):
            digest, version = hash_file(path), there[name].version if name in there else None
            if version is None or now.files[name] != [digest, version]:
                place.put(path, name)
                now.files[name] = [digest, place.version(name) or ""]
                place.note(now)
        for name in (before.files.keys() & there.keys()) - sources.keys():
            place.remove(name)
        place.note(_Listing(fingerprint, {name: now.files[name] for name in sources}))


def require_own_file(what: str, url: str, storage_options: StorageOptions) -> None:
    """Raise UsageError if there is a file at `url` that curate did not write, or that changed since."""
    with _explained(url, storage_options):
        _require_own_file(what, *_folder_of(url, storage_options))


def copy_file(what: str, path: Path, url: str, storage_options: StorageOptions) -> None:
    """Write a local file to `url`, and beside it a hidden note that it is curate's."""
    with _explained(url, storage_options):
        place, name = _folder_of(url, storage_options)
        _require_own_file(what, place, name)
        note, digest = f".{name}.curate.json", hash_file(path)
        place.note(_Listing(None, {name: None}), note)  # claimed, as in a folder
        place.put(path, name)
        place.note(_Listing(digest, {name: [digest, place.version(name) or ""]}), note)


def _require_own(what: str, place: _Place) -> tuple[dict[str, Entry], _Listing]:
    """Return the files in a folder, if they are all curate's, and the listing of them."""
    entry = files.lookup(place.fs, [place.path]).get(place.path)
    if entry is not None and not entry.is_folder:
        raise UsageError(f"{what} {place.url} is a file; name an empty folder")
    there, listing = place.entries(), place.listing()
    strangers = there.keys() - listing.files.keys()
    if strangers:
        raise UsageError(f"{what} {place.url} holds other files ({min(strangers)}); name an empty folder")
    return there, listing


def _require_own_file(what: str, place: _Place, name: str) -> None:
    entry = files.lookup(place.fs, [place.at(name)]).get(place.at(name))
    if entry is None:
        return
    if entry.is_folder:
        raise UsageError(f"{what} {place.url}/{name} is a folder; name a file")
    noted = place.listing(f".{name}.curate.json").files
    known = noted.get(name)
    if name not in noted or (known is not None and known[1] != entry.version):
        raise UsageError(
            f"{what} {place.url}/{name} is there already and not from an export; name another file"
        )


def _place(url: str, storage_options: StorageOptions) -> _Place:
    fs, path = files.filesystem(url, storage_options)
    return _Place(fs, path.rstrip("/"), url.rstrip("/"))


def _folder_of(url: str, storage_options: StorageOptions) -> tuple[_Place, str]:
    """Return the folder of a file, and its name."""
    folder, _, name = url.rpartition("/")
    if not name or folder.endswith(":/"):
        raise UsageError(f"{url}: names no file in a folder")
    return _place(folder, storage_options), name


@contextlib.contextmanager
def _explained(url: str, storage_options: StorageOptions) -> Iterator[None]:
    """Turn any error of a file system into one line that names `url` and holds no secret."""
    try:
        yield
    except CurateError:
        raise
    except Exception as error:  # noqa: BLE001  (each file system has its own errors; none may show a secret)
        said = f"cannot write {url}: {files.cause(error)} ({type(error).__name__})"
        raise RunError(files.masked(said, storage_options)) from None
