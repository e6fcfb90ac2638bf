"""Read the embeddings that clip-retrieval writes: folders of vectors, aligned with Parquet metadata.

::

    FOLDER/metadata/metadata_0.parquet    image_path, caption, ...: the rows
    FOLDER/img_emb/img_emb_0.npy          (n, d): their image vectors, the column `img_emb`
    FOLDER/text_emb/text_emb_0.npy        (n, d): their text vectors, the column `text_emb`

One of the two folders of vectors may be missing. A recipe takes them as
``embed: {column: img_emb, text_column: text_emb}``.
"""

import functools
import logging
import re
from collections.abc import Sequence

from curate.errors import SourceError, UsageError
from curate.io import filesystem, paths
from curate.io.filesystem import StorageOptions
from curate.sources.addresses import UrlAccess
from curate.sources.arrays import beside
from curate.sources.arrays.beside import BesideReader
from curate.sources.arrays.npy import ArrayFile, npy_array
from curate.sources.base import Columns, Shard
from curate.sources.format import Format

__all__ = ["FORMAT", "find"]

ARRAYS = ("img_emb", "text_emb")
LAYOUT = (
    "a clip-retrieval folder has metadata/metadata_0.parquet, img_emb/img_emb_0.npy, text_emb/text_emb_0.npy"
)

_METADATA = re.compile(r"(?P<root>.*/)metadata/metadata_(?P<number>[^/]*)\.parquet")

log = logging.getLogger("curate")


def find(
    path: str | Sequence[str],
    *,
    storage_options: StorageOptions = None,
    source: str = "source",
    prefix: str = "",
) -> list[Shard]:
    """Return a shard per file of metadata that `path` matches: folders, or the files themselves.

    Raises UsageError where there is none, SourceError where a folder holds vectors without metadata.
    """
    found = paths.expand(path, storage_options, extensions=(".parquet",))
    good = [file for file in found if _METADATA.fullmatch(file.url)]
    if not good:
        raise UsageError(f"source.path: {found[0].url} is no metadata of clip-retrieval: {LAYOUT}")
    if len(good) < len(found):
        other = next(file.url for file in found if file not in good)
        log.warning("%s is no metadata of clip-retrieval and is not read: %s", other, LAYOUT)
    texts = [path] if isinstance(path, str) else path
    if not any(text.endswith(".parquet") for text in texts):
        _check_orphans([file.url for file in good], storage_options)
    return beside.shards_of(
        good, partners, "clip_retrieval", storage_options=storage_options, source=source, prefix=prefix
    )


def partners(url: str) -> dict[str, str]:
    """Return where the vectors of a file of metadata lie, by the name of their folder.

    >>> partners("/x/metadata/metadata_07.parquet")["img_emb"]
    '/x/img_emb/img_emb_07.npy'
    """
    match = _METADATA.fullmatch(url)
    if match is None:
        raise SourceError(f"{url}: is no metadata of clip-retrieval: {LAYOUT}")
    return {name: f"{match['root']}{name}/{name}_{match['number']}.npy" for name in ARRAYS}


def recognises(names: Sequence[str]) -> bool:
    """Return True if files of these names are a clip-retrieval folder: metadata, and vectors in a folder beside."""
    metadata = any(_METADATA.fullmatch(f"/{name}") for name in names)
    return metadata and any(
        re.search(r"(^|/)(img|text)_emb/(img|text)_emb_[^/]*\.npy$", name) for name in names
    )


def _arrays(shard: Shard) -> dict[str, ArrayFile]:
    """Return the vectors of a shard; raises SourceError for a file that its neighbours have and it has not."""
    there = beside.present(shard, partners)
    for name, url in partners(shard.url).items():
        if name not in there and _listed(filesystem.parent(url), shard.storage_options):
            raise SourceError(f"{url}: no such file; {shard.url} needs its vectors: {LAYOUT}")
    if not there:
        raise SourceError(f"{shard.url}: has no vectors in ../img_emb or ../text_emb: {LAYOUT}")
    return {name: npy_array(url, shard.storage_options) for name, url in there.items()}


def _listed(folder: str, storage_options: StorageOptions) -> list[str]:
    """Return the `.npy` files of a folder; none where it does not exist."""
    fs, path = filesystem.filesystem(folder, storage_options)
    try:
        entries = filesystem.walk(fs, path)
    except FileNotFoundError:
        return []
    return [filesystem.url_of(fs, name) for name in sorted(entries) if name.endswith(".npy")]


def _check_orphans(metadata: Sequence[str], storage_options: StorageOptions) -> None:
    """Raise SourceError where a folder holds vectors of which no file of metadata was found."""
    expected = {url for one in metadata for url in partners(one).values()}
    for folder in sorted({filesystem.parent(url) for url in expected}):
        with filesystem.explained(folder, storage_options):
            orphans = [url for url in _listed(folder, storage_options) if url not in expected]
        if orphans:
            raise SourceError(
                f"{orphans[0]}: has no metadata ({len(orphans):,} such in {folder}); put metadata_N.parquet back, "
                "remove the vectors, or name the metadata files to read"
            )


def _reader(columns: Columns, allow_url: UrlAccess | bool) -> BesideReader:
    return BesideReader(columns, allow_url, _arrays)


FORMAT = Format(
    "clip_retrieval",
    (),
    find,
    _reader,
    recognises=recognises,
    fingerprint=functools.partial(beside.fingerprint, partners=partners),
    check_unchanged=functools.partial(beside.check_unchanged, partners=partners),
    changed_at=functools.partial(beside.changed_at, partners=partners),
    what="`img_emb/`, `text_emb/`, `metadata/`: `embed: {column: img_emb, text_column: text_emb}`",
    rows="metadata",
)
