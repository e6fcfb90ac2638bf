"""Which format a source has: the list of formats, one module each.

A format's module has `FORMAT`, a `Format`. Its reader shows every shard as a table (a column per kind of member of
a tar, per field of a JSON line, per column of a file), with `schema` and `read_rows`; which column is the image,
the caption, the label is then found by name and type. A shard knows the name of its format.
"""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.errors import UsageError
from curate.io import paths
from curate.io.filesystem import StorageOptions
from curate.sources.base import Columns, Shard
from curate.sources.format import Format

__all__ = ["FORMATS", "ShardReader", "check_unchanged", "detect", "fingerprint", "format_of"]


#: The module of each format, below curate.sources.
FORMATS = {
    "parquet": "parquet",
    "jsonl": "text.jsonl",
    "csv": "text.delimited",
    "folder": "folder.folder",
    "img2dataset": "img2dataset.img2dataset",
    "webdataset": "tar.webdataset",
    "clip_retrieval": "arrays.clip_retrieval",
    "datacomp": "arrays.datacomp",
}


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
    ends = {end: name for name in FORMATS for end in format_of(name).extensions}
    if len(set(ends.values())) == 1:
        return next(iter(ends.values()))
    files = paths.expand(list(patterns), storage_options or {}, extensions=(*ends, *BESIDE))
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
    return next(iter(found), "parquet")


def fingerprint(shard: Shard) -> str:
    """Return 32 hex digits that change with what a shard holds."""
    return format_of(shard.format).fingerprint(shard)


def check_unchanged(shard: Shard) -> None:
    """Raise SourceError unless a shard is what it was when it was found."""
    format_of(shard.format).check_unchanged(shard)


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
