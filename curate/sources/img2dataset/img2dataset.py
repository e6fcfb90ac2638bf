"""What img2dataset writes: shards ``00000`` as tars, as Parquet with inline images, or as folders of files.

Beside each lies ``00000.parquet`` with a row per address, also for those that could not be had (``status``,
``error_message``), and ``00000_stats.json``, written last. Rows of a tar are its samples, then what the Parquet file
tells of others; rows of a folder are those of the Parquet file, then images it does not know. An address that
was not had is `failed_download`, with the reason img2dataset gives. A shard without ``_stats.json`` is not finished.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from curate.errors import SourceError, UsageError
from curate.hashing import digest
from curate.io import filesystem, paths
from curate.io.filesystem import Entry, StorageOptions
from curate.io.found import passed_over, used
from curate.io.names import printable
from curate.sources.addresses import UrlAccess
from curate.sources.base import RULES, Columns, Reader, Shard
from curate.sources.columns import guess_columns
from curate.sources.folder.tree import roots
from curate.sources.format import Format
from curate.sources.img2dataset import shards
from curate.sources.img2dataset.loose_files import FilesReader
from curate.sources.img2dataset.shards import InlineReader, TarReader
from curate.sources.tar import roles as tar_roles

__all__ = ["FORMAT", "find"]

STATS = "_stats.json"
#: Begins the version of a shard that img2dataset has not finished.
UNFINISHED = "unfinished-"


def find(
    path: str | Sequence[str],
    *,
    storage_options: StorageOptions = None,
    source: str = "source",
    prefix: str = "",
) -> list[Shard]:
    """Return the shards in the folders that `path` names, in the order of their names, which begin with `prefix`.

    Raises UsageError where there is none.
    """
    folders = roots(path, storage_options)
    found = [
        shard
        for root in folders
        for shard in _shards(
            root, storage_options, prefix if len(folders) == 1 else f"{prefix}{_name(root)}/", source
        )
    ]
    if not found:
        raise UsageError(f"{', '.join(folders)}: no shard of img2dataset in this folder (such as 00000.tar)")
    twice = len({shard.name for shard in found}) < len(found)
    if twice:
        raise UsageError(f"{', '.join(folders)}: folders of one name; read them as sources of their own")
    return sorted(found, key=lambda shard: shard.name.encode())


def _name(root: str) -> str:
    return printable(root.rpartition("/")[2])


def _shards(root: str, options: StorageOptions, prefix: str, source: str) -> list[Shard]:
    with filesystem.explained(root, options):
        fs, path = filesystem.filesystem(root, options)
        entries = filesystem.listing(fs, path)
    stems = {name.removesuffix(STATS) for name in entries if name.endswith(STATS)}
    stems |= {
        name.removesuffix(end) for name in entries for end in (".tar", ".parquet") if name.endswith(end)
    }
    stems |= {name for name, entry in entries.items() if entry.is_folder and name.isdigit()}
    belonging = {stem + end for stem in stems for end in ("", ".tar", ".parquet", STATS)}
    used(name for name in entries if name in belonging)
    for name in sorted(entries.keys() - belonging):
        passed_over(name, "belongs to no shard of img2dataset")
    return [
        shard
        for stem in sorted(stems)
        if (shard := _shard(root, stem, entries, options, prefix, source)) is not None
    ]


def _shard(
    root: str, stem: str, entries: dict[str, Entry], options: StorageOptions, prefix: str, source: str
) -> Shard | None:
    """Return the shard of one number; None where only its statistics are left."""
    forms = [f"{stem}.tar", stem, f"{stem}.parquet"]
    main = next((name for name in forms if name in entries), None)
    if main is None:
        return None
    parts = {name: entries[name] for name in (main, f"{stem}.parquet") if name in entries}
    url = f"{root}/{main}/" if entries[main].is_folder else f"{root}/{main}"
    size, versions = sum(entry.size for entry in parts.values()), [one.version for one in parts.values()]
    if entries[main].is_folder:
        inside = shards.listed(url, options)
        size, versions = (
            size + sum(one.size for one in inside.values()),
            [versions[-1] if len(parts) > 1 else ""],
        )
        versions += [f"{name} {inside[name].version}" for name in sorted(inside)]
    version = ("" if stem + STATS in entries else UNFINISHED) + digest(
        *(v.encode("utf-8", "surrogatepass") for v in versions)
    )
    split = paths.split_of(f"{prefix}{main}", f"{root}/{main}")
    return Shard(
        prefix + printable(main), url, split, size, version, source, options or {}, "img2dataset", rules=RULES
    )


def unfinished(shard: Shard) -> bool:
    """Return True if img2dataset has not finished a shard."""
    return shard.version.startswith(UNFINISHED)


def _reader_of(shard: Shard, columns: Columns) -> Reader:
    """Return the reader for the form of a shard."""
    if columns.vector is not None:
        raise UsageError(f"{shard.url}: embed.column {columns.vector!r}: img2dataset stores no vectors")
    if shard.url.endswith("/"):
        return FilesReader(columns)
    return TarReader(columns) if shard.url.endswith(".tar") else InlineReader(columns)


class _Reader:
    """Refuses unfinished shards, and leaves the others to the reader of their form."""

    def __init__(self, columns: Columns, allow_url: UrlAccess | bool) -> None:
        self._columns = columns
        self._allow_url = allow_url

    def _of(self, shard: Shard) -> Reader:
        if unfinished(shard):
            stem = shard.url.rstrip("/").removesuffix(".tar").removesuffix(".parquet")
            raise SourceError(
                f"{shard.url}: not finished: there is no {stem}{STATS}; let img2dataset finish it, or leave such "
                "shards out with source.unfinished: skip"
            )
        return _reader_of(shard, self._columns)

    def count(self, shard: Shard) -> int:
        """See `base.Reader`."""
        return self._of(shard).count(shard)

    def schema(self, shard: Shard) -> pa.Schema:
        """See `base.Reader`."""
        return self._of(shard).schema(shard)

    def vector_length(self, shard: Shard) -> int | None:
        """See `base.Reader`."""
        return self._of(shard).vector_length(shard)

    def batches(self, shard: Shard, **how: Any) -> Any:  # noqa: ANN401  (the keywords of Reader.batches)
        """See `base.Reader`."""
        return self._of(shard).batches(shard, **how)

    def read_rows(self, shard: Shard, rows: np.ndarray, **how: Any) -> Any:  # noqa: ANN401
        """See `base.Reader`."""
        return self._of(shard).read_rows(shard, rows, **how)


def columns_of(schema: pa.Schema, **roles: Any) -> Columns:  # noqa: ANN401  (the keywords of guess_columns)
    """Return which column holds what: of a tar its members, else by name and type."""
    return (
        tar_roles.columns(schema, **roles)
        if tar_roles.KEY in schema.names
        else guess_columns(schema, **roles)
    )


def fingerprint(shard: Shard) -> str:
    """Return 32 hex digits that change with the files of a shard."""
    if shard.url.endswith("/"):
        return digest(shard.name, shard.version)
    parts = [shard.url]
    if shard.url.endswith(".tar") and shards.told_by(shard) is not None:
        parts.append(shard.url.removesuffix(".tar") + ".parquet")
    if filesystem.is_remote(shard.url):
        return digest(shard.name, shard.version)
    return digest(*(paths.fingerprint(paths.FoundFile(url, url, 0, "")) for url in parts))


def changed_at(shard: Shard) -> str:
    """Return when the tar and the Parquet file of a shard were last changed; "" for files in a folder."""
    if shard.url.endswith("/"):
        return ""
    stem = shard.url.removesuffix(".tar").removesuffix(".parquet")
    urls = dict.fromkeys((shard.url, f"{stem}.parquet"))
    return "+".join(filesystem.changed_at(url) for url in urls)


def images_beside(shard: Shard) -> tuple[str, str]:
    """Return what images in files have before their path, and the file they lie beside."""
    return (f"{shard.name}/", f"{shard.url}shard") if shard.url.endswith("/") else ("", shard.url)


def addresses(shard: Shard) -> Iterator[tuple[str | None, str | None]] | None:
    """Return key and address of what the Parquet file of a shard tells; None where there is no such file."""
    told = shards.told_by(shard)
    return None if told is None else ((one.key, one.url) for one in shards.tell(told))


def check_unchanged(shard: Shard) -> None:
    """Raise SourceError unless the files of a shard are those it was found with."""
    root, _, main = shard.url.rstrip("/").rpartition("/")
    stem = main.removesuffix(".tar").removesuffix(".parquet")
    with filesystem.explained(shard.url, shard.storage_options):
        fs, path = filesystem.filesystem(root, shard.storage_options)
        names = [main, f"{stem}.parquet", stem + STATS]
        found = filesystem.lookup(fs, [f"{path}/{name}" for name in names])
    entries = {one.rpartition("/")[2]: entry for one, entry in found.items()}
    now = _shard(root, stem, entries, shard.storage_options, "", "")
    if now is None or now.version != shard.version:
        raise SourceError(f"{shard.url}: the files of this shard changed since it was read; run again")


def recognises(names: Sequence[str]) -> bool:
    """Return True if these are the files of img2dataset: statistics lie beside them."""
    return any(name.endswith(STATS) for name in names)


FORMAT = Format(
    "img2dataset",
    (STATS,),
    find,
    _Reader,
    columns=columns_of,
    recognises=recognises,
    unfinished=unfinished,
    fingerprint=fingerprint,
    check_unchanged=check_unchanged,
    changed_at=changed_at,
    images_beside=images_beside,
    addresses=addresses,
    what="its tars, Parquet or files; failed downloads are rows, unfinished shards refused or skipped",
    rows="its rows",
)
