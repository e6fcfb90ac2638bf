"""Over the parts of a run: the scores of pairs by a further model.

The formulas are those of `clip_score` and `pair`; they see the run with the vectors of this model in place of its own,
and write tables of their own into scratch, which are put together under the names of this model.
"""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from curate.embedding.store import BATCH_ROWS, EmbeddingPart
from curate.execution.context import Context, usable
from curate.io import storage
from curate.runs.folder import RunFolder
from curate.scores.base import Score
from curate.scores.clip_score import ClipScore
from curate.scores.tables.output import Output

if TYPE_CHECKING:
    from curate.scores.clip.clip import Clip

__all__ = ["NO_VECTOR", "compute"]

#: The status of a pair of which the model gives no vector, or whose image could not be decoded again.
NO_VECTOR = "no_vector"


@dataclass(frozen=True)
class JoinTask:
    """One part: tables of scores to put together under the name of a model. run : with the vectors of the model."""

    run: RunFolder
    part: str
    tables: tuple[Path, ...]
    settings: "Clip"
    out: Path
    fingerprint: str


def compute(context: Context, settings: "Clip", output: Output) -> dict[str, Any]:
    """Write the tables of all parts."""
    embed = settings.embed(context.recipe)
    todo = output.todo()
    scratch = context.run.work / f"clip-{settings.name}"
    stats: dict[str, Any] = {"model": embed.model, "pretrained": embed.pretrained}
    if todo:
        nested = output.sources.models.embedded(context, embed, settings.name)
        families: list[Score] = [ClipScore(), *([settings.pair] if settings.pair else [])]
        for family in families:
            inner = replace(output, context=nested, folder=scratch / family.folder, schema=family.table())
            made = family.compute(nested, inner)
            stats |= {"temperature": made["temperature"]} if "temperature" in made else {}
        tasks = [
            JoinTask(
                nested.run, part.name,
                tuple(context.run.part(scratch / family.folder, part.name) for family in families),
                settings, output.path(part), output.fingerprint,
            )
            for part in todo
        ]  # fmt: skip
        context.map("score", "parts", _join, tasks)
    storage.remove(scratch)
    found: Counter[str] = Counter()
    for part in context.parts:
        found.update(storage.read_table(output.path(part), [settings.status_column])[0].to_pylist())
    stats |= {"scored": found["ok"], "statuses": dict(sorted(found.items()))}
    return stats | {"warnings": _warnings(settings, found)}


def _warnings(settings: "Clip", found: Counter[str]) -> list[str]:
    """Return what has to be said of rows without a score."""
    if found.total() and not found["ok"]:
        return ["there is no pair of image and caption; all scores are null"]
    if lost := found[NO_VECTOR]:
        return [f"{lost:,} pairs have no vector of {settings.model}, and no score ({NO_VECTOR})"]
    return []


def _join(task: JoinTask) -> None:
    """Write the table of a part: columns under the name of the model, and why a row has no score."""
    name, status = task.settings.name, task.settings.status_column
    frames = [pl.DataFrame(storage.read_table(path)) for path in task.tables]
    score = frames[0].select("uid", pl.col("clip_score").alias(f"{name}_score"))
    made = task.settings.columns_made()
    more = [
        frame[column].alias(f"{name}_{column}")
        for frame in frames[1:]
        for column in frame.columns
        if f"{name}_{column}" in made
    ]
    captioned = usable(task.run, task.part)["caption"].fill_null("").str.strip_chars() != ""
    lost = pl.Series(_without_vector(task.run.part(task.run.embeddings, task.part))) & captioned
    why = frames[0]["clip_score_status"].zip_with(~lost, pl.repeat(NO_VECTOR, len(lost), eager=True))
    schema = task.settings.table()
    table = score.hstack(more).with_columns(why.alias(status)).select(schema.names)
    storage.write_parquet(task.out, table.to_arrow().cast(schema), schema, task.fingerprint)


def _without_vector(path: Path) -> np.ndarray:
    """Return which rows of a part have no vector of a caption, (n,)."""
    part = EmbeddingPart(path)
    lost = np.ones(len(part), np.bool_)
    for batch in range(part.batches if part.has_text else 0):
        here = part.present("text", batch)
        lost[batch * BATCH_ROWS : batch * BATCH_ROWS + len(here)] = ~here
    return lost
