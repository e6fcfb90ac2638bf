"""Which format a source has: the list of formats, one module each.

A format's module has `FORMAT`, a `Format`. Its reader shows every shard as a table (a column per kind of member of
a tar, per field of a JSON line, per column of a file), with `schema` and `read_rows`; which column is the image,
the caption, the label is then found by name and type. A shard knows the name of its format.
"""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.errors import SourceError, UsageError
from curate.io import filesystem, paths
from curate.io.filesystem import StorageOptions
from curate.io.found import counting
from curate.sources import unknown
from curate.sources.base import Columns, Shard
from curate.sources.format import Format
from curate.sources.lake import recognition

__all__ = ["FORMATS", "ShardReader", "check_plain", "check_unchanged", "detect", "format_of", "hashed"]


#: The module of each format, below curate.sources.
FORMATS = {
    "parquet": "parquet",
    "jsonl": "text.jsonl",
    "csv": "text.delimited",
    "json": "text.json_file",
    "folder": "folder.folder",
    "img2dataset": "img2dataset.img2dataset",
    "webdataset": "tar.webdataset",
    "clip_retrieval": "arrays.clip_retrieval",
    "datacomp": "arrays.datacomp",
    "arrow": "arrow.ipc",
    "orc": "arrow.orc",
    "delta": "lake.delta",
    "iceberg": "lake.iceberg",
}


#: Files whose names say no format: so many are looked into.
MAX_LOOKED_AT = 20

#: Formats of the files that tables are kept in.
TABLE_FILES = ("parquet", "orc")

#: Ends of files that are no source by themselves, but tell a format (`Format.recognises`) by lying beside one.
BESIDE = (".npy", ".npz")


def format_of(name: str) -> Format:
    """Return a format by name."""
    module = importlib.import_module(f"curate.sources.{FORMATS[name]}")
    found: Format = module.FORMAT
    return found


def detect(patterns: Sequence[str], storage_options: StorageOptions = None) -> str:
    """Return the format of what `patterns` match, by the ends of the names; Parquet where none says.

    Raises UsageError where the names are of several formats.
    """
    if (table := _table(patterns, storage_options)) is not None:
        return table
    ends = {end: name for name in FORMATS for end in format_of(name).extensions}
    if len(set(ends.values())) == 1:
        return next(iter(ends.values()))
    try:
        with counting():  # what is used and passed over is known when the format is
            files = paths.expand(list(patterns), storage_options or {}, extensions=(*ends, *BESIDE))
    except UsageError as error:
        if "it holds" not in str(error):
            raise
        inside = _inside(patterns[0], storage_options) if paths.NO_END in str(error) else None
        raise unknown.advice(str(error), list(FORMATS), inside) from None
    names = [file.name for file in files]
    for name in FORMATS:
        if format_of(name).recognises(names):
            return name
    found = {ends[end]: file.name for file in files for end in ends if file.name.lower().endswith(end)}
    if len(found) > 1:
        listed = ", ".join(f"{name} ({file})" for name, file in sorted(found.items()))
        raise UsageError(
            f"source.path {', '.join(patterns)} matches several formats: {listed}; name one with source.format"
        )
    strange = [file for file in files if not file.name.lower().endswith((*ends, *BESIDE))]
    for file in strange[:MAX_LOOKED_AT]:
        like = unknown.format_by_content(file.url, storage_options)
        if like not in FORMATS:
            raise _no_format(file, files, next(iter(found), None), like)
        found.setdefault(str(like), file.name)
        if len(found) > 1:
            raise _no_format(file, files, next(iter(found)), like)
    if not found:
        raise unknown.refusal(files[0].url, list(FORMATS))
    return next(iter(found))


def _inside(folder: str, options: StorageOptions) -> str | None:
    """Return what the first file without an end below a folder begins like, as `unknown.format_by_content`."""
    with filesystem.explained(folder, options):
        fs, path = filesystem.filesystem(folder, options)
        ends = (one for one in sorted(filesystem.walk(fs, path)) if "." not in one.rpartition("/")[2])
        first = next(ends, None)
    return None if first is None else unknown.format_by_content(filesystem.url_of(fs, first), options)


def _no_format(
    file: paths.FoundFile, files: Sequence[paths.FoundFile], others: str | None, like: str | None
) -> UsageError:
    """Return the error for a file that is of no format, or not of that of the others."""
    if others is None:
        return unknown.refusal(file.url, list(FORMATS), like)
    ends = sorted(
        {one.name[one.name.rindex(".") :] for one in files if "." in one.name}
        & set(format_of(others).extensions)
    )
    narrower = f"name those of one format, such as *{ends[0]}" if ends else "name those of one format"
    return UsageError(f"{file.url}: matched beside files of format {others}, and is none; {narrower}")


def _table(patterns: Sequence[str], options: StorageOptions) -> str | None:
    """Return the kind of table that `patterns` name or lie in, None where they do not; UsageError for one not read."""
    tables = recognition.tables_of(patterns, options)
    for kind, url in tables:
        if kind not in FORMATS:
            raise recognition.refuse(kind, url)
    if len({kind for kind, _ in tables}) > 1:
        listed = " and ".join(url for _, url in tables)
        raise UsageError(f"{listed} are tables of several formats; name them as sources of their own")
    return tables[0][0] if tables else None


def check_plain(shards: Sequence[Shard], storage_options: StorageOptions = None) -> None:
    """Raise UsageError if plain files lie in a table, whose log alone says which of their rows are there."""
    plain = [shard.url for shard in shards if shard.format in TABLE_FILES]
    recognition.refuse_files(plain, storage_options)


def hashed(shard: Shard, known: Sequence[str] = ()) -> Shard:
    """Return a shard with what it holds (`content`) and when it was last changed; SourceError if it changes meanwhile.

    known : its version, content and time of the last change when it was hashed before; it is read only if one is new.
    """
    form = format_of(shard.format)
    changed = form.changed_at(shard)
    version, content, *since = known or ("", "")
    if (version, since) == (shard.version, [changed]):
        return replace(shard, content=content, changed=changed)
    content = form.fingerprint(shard)
    check_unchanged(shard, changed)
    return replace(shard, content=content, changed=changed)


def check_unchanged(shard: Shard, since: str | None = None) -> str:
    """Raise SourceError unless a shard is what it was when it was found; return when it was last changed.

    since : what this returned before something was read; it must be the same, or what was read may be neither.
    """
    form = format_of(shard.format)
    changed = form.changed_at(shard)
    form.check_unchanged(shard)
    if since is not None:
        same = changed == since
    else:  # another time may be that of a new link or another owner: then the bytes tell
        same = changed == shard.changed or not shard.content or form.fingerprint(shard) == shard.content
    if not same:
        when = (
            "while it was being read"
            if since is not None
            else "since it was read, though its time is the same"
        )
        raise SourceError(f"{shard.url}: the file was written to or replaced {when}; run again")
    return changed


@dataclass(frozen=True)
class ShardReader:
    """Reads rows of shards of any format with all their columns: what a writer needs of a `Reader`."""

    def schema(self, shard: Shard) -> pa.Schema:
        """Return the Arrow schema of a shard."""
        return format_of(shard.format).reader(Columns(), False).schema(shard)

    def read_rows(
        self,
        shard: Shard,
        rows: npt.NDArray[np.int64],
        *,
        batch_bytes: int,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.Table]:
        """Yield the named rows (ascending positions), all columns or those named, as they stand."""
        reader = format_of(shard.format).reader(Columns(), False)
        return reader.read_rows(shard, rows, batch_bytes=batch_bytes, columns=columns)
