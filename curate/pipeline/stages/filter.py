"""Stage `filter`: which samples are excluded, leak, or fail a condition, and which of these first.

Reasons by precedence: `excluded` > `exact_duplicate` (of a sample with another uid) > `leak:<name>` >
`filter:<condition>` > `no_score:<status>`. Pinned samples pass.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from curate import schema
from curate.deduplication.semantic import threshold_of
from curate.errors import RecipeError, UsageError
from curate.execution.context import Context, Part, eligible, log, reuse_or_remove
from curate.execution.stage import Stage
from curate.filtering import uid_lists as lists
from curate.filtering.conditions import Rule, columns_of, find_rules, needed_scores, table_columns
from curate.filtering.nulls import count_nulls, lacking, say_nulls, sum_nulls
from curate.filtering.source_columns import SourceColumns, as_frame, find_columns, numbers_of, read_by
from curate.filtering.sql import check_conditions, failed_condition, spared_by
from curate.io import storage
from curate.pipeline.stages import content_copies
from curate.pipeline.stages.condition_values import types_of_source
from curate.pipeline.stages.content_copies import ContentCopies
from curate.pipeline.stages.read import find_shards
from curate.recipe import Recipe, ScoreFilter
from curate.runs.folder import RunFolder
from curate.runs.forgotten import Forgotten
from curate.scores.registry import folders_for, require_score, score_columns

__all__ = ["Filter", "check_conditions", "check_recipe", "failed_condition"]

#: What counts of a part are about: rows that are out, and pinned rows with what they would be out for.
_COUNTS = ("copies", "failed", "excluded", "leaked", "pinned", "pinned_although")


@dataclass(frozen=True)
class FilterTask:
    """One part to filter.

    source : what conditions read of the shard, None for nothing. leaks : (set, column, similarity above which it is a leak). needed : score columns and where each says why
    it is null. statuses : the same for every score of a condition.
    """

    run: RunFolder
    part: str
    families: tuple[str, ...]
    leaks: tuple[tuple[str, str, float], ...]
    conditions: tuple[str | Rule, ...]
    needed: Mapping[str, str]
    statuses: Mapping[str, str]
    lists: lists.Lists
    source: SourceColumns | None
    copies: ContentCopies
    index: int
    out: Path
    fingerprint: str


class Filter(Stage):
    """Judges every usable sample."""

    name = "filter"
    version = 2
    every_part = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._needed, self._leaks = needed_scores(self.recipe), _leaks(self.recipe)
        columns = [*columns_of(self.recipe.filter), *self._needed, *(column for _, column, _ in self._leaks)]
        self._families = folders_for(self.recipe, columns)

    def inputs(self) -> list[object]:
        """Return what the verdicts depend on: of the scores only those that are read."""
        recipe, run = self.recipe, self.run_folder
        conditions = [one if isinstance(one, str) else one.as_fingerprinted() for one in recipe.filter]
        self._version = lists.version(recipe)
        scored = [run.fingerprint(run.scores(family)) for family in self._families]
        return [
            conditions, self._needed, self._leaks, self._version, recipe.seed,
            run.fingerprint(run.concepts), scored, *(["image"] if recipe.dedup.exact == "image" else []),
            *Forgotten.of(run).fingerprint,
        ]  # fmt: skip

    @property
    def scratch(self) -> Path:
        """Where the lists are."""
        return self.run_folder.work / "filter"

    def prepare(self) -> None:
        """Read the lists of uids, and find where conditions on the order of a score cut."""
        recipe = self.recipe
        self._lists, self._listed = lists.prepare(self.context, self.scratch)
        lists.check_unchanged(recipe, self._version)
        self._copies = content_copies.find(self.context, self._lists, self.scratch, self.fingerprint)
        rules = iter(find_rules(self.context, [one for one in recipe.filter if isinstance(one, ScoreFilter)]))
        self._conditions = tuple(one if isinstance(one, str) else next(rules) for one in recipe.filter)
        self._source_types = types_of_source(recipe, self.parts)

    def tasks(self) -> list[FilterTask]:
        """Return what judging each part takes."""
        run, (folder,) = self.run_folder, self.marked
        known = score_columns(self.recipe)
        statuses = {name: known[name].status for name in columns_of(self.recipe.filter) if name in known}
        return [
            FilterTask(
                run, part.name, self._families, self._leaks, self._conditions, self._needed, statuses,
                self._lists, self._of_source(part), self._copies, part.index, run.part(folder, part.name), self.fingerprint,
            )
            for part in self.parts
        ]  # fmt: skip

    def _of_source(self, part: Part) -> SourceColumns | None:
        """Return what conditions read of the shard of a part."""
        if not self._source_types:
            return None
        return SourceColumns(part.shard, self._source_types, min(64_000_000, self.context.task_memory // 4))

    @property
    def part(self) -> Callable[[FilterTask], dict[str, Any]]:
        """Judge the samples of one part."""
        return _filter_part

    def finish(self, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return how many samples are out, and why; what they lack only where a condition is null for any."""
        nulls = sum_nulls(one for count in results for one in count["nulls"])
        noted = {"judged": sum(count["judged"] for count in results), "nulls": nulls} if nulls else {}
        spared: Counter[str] = Counter()
        for count in results:
            spared.update(count["spared"])
        noted |= {"spared": dict(sorted(spared.items()))} if spared else {}
        return self._listed | {name: sum(count[name] for count in results) for name in _COUNTS} | noted

    def log(self, stats: Mapping[str, Any]) -> None:
        """Say how many samples failed and are pinned, and warn of pinned ones that would have been dropped."""
        recipe = self.recipe
        if stats["copies"]:
            log.info(
                "filter: %s samples are exact copies: their images are those of other samples, byte by byte",
                f"{stats['copies']:,}",
            )
        if recipe.filter or self._needed or self._leaks or recipe.exclude or recipe.only:
            log.info(
                "filter: %s samples failed (%s excluded, %s too near an evaluation set)",
                f"{stats['failed']:,}", f"{stats['excluded']:,}", f"{stats['leaked']:,}",
            )  # fmt: skip
        for said in say_nulls(stats):
            log.warning("%s", said)
        for condition, rows in stats.get("spared", {}).items():
            log.info("filter: %s samples stay that fail %s (spare)", f"{rows:,}", condition)
        if recipe.pin:
            log.info("filter: %s samples pinned", f"{stats['pinned']:,}")
        if stats["pinned_although"]:
            log.warning(
                "filter: %s pinned samples stay that a condition, a leak or a missing score would have dropped",
                f"{stats['pinned_although']:,}",
            )


