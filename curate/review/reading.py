"""The rows of a run with all that is known of each, read from its tables a block of parts at a time."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from curate import schema
from curate.errors import RunError
from curate.execution.context import Context, Part
from curate.io import storage
from curate.runs.folder import RunFolder

__all__ = ["DECISIONS", "MADE", "RENAMED", "SAMPLES", "blocks"]

#: Which columns of the tables the rows have; what is not a column here is a score.
SAMPLES = (
    "uid", "occurrence", "copy_of", "source", "split", "shard", "row", "key", "bytes", "width", "height", "caption",
    "caption_length", "label", "outcome", "reason", "content_hash",
)  # fmt: skip
DECISIONS = (
    "keep", "weight", "reason", "duplicate_of", "concept", "distance", "rank", "inclusion_prob",
    "random_control",
)  # fmt: skip
#: Columns that are made here.
MADE = ("n", "part", "place", "near", "block", "margin")
#: Rows that are read at a time, in whole parts.
TOGETHER = 100_000
#: Parts of a concept that dedup compares within; more than it ever makes.
MOST_SUBCONCEPTS = 1_000_000
#: What is called otherwise here than in its table: both 0_samples and 5_decisions have a `reason`.
RENAMED = {"reason": "fault"}

Indices = npt.NDArray[np.int64]


def blocks(context: Context, families: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Yield the rows of a run in the order of the source, some parts at a time; one block is read ahead.

    families : the scores that the rows have beside them. Columns: those of `SAMPLES` and `DECISIONS` (as `RENAMED` calls them),
    the scores, and `MADE`: the number of the row, the index of its part, its place among the vectors of the part (null without one),
    the similarity of the most similar earlier row, what rows are compared within, and how far the row is from the cut of its concept.
    """
    budgets = pl.DataFrame(storage.read_table(context.run.budgets, ["concept", "kept"]))
    classes = context.run.class_names()
    with ThreadPoolExecutor(1, "rows") as ahead:
        waiting: Future[pl.DataFrame] | None = None
        for parts in _together(context.parts):
            coming = ahead.submit(_rows_of, context, parts, families, budgets, classes)
            if waiting is not None:
                yield waiting.result()
            waiting = coming
        if waiting is not None:
            yield waiting.result()


