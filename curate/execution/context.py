"""What every stage works with: the recipe, the run folder, the engine, the parts of the source."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import polars as pl

from curate import schema
from curate.errors import RunError
from curate.execution.engines.base import Engine
from curate.execution.units import rows_of_items
from curate.io import checksums, storage
from curate.runs.folder import RunFolder
from curate.sources.base import Columns, Shard

if TYPE_CHECKING:
    from curate.recipe import Recipe

__all__ = [
    "PROCESS_BASE",
    "Context",
    "Part",
    "Progress",
    "VectorFile",
    "eligible",
    "log",
    "require_same",
    "reuse_or_remove",
    "usable",
]

log = logging.getLogger("curate")

#: Memory a process takes before it holds any data: the interpreter, Polars, PyArrow, FAISS.
PROCESS_BASE = 300_000_000

#: Rows of a shard that are worked on, and stored, as one part.
PART_ROWS = 131_072

Item = TypeVar("Item")
Result = TypeVar("Result")


class Progress(Protocol):
    """How a stage tells how far it is; the caller shows it or not."""

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        """Report `done` of `total` units."""


def silent(stage: str, done: int, total: int, unit: str) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class VectorFile:
    """A file with vectors of a part: where it is, its name, size and version when it was found.

    begin : position of its first row, counted from the first row of the part. array : which one of a file of several.
    """

    url: str
    name: str
    size: int
    version: str
    begin: int
    array: str | None = None


@dataclass(frozen=True)
class Part:
    """Rows [start, stop) of one shard; its name stands for their content, never for their place.

    first : position of the first row among all rows of the source, in shard order. vectors : the files with the
    vectors of its rows, one after the other, where vectors are in files.
    """

    name: str
    index: int
    shard: Shard
    columns: Columns
    start: int
    stop: int
    first: int
    fingerprint: str
    vectors: tuple[VectorFile, ...] = ()

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class Context:
    """Everything a stage needs; the same for a CLI run and a flow.

    worked : {stage: {what: number}}, what a stage did anew in this run (parts, rows): the manifest's `times` say it.
    """

    recipe: "Recipe"
    run: RunFolder
    engine: Engine
    parts: tuple[Part, ...] = ()
    progress: Progress = silent
    refit: bool = False
    worked: dict[str, dict[str, int]] = field(default_factory=dict)

    def facts(self, folder: Path) -> dict[str, Any]:
        """Return what a finished stage noted about itself; empty if it is not finished."""
        return dict((self.run.marker(folder) or {}).get("facts", {}))

    @cached_property
    def rows(self) -> int:
        """The number of rows of the source."""
        return sum(part.rows for part in self.parts)

    @property
    def task_memory(self) -> int:
        """Bytes one task may hold beyond its process: what is left of `memory`, shared by all."""
        workers = self.engine.machine_workers
        processes = workers + (workers > 1)
        return max(64_000_000, (self.recipe.memory - processes * PROCESS_BASE) // workers)

    @property
    def image_memory(self) -> int:
        """Bytes that encoded images may take at a time beside a model, and apart from them their decoding."""
        return max(64_000_000, (self.recipe.memory - 2 * PROCESS_BASE) // 4)

    def map(
        self, stage: str, unit: str, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> list[Result]:
        """Run `function` over items on the engine, reporting progress (in rows where items say them); results in order."""
        todo = list(items)
        results, done = [], 0
        rows = rows_of_items(todo, {part.name: part.rows for part in self.parts})
        sizes, unit = ([1] * len(todo), unit) if rows is None else (rows, "rows")
        self.progress(stage, 0, sum(sizes), unit)
        parallel = self.in_processes(len(todo), None if rows is None else sum(rows))
        for size, result in zip(sizes, self.engine.map(function, todo, parallel=parallel), strict=True):
            results.append(result)
            done += size
            self.progress(stage, done, sum(sizes), unit)
        return results

    def in_processes(self, items: int, rows: int | None = None) -> bool:
        """Return True if so many items are worked on in several processes: not where these take longer to start.

        rows : what the items are about, None for all rows of the source.
        """
        rows = (self.rows or None) if rows is None else rows
        return items > 1 and (rows is None or rows >= self.engine.least_rows)


def reuse_or_remove(path: Path, fingerprint: str) -> bool:
    """Whether `path` is whole and was made with this fingerprint; a damaged one is removed."""
    return checksums.verify_or_remove(path) and storage.stored_fingerprint(path) == fingerprint


def usable(run: RunFolder, part: str) -> pl.DataFrame:
    """Return the samples of a part that have vectors, in the order of its embeddings."""
    table = storage.read_table(run.part(run.samples, part))
    samples = pl.DataFrame(schema.complete(table, schema.SAMPLES))
    return samples.filter((pl.col("outcome") == "ok") & pl.col("copy_of").is_null())


def eligible(run: RunFolder, part: str, families: Iterable[str], *, final: bool = False) -> pl.DataFrame:
    """Return the usable samples of a part beside their concept, distance and scores.

    final : the concepts of the decisions; else those that samples are compared within, and scored by.

    Non-finite scores become null: a NaN would pass a filter and top a ranking.
    """
    frame = usable(run, part)
    assigned = run.final_assignments if final else run.assignments
    for path in [run.part(assigned, part), *(run.part(run.scores(f), part) for f in families)]:
        table = storage.read_table(path)
        judged = path == run.part(run.scores("filter"), part)
        other = pl.DataFrame(schema.complete(table, schema.FILTER) if judged else table)
        require_same(frame["uid"], other["uid"], path)
        frame = frame.hstack(other.drop("uid").get_columns())
    floats = [name for name, kind in frame.schema.items() if kind.is_float()]
    return frame.with_columns(pl.when(pl.col(floats).is_finite()).then(pl.col(floats)))


def require_same(expected: pl.Series, found: pl.Series, where: Path) -> None:
    """Raise RunError unless two tables of a part hold the same uids in the same order."""
    if not expected.equals(found, check_names=False):
        raise RunError(f"{where}: its rows are not those of the samples table; remove it and run again")
