"""Stage `read`: find the shards, and learn who every row is before anything is decoded.

Writes scratch only (`.work/keys`): hashes, captions and labels of each row, and which rows are copies
of one another. The embed stage turns it into `0_samples` once outcomes are known.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from curate.errors import RecipeError, SourceError, UsageError
from curate.execution.context import PART_ROWS, Context, Part, log, reuse_or_remove
from curate.io import filesystem as files
from curate.io import paths, storage
from curate.pipeline.stages import repeated_keys
from curate.pipeline.stages.read_task import BadShard, ReadTask, npy_files, read_part, reader_of
from curate.pipeline.stages.source_changes import changes, files_of_rows
from curate.recipe import Recipe, Source
from curate.sources import registry
from curate.sources.base import Columns, Shard
from curate.sources.columns import check_columns

__all__ = [
    "VERSION",
    "check_sources",
    "find_parts",
    "find_shards",
    "keys_path",
    "run",
]

VERSION = 1


def find_parts(
    recipe: Recipe, cache: Path, *, hashed: bool = True
) -> tuple[tuple[Part, ...], list[BadShard]]:
    """Return the parts of all sources in shard order, and the shards that cannot be opened.

    cache : file that remembers fingerprints of shards whose size and times have not changed.
    hashed : False where the parts are only counted, and need no fingerprints.
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
                columns = replace(_columns(source, recipe, shard), vector_dim=dim)
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
            parts += _parts(shard, columns, rows, content, len(parts), first)
            first += count
    if hashed and prints != known:
        storage.write_record(cache, prints)
    if len({part.columns.uid is not None for part in parts}) > 1:
        raise RecipeError("source.uid must be named for all sources or for none")
    return tuple(parts), bad


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


def _columns(source: Source, recipe: Recipe, shard: Shard) -> Columns:
    """Return the columns of a shard: those named in the recipe, else those found by name and type."""
    present = reader_of(source, shard, Columns()).schema(shard)
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


def run(context: Context) -> bool:
    """Find all shards and read those that are not read yet; return whether anything was to do.

    Raises SourceError if more shards fail than `limits.bad_shards`.
    """
    recipe, work = context.recipe, context.run.work
    parts, bad = find_parts(recipe, work / "shards.json")
    npy = npy_of(recipe)
    _check_limit(bad, recipe)
    fingerprint = storage.fingerprint(
        "read", VERSION, [p.fingerprint for p in parts], npy_version(npy), vars_of(bad)
    )
    saved = storage.read_json(work / "parts.json")
    if context.run.is_done(work / "keys", fingerprint) and saved is not None:
        names = {row["name"] for row in saved}  # the same content, but perhaps with other times or places
        good = [replace(part, index=index) for index, part in enumerate(p for p in parts if p.name in names)]
        places = [(part.shard.url, part.shard.version) for part in good]
        if [(row["shard"]["url"], row["shard"]["version"]) for row in saved] != places:
            _save_parts(work / "parts.json", good)
        return False
    if npy is not None:
        _check_aligned(npy, sum(part.rows for part in parts), recipe)
    context.run.unmark(work / "keys")
    sources = {source.name: source for source in recipe.source}
    batch = min(64_000_000, context.task_memory // 4)
    tasks = []
    for part in parts:
        made_from = storage.fingerprint("read", VERSION, part.fingerprint, vectors_of(part, npy))
        if not reuse_or_remove(out := keys_path(context, part), made_from):
            tasks.append(ReadTask(part, sources[part.shard.source], npy, out, made_from, batch))
    failed = {error.name: error for error in context.map("read", "parts", read_part, tasks) if error}
    bad += failed.values()
    _check_limit(bad, recipe)
    good = [part for part in parts if part.shard.name not in failed]
    good = [replace(part, index=index) for index, part in enumerate(good)]
    context.run.keep_only(work / "keys", [part.name for part in good])
    grown = changes(saved or (), [(part.shard.name, part.name) for part in good])
    _save_parts(work / "parts.json", good)
    rows = sum(part.rows for part in good)
    facts = {"rows": rows, "parts": len(good), "bad_shards": vars_of(bad)}
    repeated = repeated_keys.find(context, good, [keys_path(context, part) for part in good])
    context.run.mark(work / "keys", fingerprint, facts | ({"repeated_keys": repeated} if repeated else {}))
    context.worked["read"] = {
        "parts": len(tasks),
        "rows": sum(task.part.rows for task in tasks),
        **grown._asdict(),
    }
    since = f" ({grown})" if saved else ""
    log.info("read: %s rows in %s shards%s", f"{rows:,}", f"{len({p.shard.name for p in good}):,}", since)
    return True


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
