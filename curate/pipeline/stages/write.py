"""Stage `write`: the filtered shards, from the source's own bytes and the decisions."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from curate import schema
from curate.analysis.summary.counts import count_reasons, versions
from curate.errors import RunError, UsageError
from curate.execution.context import Context, log
from curate.execution.stage import Stage
from curate.io import publish, storage
from curate.overrides.store import LABELLING, Overrides
from curate.recipe import Card, Recipe, Write
from curate.scores.base import require_memory
from curate.scores.registry import score_columns
from curate.sources.registry import ShardReader
from curate.writers import parquet, webdataset
from curate.writers.dataset_card import CardFacts, card, published_path, published_recipe
from curate.writers.relabelled import relabelled
from curate.writers.schema import output_schema, schemas_apart
from curate.writers.selected_rows import Kept
from curate.writers.shard_plan import KeptRows, OutputFile, plan
from curate.writers.weight_groups import Group, weight_groups

__all__ = ["Shards", "WriteShards", "check_recipe", "dropped_shards", "planned_card", "write_shards"]

CARD = "README.md"
#: What a weight takes while rows are grouped by it.
_WEIGHT_BYTES = 48


@dataclass(frozen=True)
class Shards:
    """What was written: rows, data files, bytes of all files."""

    rows: int
    files: int
    bytes: int


def check_recipe(recipe: Recipe) -> None:
    """Raise UsageError for an added column that the tables do not have."""
    have = list(schema.DECISIONS.names)
    have += [name for name in score_columns(recipe) if name not in have]
    for name in recipe.write.columns:
        if name not in have:
            raise UsageError(f"write.columns: no column {name!r}; there are {', '.join(have)}")


class WriteShards(Stage):
    """Writes the kept rows as shards, a copy of them and the dropped rows where the recipe says so."""

    name = "write"
    version = 2

    def inputs(self) -> list[object]:
        """Return how to write, and the decisions."""
        aside = {"path", "dropped", "storage_options"}
        if self.recipe.write.card == Card():  # as before there was such a setting
            aside.add("card")
        if self.recipe.write.schemas == "join":
            aside.add("schemas")
        if self.recipe.write.relabel == "beside":
            aside.add("relabel")
        return [self.recipe.write.model_dump(exclude=aside), self._decisions, *self._labels]

    @property
    def _labels(self) -> list[str]:
        """What stands for the labels that people put right; empty where there are none."""
        labels = Overrides(self.run_folder).fingerprint(LABELLING)
        return [] if labels is None else [labels]

    @property
    def _decisions(self) -> str:
        return self.run_folder.fingerprint(self.run_folder.decisions)

    def run(self) -> bool:
        """Write what is not written; return whether anything was to do."""
        path = self.recipe.write.path
        copy = None if path is None else _place(self.context, "write.path", path)
        if copy is not None:
            publish.require_own_folder(copy)
        worked = super().run()
        if copy is not None:
            publish.copy_folder(copy, self.run_folder.filtered, self.fingerprint)
        return self._write_dropped() or worked

    def work(self) -> dict[str, object]:
        """Write the shards beside those before, whose place they take at once."""
        with storage.atomic_folder(self.run_folder.filtered) as new:
            written = vars(write_shards(self.context, self.recipe.write, new))
            self.run_folder.mark(new, self.fingerprint, written)
        Overrides(self.run_folder).write_table()  # a label that people judged is news to the shards alone
        return written

    def log(self, stats: Mapping[str, Any]) -> None:
        """Say how many rows were written."""
        log.info("write: %s rows in %s files", f"{stats['rows']:,}", f"{stats['files']:,}")
        judged = Overrides(self.run_folder).current().filter(pl.col("what").is_in(LABELLING))
        if len(judged):
            log.info("%s", _said_of_labels(self.context, judged))

    def _write_dropped(self) -> bool:
        settings = self.recipe.write
        if settings.dropped is None:
            return False
        place = _place(self.context, "write.dropped", settings.dropped)
        apart = [] if settings.schemas == "join" else [settings.schemas]
        fingerprint = storage.fingerprint(
            "dropped", self.version, settings.max_shard_size, self._decisions, *apart, *self._labels
        )
        if publish.is_current(place, fingerprint):
            return False
        written = publish.write_folder(place, fingerprint, partial(dropped_shards, self.context, settings))
        log.info("write: %s dropped rows in %s", f"{written.rows:,}", place.where)
        return True


def _said_of_labels(context: Context, judged: pl.DataFrame) -> str:
    """Say how many labels people judged, and how many of these rows went as noise all the same. judged : uid, to."""
    run, noise = context.run, 0
    cut = f"cutoff:{context.facts(run.decisions).get('first', {}).get('noise_by')}"
    for part in context.parts:
        rows = pl.DataFrame(
            storage.read_table(run.part(run.decisions, part.name), ["uid", "occurrence", "reason"])
        )
        rows = rows.filter((pl.col("occurrence") == 0) & (pl.col("reason") == cut))
        noise += int(rows["uid"].is_in(judged["uid"].implode()).sum())
    said = f"labels: people judged {len(judged):,} and gave {judged['to'].count():,} new ones"
    if not noise:
        return said
    return (
        f"{said}; {noise:,} of these rows stay out as {cut}: curate overrides {run.where} --keep UIDS keeps them "
        "(K in curate review)"
    )


def write_shards(context: Context, settings: Write, folder: Path) -> Shards:
    """Write the kept rows into a new folder, in any format, with a card; raise RunError if rows are missing."""
    written = _write_parquet if settings.format == "parquet" else _write_tars
    files, rows, table = written(context, settings, folder)
    _write_card(context, settings, folder, files, table)
    wanted = int(context.facts(context.run.decisions)["kept"])
    if rows != wanted:
        raise RunError(f"write: {rows:,} rows written, {wanted:,} are kept; please report this")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Shards(rows, len(files), size)


def dropped_shards(context: Context, settings: Write, folder: Path) -> Shards:
    """Write the rows that are not kept into a new folder, as Parquet with a column `reason`."""
    files, rows, _ = _write_parquet(context, settings, folder, dropped=True)
    wanted = context.rows - int(context.facts(context.run.decisions)["kept"])
    if rows != wanted:
        raise RunError(f"write.dropped: {rows:,} rows written, {wanted:,} are dropped; please report this")
    return Shards(rows, len(files), sum(path.stat().st_size for path in folder.iterdir()))


def planned_card(context: Context, settings: Write) -> str:
    """Return the card that shards with these settings have, without writing them."""
    kept = Kept(context, settings.columns, labels=relabelled(context))
    if settings.format == "parquet":
        groups = _schemas(kept, settings)
        files = plan(_by_schema(kept, groups), settings.max_shard_size, empty=True)
        return _card(context, settings, files, groups[0][1] if len(groups) == 1 else None)
    tars = _planned_tars(kept, settings, _weight_groups(kept, settings))
    return _card(context, settings, [file for group in tars for file in group], None)


def _place(context: Context, what: str, where: str) -> publish.Place:
    return publish.Place(what, where, context.run.work, context.recipe.write.storage_options)


def _write_parquet(
    context: Context, settings: Write, folder: Path, *, dropped: bool = False
) -> tuple[list[OutputFile], int, pa.Schema]:
    """Plan every file, then write them all into a new folder; return the files, their rows and their one schema."""
    kept = Kept(
        context, ("reason",) if dropped else settings.columns, dropped=dropped, labels=relabelled(context)
    )
    reader = ShardReader()
    if dropped:
        _require_no_reason(kept, reader)
    groups = _schemas(kept, settings)
    files = plan(_by_schema(kept, groups), settings.max_shard_size, empty=True)
    batch = min(parquet.BATCH_BYTES, context.task_memory // 4)
    tasks: list[parquet.WriteTask] = []
    for names, table in groups:
        own = [file for file in files if len(groups) == 1 or (file.slices and file.slices[0].shard in names)]
        tasks += parquet.tasks(own, kept.by_name, reader, folder, table, batch_bytes=batch)
    rows = sum(context.map("write", "files", parquet.write_file, tasks))
    return files, rows, groups[0][1] if len(groups) == 1 else None


def _schemas(kept: Kept, settings: Write) -> list[tuple[frozenset[str], pa.Schema]]:
    """Return the names of shards that are written together, group by group, each group with its schema."""
    found = [shard for shard, _ in kept.shards()]
    if settings.schemas == "apart":
        groups = schemas_apart(ShardReader(), found, kept.schema())
        log.info("write: %s groups of shards by their columns", f"{len(groups):,}")
        return groups
    names = frozenset(shard.name for shard in found)
    return [(names, output_schema(ShardReader(), found, kept.schema()))]


def _by_schema(kept: Kept, groups: Sequence[tuple[frozenset[str], pa.Schema]]) -> Iterator[KeptRows]:
    """Yield the rows of every shard, those of groups after the first in splits of their own."""
    place = {name: number for number, (names, _) in enumerate(groups, 1) for name in names}
    for rows in kept.all_rows():
        number = place[rows.shard.name]
        split = rows.shard.split if number == 1 else f"{rows.shard.split}_schema{number}"
        yield replace(rows, shard=replace(rows.shard, split=split))


def _require_no_reason(kept: Kept, reader: ShardReader) -> None:
    for shard, _ in kept.shards():
        if "reason" in reader.schema(shard).names:
            raise UsageError(
                f"write.dropped: {shard.url} has a column 'reason' of its own, which the dropped rows get; "
                "leave out write.dropped (5_decisions has the reasons)"
            )


def _write_tars(
    context: Context, settings: Write, folder: Path
) -> tuple[list[OutputFile], int, pa.Schema | None]:
    kept = Kept(context, settings.columns, overhead=webdataset.ROW_OVERHEAD, labels=relabelled(context))
    reader = ShardReader()
    webdataset.check_columns(reader, (shard for shard, _ in kept.shards()), kept.added)
    groups = _weight_groups(kept, settings)
    planned = _planned_tars(kept, settings, groups)
    batch = min(webdataset.BATCH_BYTES, context.task_memory // 4)
    tasks: list[webdataset.TarTask] = []
    for rows, files in zip(_by_weight(kept, groups), planned, strict=True):
        tasks += webdataset.tasks(files, rows.by_name, kept.roles, reader, folder, batch_bytes=batch)
    written = context.map("write", "files", webdataset.write_tar, tasks)
    _tell(written)
    facts = iter(written)
    named = [
        (group.factor, [(file, next(facts)) for file in files])
        for group, files in zip(groups, planned, strict=True)
    ]
    webdataset.write_lists(folder, named)
    return [file for files in planned for file in files], sum(one.rows for one in written), None


def _weight_groups(kept: Kept, settings: Write) -> list[Group]:
    """Return the groups of rows by weight; one of all rows where none are asked for."""
    if settings.weight_groups is None:
        return [Group(0.0, float("inf"), 1.0)]
    n_kept = int(kept.context.facts(kept.context.run.decisions)["kept"])
    require_memory(kept.context, "write.weight_groups", n_kept, _WEIGHT_BYTES)
    weights = np.concatenate([np.empty(0, np.float32), *(weight for _, weight in kept.uids())])
    groups = weight_groups(weights, settings.weight_groups)
    log.info("write: %s groups by weight", len(groups))
    return groups or [Group(0.0, float("inf"), 1.0)]


def _by_weight(kept: Kept, groups: Sequence[Group]) -> Iterable[Kept]:
    return [kept] if len(groups) == 1 else [kept.weighing(group.low, group.high) for group in groups]


def _planned_tars(kept: Kept, settings: Write, groups: Sequence[Group]) -> list[list[OutputFile]]:
    return webdataset.plan((rows.all_rows() for rows in _by_weight(kept, groups)), settings.max_shard_size)


def _tell(written: Iterable[webdataset.TarFacts]) -> None:
    """Warn about what could not be written as it stands."""
    totals: Counter[str] = Counter()
    for one in written:
        totals.update({"renamed": one.renamed, "without_image": one.without_image})
    if totals["renamed"]:
        log.warning(
            "write: %s samples got a new key, because one tar had theirs twice", f"{totals['renamed']:,}"
        )
    if totals["without_image"]:
        log.warning(
            "write: the images of %s samples cannot be read any more; they are written without",
            f"{totals['without_image']:,}",
        )


def _write_card(
    context: Context, settings: Write, folder: Path, files: Sequence[OutputFile], table: pa.Schema | None
) -> None:
    with storage.atomic(folder / CARD) as new:
        new.write_text(_card(context, settings, files, table), encoding="utf-8")


def _card(context: Context, settings: Write, files: Sequence[OutputFile], table: pa.Schema | None) -> str:
    rows: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for file in files:
        rows[file.split] += file.n_rows
        sizes[file.split] += file.n_bytes
    recipe = context.recipe.model_copy(update={"write": settings}).model_dump(mode="json")
    return card(
        CardFacts(
            {
                split: (_pattern(split, settings, many=len(rows) > 1), count, sizes[split])
                for split, count in rows.items()
            },
            table, count_reasons(context), published_recipe(recipe), _provenance(context),
            license=settings.card.license, tags=settings.card.tags,
        )
    )  # fmt: skip


def _pattern(split: str, settings: Write, *, many: bool) -> str:
    """Return which files of the folder hold a split."""
    if settings.format == "parquet":
        return f"{split}-*.parquet"
    return f"{split}/*.tar" if many else "*.tar"


def _provenance(context: Context) -> Mapping[str, object]:
    shards = {part.shard.name for part in context.parts}
    return {
        "source": ", ".join(published_path(path) for one in context.recipe.source for path in one.patterns),
        "shards read": f"{len(shards):,}",
        "embedding space": context.facts(context.run.embeddings).get("space"),
        "decisions": context.run.fingerprint(context.run.decisions),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }
