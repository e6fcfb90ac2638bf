"""Which folders are tables whose log says what their files hold: Delta, Iceberg, Hudi, Lance.

Read as plain Parquet, such a folder gives rows that were deleted and versions that were replaced, without a word. So a
path is looked at with all folders above it, and so are the files that it matches.
"""

from collections.abc import Iterable, Iterator, Sequence

from fsspec import AbstractFileSystem

from curate.errors import SourceError, UsageError
from curate.io import filesystem
from curate.io.filesystem import StorageOptions

__all__ = ["NAMES", "Table", "refuse", "refuse_files", "tables_of"]

#: What each kind is called in messages, and what to do with one that cannot be read here.
NAMES = {
    "delta": "a Delta table",
    "iceberg": "an Iceberg table",
    "hudi": "a Hudi table",
    "lance": "a Lance data set",
}
_WAYS = {
    "delta": "read it with another tool (deltalake.DeltaTable(path).to_pyarrow_table()) and pass that to curate.filter",
    "iceberg": "read it with another tool (pyiceberg: table.scan().to_arrow()) and pass that to curate.filter",
    "hudi": "curate cannot read Hudi; write a snapshot as Parquet (Spark: "
    "spark.read.format('hudi').load(path).write.parquet(...)) and name that",
    "lance": "curate cannot read Lance; load it (pip install pylance; lance.dataset(path).to_table()) and pass that to "
    "curate.filter, or write it as Parquet",
}
#: Kinds that are read with a library, by the extra that brings it.
_EXTRAS = {"delta": "curate[delta]", "iceberg": "curate[iceberg]"}
#: What lies in the folder of a table.
_SIGNS = {
    "_delta_log": "delta",
    ".hoodie": "hudi",
    "_versions": "lance",
    "_latest.manifest": "lance",
    "metadata": "iceberg",
}
_METADATA = ".metadata.json"

#: (kind, url of the folder).
Table = tuple[str, str]


def tables_of(patterns: Sequence[str], options: StorageOptions) -> list[Table]:
    """Return the tables that `patterns` name, or lie in: of each pattern the nearest one, each once."""
    found: dict[Table, None] = {}
    seen: dict[str, str | None] = {}
    for pattern in patterns:
        for part in pattern.split("::"):
            table = _nearest(_fixed(part.strip()), options, seen)
            if table is not None:
                found[table] = None
    return list(found)


def refuse(kind: str, url: str, why: str | None = None, *, way: str | None = None) -> UsageError:
    """Return the error for a table that is not read; why : where that is not for want of a library. way : what to do."""
    what = (
        why or "its files alone hold rows that were deleted or replaced, so they are not read as plain files"
    )
    install = (
        f"pip install '{_EXTRAS[kind]}' and leave source.format at auto, or "
        if kind in _EXTRAS and not why
        else ""
    )
    return UsageError(f"{url}: {NAMES[kind]}: {what}; {install}{way or _WAYS[kind]}")


def refuse_files(urls: Iterable[str], options: StorageOptions) -> None:
    """Raise UsageError if one of these files lies in a table, which plain files are not read out of."""
    seen: dict[str, str | None] = {}
    for folder in sorted({filesystem.parent(url) for url in urls}):
        table = _nearest(folder, options, seen)
        if table is not None:
            raise refuse(*table)


def _fixed(pattern: str) -> str:
    """Return the part of a pattern before its first wildcard or brace, whole parts of a path only."""
    plain = pattern
    for mark in "*?[{":
        plain = plain.split(mark)[0]
    return plain if plain == pattern else filesystem.parent(plain) or ("/" if plain.startswith("/") else ".")


def _nearest(path: str, options: StorageOptions, seen: dict[str, str | None]) -> Table | None:
    """Return the nearest table at or above `path`; seen : the kinds of folders that were looked at.

    Web servers list no folders. A folder that may not be listed ends the search: those above it are not the user's.
    """
    if path.lower().startswith(("http:", "https:")):
        return None
    with filesystem.explained(path, options):
        fs, below = filesystem.filesystem(path, options)
    for folder in _upwards(below.rstrip("/")):
        if folder not in seen:
            try:
                with filesystem.explained(path, options):
                    seen[folder] = _kind(fs, folder)
            except SourceError:
                return None
        kind = seen[folder]
        if kind is not None:
            return kind, filesystem.url_of(fs, folder)
    return None


def _upwards(path: str) -> Iterator[str]:
    """Yield a path and the folders above it; a folder ``key=value`` is a part of a table and never one itself."""
    while path.strip("/"):
        if "=" not in path.rpartition("/")[2]:
            yield path
        path = filesystem.parent(path)


def _kind(fs: AbstractFileSystem, folder: str) -> str | None:
    """Return which kind of table a folder is, by what lies in it; None for any other."""
    found = filesystem.lookup(fs, [f"{folder}/{sign}" for sign in _SIGNS])
    for sign, kind in _SIGNS.items():
        if f"{folder}/{sign}" not in found:
            continue
        if kind != "iceberg" or _has_metadata(fs, f"{folder}/{sign}"):
            return kind
    return "lance" if folder.endswith(".lance") and filesystem.lookup(fs, [folder]) else None


def _has_metadata(fs: AbstractFileSystem, folder: str) -> bool:
    entries = filesystem.lookup(fs, [folder])
    if not entries or not entries[folder].is_folder:
        return False
    return any(name.endswith(_METADATA) for name in filesystem.listing(fs, folder))
