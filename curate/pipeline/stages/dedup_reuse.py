"""Which concepts need not be compared again: those whose rows are the same as when they were compared last.

Beside what dedup found stands what it was found from: per concept the number of compared rows and the sum of their
hashes (`4_duplicates/compared.parquet`). A row is hashed with all that its comparison depends on: its vector (by the
fingerprint of its part), its place in the order, and whether it is pinned.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from curate.execution.context import Context, eligible, reuse_or_remove
from curate.hashing import hash_uids
from curate.io import storage
from curate.ordering.keys import with_priority
from curate.pipeline.stages.embed_task import content_of
from curate.runs.folder import RunFolder
from curate.selection.rows.previous import Shipped

__all__ = ["Members", "forget", "members", "remember", "unchanged"]

COMPARED = pa.schema(
    [("concept", pa.int32()), ("rows", pa.int64()), ("hash_a", pa.uint64()), ("hash_b", pa.uint64())]
)


@dataclass(frozen=True)
class Members:
    """The rows of each concept that are compared: how many, and the sums of two hashes of theirs; (k,) and (k, 2).

    lost : (k,) concepts with a row in a part that has no result from before.
    """

    rows: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]
    lost: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MembersTask:
    """One part whose rows are hashed."""

    run: RunFolder
    part: str
    families: tuple[str, ...]
    prefer: str
    seed: int
    shipped: Shipped | None


def members(context: Context, families: tuple[str, ...], shipped: Shipped | None, n_concepts: int) -> Members:
    """Hash the rows that passed every filter, part by part."""
    total = Members(
        np.zeros(n_concepts, np.int64), np.zeros((n_concepts, 2), np.uint64), np.zeros(n_concepts, np.bool_)
    )
    prefer, seed = context.recipe.dedup.prefer, context.recipe.seed
    tasks = [MembersTask(context.run, part.name, families, prefer, seed, shipped) for part in context.parts]
    for concept, hashes, there in context.engine.map(
        _hash_part, tasks, parallel=context.in_processes(len(tasks))
    ):
        np.add.at(total.rows, concept, 1)
        np.add.at(total.hashes, concept, hashes)
        total.lost[concept] |= not there
    return total


def _hash_part(task: MembersTask) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64], bool]:
    """Return concept and hashes of the compared rows, and whether there is a result of theirs from before."""
    frame = eligible(task.run, task.part, (*task.families, "filter"))
    frame = frame.filter(pl.col("filter_reason").is_null())
    frame = with_priority(frame, task.prefer, task.seed, "dedup", task.shipped)
    rows = frame.select(pl.format("{}\x1f{}\x1f{}", "uid", "key", "pinned")).to_series().to_list()
    content = content_of(task.run.part(task.run.embeddings, task.part))
    hashes = [hash_uids(rows, "compared", half, task.part, content) for half in (1, 2)]
    there = task.run.part(task.run.duplicates, task.part).exists()
    return frame["concept"].to_numpy(), np.stack(hashes, axis=1), there


def _path(context: Context) -> Path:
    """Return the table of what was compared, in a folder that readers of `4_duplicates` pass over."""
    return context.run.duplicates / "_compared" / "compared.parquet"


def _path_before(context: Context) -> Path:
    """Return where runs made before have it."""
    return context.run.duplicates / "compared.parquet"


def unchanged(context: Context, now: Members, rules: str) -> npt.NDArray[np.bool_]:
    """Return which concepts have rows and were compared with just these rows under the same rules, (k,)."""
    path = _path_before(context) if _path_before(context).exists() else _path(context)
    same = np.zeros(len(now.rows), np.bool_)
    if not reuse_or_remove(path, rules):
        return same
    before = pl.DataFrame(storage.read_table(path)).filter(pl.col("concept") < len(same))
    concept = before["concept"].to_numpy()
    hashes = before.select("hash_a", "hash_b").to_numpy()
    alike = (before["rows"].to_numpy() == now.rows[concept]) & (hashes == now.hashes[concept]).all(axis=1)
    same[concept] = alike & (now.rows[concept] > 0) & ~now.lost[concept]
    return same


def forget(context: Context) -> None:
    """Forget what was compared: the results are about to be others."""
    for path in (_path_before(context), _path(context)):
        storage.remove(path)


def remember(context: Context, now: Members, rules: str, which: npt.NDArray[np.bool_] | None = None) -> None:
    """Note what the results of all concepts (or those in the mask `which`) were found from."""
    chosen = np.flatnonzero((now.rows > 0) if which is None else which)
    columns = [chosen.astype(np.int32), now.rows[chosen], *now.hashes[chosen].T]
    table = pa.table([pa.array(np.ascontiguousarray(column)) for column in columns], schema=COMPARED)
    storage.write_parquet(_path(context), table, COMPARED, rules)
    storage.remove(_path_before(context))
