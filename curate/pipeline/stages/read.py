"""Stage `read`: find the shards, and learn who every row is before anything is decoded.

Writes scratch only (`.work/keys`): hashes, captions and labels of each row, and which rows are copies
of one another. The embed stage turns it into `0_samples` once outcomes are known.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.errors import RecipeError, SourceError, UsageError
from curate.execution.context import PART_ROWS, Context, Part, log
from curate.execution.stage import Stage
from curate.io import filesystem as files
from curate.io import paths, storage
from curate.pipeline.source_schemas import SourceSchemas
from curate.pipeline.stages import repeated_keys
from curate.pipeline.stages.read_task import BadShard, ReadTask, npy_files, read_part, reader_of
from curate.pipeline.stages.source_changes import changes, files_of_rows
from curate.recipe import Recipe, Source
from curate.sources import registry
from curate.sources.base import Columns, Shard
from curate.sources.columns import check_columns

__all__ = [
    "Read",
    "check_sources",
    "find_parts",
    "find_shards",
    "keys_path",
]


def find_parts(
    recipe: Recipe, cache: Path, *, hashed: bool = True, schemas: SourceSchemas | None = None
) -> tuple[tuple[Part, ...], list[BadShard]]:
    """Return the parts of all sources in shard order, and the shards that cannot be opened.

    cache : file that remembers fingerprints of shards whose size and times have not changed.
    hashed : False where the parts are only counted, and need no fingerprints. schemas : takes up the columns of
    every shard.
    Raises UsageError if nothing matches or a named column is missing.
    """
    known = storage.read_json(cache) or {}
    parts: list[Part] = []
    bad: list[BadShard] = []
    prints: dict[str, list[str]] = {}
    first, dim = 0, None
    for source in recipe.source:
        left = source.limit
        for shard in find_shards(source, many=len(recipe.source) > 1):
            if left == 0:
                break
            try:
                present = reader_of(source, shard, Columns()).schema(shard)
                columns = replace(_columns(source, recipe, shard, present), vector_dim=dim)
                reader = reader_of(source, shard, columns)
                count = reader.count(shard)
                if dim is None and (dim := reader.vector_length(shard)) is not None:
                    columns = replace(columns, vector_dim=dim)
            except SourceError as error:
                bad.append(BadShard(shard.name, None, str(error)))
                continue
            rows = count if left is None else min(count, left)
            left = None if left is None else left - rows
            version, content, *since = known.get(shard.url, ["", ""])
            changed_at = files.changed_at(shard.url)  # a time that nobody sets back: the file was written to
            if (version, since) != (shard.version, [changed_at]) and hashed:
                content = registry.fingerprint(shard)
            prints[shard.url] = [shard.version, content, changed_at]
            if schemas is not None:
                schemas.add(shard, present, rows)
            parts += _parts(shard, columns, rows, content, len(parts), first)
            first += count
    if hashed and prints != known:
        storage.write_record(cache, prints)
    if len({part.columns.uid is not None for part in parts}) > 1:
        raise RecipeError("source.uid must be named for all sources or for none")
    return tuple(parts), bad


def part_names(recipe: Recipe, cache: Path) -> list[str]:
    """Return the names of the parts of all sources: see `find_parts`."""
    return [part.name for part in find_parts(recipe, cache)[0]]


def check_sources(recipe: Recipe) -> None:
    """Raise UsageError if the paths of a source match nothing."""
    for source in recipe.source:
        find_shards(source)


def find_shards(source: Source, *, many: bool = False) -> list[Shard]:
    """Return the shards of one source; with several sources their names begin with the source's."""
    prefix = f"{source.name}/" if many else ""
    options = source.storage_options
    name = registry.detect(source.patterns, options) if source.format == "auto" else source.format
    form = registry.format_of(name)
    found = form.find(source.patterns, storage_options=options, source=source.name, prefix=prefix)
    if source.unfinished == "refuse":
        return found
    finished = [shard for shard in found if not form.unfinished(shard)]
    if not finished:
        raise UsageError(
            f"source.path {', '.join(source.patterns)}: none of {len(found):,} shards is finished"
        )
    return finished


