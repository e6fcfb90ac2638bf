"""The rows of a run as methods read them; and, for methods that compare vectors, ranked anew bucket by bucket."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.clustering.geometry import Geometry
from curate.clustering.store import load_parents
from curate.embedding.store import EmbeddingPart
from curate.errors import CurateError, RunError, UsageError
from curate.execution import exchange
from curate.execution.context import Context, reuse_or_remove
from curate.filtering.column_tables import OWN, column_table
from curate.io import storage
from curate.linalg import load_unit
from curate.selection.base import Arranger, Arrays, DensitySettings
from curate.selection.coverage import Covered, Objects
from curate.selection.rows.measure import geometry_of
from curate.selection.rows.objects_in import objects_in, placed
from curate.selection.rows.order import Order
from curate.selection.rows.ranks import ROW_BYTES, VECTOR_BYTES, Ranked, RankTask, scatter_back

__all__ = ["RunRows", "classes_of", "columns_of", "concept_ranks", "floor_classes_of", "labels_of"]

#: Keys of rows that do not go ahead (`select.ranking.ahead`) begin here.
_BEHIND = np.uint64(1 << 63)
#: Groups there may be: more are no groups but rows.
MOST_GROUPS = 1_000_000


#: What to do where no sample has a value.
_MISSING = {
    "label": "; set source.label",
    "split": "; splits come from the names of shards, such as train-00000",
}


@dataclass(frozen=True)
class RearrangeTask:
    """One ranked bucket whose concepts are put into an order by their vectors."""

    ranked: Path
    rows: RankTask
    embeddings: tuple[Path, ...]
    on: str
    arranger: Arranger
    shipped: bool
    out: Path
    fingerprint: str


@dataclass(frozen=True)
class RunRows:
    """The ranked rows of a run, in the order of its recipe.

    scratch : a folder for what is ranked anew. covered : what a method that covers objects found.
    """

    context: Context
    order: Order
    ranked: Ranked
    scratch: Path
    covered: Covered | None = None

    @property
    def concepts(self) -> pl.DataFrame:
        """One row per concept."""
        return self.ranked.concepts

    @property
    def parents(self) -> tuple[npt.NDArray[np.int32], ...]:
        """The levels of concepts above the finest."""
        return load_parents(self.context.run.final_concepts)

    @property
    def classes(self) -> tuple[str, ...]:
        """All labels in order, where they have quotas."""
        return self.order.classes

    def blocks(self, *columns: str) -> Iterator[Arrays]:
        """Yield columns of all rows, block by block; null scores are NaN."""
        return self.ranked.blocks(*columns)

    def geometry(self, settings: DensitySettings) -> Geometry:
        """Return how the concepts lie, with the mean taken out and with their dimension where settings ask for it."""
        return geometry_of(self.context, self.ranked, settings, self.scratch)

    def rearranged(self, arranger: Arranger) -> Self:
        """Return the rows ranked anew: in each concept by the order that comparing its vectors gives."""
        return replace(self, ranked=_rearranged(self.context, self.ranked, arranger, self.scratch))

    @property
    def has_shipped(self) -> bool:
        """Whether keys say which rows go ahead because they were kept before."""
        return self.order.shipped is not None

    def objects(self) -> Objects:
        """Return the objects in the rows that compete, in the order of their blocks."""
        return objects_in(self.context, self.blocks("part", "position"))

    def placed(self, key: npt.NDArray[np.uint64], covered: Covered) -> Self:
        """Return the rows ranked anew by other keys (n,), in the order of `blocks`."""
        return replace(self, ranked=placed(self.ranked, key, len(self.context.parts)), covered=covered)


def _rearranged(context: Context, ranked: Ranked, arranger: Arranger, scratch: Path) -> Ranked:
    """Return the rows ranked anew: in each concept first the pinned ones, then those that are taken, in their order.

    Shipped rows, if they go ahead, are taken first.
    """
    select, run = context.recipe.select, context.run
    fingerprint = storage.fingerprint(ranked.fingerprint, *arranger.identity())
    embeddings = tuple(run.part(run.embeddings, part.name) for part in context.parts)
    spread = tuple(scratch / f"rows-{part.name}.arrow" for part in context.parts)
    tasks = []
    for bucket, path in enumerate(ranked.files):
        out = path.with_name(f"arranged-{path.name}")
        rows = RankTask(bucket, spread, len(context.parts), out, out, fingerprint, ranked.first)
        tasks.append(
            RearrangeTask(
                ranked=path,
                rows=rows,
                embeddings=embeddings,
                on=context.recipe.cluster.on,
                arranger=arranger,
                shipped=bool(select.shipped),
                out=out,
                fingerprint=fingerprint,
            )
        )
    _require_room(context, ranked.concepts)
    context.map(
        "select",
        "buckets",
        _rearrange_bucket,
        [task for task in tasks if not reuse_or_remove(task.out, fingerprint)],
    )
    return replace(ranked, files=tuple(task.out for task in tasks), fingerprint=fingerprint)


def _require_room(context: Context, concepts: pl.DataFrame) -> None:
    """Raise RunError where one concept does not fit: its rows are compared with each other in memory."""
    largest = concepts["n_eligible"].max()
    if not largest:
        return
    first = context.run.part(context.run.embeddings, context.parts[0].name)
    fits = context.task_memory // (
        VECTOR_BYTES * EmbeddingPart(first).width(context.recipe.cluster.on) + ROW_BYTES
    )
    if isinstance(largest, int) and largest > fits:
        raise RunError(
            f"select.method {context.recipe.select.method} compares the rows of a concept in memory; the largest has {largest:,} rows "
            f"and {fits:,} fit: raise cluster.concepts or memory, or use fewer workers"
        )


def _rearrange_bucket(task: RearrangeTask) -> None:
    from threadpoolctl import threadpool_limits  # ten times faster than on several threads

    rows = pl.DataFrame(exchange.gather(task.rows.files, task.rows.bucket))
    rows, before = task.rows.first.arranged(rows)
    rank, key = np.zeros(len(rows), np.int32), rows["key"].to_numpy().copy()
    vectors = _vectors(rows, task)
    concept = rows["concept"].to_numpy()
    by_concept = np.argsort(concept, kind="stable")
    starts = np.flatnonzero(np.diff(concept[by_concept], prepend=-1))
    with threadpool_limits(1):
        for here in np.split(by_concept, starts[1:]) if len(rows) else ():
            first = key[here] < _BEHIND if task.shipped else np.zeros(len(here), np.bool_)
            found = concept_ranks(rows[here], vectors[here], before[here], task.arranger, first)
            rank[here], key[here] = found
    rows = rows.with_columns(pl.Series("key", key))
    scatter_back(rows, rank, task.rows.n_parts, task.out, task.fingerprint)


def concept_ranks(
    rows: pl.DataFrame,
    vectors: npt.NDArray[np.float32],
    before: npt.NDArray[np.int32],
    arranger: Arranger,
    first: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64]]:
    """Return ranks of one concept: pinned rows, then those taken in their order, then the others as before; and the keys.

    Rows that were cut off (`cut`) come last, and are not compared.
    """
    pinned, key = rows["pinned"].to_numpy(), rows["key"].to_numpy().copy()
    cut = rows["cut"].to_numpy() if "cut" in rows.columns else np.zeros(len(rows), np.bool_)
    there = np.flatnonzero(~cut)
    taken = np.zeros(len(rows), np.int64)
    unit = vectors if len(there) == len(rows) else vectors[there]
    taken[there], changed = arranger.taken(rows[there], unit, first[there])
    if changed is not None:
        key[there] = changed
    group = np.where(pinned, 0, np.where(taken > 0, 1, np.where(cut, 3, 2)))
    ranks = np.empty(len(rows), np.int32)
    ranks[np.lexsort((before, taken, group))] = np.arange(1, len(rows) + 1)
    return ranks, key


def _vectors(rows: pl.DataFrame, task: RearrangeTask) -> npt.NDArray[np.float32]:
    part, position = rows["part"].to_numpy(), rows["position"].to_numpy().astype(np.int64)
    first = EmbeddingPart(task.embeddings[0])
    result = np.empty((len(rows), first.width(task.on)), np.float32)
    for index in np.unique(part).tolist():
        here = np.flatnonzero(part == index)
        result[here] = load_unit(EmbeddingPart(task.embeddings[index]).take(task.on, position[here]))
    return result


def columns_of(context: Context) -> dict[str, Path]:
    """Return where the values of the columns of the source are that rows are grouped by."""
    named = [name for name in context.recipe.select.grouped_by if name not in OWN]
    return {name: column_table(context, name) for name in named}


def classes_of(context: Context) -> tuple[str, ...]:
    """Return all groups of the run in order that have quotas, unless these are concepts."""
    column = context.recipe.select.group_column
    return () if column is None else _values(context, column, f"per {column}")


def floor_classes_of(context: Context) -> tuple[str, ...]:
    """Return all groups of the run in order that have a floor, unless these are concepts."""
    select = context.recipe.select
    if select.floor_column is None:
        return ()
    return _values(context, select.floor_column, f"floor (select.floor_per {select.floor_per})")


def labels_of(context: Context) -> tuple[str, ...]:
    """Return all labels of the run in order; none where no sample has one."""
    return _values(context, "label")


def _values(context: Context, column: str, setting: str = "") -> tuple[str, ...]:
    """Return the different values of a column of 0_samples, or of the source, in order.

    setting : what needs them, for the CurateError where no sample has one; empty where that is none.
    """
    found: set[str] = set()
    folder, name = (
        (context.run.samples, column) if column in OWN else (column_table(context, column), "value")
    )
    for part in context.parts:
        table = storage.read_table(context.run.part(folder, part.name), [name])
        found |= set(pl.Series(table[name].unique()).drop_nulls().to_list())
        if len(found) > MOST_GROUPS:
            raise UsageError(
                f"select.{setting}: there are more than {MOST_GROUPS:,} values; name a column with fewer"
            )
    if (
        not found
        and any(part.rows for part in context.parts)
        and not context.recipe.select.takes_what_is_there
    ):
        raise CurateError(
            f"select.{setting} needs {column}s, and no sample has one{_MISSING.get(column, '')}"
        )
    return tuple(sorted(found))
