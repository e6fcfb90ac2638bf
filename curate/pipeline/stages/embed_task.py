"""What giving vectors to one part takes, and the table of samples that comes of it."""

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

import curate.embedding
from curate import schema
from curate.embedding.precision import auto_precision
from curate.execution.context import Context, Part, reuse_or_remove
from curate.io import storage
from curate.pipeline.stages import copies, given_vectors, read, read_task
from curate.recipe import Embed, Source
from curate.runs.folder import RunFolder
from curate.runs.forgotten import OUTCOME, Forgotten

__all__ = [
    "VERSION",
    "EmbedTask",
    "Outcomes",
    "content_of",
    "is_made",
    "keys_of",
    "precision_of",
    "retries",
    "space_of",
    "task_of",
    "write_samples",
]

VERSION = 1
#: The fingerprint of a part is that of its content, and behind it that of which rows are copies.
FINGERPRINT_LENGTH = 32


@dataclass(frozen=True)
class EmbedTask:
    """One part to give vectors to."""

    run: RunFolder
    part: Part
    source: Source
    keys: Path
    copies: copies.Copies
    exact: bool
    in_files: bool
    dim: int
    text: bool
    on: str
    batch_bytes: int
    fingerprint: str
    forgotten: Forgotten


@dataclass
class Outcomes:
    """What became of the rows of a part, collected batch by batch.

    content_hash : of the bytes of their images; empty where no bytes are read.
    """

    outcome: list[str]
    reason: list[str | None]
    width: list[int | None]
    height: list[int | None]
    content_hash: list[str | None] = field(default_factory=list)


def retries(run: RunFolder) -> dict[str, str]:
    """Return what stands for the retries of each part that had one: they are in the part's fingerprint."""
    found = storage.read_json(run.work / "retries.json")
    return found if isinstance(found, dict) else {}


def space_of(embed: Embed) -> dict[str, object]:
    """Return what decides the numbers in a vector: model, weights, precision; or where vectors are from."""
    if embed.column is not None:
        both = {"column": embed.column, "text_column": embed.text_column}
        return {name: column for name, column in both.items() if column is not None}
    if embed.files is not None:
        named: dict[str, object] = {} if embed.array is None else {"array": embed.array}
        return {"files": embed.files, **named}
    space: dict[str, object] = {"model": embed.model, "pretrained": embed.pretrained}
    space |= {
        "precision": precision_of(embed),
        "max_pixels": embed.max_pixels,
        "batch_size": embed.batch_size,
    }
    if embed.decode_limits[1:]:
        space["decode_memory"] = embed.decode_memory
    if embed.decode == "draft":  # the others give the same pixels
        space["decode"] = embed.decode
    shipped = Path(curate.embedding.__file__).parent / "tiny" / "model.safetensors"
    weights = shipped if embed.model == "tiny" else embed.pretrained
    if weights is not None and Path(weights).is_file():
        space["weights"] = storage.hash_file(Path(weights))
    return space


def precision_of(embed: Embed) -> str:
    """Return the precision that vectors are made in, without importing torch where there is no GPU driver."""
    if embed.precision != "auto":
        return embed.precision
    return auto_precision(embed.model, embed.pretrained, _device_of(embed.device))


def _device_of(device: str) -> str:
    """Return the device `auto` stands for, and the first of several."""
    if device != "auto":
        return device.split(",")[0].strip()
    if any(Path("/dev").glob("nvidia[0-9]*")):
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cpu"


def task_of(context: Context, part: Part, found: copies.Copies, space: object) -> EmbedTask:
    """Return what giving vectors to a part takes."""
    recipe = context.recipe
    source = next(source for source in recipe.source if source.name == part.shard.source)
    words = recipe.embed.text_column
    if not recipe.embed.own_vectors:
        words = next((p.columns.caption for p in context.parts if p.columns.caption), None)
    text = words is not None
    content = storage.fingerprint(
        "embed", VERSION, space, part.fingerprint, text, recipe.cluster.asks_for, bool(recipe.dedup.exact),
        given_vectors.vectors_of(part), *([retried] if (retried := retries(context.run).get(part.name)) else []),
    )  # fmt: skip
    fingerprint = content + found.fingerprint_of(part)
    return EmbedTask(
        context.run, part, source, read.keys_path(context, part), found, bool(recipe.dedup.exact),
        recipe.embed.files is not None, 0, text,
        recipe.cluster.asks_for, min(64_000_000, context.task_memory // 4), fingerprint,
        Forgotten.of(context.run),
    )  # fmt: skip


def content_of(path: Path) -> str:
    """Return what stands for the vectors of a part, whichever of its rows are copies; empty if it is not there."""
    return (storage.stored_fingerprint(path) or "")[:FINGERPRINT_LENGTH]


def is_made(task: EmbedTask) -> bool:
    """Whether both tables of the part are there as they would be made now."""
    run, name = task.run, task.part.name
    return reuse_or_remove(run.part(run.samples, name), task.fingerprint) and reuse_or_remove(
        run.part(run.embeddings, name), task.fingerprint
    )


def keys_of(task: EmbedTask) -> pl.DataFrame:
    """Return what is known of the rows of a part before decoding, with which rows are copies."""
    keys = pl.DataFrame(storage.read_table(task.keys))
    return copies.of_part(task.copies, task.part, keys, exact=task.exact)


def write_samples(task: EmbedTask, keys: pl.DataFrame, outcomes: Outcomes) -> None:
    """Write the samples table of a part; of a row that was found to be forgotten it says nothing but the place."""
    shard, hashes = task.part.shard, outcomes.content_hash or [None] * len(keys)
    frame = keys.with_columns(
        source=pl.lit(shard.source),
        split=pl.lit(shard.split),
        shard=pl.lit(shard.name),
        outcome=pl.Series(outcomes.outcome, dtype=pl.String),
        reason=pl.Series(outcomes.reason, dtype=pl.String),
        width=pl.Series(outcomes.width, dtype=pl.Int32),
        height=pl.Series(outcomes.height, dtype=pl.Int32),
        content_hash=pl.Series(hashes, dtype=pl.String),
    )
    table = frame.select(schema.SAMPLES.names).to_arrow().cast(schema.SAMPLES)
    if (gone := (frame["outcome"] == OUTCOME).to_numpy()).any():
        table = read_task.blank(table, gone, task.forgotten, task.part)
    storage.write_parquet(
        task.run.part(task.run.samples, task.part.name), table, schema.SAMPLES, task.fingerprint
    )