def check_recipe(recipe: Recipe) -> None:
    """Raise UsageError or RecipeError for what the tables cannot answer: conditions, preferences, lists."""
    conditions = [one for one in recipe.filter if isinstance(one, str)]
    known = table_columns(recipe)
    frame = pl.DataFrame(known.empty_table())
    if asked := read_by(conditions, known.names):
        shards = (shard for source in recipe.source for shard in find_shards(source))
        found = find_columns(shards, asked, known.names, numbers_of(conditions))
        of_source = as_frame(found.empty_table())
        check_conditions(frame.hstack(of_source.get_columns()), conditions, source=of_source.columns)
    else:
        check_conditions(frame, conditions)
    for one in recipe.filter:
        if isinstance(one, ScoreFilter):
            require_score(recipe, one.by, f"filter {str(one)!r}")
    places = ("row", "occurrence")  # would make decisions hang on where a row is stored
    numbers = [name for name, kind in frame.schema.items() if kind.is_numeric() and name not in places]
    for setting, prefer in (("select", recipe.select.preference), ("dedup", recipe.dedup.prefer)):
        if prefer.startswith("score:") and prefer.removeprefix("score:") not in numbers:
            have = ", ".join(numbers)
            raise UsageError(f"{setting}.prefer: no column of numbers for {prefer!r}; there are {have}")
    lists.check_recipe(recipe)


