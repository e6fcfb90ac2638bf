"""Vectors in files beside the source (`embed.files`): which file holds those of which rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from curate.embedding.user_vectors import VectorRows, open_vectors
from curate.embedding.vector_files import ENDINGS
from curate.errors import EmbeddingError, SourceError, UsageError
from curate.execution.context import Part, VectorFile
from curate.io import filesystem, paths, storage
from curate.io.paths import FoundFile
from curate.recipe import Recipe
from curate.sources.arrays.pairing import WAYS, by_number, paired, require_sure_order
from curate.sources.base import Shard

__all__ = [
    "CountedShard",
    "check_unchanged",
    "files_of",
    "patterns_of",
    "rows_of",
    "vectors_of",
    "with_vectors",
]


@dataclass(frozen=True)
class CountedShard:
    """A shard of the source; rows : how many it has, None where it was not opened, or cannot be. read : its rows in the run."""

    shard: Shard
    rows: int | None
    read: int = 0


def patterns_of(recipe: Recipe) -> tuple[str, ...] | None:
    """Return the patterns of the vector files, if the vectors are in files."""
    files = recipe.embed.files
    return None if files is None else ((files,) if isinstance(files, str) else tuple(files))


def files_of(patterns: Sequence[str]) -> list[FoundFile]:
    """Return the vector files that patterns match, in the order of their names."""
    try:
        return paths.expand(list(patterns), {}, extensions=(".npy",))
    except UsageError:  # a folder without a .npy file, perhaps
        return paths.expand(list(patterns), {}, extensions=ENDINGS)


def with_vectors(
    parts: Sequence[Part], shards: Sequence[CountedShard], recipe: Recipe, cache: Path
) -> tuple[tuple[Part, ...], list[list[object]]]:
    """Return the parts with the files of their vectors, and name, size and version of all files in the order of rows.

    shards : all of the source, in their order. cache : remembers the number of rows of files that did not change.
    A file belongs to the shard of its name or number, and has as many vectors as the shard has rows; where names do
    not say, the files follow one another as the rows do. Raises EmbeddingError where neither is certain.
    """
    patterns = patterns_of(recipe) or ()
    files = files_of(patterns)
    uid = next((part.columns.uid for part in parts), None)
    known = _known(files, cache, recipe.embed.array, uid)
    counts = {url: one.rows for url, one in known.items()}
    sure = uid is not None and all(
        one.has_uids for one in known.values()
    )  # then each row is compared when it is read
    order = paired([one.shard.name for one in shards], [file.name for file in files])
    if not sure and any(one.shard.format != "folder" for one in shards) and order is None:
        require_sure_order(
            [one.shard.name for one in shards], "the shards"
        )  # images are sorted by their paths
    if order is None and len(files) == len(shards) > 1:
        if not sure:
            _require_order(files, patterns, range(len(files)))
        order = list(range(len(files)))
    if order is not None:
        given = _beside(shards, [files[place] for place in order], counts)
        places = order
    else:
        places = by_number([file.name for file in files])
        if not sure:
            _require_order(files, patterns, places)
        given = _in_a_row(shards, [files[place] for place in places], counts)
        _check_total(parts, shards, counts, recipe)
    named = [files[place] for place in places]
    versions: list[list[object]] = [[file.name, file.size, file.version] for file in named]
    array = recipe.embed.array
    return tuple(
        replace(part, vectors=_of_rows(part, *given[part.shard.name], array)) for part in parts
    ), versions


def vectors_of(part: Part) -> list[object]:
    """Return what tells a change of a part's vectors in files: those that hold its rows, and where they begin."""
    return [[file.name, file.size, file.version, file.begin] for file in part.vectors]


def rows_of(part: Part) -> VectorRows | None:
    """Open the vectors of a part; None where they are in no file."""
    if not part.vectors:
        return None
    files = [file.url for file in part.vectors]
    return open_vectors(files, array=part.vectors[0].array, uid=part.columns.uid)


def check_unchanged(part: Part, since: Sequence[str] | None = None) -> tuple[str, ...]:
    """Raise EmbeddingError unless the vector files of a part are what they were when they were found.

    since : what this returned before they were read; it must be the same. Returns when each was last changed.
    """
    changed = tuple(filesystem.changed_at(file.url) for file in part.vectors)
    for place, file in enumerate(part.vectors):
        try:
            version = filesystem.version_of(file.url)
        except SourceError as error:
            raise EmbeddingError(str(error)) from None
        if version != file.version or (since is not None and since[place] != changed[place]):
            raise EmbeddingError(f"{file.url}: the file changed since the source was read; run again")
    return changed


class _Known(NamedTuple):
    """What a file holds: sign of a change, rows, length of its vectors, whether uids stand beside them."""

    sign: list[str | None]
    rows: int
    dim: int
    has_uids: bool


