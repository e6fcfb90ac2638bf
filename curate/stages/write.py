"""Stage `write`: the filtered shards, from the source's own bytes and the decisions."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import polars as pl
import pyarrow as pa

from curate import schema, storage
from curate.errors import RunError, UsageError
from curate.settings import Recipe
from curate.sinks import parquet as sink
from curate.sinks.schema import output_schema
from curate.sources.base import Shard
from curate.sources.formats import ShardReader
from curate.stages.base import Context, Part, log
from curate.stages.families import folders_for, score_columns

__all__ = ["VERSION", "check_recipe", "run"]

VERSION = 1
#: What a row weighs in the plan besides its image and caption.
ROW_OVERHEAD = 16
#: In `write.path`: which files were copied there, and from which state.
COPIED = ".curate.json"


@dataclass(frozen=True)
class Kept:
    """The kept rows of the source, shard by shard, with the columns the recipe adds."""

    context: Context
    columns: tuple[str, ...]

    def shards(self) -> Iterator[tuple[Shard, list[Part]]]:
        """Yield every shard with its parts."""
        for _, group in groupby(self.context.parts, key=lambda part: part.shard.name):
            parts = list(group)
            yield parts[0].shard, parts

    def rows(self, shard: Shard, parts: list[Part], *, extra: bool) -> sink.KeptRows:
        """Return the kept rows of one shard."""
        frame = pl.concat([self._part(part, extra=extra) for part in parts])
        sizes = frame["bytes"].to_numpy() + ROW_OVERHEAD
        table = frame.select(self.columns).to_arrow().cast(self.schema()) if extra and self.columns else None
        return sink.KeptRows(shard, frame["row"].to_numpy(), sizes, table)

    def by_name(self, name: str) -> sink.KeptRows:
        """Return the kept rows of the shard called `name`."""
        parts = [part for part in self.context.parts if part.shard.name == name]
        return self.rows(parts[0].shard, parts, extra=True)

    def schema(self) -> pa.Schema:
        """Return names and types of the added columns."""
        frame = self._part(self.context.parts[0], extra=True).clear()
        schema = frame.select(self.columns).to_arrow().schema
        plain = {pa.large_string(): pa.string(), pa.string_view(): pa.string()}
        return pa.schema([(field.name, plain.get(field.type, field.type)) for field in schema])

    def _part(self, part: Part, *, extra: bool) -> pl.DataFrame:
        run = self.context.run
        decisions = pl.DataFrame(storage.read_table(run.part(run.decisions, part.name)))
        sizes = pl.DataFrame(storage.read_table(run.part(run.samples, part.name), ["bytes"]))
        frame = decisions.hstack(sizes).filter("keep")
        for folder in folders_for(self.context.recipe, self.columns) if extra else ():
            scores = pl.DataFrame(storage.read_table(run.part(run.scores(folder), part.name)))
            frame = frame.join(scores, on="uid", how="left", maintain_order="left", validate="m:1")
        return frame


def check_recipe(recipe: Recipe) -> None:
    """Raise UsageError for an added column that the tables do not have."""
    have = list(schema.DECISIONS.names)
    have += [name for name in score_columns(recipe) if name not in have]
    for name in recipe.write.columns:
        if name not in have:
            raise UsageError(f"write.columns: no column {name!r}; there are {', '.join(have)}")


def run(context: Context) -> bool:
    """Write the kept rows as shards; return whether anything was to do."""
    settings, folder = context.recipe.write, context.run.filtered
    stamp = storage.fingerprint(
        "write", VERSION, settings.model_dump(exclude={"path"}), context.run.stamp(context.run.decisions)
    )
    worked = not context.run.is_done(folder, stamp)
    if worked:
        with storage.atomic_folder(folder) as partial:
            facts = _write(context, partial)
        context.run.mark(folder, stamp, facts)
        log.info("write: %s rows in %s files", f"{facts['rows']:,}", facts["files"])
    if settings.path is not None:
        _copy(folder, Path(settings.path), stamp)
    return worked


def _write(context: Context, folder: Path) -> dict[str, int]:
    """Plan every file, then write them all into a new folder."""
    kept = Kept(context, context.recipe.write.columns)
    rows = (kept.rows(shard, parts, extra=False) for shard, parts in kept.shards())
    files = sink.plan(rows, context.recipe.write.max_shard_size, empty=True)
    reader = ShardReader()
    schema = output_schema(reader, (shard for shard, _ in kept.shards()), kept.schema())
    batch = min(sink.BATCH_BYTES, context.task_memory // 4)
    tasks = sink.tasks(files, kept.by_name, reader, folder, schema, batch_bytes=batch)
    written = context.map("write", "files", sink.write_file, tasks)
    wanted = int(context.facts(context.run.decisions)["kept"])
    if sum(written) != wanted:
        raise RunError(f"write: {sum(written):,} rows written, {wanted:,} are kept; please report this")
    return {
        "rows": sum(written),
        "files": len(files),
        "bytes": sum(f.stat().st_size for f in folder.iterdir()),
    }


def _copy(folder: Path, target: Path, stamp: str) -> None:
    """Make `write.path` a copy of the shards, unless it is one; raises UsageError where anything else is there.

    A hidden file in it names what was copied: only that is ever replaced or removed.
    """
    listing = target / COPIED
    noted = storage.read_json(listing) or {"stamp": None, "files": []}
    before, names = set(noted["files"]), {file.name for file in folder.glob("*.parquet")}
    there = {file.name for file in target.iterdir() if file.name[0] != "."} if target.is_dir() else set()
    if there - before:
        raise UsageError(
            f"write.path {target} holds other files ({min(there - before)}); name an empty folder"
        )
    if noted["stamp"] == stamp and names <= there:
        return
    with storage.explained(target):
        storage.write_json(listing, {"stamp": None, "files": sorted(before | names)})
        for name in sorted(names):
            with storage.atomic(target / name) as partial:
                shutil.copyfile(folder / name, partial)
        for name in before - names:
            storage.remove(target / name)
        storage.write_json(listing, {"stamp": stamp, "files": sorted(names)})