def _together(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Yield parts one behind the other, as many as have `TOGETHER` rows: small ones are not worth a block each."""
    some: list[Part] = []
    for part in parts:
        some.append(part)
        if sum(one.rows for one in some) >= TOGETHER:
            yield some
            some = []
    if some:
        yield some


def _rows_of(
    context: Context,
    parts: Sequence[Part],
    families: Sequence[str],
    budgets: pl.DataFrame,
    classes: Mapping[str, str],
) -> pl.DataFrame:
    """Return the rows of some parts with all that is known of each."""
    run = context.run
    samples = _read(run, run.samples, parts, SAMPLES, schema.SAMPLES)
    of = samples["of"].to_numpy()
    frame = samples.drop("of").rename(RENAMED)
    frame = frame.hstack(_read(run, run.decisions, parts, DECISIONS, schema.DECISIONS).drop("of"))
    has_vector = ((samples["outcome"] == "ok") & samples["copy_of"].is_null()).to_numpy()
    frame = frame.with_columns(
        pl.Series("n", _since_start(of) + np.array([part.first for part in parts])[of]),
        pl.Series("part", np.array([part.index for part in parts], np.int32)[of]),
        pl.Series("place", _since_start(of, has_vector)).set(pl.Series(~has_vector), None),
    )
    taken = set(frame.columns)
    for family in families:
        scores = _read(run, run.scores(family), parts)
        names = [
            name for name in scores.columns if name not in {*taken, "of"} and not name.endswith("_status")
        ]
        taken |= set(names)
        frame = frame.hstack(_spread(scores, names, of, has_vector))
    frame = frame.hstack(_near(context, parts, frame, of))
    kept = pl.col("concept").replace_strict(budgets["concept"], budgets["kept"], default=None)
    frame = frame.with_columns((pl.col("rank").cast(pl.Int64) - kept).alias("margin"))
    labels = [name for name in ("label", "pred_label") if name in frame.columns]
    frame = frame.with_columns(pl.col(labels).replace(classes))
    floats = [name for name, kind in frame.schema.items() if kind.is_float()]
    return frame.with_columns(pl.when(pl.col(floats).is_finite()).then(pl.col(floats))).rechunk()


def _read(
    run: RunFolder,
    folder: Path,
    parts: Sequence[Part],
    columns: Sequence[str] | None = None,
    kind: pa.Schema | None = None,
) -> pl.DataFrame:
    """Return some columns of a table, or all, part behind part; `of` says which of the parts a row is from.

    kind : the schema of the table, where older ones lack columns of it (`schema.LATER`): they are null there.
    """
    frames = [storage.read_frame(run.part(folder, part.name), columns, schema.LATER) for part in parts]
    none = [] if kind is None else [pl.DataFrame(pa.Table.from_batches([], kind)).select(columns)]
    found = pl.concat([*none, *frames], how="diagonal_relaxed")
    of = np.repeat(np.arange(len(parts)), [len(frame) for frame in frames])
    return found.with_columns(pl.Series("of", of))


def _since_start(of: Indices, counted: npt.NDArray[np.bool_] | None = None) -> Indices:
    """Return how many rows of the same part stand before each one, or how many of those that are counted.

    >>> _since_start(np.array([0, 0, 0, 1, 1])).tolist()
    [0, 1, 2, 0, 1]
    """
    every = np.ones(len(of), np.int64) if counted is None else counted.astype(np.int64)
    before = np.cumsum(every) - every
    first = np.searchsorted(of, of)
    return before - before[first]


def _spread(
    scores: pl.DataFrame, names: Sequence[str], of: Indices, has_vector: npt.NDArray[np.bool_]
) -> pl.DataFrame:
    """Return a table of the rows with vectors as one of all rows, null in the others."""
    if not np.array_equal(scores["of"].to_numpy(), of[has_vector]):
        raise RunError("the scores are older than the source; run it again, and then review it")
    if has_vector.all():
        return scores.select(names)
    place = pl.Series(np.cumsum(has_vector) - 1).set(pl.Series(~has_vector), None)
    return scores.select(pl.col(names).gather(place))


def _near(context: Context, parts: Sequence[Part], frame: pl.DataFrame, of: Indices) -> pl.DataFrame:
    """Return how similar the most similar earlier row is (`near`), and what rows were compared within (`block`)."""
    run = context.run
    compared = run.marker(run.duplicates) is not None
    there = [part for part in parts if compared and run.part(run.duplicates, part.name).exists()]
    own = pl.col("concept").cast(pl.Int64) * MOST_SUBCONCEPTS
    none = pl.Series("near", [None] * len(frame), dtype=pl.Float32)
    if not there:
        return frame.select(none, own.alias("block"))
    names = ["uid", "concept", "subconcept", "max_similarity_earlier"]
    found = _read(run, run.duplicates, there, names)
    numbers = np.array([parts.index(part) for part in there])
    found = found.with_columns(pl.Series("of", numbers[found["of"].to_numpy()]))
    rows = frame.select("uid", "place", pl.Series("of", of), own.alias("own"))
    rows = rows.join(found, on=["of", "uid"], how="left", maintain_order="left")
    first = pl.col("place").is_not_null()
    block = pl.col("concept").cast(pl.Int64) * MOST_SUBCONCEPTS + pl.col("subconcept")
    lacking = ~pl.col("of").is_in(numbers.tolist())
    return rows.select(
        pl.when(first).then("max_similarity_earlier").alias("near"),
        pl.when(lacking).then("own").when(first).then(block).alias("block"),
    )
