"""The rows of a run as lists show them: names, decisions, scores and columns of the source, part by part."""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa

from curate import schema
from curate.errors import UsageError
from curate.execution.context import Context, Part
from curate.io import storage
from curate.scores.registry import folders_for, score_columns
from curate.sources.arrow_types import is_binary, is_label, is_string, plain_type
from curate.sources.base import Columns, Rows
from curate.sources.registry import ShardReader, check_unchanged, format_of
from curate.sources.tar.roles import KEY
from curate.writers.relabelled import OF_PEOPLE, Relabelled

__all__ = ["ALWAYS", "CHOICES", "Choice", "ListedRows"]

Choice = Literal["kept", "dropped", "all"]
CHOICES: tuple[Choice, ...] = ("kept", "dropped", "all")
#: Columns that every list of rows begins with. key : the path, URL or key the source has for a sample.
ALWAYS = ("uid", "key", "shard", "row", "keep", "reason")
BATCH_BYTES = 32 << 20


@dataclass(frozen=True)
class ListedRows:
    """Rows in the order of the source, with `ALWAYS` and the `columns` named.

    A column is one of the decisions or scores; `caption`, whole; a column of the source (of a tar also ``json.FIELD``); or
    one of 0_samples. labels : those that people judged, in columns behind all others.
    """

    context: Context
    choice: Choice = "kept"
    columns: tuple[str, ...] = ()
    labels: Relabelled | None = None

    def check(self, asked_by: str = "--columns") -> None:
        """Raise UsageError for a column that is nowhere. asked_by : the option that names the columns."""
        source = {name for part in self._firsts() for name in ShardReader().schema(part.shard).names}
        have = [*self._of_run(), "caption", *sorted(source), *schema.SAMPLES.names, *OF_PEOPLE]
        for name in self.columns:
            if name not in have and not _is_json_field(name, source):
                raise UsageError(
                    f"{asked_by}: no column {name!r}; there are {', '.join(dict.fromkeys(have))}"
                )

    def frames(self) -> Iterator[pl.DataFrame]:
        """Yield the rows of each part."""
        for part in self.context.parts:
            yield self._frame(part)

    def texts(self, column: Literal["uid", "key"]) -> Iterator[list[str | None]]:
        """Yield the uids, or the names, of the rows of each part."""
        for part in self.context.parts:
            yield self._chosen(part, ["key"])[column].to_list()

    def _firsts(self) -> Iterator[Part]:
        """Yield the first part of every shard."""
        return (part for part in self.context.parts if part.start == 0)

    def _of_run(self) -> list[str]:
        return [*schema.DECISIONS.names, *score_columns(self.context.recipe)]

    def _chosen(self, part: Part, of_samples: Sequence[str]) -> pl.DataFrame:
        """Return the decisions on the rows wanted, with columns of 0_samples."""
        run = self.context.run
        frame = pl.DataFrame(storage.read_table(run.part(run.decisions, part.name)))
        more = pl.DataFrame(storage.read_table(run.part(run.samples, part.name), list(of_samples)))
        frame = frame.hstack(more)
        return frame if self.choice == "all" else frame.filter(pl.col("keep") == (self.choice == "kept"))

    def _frame(self, part: Part) -> pl.DataFrame:
        run, shard = self.context.run, part.shard
        own = [name for name in self.columns if name not in (*ALWAYS, *self._of_run())]
        there = ShardReader().schema(shard).names if own else []
        there += [name for name in own if _is_json_field(name, there)]
        captions = ["caption"] if part.columns.caption is not None else []
        read = [name for name in own if name in (*there, *captions)]
        rest = [name for name in own if name in schema.SAMPLES.names and name not in (*read, *ALWAYS)]
        frame = self._chosen(part, ["key", *rest])
        for folder in folders_for(self.context.recipe, self.columns):
            scores = pl.DataFrame(storage.read_table(run.part(run.scores(folder), part.name)))
            frame = frame.join(scores, on="uid", how="left", maintain_order="left", validate="m:1")
        if read and len(frame):
            since = check_unchanged(shard)
            frame = frame.with_columns(self._read(part, name, frame["row"].to_numpy()) for name in read)
            check_unchanged(shard, since)
        added = [] if self.labels is None else [name for name in OF_PEOPLE if name not in read]
        if self.labels is not None and added:
            frame = self.labels.beside(frame, added)
        absent = [name for name in own if name not in frame.columns]
        frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in absent)
        return frame.select(list(dict.fromkeys((*ALWAYS, *self.columns, *added))))

    def _read(self, part: Part, name: str, rows: np.ndarray) -> pl.Series:
        """Return a column of the source."""
        if name == "caption" and part.columns.caption is not None:
            return _of_role(part, part.columns.captions_alone(), "caption", rows).alias(name)
        names = ShardReader().schema(part.shard)
        kind = pa.string() if _is_json_field(name, names.names) else names.field(name).type
        if is_label(kind) and not is_binary(plain_type(kind)):
            return _of_role(part, Columns(label=name), "label", rows).alias(name)
        return _of_rows(part, name, rows)


def _is_json_field(name: str, there: Collection[str]) -> bool:
    """Return True for a field of the JSON member of a tar's samples, such as ``json.url``."""
    return name not in there and name.startswith("json.") and {KEY, "json"} <= set(there)


def _of_role(part: Part, columns: Columns, role: Literal["caption", "label"], rows: np.ndarray) -> pl.Series:
    """Return a column as text, read alone: as the captions, or the labels, of a source are."""
    reader = format_of(part.shard.format).reader(columns, True)
    batches: Iterator[Rows] = reader.batches(
        part.shard, images=False, batch_bytes=BATCH_BYTES, start=part.start, stop=part.stop
    )
    wanted = set(rows.tolist())
    values = [
        value
        for batch in batches
        for row, value in zip(batch.row.tolist(), getattr(batch, role), strict=True)
        if row in wanted
    ]
    return pl.Series(values, dtype=pl.String)


def _of_rows(part: Part, name: str, rows: np.ndarray) -> pl.Series:
    """Return a column of other values as text: lists and the like as JSON."""
    texts: list[str | None] = []
    for table in ShardReader().read_rows(part.shard, rows, batch_bytes=BATCH_BYTES):
        column = table.column(name)
        plain = plain_type(column.type)
        if is_binary(plain) or is_string(plain):
            found = column.cast(pa.large_binary()).to_pylist()
            try:
                texts += [None if one is None else one.decode() for one in found]
            except UnicodeDecodeError:
                raise UsageError(
                    f"--columns: the column {name!r} of {part.shard.url} holds bytes that are no text; leave it out"
                ) from None
        else:
            texts += [
                None if one is None else _json(one, name, part) for one in column.cast(plain).to_pylist()
            ]
    return pl.Series(name, texts, pl.String)


def _json(value: object, name: str, part: Part) -> str:
    """Return a value as JSON; UsageError where it holds bytes."""

    def plain(inner: object) -> str:
        if isinstance(inner, bytes):
            raise UsageError(
                f"--columns: the column {name!r} of {part.shard.url} holds bytes (images?); leave it out"
            )
        return str(inner)

    return json.dumps(value, ensure_ascii=False, default=plain)
