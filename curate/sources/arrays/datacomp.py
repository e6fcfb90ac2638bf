"""Read DataComp metadata: Parquet files, each with an `.npz` of the same name that holds its CLIP vectors.

::

    FOLDER/00000.parquet    uid, url, text, original_width, ..., clip_l14_similarity_score: the rows
    FOLDER/00000.npz        b32_img, b32_txt, l14_img, l14_txt: (n, d) each, columns of these names

A recipe chooses the vectors by name, ``embed: {column: l14_img, text_column: l14_txt}``. The column `uid` is the
uid of the rows unless `source.uid` names another.
"""

import functools
from collections.abc import Sequence

import pyarrow as pa

from curate.errors import SourceError, UsageError
from curate.io import paths
from curate.io.filesystem import StorageOptions
from curate.sources.addresses import UrlAccess
from curate.sources.arrays import beside
from curate.sources.arrays.beside import BesideReader
from curate.sources.arrays.npy import ArrayFile, npz_arrays
from curate.sources.base import Columns, Shard
from curate.sources.columns import AUTO, guess_columns
from curate.sources.format import Format

__all__ = ["FORMAT", "columns", "find"]

EXTENSION = ".parquet"


def find(
    path: str | Sequence[str],
    *,
    storage_options: StorageOptions = None,
    source: str = "source",
    prefix: str = "",
) -> list[Shard]:
    """Return a shard per Parquet file that `path` matches; what lies beside them is checked when they are read.

    Raises SourceError where a folder holds an `.npz` without its Parquet file.
    """
    found = [
        file
        for file in paths.expand(path, storage_options, extensions=(EXTENSION, ".npz"))
        if file.url.endswith((EXTENSION, ".npz"))
    ]
    metadata = [file for file in found if file.url.endswith(EXTENSION)]
    if not metadata:
        raise UsageError(
            f"source.path: no {EXTENSION} file; DataComp metadata is 00000.parquet and 00000.npz"
        )
    expected = {url for file in metadata for url in partners(file.url).values()}
    orphans = [file.url for file in found if file.url.endswith(".npz") and file.url not in expected]
    if orphans:
        raise SourceError(
            f"{orphans[0]}: has no {EXTENSION} file beside it ({len(orphans):,} such); put it back, remove the .npz, "
            "or name the Parquet files to read"
        )
    return beside.shards_of(
        metadata, partners, "datacomp", storage_options=storage_options, source=source, prefix=prefix
    )


def partners(url: str) -> dict[str, str]:
    """Return where the arrays of a file of metadata lie.

    >>> partners("/x/00000.parquet")
    {'npz': '/x/00000.npz'}
    """
    return {"npz": f"{url.removesuffix(EXTENSION)}.npz"}


def columns(
    present: pa.Schema, *, uid: str | None = None, image: str | None = AUTO, **roles: object
) -> Columns:
    """Return which column holds what, as `guess_columns`: the uid is `uid`, images are at `url`."""
    if uid is None and "uid" in present.names:
        uid = "uid"
    if image == AUTO and "url" in present.names:
        image = "url"
    return guess_columns(present, uid=uid, image=image, **roles)  # type: ignore[arg-type]


def recognises(names: Sequence[str]) -> bool:
    """Return True if files of these names are DataComp metadata: Parquet files with an `.npz` of the same name."""
    there = set(names)
    return any(name.endswith(EXTENSION) and partners(name)["npz"] in there for name in there)


def _arrays(shard: Shard) -> dict[str, ArrayFile]:
    there = beside.present(shard, partners)
    if "npz" not in there:
        raise SourceError(
            f"{partners(shard.url)['npz']}: no such file; {shard.url} needs its vectors "
            "(metadata without vectors are read with source.format: parquet)"
        )
    return npz_arrays(there["npz"], shard.storage_options)


def _reader(columns: Columns, allow_url: UrlAccess | bool) -> BesideReader:
    return BesideReader(columns, allow_url, _arrays)


FORMAT = Format(
    "datacomp",
    (),
    find,
    _reader,
    columns=columns,
    recognises=recognises,
    fingerprint=functools.partial(beside.fingerprint, partners=partners),
    check_unchanged=functools.partial(beside.check_unchanged, partners=partners),
    changed_at=functools.partial(beside.changed_at, partners=partners),
    what="metadata Parquet with `.npz` beside: `embed: {column: l14_img, text_column: l14_txt}`",
    rows="uids",
)
