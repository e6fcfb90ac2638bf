"""Scores that depend on the rows themselves: every part on its own, block by block."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from curate.embedding.store import BATCH_ROWS, EmbeddingPart
from curate.errors import RunError
from curate.execution.context import Context, require_same, usable
from curate.io import storage
from curate.linalg import load_unit
from curate.runs.folder import RunFolder
from curate.scores.tables.whole_captions import CaptionTask, caption_task, whole_captions

if TYPE_CHECKING:
    from curate.scores.base import Score
    from curate.scores.tables.output import Output

__all__ = ["compute"]


@dataclass(frozen=True)
class RowsTask:
    """One part to score."""

    run: RunFolder
    part: str
    score: "Score"
    given: Mapping[str, Any]
    captions: CaptionTask | None
    out: Path
    fingerprint: str


def compute(score: "Score", context: Context, output: "Output") -> dict[str, Any]:
    """Write the table of every part that has none yet; return how many rows have a score."""
    todo = output.todo()
    given = score.given(context, output) if todo else {}
    reads = "caption" in score.reads
    tasks = [
        RowsTask(
            context.run, part.name, score, given, caption_task(context, part, output.sources) if reads else None,
            output.path(part), output.fingerprint,
        )
        for part in todo
    ]  # fmt: skip
    context.map("score", "parts", _score_part, tasks)
    first = output.schema.names[1]
    tables = (storage.read_table(output.path(part), [first]) for part in context.parts)
    return {"scored": sum(len(table) - table[first].null_count for table in tables)}


def _score_part(task: RowsTask) -> None:
    """Score one part. One thread: the last bits of a product depend on their number."""
    from threadpoolctl import threadpool_limits

    part = EmbeddingPart(task.run.part(task.run.embeddings, task.part))
    schema = task.score.table()
    kinds = task.score.columns_made()
    names = list(kinds)
    values = {name: kind.nothing(len(part)) for name, kind in kinds.items()}
    why = np.full(len(part), "nonfinite", object)
    with threadpool_limits(1, user_api="blas"):
        for rows, wanted, given in _blocks(task, part):
            why[rows][~wanted] = "no_text"
            if not wanted.any():
                continue
            made = task.score.score_rows(**given, **task.given)
            for name in names:
                values[name][rows][wanted] = _checked(task.score, name, made, int(wanted.sum()))
            why[rows][wanted] = made.get(schema.names[-1], "nonfinite")
    known = np.isfinite(values[names[0]])
    status = np.where(known, "ok", why)
    columns = [
        pa.array(one, pa.string()) if one.dtype == object else pa.array(one, mask=~np.isfinite(one))
        for one in values.values()
    ]
    table = pa.table(
        [pa.array(part.uids(), pa.string()), *columns, pa.array(status, pa.string())], schema=schema
    )
    storage.write_parquet(task.out, table, schema, task.fingerprint)


def _blocks(
    task: RowsTask, part: EmbeddingPart
) -> Iterator[tuple[slice, npt.NDArray[np.bool_], dict[str, Any]]]:
    """Yield the rows of each block, which of them are scored, and what `score_rows` is given for these."""
    reads = task.score.reads
    samples = None
    if {"caption", "label"} & set(reads):
        samples = usable(task.run, task.part) if task.captions is None else whole_captions(task.captions)
        require_same(samples["uid"], pl.Series(part.uids(), dtype=pl.String), task.out)
    for batch in range(-(-len(part) // BATCH_ROWS)):
        rows = slice(batch * BATCH_ROWS, min(len(part), (batch + 1) * BATCH_ROWS))
        wanted = np.ones(rows.stop - rows.start, np.bool_)
        if "text" in reads:
            wanted = part.present("text", batch) if part.has_text else np.zeros_like(wanted)
        given: dict[str, Any] = {}
        if wanted.any():
            for name in set(reads) & {"image", "text"}:
                given[name] = load_unit(part.half(name, batch)[wanted])
            if samples is not None:
                for name in set(reads) & {"caption", "label"}:
                    given[name] = samples[name][rows].filter(pl.Series(wanted)).to_list()
            if "uid" in reads:
                given["uid"] = np.array(part.uids()[rows], object)[wanted].tolist()
        yield rows, wanted, given


def _checked(score: "Score", name: str, made: Mapping[str, npt.NDArray[Any]], n: int) -> npt.NDArray[Any]:
    """Return a column as it is stored; raise RunError where `score_rows` left it out, or gave another number of rows."""
    text = score.columns_made()[name].kind == "string"
    values = np.asarray(made.get(name, ()), object if text else np.float64)
    if values.shape != (n,):
        raise RunError(
            f"score: {score.folder}: score_rows must give {name} for {n:,} rows, got shape {values.shape}"
        )
    with np.errstate(over="ignore"):
        return values if text else values.astype(np.float32)
