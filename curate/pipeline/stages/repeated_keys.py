"""Keys that stand in more than one shard: they may restart in each, or mean that shards were written twice.

They are never identities (a uid is), so such rows stay apart; how many there are is counted and said.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from curate.execution import exchange
from curate.execution.context import Context, Part, log
from curate.hashing import hash_uids
from curate.io import storage

__all__ = ["FORMATS", "find"]

#: Formats whose keys are names given by whoever wrote the shards.
FORMATS = ("webdataset", "img2dataset")
ROW_BYTES = 120
EXAMPLES = 3

ROWS = pa.schema([("key", pa.string()), ("shard", pa.int32())])


@dataclass(frozen=True)
class SpreadTask:
    """The keys of one part, which go to buckets by their hash."""

    keys: Path
    shard: int
    buckets: int
    out: Path


@dataclass(frozen=True)
class CountTask:
    """One bucket in which repeated keys are counted."""

    files: tuple[Path, ...]
    bucket: int


def find(context: Context, parts: Sequence[Part], keys: Sequence[Path]) -> dict[str, Any]:
    """Return how many keys, and rows with them, are in several shards, with examples; empty where none are.

    keys : the table of keys of each part.
    """
    named = [place for place, part in enumerate(parts) if part.shard.format in FORMATS]
    shards = list(dict.fromkeys(parts[place].shard.name for place in named))
    if len(shards) < 2:
        return {}
    folder = context.run.work / "repeated"
    buckets = max(1, -(-sum(parts[place].rows for place in named) * ROW_BYTES // context.task_memory))
    tasks = [
        SpreadTask(keys[place], shards.index(parts[place].shard.name), buckets, folder / f"{place}.arrow")
        for place in named
    ]
    context.map("read", "parts", _spread, tasks)
    files = tuple(task.out for task in tasks)
    found = context.map("read", "buckets", _count, [CountTask(files, bucket) for bucket in range(buckets)])
    storage.remove(folder)
    facts = {"keys": sum(one["keys"] for one in found), "rows": sum(one["rows"] for one in found)}
    if not facts["keys"]:
        return {}
    examples = sorted(example for one in found for example in one["examples"])[:EXAMPLES]
    said = [f"{key} ({', '.join(shards[shard] for shard in where)})" for key, where in examples]
    log.warning(
        "read: %s keys are in more than one shard (%s rows), such as %s; the rows are kept apart",
        f"{facts['keys']:,}", f"{facts['rows']:,}", "; ".join(said),
    )  # fmt: skip
    return {**facts, "examples": said}


def _spread(task: SpreadTask) -> None:
    keys = storage.read_table(task.keys, ["key"])["key"].drop_null()
    table = pa.table([keys, np.full(len(keys), task.shard, np.int32)], schema=ROWS)
    bucket = hash_uids(keys.to_pylist(), "repeated") % np.uint64(task.buckets)
    exchange.scatter(task.out, bucket.astype(np.int32), task.buckets, table.take, ROWS, "")


def _count(task: CountTask) -> dict[str, Any]:
    rows = pl.DataFrame(exchange.gather(task.files, task.bucket))
    found = (
        rows.group_by("key")
        .agg(pl.len(), pl.col("shard").unique().sort())
        .filter(pl.col("shard").list.len() > 1)
    )
    first = found.sort("key").head(EXAMPLES)
    return {
        "keys": len(found),
        "rows": int(found["len"].sum()),
        "examples": [(key, shards[:EXAMPLES]) for key, shards in first.select("key", "shard").iter_rows()],
    }