def _columns(source: Source, recipe: Recipe, shard: Shard, present: pa.Schema) -> Columns:
    """Return the columns of a shard: those named in the recipe, else those found by name and type."""
    own = recipe.embed.own_vectors
    try:
        columns = registry.format_of(shard.format).columns(
            present, image=source.image, caption=source.caption, label=source.label, uid=source.uid,
            vector=recipe.embed.column, ids_only=recipe.embed.files is not None,
        )  # fmt: skip
    except UsageError as error:
        raise UsageError(f"{shard.url}: {error}") from None
    if recipe.embed.text_column is not None:
        columns = replace(columns, text_vector=recipe.embed.text_column)
        check_columns(present, columns, shard.url)
    if columns.image is None and not own and (source.image is not None or columns.caption is None):
        have = ", ".join(f"{field.name} ({field.type})" for field in present)
        raise UsageError(
            f"{shard.url}: no image column found; name it with source.image, or set it to null where the samples are "
            f"captions alone (there are {have})"
        )
    return columns


def _parts(shard: Shard, columns: Columns, rows: int, content: str, index: int, first: int) -> Iterator[Part]:
    base = storage.fingerprint(shard.name, content, vars(columns), rows)
    for number, start in enumerate(range(0, max(rows, 1), PART_ROWS)):
        stop = min(start + PART_ROWS, rows)
        name = base[:16] if rows <= PART_ROWS else f"{base[:16]}-{number:04d}"
        fingerprint = storage.fingerprint(base, start, stop)
        yield Part(name, index + number, shard, columns, start, stop, first + start, fingerprint)


def keys_path(context: Context, part: Part) -> Path:
    """Return the scratch table of a part's keys."""
    return context.run.work / "keys" / f"part-{part.name}.parquet"


