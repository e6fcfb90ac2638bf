"""The rows of a run that are to be written, shard by shard, from its decisions."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from curate.execution.context import Context, Part
from curate.io import storage
from curate.scores.registry import folders_for
from curate.sources.addresses import url_access
from curate.sources.base import Shard
from curate.writers.relabelled import CORRECTED, Relabelled
from curate.writers.shard_plan import KeptRows
from curate.writers.webdataset import Roles

__all__ = ["Kept"]

#: What a row weighs in the plan besides its image and caption.
ROW_OVERHEAD = 16


@dataclass(frozen=True)
class Kept:
    """Rows of the source that are kept (or, with `dropped`, all others), and the columns to add to them.

    columns : of decisions and scores. overhead : what a row takes besides its image and caption, in bytes.
    weights : the lowest and the highest weight of the rows wanted, None for all. labels : that people put right.
    """

    context: Context
    columns: tuple[str, ...] = ()
    dropped: bool = False
    overhead: int = ROW_OVERHEAD
    weights: tuple[float, float] | None = None
    labels: Relabelled | None = None

    @property
    def added(self) -> tuple[str, ...]:
        """The columns to add: those that are asked for, and labels that people put right."""
        return self.columns if self.labels is None else (*self.columns, *self.labels.columns)

    def weighing(self, low: float, high: float) -> Self:
        """Return those of the rows whose weight is in [low, high]."""
        return replace(self, weights=(low, high))

    def shards(self) -> Iterator[tuple[Shard, list[Part]]]:
        """Yield every shard with its parts."""
        for _, group in groupby(self.context.parts, key=lambda part: part.shard.name):
            parts = list(group)
            yield parts[0].shard, parts

    def all_rows(self) -> Iterator[KeptRows]:
        """Yield the rows of every shard, for a plan: without the columns to add."""
        for shard, parts in self.shards():
            yield self._rows(shard, parts, extra=False)

    def by_name(self, name: str) -> KeptRows:
        """Return the rows of the shard called `name`."""
        parts = self._parts_of(name)
        return self._rows(parts[0].shard, parts, extra=True)

    def roles(self, name: str) -> Roles:
        """Return which columns hold what in the shard called `name`."""
        part = self._parts_of(name)[0]
        [source] = [one for one in self.context.recipe.source if one.name == part.shard.source]
        return Roles(part.columns, url_access(source.allow))

    def schema(self) -> pa.Schema:
        """Return names and types of the added columns."""
        frame = self._part(self.context.parts[0], extra=True).clear()
        schema = frame.select(self.added).to_arrow().schema
        plain = {pa.large_string(): pa.string(), pa.string_view(): pa.string()}
        return pa.schema([(field.name, plain.get(field.type, field.type)) for field in schema])

    def uids(self) -> Iterator[tuple[list[str], npt.NDArray[np.float32]]]:
        """Yield uid and weight of the rows, part by part."""
        for part in self.context.parts:
            frame = self._part(part, extra=False)
            yield frame["uid"].to_list(), frame["weight"].to_numpy()

    def _parts_of(self, name: str) -> list[Part]:
        return [part for part in self.context.parts if part.shard.name == name]

    def _rows(self, shard: Shard, parts: list[Part], *, extra: bool) -> KeptRows:
        frame = pl.concat([self._part(part, extra=extra) for part in parts])
        sizes = frame["bytes"].to_numpy() + self.overhead
        table = frame.select(self.added).to_arrow().cast(self.schema()) if extra and self.added else None
        label = parts[0].columns.label
        if extra and self.labels is not None and self.labels.in_place and label is not None:
            corrected = pa.table([frame[CORRECTED].to_arrow().cast(pa.string())], [label])
            table = corrected if table is None else table.append_column(label, corrected.column(0))
        return KeptRows(shard, frame["row"].to_numpy(), sizes, table)

    def _part(self, part: Part, *, extra: bool) -> pl.DataFrame:
        run = self.context.run
        decisions = pl.DataFrame(storage.read_table(run.part(run.decisions, part.name)))
        sizes = pl.DataFrame(storage.read_table(run.part(run.samples, part.name), ["bytes"]))
        frame = decisions.hstack(sizes).filter(~pl.col("keep") if self.dropped else pl.col("keep"))
        if self.weights is not None:
            # float32 weights are compared as the float64 numbers that groups were made of
            frame = frame.filter(pl.col("weight").cast(pl.Float64).is_between(*self.weights))
        for folder in folders_for(self.context.recipe, self.columns) if extra else ():
            scores = pl.DataFrame(storage.read_table(run.part(run.scores(folder), part.name)))
            frame = frame.join(scores, on="uid", how="left", maintain_order="left", validate="m:1")
        return self.labels.beside(frame) if extra and self.labels is not None else frame
