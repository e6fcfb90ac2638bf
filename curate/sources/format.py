"""What a source format is made of: each format's module ends with `FORMAT`, one `Format`."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from curate.io import filesystem, paths
from curate.io.filesystem import StorageOptions
from curate.sources.addresses import UrlAccess
from curate.sources.base import Columns, Reader, Shard
from curate.sources.columns import guess_columns

__all__ = ["Format", "find_files"]


@dataclass(frozen=True)
class Format:
    """How one format is found and read.

    extensions : ends of the names of its files, in lower case; `auto` goes by them. find : patterns to shards
    (keywords storage_options, source, prefix, as `parquet.find`). reader : (columns, allow_url) to a Reader.
    columns : which column of a shard's schema holds what, with the keywords of `guess_columns`.
    recognises : True if files of these names are of this format together, whatever their ends say alone (a folder
    with images and a metadata.csv); `auto` asks this first. unfinished : True if its writer has not finished a
    shard. fingerprint : 32 hex digits that change with the content of a shard; check_unchanged : raises
    SourceError if a shard changed since it was found; changed_at : when its files were last changed, a time that
    nobody sets back. All are those of one file, unless a shard is something else. images_beside : (prefix, url): a
    `Rows.image_ref` without this prefix is what `references.follow` takes beside this url. untyped : the columns of text
    that are text for want of types: numbers may stand in them. addresses : (key, address) of the rows of a shard, where the format keeps them
    apart from its images; None where they are columns, if anything. what : in the words of a table for users, what the format is;
    rows : what becomes a row.
    """

    name: str
    extensions: tuple[str, ...]
    find: Callable[..., list[Shard]]
    reader: Callable[[Columns, UrlAccess | bool], Reader]
    columns: Callable[..., Columns] = guess_columns
    recognises: Callable[[Sequence[str]], bool] = lambda names: False
    unfinished: Callable[[Shard], bool] = lambda shard: False
    fingerprint: Callable[[Shard], str] = paths.fingerprint
    check_unchanged: Callable[[Shard], None] = paths.check_unchanged
    changed_at: Callable[[Shard], str] = lambda shard: filesystem.changed_at(shard.url)
    images_beside: Callable[[Shard], tuple[str, str]] = lambda shard: ("", shard.url)
    untyped: Callable[[Shard, pa.Schema], Collection[str]] = lambda shard, schema: ()
    addresses: Callable[[Shard], Iterator[tuple[str | None, str | None]] | None] = lambda shard: None
    what: str = ""
    rows: str = ""


def find_files(
    path: str | Sequence[str],
    extensions: Sequence[str],
    format_name: str,
    *,
    storage_options: StorageOptions = None,
    source: str = "source",
    prefix: str = "",
    rules: int = 1,
) -> list[Shard]:
    """Return one shard per file that `path` matches, in the order of their names, which begin with `prefix`.

    extensions : those of the files of a folder. rules : as in `Shard`.
    """
    options = storage_options or {}
    return [
        Shard(
            name=prefix + file.name,
            url=file.url,
            split=paths.split_of(file.name, file.url),
            size=file.size,
            version=file.version,
            source=source,
            storage_options=options,
            format=format_name,
            rules=rules,
        )
        for file in paths.expand(path, options, extensions=extensions)
    ]