def _known(
    files: Sequence[FoundFile], cache: Path, array: str | None, uid: str | None
) -> Mapping[str, _Known]:
    """Return what each file holds by URL; raises EmbeddingError where the vectors are of several lengths."""
    noted = {url: _Known(*one) for url, one in (storage.read_json(cache) or {}).items()}
    seen: dict[str, _Known] = {}
    for file in files:
        sign = [file.version, array, uid]
        if file.url in noted and noted[file.url].sign == sign:
            seen[file.url] = noted[file.url]
        else:
            given = open_vectors([file.url], array=array, uid=uid)
            seen[file.url] = _Known(sign, given.count(), given.dim, given.has_uids)
    first = files[0]
    for file in files:
        if seen[file.url].dim != seen[first.url].dim:
            raise EmbeddingError(
                f"{file.url}: vectors have {seen[file.url].dim} numbers, those of {first.url} {seen[first.url].dim}"
            )
    if seen != noted:
        storage.write_record(cache, {url: list(one) for url, one in seen.items()})
    return seen


#: (file, place of its first row among the rows of what it is given with, number of its rows), file by file.
_Extents = list[tuple[FoundFile, int, int]]


def _beside(
    shards: Sequence[CountedShard], files: Sequence[FoundFile], counts: Mapping[str, int]
) -> dict[str, tuple[_Extents, int]]:
    """Return the file of each shard by its name, and where the shard begins in it; counts are checked one by one."""
    given: dict[str, tuple[_Extents, int]] = {}
    for one, file in zip(shards, files, strict=True):
        rows = counts[file.url]
        if one.rows is not None and rows != one.rows and not (one.read < one.rows and rows == one.read):
            raise EmbeddingError(
                f"{file.url} has {rows:,} vectors, but {one.shard.url}, to which it belongs by its name or place, has "
                f"{one.rows:,} rows; make the vectors of this shard again, or {WAYS}"
            )
        given[one.shard.name] = [(file, 0, rows)], 0
    return given


def _in_a_row(
    shards: Sequence[CountedShard],
    files: Sequence[FoundFile],
    counts: Mapping[str, int],
) -> dict[str, tuple[_Extents, int]]:
    """Return all files, one behind the other, for each shard by its name, and where the shard begins in them."""
    sizes = [counts[file.url] for file in files]
    extents = [
        (file, end - size, size) for file, end, size in zip(files, accumulate(sizes), sizes, strict=True)
    ]
    given: dict[str, tuple[_Extents, int]] = {}
    first, unknown = 0, None
    for one in shards:
        if one.rows is None:
            unknown = unknown or one
            continue
        if unknown is not None:
            raise EmbeddingError(
                f"embed.files: {unknown.shard.url} was not read, so where the vectors of {one.shard.url} begin is not "
                f"known; {WAYS}"
            )
        given[one.shard.name] = extents, first
        first += one.rows
    return given


def _check_total(
    parts: Sequence[Part], shards: Sequence[CountedShard], counts: Mapping[str, int], recipe: Recipe
) -> None:
    """Raise EmbeddingError unless there is a vector per row, or at least one where a limit leaves rows out."""
    found = sum(counts.values())
    wanted = sum(part.rows for part in parts)
    limited = any(one.rows is None or one.read < one.rows for one in shards)
    if found != wanted and not (limited and found >= wanted):
        names = ", ".join(pattern for source in recipe.source for pattern in source.patterns)
        raise EmbeddingError(
            f"embed.files {', '.join(patterns_of(recipe) or ())} has {found:,} vectors, but source {names} has "
            f"{wanted:,} rows"
        )


def _of_rows(part: Part, extents: _Extents, shard_first: int, array: str | None) -> tuple[VectorFile, ...]:
    """Return the files that hold rows of a part, and where each begins, counted from the first row of the part."""
    first = shard_first + part.start
    return tuple(
        VectorFile(file.url, file.name, file.size, file.version, start - first, array)
        for file, start, rows in extents
        if start < first + part.rows and start + rows > first
    )


def _require_order(files: Sequence[FoundFile], patterns: Sequence[str], order: Sequence[int]) -> None:
    """Raise EmbeddingError where a list of files says another order than the names of the files."""
    if len(patterns) < 2:
        if list(order) == list(range(len(files))):
            require_sure_order([file.name for file in files], "the files")
        return
    listed: list[str] = []
    for pattern in patterns:
        found = files_of([pattern])
        listed += [found[place].url for place in by_number([file.name for file in found])]
    wanted = [files[place].url for place in order]
    for said, place in zip(dict.fromkeys(listed), wanted, strict=True):
        if said != place:
            raise EmbeddingError(
                f"embed.files lists {said} before {place}, and by their names it comes after it: which vectors belong to "
                f"which rows is not certain; {WAYS}"
            )