class Read(Stage):
    """Finds all shards and reads those that are not read yet.

    Raises SourceError if more shards fail than `limits.bad_shards`.
    """

    name = "read"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._schemas = SourceSchemas(self.recipe)
        self._found, self._bad = find_parts(
            self.recipe, self.run_folder.work / "shards.json", schemas=self._schemas
        )
        self._npy = npy_of(self.recipe)
        _check_limit(self._bad, self.recipe)
        self._table = self.run_folder.work / "parts.json"
        self._saved = storage.read_json(self._table)
        self._since = ""

    @property
    def parts(self) -> Sequence[Part]:
        """All parts found; in the end those that could be read."""
        return self._found

    def inputs(self) -> list[object]:
        """Return the content of all shards, and of the vector files beside them."""
        return [[p.fingerprint for p in self._found], npy_version(self._npy), vars_of(self._bad)]

    def is_done(self) -> bool:
        """Whether the same content was read before."""
        return super().is_done() and self._saved is not None

    def run(self) -> bool:
        """Read what is new; where nothing is, note where the shards are now."""
        worked = super().run()
        if not worked:
            self._follow_places()
        return worked

    def _follow_places(self) -> None:
        names = {
            row["name"] for row in self._saved
        }  # the same content, but perhaps with other times or places
        good = _numbered(part for part in self._found if part.name in names)
        places = [(part.shard.url, part.shard.version) for part in good]
        if [(row["shard"]["url"], row["shard"]["version"]) for row in self._saved] != places:
            _save_parts(self._table, good)

    def unmark(self) -> None:
        """Take the mark away, if there is a vector for every row, and the columns of the shards fit the recipe."""
        self._schemas.check()
        if self._npy is not None:
            _check_aligned(self._npy, sum(part.rows for part in self._found), self.recipe)
        super().unmark()

    def tasks(self) -> list[ReadTask]:
        """Return what reading each part takes."""
        sources = {source.name: source for source in self.recipe.source}
        batch = min(64_000_000, self.context.task_memory // 4)
        return [
            ReadTask(
                part, sources[part.shard.source], self._npy, keys_path(self.context, part),
                storage.fingerprint(
                    "read", self.version, part.fingerprint, vectors_of(part, self._npy)
                ), batch,
            )
            for part in self._found
        ]  # fmt: skip

    @property
    def part(self) -> Callable[[ReadTask], BadShard | None]:
        """Read the rows of one part."""
        return read_part

    def finish(self, results: Sequence[BadShard | None]) -> dict[str, object]:
        """Leave out the shards that could not be read, and note the parts for the stages after this one."""
        failed = {error.name: error for error in results if error}
        self._bad += failed.values()
        _check_limit(self._bad, self.recipe)
        self._found = good = tuple(_numbered(p for p in self._found if p.shard.name not in failed))
        grown = changes(self._saved or (), [(part.shard.name, part.name) for part in good])
        self._since = f" ({grown})" if self._saved else ""
        self.note_worked(**grown._asdict())
        _save_parts(self._table, good)
        rows = sum(part.rows for part in good)
        stats = {"rows": rows, "parts": len(good), "bad_shards": vars_of(self._bad)}
        repeated = repeated_keys.find(self.context, good, [keys_path(self.context, part) for part in good])
        return stats | ({"repeated_keys": repeated} if repeated else {})

    def log(self, stats: Mapping[str, Any]) -> None:
        """Say how many rows there are, and what is new since the run was read last."""
        shards = len({part.shard.name for part in self._found})
        log.info("read: %s rows in %s shards%s", f"{stats['rows']:,}", f"{shards:,}", self._since)


def _numbered(parts: Iterable[Part]) -> list[Part]:
    return [replace(part, index=index) for index, part in enumerate(parts)]


def vars_of(bad: Sequence[BadShard]) -> list[dict[str, object]]:
    """Return bad shards as plain values."""
    return [asdict(shard) for shard in bad]


def _check_limit(bad: Sequence[BadShard], recipe: Recipe) -> None:
    """Raise SourceError if more shards are unreadable than the recipe allows."""
    if len(bad) > recipe.limits.bad_shards:
        more = f" (and {len(bad) - 1} more shards)" if len(bad) > 1 else ""
        raise SourceError(f"{bad[0].error}{more}; limits.bad_shards allows {recipe.limits.bad_shards}")


def _save_parts(path: Path, parts: Sequence[Part]) -> None:
    """Write the parts for later stages, without the options a source is opened with (they hold secrets)."""
    rows = [asdict(replace(part, shard=replace(part.shard, storage_options={}))) for part in parts]
    storage.write_record(path, rows)


def npy_of(recipe: Recipe) -> tuple[str, ...] | None:
    """Return the patterns of the vector files, if the vectors are in files."""
    files = recipe.embed.files
    return None if files is None else ((files,) if isinstance(files, str) else tuple(files))


def _check_aligned(npy: Sequence[str], n_rows: int, recipe: Recipe) -> None:
    """Raise EmbeddingError unless there is one vector per row (with a limit: at least one)."""
    from curate.embedding.user_vectors import check_aligned, open_npy_files

    count = open_npy_files(npy_files(npy)).count()
    if any(source.limit is not None for source in recipe.source):
        count = min(count, n_rows)
    names, sources = ", ".join(npy), ", ".join(p for source in recipe.source for p in source.patterns)
    check_aligned(count, n_rows, vectors=f"embed.files {names}", rows=f"source {sources}")


def npy_version(patterns: Sequence[str] | None) -> list[list[object]]:
    """Return what tells a change of the vector files: name, size and time of each."""
    if patterns is None:
        return []
    return [
        [file.name, file.size, file.version]
        for file in paths.expand(list(patterns), {}, extensions=(".npy",))
    ]


def vectors_of(part: Part, npy: Sequence[str] | None) -> list[object]:
    """Return what tells a change of a part's vectors in files: those that hold its rows, and where they begin."""
    if npy is None:
        return []
    versions = [(str(name), int(str(size)), str(version)) for name, size, version in npy_version(npy)]
    return files_of_rows(versions, npy_files(npy), part.first, part.rows)
