"""Tables of a run without some samples: the others keep their bytes' meaning, their fingerprints, and their order."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate import schema
from curate.embedding.store import BATCH_ROWS
from curate.execution.context import Context, Part
from curate.io import storage
from curate.pipeline.stages import copies, read
from curate.pipeline.stages.embed_task import content_of
from curate.pipeline.stages.read_task import blank
from curate.runs.folder import RunFolder
from curate.runs.forgotten import OUTCOME, Forgotten
from curate.runs.layout import MORE_EMBEDDINGS

__all__ = ["blank_samples", "count_assigned", "drop_rows", "fingerprint_anew", "vector_folders"]


def drop_rows(path: Path, uids: Collection[str]) -> int:
    """Write a table (Parquet, or vectors as Arrow) without the rows of some samples; return how many those were.

    A file without a column of uids, or without such rows, is left as it is.
    """
    arrow = path.suffix == ".arrow"
    names = storage.map_ipc(path).schema.names if arrow else pq.read_schema(storage.ensure_local(path)).names
    if "uid" not in names:
        return 0
    table = storage.map_ipc(path).read_all() if arrow else storage.read_table(path)
    stays = pc.invert(pc.is_in(table["uid"], pa.array(list(uids), table["uid"].type)))
    left = table.filter(stays)
    if len(left) == len(table):
        return 0
    fingerprint = storage.stored_fingerprint(path) or ""
    if arrow:
        _write_vectors(path, left, fingerprint)
    else:
        storage.write_parquet(path, left, left.schema, fingerprint, facts=storage.stored_facts(path))
    return len(table) - len(left)


def _write_vectors(path: Path, table: pa.Table, fingerprint: str) -> None:
    whole = table.combine_chunks()
    batches = whole.to_batches(max_chunksize=BATCH_ROWS)
    storage.write_ipc(path, (one for one in batches if one.num_rows), whole.schema, fingerprint)


def vector_folders(run: RunFolder) -> list[Path]:
    """Return the folders with vectors: of the run, and of further models."""
    return [run.embeddings, *sorted(path for path in run.path.glob(f"{MORE_EMBEDDINGS}/*") if path.is_dir())]


def blank_samples(
    context: Context, part: Part, uids: Collection[str], forgotten: Forgotten, *, keys: bool
) -> int:
    """Write the samples of a part (or what was read of them) with nothing in forgotten rows but their place.

    Returns how many rows are forgotten.
    """
    run = context.run
    samples = run.part(run.samples, part.name)
    known = pl.DataFrame(storage.read_table(samples, ["uid", "outcome"]))
    gone = known["uid"].is_in(pl.Series(list(uids), dtype=pl.String).implode()) | (
        known["outcome"] == OUTCOME
    )
    if not gone.any():
        return 0
    path, kind = (read.keys_path(context, part), schema.KEYS) if keys else (samples, schema.SAMPLES)
    table = schema.complete(storage.read_table(path), kind)
    new = blank(table, gone.to_numpy(), forgotten, part)
    fingerprint = storage.stored_fingerprint(path) or ""
    storage.write_parquet(path, new, kind, fingerprint, facts=storage.stored_facts(path))
    return int(gone.sum())


def fingerprint_anew(context: Context) -> None:
    """Let vectors and samples say which rows are copies now, so that no part is taken for stale and embedded again."""
    run, found = context.run, copies.find(context)
    for part in context.parts:
        vectors, samples = run.part(run.embeddings, part.name), run.part(run.samples, part.name)
        fingerprint = content_of(vectors) + found.fingerprint_of(replace(part))
        if storage.stored_fingerprint(vectors) != fingerprint:
            _write_vectors(
                vectors, storage.map_ipc(vectors).read_all().replace_schema_metadata(None), fingerprint
            )
        if storage.stored_fingerprint(samples) != fingerprint:
            table = schema.complete(storage.read_table(samples), schema.SAMPLES)
            storage.write_parquet(samples, table, schema.SAMPLES, fingerprint)


def count_assigned(run: RunFolder, folder: Path) -> int:
    """Write how many samples each concept of a clustering has; return how many there are in all."""
    path = folder / "concepts.parquet"
    table = pl.DataFrame(storage.read_table(path))
    counts = np.zeros(len(table), np.int64)
    for file in sorted((folder / "assignments").glob("part-*.parquet")):
        counts += np.bincount(
            storage.read_table(file, ["concept"])["concept"].to_numpy(), minlength=len(table)
        )
    new = table.with_columns(pl.Series("n_assigned", counts)).to_arrow().cast(schema.CONCEPTS)
    storage.write_parquet(
        path, new, schema.CONCEPTS, storage.stored_fingerprint(path) or "", facts=storage.stored_facts(path)
    )
    return int(counts.sum())
