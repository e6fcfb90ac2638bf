"""Stage `read`: find the shards, and learn who every row is before anything is decoded.

Writes scratch only (`.work/keys`): hashes, captions and labels of each row, and which rows are copies
of one another. The embed stage turns it into `0_samples` once outcomes are known.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.types import is_integer

from curate.errors import RecipeError, SourceError, UsageError
from curate.execution.context import PART_ROWS, Context, Part, log
from curate.execution.stage import Stage
from curate.io import storage
from curate.io.found import Found, counting, hint
from curate.pipeline import wider_access
from curate.pipeline.row_needs import check_needs, columns_lack, rows_lack, warn_of_needs
from curate.pipeline.source_schemas import SourceSchemas
from curate.pipeline.stages import given_vectors, read_notes, repeated_keys
from curate.pipeline.stages.condition_values import check_values
from curate.pipeline.stages.given_vectors import CountedShard
from curate.pipeline.stages.read_task import BadShard, ReadTask, fails, read_part, reader_of
from curate.pipeline.stages.source_changes import KnownShards, changes
from curate.recipe import Recipe, Source
from curate.runs.forgotten import Forgotten
from curate.sources import registry
from curate.sources.base import Columns, Shard
from curate.sources.columns import AUTO, check_columns, class_names, not_taken
from curate.sources.settings import Captions
from curate.sources.unknown import inner_list

__all__ = [
    "Read",
    "check_sources",
    "find_parts",
    "find_shards",
    "found_lines",
    "keys_path",
]


def find_parts(
    recipe: Recipe,
    cache: Path,
    *,
    hashed: bool = True,
    found: dict[str, Found] | None = None,
    schemas: SourceSchemas | None = None,
) -> tuple[tuple[Part, ...], list[BadShard]]:
    """Return the parts of all sources in shard order, and the shards that cannot be opened.

    cache : file that remembers fingerprints of shards whose size and times have not changed.
    hashed : False where the parts are only counted, and need no fingerprints. found : gets what was used and passed
    over of each source. schemas : takes up the columns of every shard.
    Raises UsageError if nothing matches or a named column is missing.
    """
    parts, bad, _ = _found(recipe, cache, hashed=hashed, files=found, schemas=schemas)
    return parts, bad


def _found(
    recipe: Recipe,
    cache: Path,
    *,
    hashed: bool = True,
    files: dict[str, Found] | None = None,
    schemas: SourceSchemas | None = None,
) -> tuple[tuple[Part, ...], list[BadShard], list[list[object]]]:
    """Return what `find_parts` does, and name, size and version of the files of vectors in the order of rows."""
    known = storage.read_json(cache) or {}
    saved = storage.read_json(cache.with_name("parts.json")) or []
    every: list[CountedShard] = []
    called: dict[str, str] = {}
    parts: list[Part] = []
    bad: list[BadShard] = []
    prints: dict[str, list[str]] = {}
    first, dim = 0, None
    seen = {source.name: Found() for source in recipe.source}
    found = []
    for source in recipe.source:
        with counting(seen[source.name]):
            found.append((source, find_shards(source, many=len(recipe.source) > 1)))
    names = KnownShards(saved, known, (shard.name for _, shards in found for shard in shards))
    for source, shards in found:
        left = source.limit
        for shard in shards:
            if left == 0:
                every.append(CountedShard(shard, None))
                continue
            try:
                with counting(seen[source.name]):
                    present, columns, count = _looked_into(source, recipe, shard, dim)
                if hashed:  # last, so that what was read before is of the file that is hashed, too
                    shard = registry.hashed(shard, known.get(shard.url, ()))
            except SourceError as error:
                bad.append(BadShard(shard.name, None, str(error)))
                every.append(CountedShard(shard, None))
                continue
            dim = columns.vector_dim
            rows = count if left is None else min(count, left)
            left = None if left is None else left - rows
            every.append(CountedShard(shard, count, rows))
            prints[shard.url] = [shard.version, shard.content, shard.changed]
            called[shard.name] = names.name(shard) if hashed else shard.name
            if schemas is not None:
                schemas.add(shard, present, rows)
            parts += _parts(shard, called[shard.name], columns, rows, len(parts), first)
            first += count
        if files is not None:
            vectors = recipe.embed.own_vectors or source.format in ("clip_retrieval", "datacomp")
            one = seen[source.name]
            files[source.name] = one.without(registry.BESIDE) if vectors else one
    prints = {url: known[url] for url in names.urls} | prints
    if hashed and prints != known:
        storage.write_record(cache, prints)
    if len({part.columns.uid is not None for part in parts}) > 1:
        raise RecipeError("source.uid must be named for all sources or for none")
    versions: list[list[object]] = []
    if given_vectors.patterns_of(recipe) is not None:
        named, versions = given_vectors.with_vectors(parts, every, recipe, cache.with_name("vectors.json"))
        parts = list(named)
    return (
        tuple(replace(one, shard=replace(one.shard, name=called[one.shard.name])) for one in parts),
        bad,
        versions,
    )


def found_lines(found: Mapping[str, Found]) -> list[str]:
    """Return one line per source that says what of its files is used and what is passed over."""
    return [f"{name}: {line}" for name, one in found.items() for line in (str(one), *one.hints)]


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
    registry.check_plain(found, options)
    found = [replace(shard, access=source.access) for shard in found]
    if source.unfinished == "refuse":
        return found
    finished = [shard for shard in found if not form.unfinished(shard)]
    if not finished:
        raise UsageError(
            f"source.path {', '.join(source.patterns)}: none of {len(found):,} shards is finished"
        )
    return finished


def _looked_into(
    source: Source, recipe: Recipe, shard: Shard, dim: int | None
) -> tuple[pa.Schema, Columns, int]:
    """Return the schema of a shard, its columns by role, and the number of its rows.

    dim : the length of the vectors of shards before it; without one, that of its own.
    """
    present = reader_of(source, shard, Columns()).schema(shard)
    columns = replace(_columns(source, recipe, shard, present), vector_dim=dim)
    reader = reader_of(source, shard, columns)
    count = reader.count(shard)
    return present, replace(columns, vector_dim=reader.vector_length(shard) if dim is None else dim), count


def _columns(source: Source, recipe: Recipe, shard: Shard, present: pa.Schema) -> Columns:
    """Return the columns of a shard: those named in the recipe, else those found by name and type."""
    own = recipe.embed.own_vectors
    rule = source.caption if isinstance(source.caption, Captions) else Captions()
    caption = AUTO if isinstance(source.caption, Captions) else source.caption
    try:
        columns = registry.format_of(shard.format).columns(
            present, image=source.image, caption=rule.of or caption, label=source.label, uid=source.uid,
            vector=recipe.embed.column, ids_only=recipe.embed.files is not None,
        )  # fmt: skip
        columns = replace(columns, caption_take=rule.take)
        off = replace(
            columns,
            caption=columns.caption or _off(source.caption),
            label=columns.label or _off(source.label),
        )
        for line in not_taken(present, off):
            hint(line)
    except UsageError as error:
        raise UsageError(f"{shard.url}: {error}{_of_wrong_shape(shard)}") from None
    if recipe.embed.text_column is not None:
        columns = replace(columns, text_vector=recipe.embed.text_column)
        check_columns(present, columns, shard.url)
    if columns.image is not None and not own and source.template is None:
        kind = present.field(columns.image).type if columns.image in present.names else None
        if kind is not None and is_integer(kind):
            raise UsageError(
                f"{shard.url}: column {columns.image!r} holds whole numbers, no images; say with source.template which "
                "file each stands for, such as 'train/{}.jpg'"
            )
    if columns.image is None and not own and (source.image is not None or columns.caption is None):
        have = ", ".join(f"{field.name} ({field.type})" for field in present)
        raise UsageError(
            f"{shard.url}: no image column found; name it with source.image, or set it to null where the samples are "
            f"captions alone (there are {have})"
        )
    return columns


def _of_wrong_shape(shard: Shard) -> str:
    """Say what to do with a JSON file that is one object around a list of objects; empty for any other."""
    one = (
        shard.format in ("json", "jsonl")
        and registry.format_of(shard.format).reader(Columns(), False).count(shard) == 1
    )
    key = inner_list(shard.url, shard.storage_options) if one else None
    return (
        ""
        if key is None
        else f"; its {key!r} is a list of objects: save that alone (json.dump(data[{key!r}], file))"
    )


def _off(setting: object) -> str | None:
    """Return a name that no column has where a role is turned off, so that nobody misses one."""
    return "" if setting is None else None


def _parts(shard: Shard, name: str, columns: Columns, rows: int, index: int, first: int) -> Iterator[Part]:
    """Yield the parts of a shard, named by the name under which the run knows it, and its content."""
    base = storage.fingerprint(name, shard.content, columns.identity(), rows)

    for number, start in enumerate(range(0, max(rows, 1), PART_ROWS)):
        stop = min(start + PART_ROWS, rows)
        part = base[:16] if rows <= PART_ROWS else f"{base[:16]}-{number:04d}"
        fingerprint = storage.fingerprint(base, start, stop)
        yield Part(part, index + number, shard, columns, start, stop, first + start, fingerprint)


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
        self._files: dict[str, Found] = {}
        self._schemas = SourceSchemas(self.recipe)
        self._found, self._bad, self._versions = _found(
            self.recipe, self.run_folder.work / "shards.json", files=self._files, schemas=self._schemas
        )
        _check_limit(self._bad, self.recipe, bool(self._found))
        self._table = self.run_folder.work / "parts.json"
        self._saved = storage.read_json(self._table)
        self._since = ""
        self._failed: list[BadShard] = []
        self._refused: frozenset[str] = frozenset()

    @property
    def parts(self) -> Sequence[Part]:
        """All parts found; in the end those that could be read."""
        return self._found

    def inputs(self) -> list[object]:
        """Return the content of all shards, and of the vector files beside them."""
        return [[p.fingerprint for p in self._found], self._versions, vars_of(self._bad)]

    def is_done(self) -> bool:
        """Whether the same content was read before, but for shards that failed then and still do.

        Parts with paths that were refused are read again where their source may lead to more places now.
        """
        self._refused = self._with_refused(wider_access.pending(self.run_folder))
        if self._refused:
            return False
        noted = self.context.facts(self.run_folder.stage(self.name)).get("bad_shards", [])
        self._failed = [BadShard(**one) for one in noted if one not in vars_of(self._bad)]
        failed = {one.name for one in self._failed}
        done = super().is_done() and self._saved is not None
        if done and all(any(map(fails, tasks)) for tasks in self._tasks_of(failed)):
            return True
        self._failed = []
        return False

    def _with_refused(self, sources: Collection[str]) -> frozenset[str]:
        """Return the names of the parts of these sources with refused paths, as they were read."""
        parts = [part for part in self._found if part.shard.source in sources]
        return frozenset(
            part.name for part in parts
            if (path := keys_path(self.context, part)).exists()
            and pc.any(pc.equal(storage.read_table(path, ["outcome"])["outcome"], "refused_path")).as_py()
        )  # fmt: skip

    def is_made(self, task: ReadTask) -> bool:
        """Whether the rows of a part are known, and none of them is to be judged again."""
        return task.part.name not in self._refused and super().is_made(task)

    def _tasks_of(self, shards: Collection[str]) -> list[list[ReadTask]]:
        """Return the tasks of these shards, shard by shard."""
        tasks = [task for task in self.tasks() if task.part.shard.name in shards] if shards else []
        return [[task for task in tasks if task.part.shard.name == name] for name in shards]

    def made_from(self) -> str:
        """Return what its mark says: another fingerprint where shards failed while they were read."""
        failed = vars_of(self._failed)
        return storage.fingerprint(self.fingerprint, failed) if failed else self.fingerprint

    def run(self) -> bool:
        """Read what is new; where nothing is, note where the shards are now."""
        if not self.is_done():
            for line in found_lines(self._files):
                log.info(line)
        worked = super().run()
        if not worked:
            self._follow_places()
        lack = rows_lack(self.recipe, self._found, lambda part: keys_path(self.context, part))
        check_needs(self.recipe, lack)
        if worked:
            warn_of_needs(self.recipe, lack)
        return worked

    def _follow_places(self) -> None:
        names = {
            row["name"] for row in self._saved
        }  # the same content, but perhaps with other times or places
        good = _numbered(part for part in self._found if part.name in names)
        if _rows_of(good) != self._saved:
            _save_parts(self._table, good)

    def unmark(self) -> None:
        """Take the mark away, if the columns of the shards fit the recipe."""
        self._schemas.check()
        check_needs(self.recipe, columns_lack(self.recipe, self._found))
        super().unmark()

    def tasks(self) -> list[ReadTask]:
        """Return what reading each part takes."""
        sources = {source.name: source for source in self.recipe.source}
        batch, forgotten = min(64_000_000, self.context.task_memory // 4), Forgotten.of(self.run_folder)
        return [
            ReadTask(
                part, sources[part.shard.source], keys_path(self.context, part),
                storage.fingerprint(
                    "read", self.version, part.fingerprint, given_vectors.vectors_of(part)
                ), batch, forgotten,
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
        self._failed = list(failed.values())
        self._bad += self._failed
        _check_limit(self._bad, self.recipe, any(part.shard.name not in failed for part in self._found))
        self._found = good = tuple(_numbered(p for p in self._found if p.shard.name not in failed))
        check_values(self.context, good, [keys_path(self.context, part) for part in good])
        grown = changes(self._saved or (), [(part.shard.name, part.name) for part in good])
        self._since = f" ({grown})" if self._saved else ""
        self.note_worked(**grown._asdict())
        _save_parts(self._table, good)
        rows = sum(part.rows for part in good)
        stats = {"rows": rows, "parts": len(good), "bad_shards": vars_of(self._bad)}
        repeated = repeated_keys.find(self.context, good, [keys_path(self.context, part) for part in good])
        notes = read_notes.total(good, (storage.stored_facts(keys_path(self.context, part)) for part in good))
        classes = self._classes()
        more = {"repeated_keys": repeated, "notes": notes, "classes": classes}
        return stats | {name: value for name, value in more.items() if value}

    def _classes(self) -> dict[str, str]:
        """Return the names of the classes by label, where the first shard of a source declares them (ClassLabel)."""
        sources = {source.name: source for source in self.recipe.source}
        firsts = {part.shard.source: part for part in reversed(self._found) if part.columns.label is not None}
        found: dict[str, str] = {}
        for name, part in sorted(firsts.items()):
            schema = reader_of(sources[name], part.shard, part.columns).schema(part.shard)
            names = class_names(schema).get(str(part.columns.label), [])
            for code, text in enumerate(names):
                shown = f"{text} ({code})" if names.count(text) > 1 else text
                if found.setdefault(str(code), shown) != shown:
                    log.warning(
                        "read: the label %s is %r in one source and %r in source %s; they count as one class", code,
                        found[str(code)], shown, name,
                    )  # fmt: skip
                    return {}
        return found

    def log(self, stats: Mapping[str, Any]) -> None:
        """Say how many rows there are, and what is new since the run was read last."""
        shards = len({part.shard.name for part in self._found})
        log.info("read: %s rows in %s shards%s", f"{stats['rows']:,}", f"{shards:,}", self._since)
        read_notes.say(stats.get("notes", {}))


def _numbered(parts: Iterable[Part]) -> list[Part]:
    return [replace(part, index=index) for index, part in enumerate(parts)]


def vars_of(bad: Sequence[BadShard]) -> list[dict[str, object]]:
    """Return bad shards as plain values."""
    return [asdict(shard) for shard in bad]


def _check_limit(bad: Sequence[BadShard], recipe: Recipe, sound: bool) -> None:
    """Raise SourceError if more shards are unreadable than the recipe allows; sound : whether any can be read."""
    if len(bad) > recipe.limits.bad_shards:
        more = f" (and {len(bad) - 1} more shards)" if len(bad) > 1 else ""
        way = f"; limits.bad_shards allows {recipe.limits.bad_shards}, --set limits.bad_shards={len(bad)} goes on without"
        raise SourceError(f"{bad[0].error}{more}{way if sound else ''}")


def _save_parts(path: Path, parts: Sequence[Part]) -> None:
    """Write the parts for later stages, without the options a source is opened with (they hold secrets)."""
    storage.write_record(path, _rows_of(parts))


def _rows_of(parts: Sequence[Part]) -> list[dict[str, Any]]:
    plain = (replace(part, shard=replace(part.shard, storage_options={})) for part in parts)
    rows = [{**asdict(part), "vectors": [asdict(file) for file in part.vectors]} for part in plain]
    for row in rows:
        del row["shard"]["access"]  # as the recipe has it
        row["columns"]["caption_more"] = list(row["columns"]["caption_more"])  # as JSON has it
    return rows