def _leaks(recipe: Recipe) -> tuple[tuple[str, str, float], ...]:
    """Return the evaluation sets: the name, the column of similarities, and above which one is a leak."""
    found = []
    for one in recipe.dedup.against:
        epsilon = recipe.dedup.epsilon if one.epsilon is None else one.epsilon
        if not isinstance(epsilon, float):
            raise RecipeError(f"dedup.against {one.name}: needs an epsilon that is a number, got {epsilon}")
        found.append((one.name, f"similarity_to_{one.name}", threshold_of(epsilon)))
    return tuple(found)


def _filter_part(task: FilterTask) -> dict[str, Any]:
    frame = eligible(task.run, task.part, task.families)
    uids = frame["uid"].to_list()
    excluded = pl.Series(lists.left_out(task.lists, uids), dtype=pl.Boolean)
    pinned = pl.Series("pinned", lists.listed(task.lists.pin, uids), pl.Boolean)
    leaked = pl.lit(None, pl.String)
    for name, column, threshold in reversed(task.leaks):
        near = (pl.col(column).cast(pl.Float64) > threshold).fill_null(False)
        leaked = pl.when(near).then(pl.lit(f"leak:{name}")).otherwise(leaked)
    failed, lacks, spared = _failed(task, frame)
    judged = frame.select(
        "uid",
        pinned,
        failed=failed,
        spared=spared,
        leak=leaked,
        excluded=excluded,
        same_content_as=_same_content(task, len(frame)),
    ).with_columns(
        reason=pl.when("excluded").then(pl.lit("excluded"))
        .when(pl.col("same_content_as").is_not_null()).then(pl.lit("exact_duplicate"))
        .otherwise(pl.coalesce("leak", "failed"))
    )  # fmt: skip
    reason = pl.when(~pl.col("pinned")).then("reason")
    stays = reason.is_null() & ~pl.col("pinned")
    table = judged.select(
        "uid", "pinned", "same_content_as", filter_reason=reason, spared=pl.when(stays).then("spared")
    ).select(schema.FILTER.names)
    if not reuse_or_remove(task.out, task.fingerprint):
        rows = table.to_arrow().cast(schema.FILTER)
        storage.write_parquet(task.out, rows, schema.FILTER, task.fingerprint)
    dropped = table["filter_reason"].str.starts_with("filter:").fill_null(False)
    nulls = count_nulls(lacks.filter(dropped))
    counted = dict(table["spared"].drop_nulls().value_counts().iter_rows())
    return _counts(table, judged["reason"]) | {"judged": len(frame), "nulls": nulls, "spared": counted}


def _same_content(task: FilterTask, rows: int) -> pl.Series:
    """Return the uid of the sample that each row is an exact copy of."""
    found = task.copies.of(task.index)
    return pl.Series([found.get(row) for row in range(rows)], dtype=pl.String)


def _failed(task: FilterTask, frame: pl.DataFrame) -> tuple[pl.Series, pl.DataFrame, pl.Series]:
    """Return why each row is out, what it lacks and what spares it; columns of the source are read batch by batch."""
    if task.source is None or frame.is_empty():
        return _judged(task, frame)
    found = zip(*(_judged(task, rows) for rows in task.source.beside(frame)), strict=True)
    reasons, lacks, spared = found
    return pl.concat(reasons), pl.concat(lacks), pl.concat(spared)


def _judged(task: FilterTask, rows: pl.DataFrame) -> tuple[pl.Series, pl.DataFrame, pl.Series]:
    reason = failed_condition(rows, task.conditions, task.needed)
    spared = spared_by(rows, task.conditions, reason)
    return reason, lacking(rows, task.conditions, reason, task.statuses), spared


def _counts(table: pl.DataFrame, reason: pl.Series) -> dict[str, int]:
    out = table["filter_reason"]
    copies = int((out == "exact_duplicate").sum())
    numbers: list[Any] = [
        copies, len(out) - out.null_count() - copies, (out == "excluded").sum(), out.str.starts_with("leak:").sum(),
        table["pinned"].sum(), (table["pinned"] & reason.is_not_null()).sum(),
    ]  # fmt: skip
    return dict(zip(_COUNTS, map(int, numbers), strict=True))
