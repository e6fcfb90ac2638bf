"""Keys that stand in more than one shard: they may restart in each, or mean that shards were written twice.

They are never identities (a uid is), so such rows stay apart; how many there are is counted and said.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from curate.execution.context import Context, Part, log
from curate.execution.exchange import Exchange, Grouped, bucket_of
from curate.io import storage

__all__ = ["FORMATS", "find"]

#: Formats whose keys are names given by whoever wrote the shards.
FORMATS = ("webdataset", "img2dataset")
ROW_BYTES = 120
EXAMPLES = 3

ROWS = pa.schema([("key", pa.string()), ("shard", pa.int32())])


def find(context: Context, parts: Sequence[Part], keys: Sequence[Path]) -> dict[str, Any]:
    """Return how many keys, and rows with them, are in several shards, with examples; empty where none are.

    keys : the table of keys of each part.
    """
    named = [place for place, part in enumerate(parts) if part.shard.format in FORMATS]
    shards = list(dict.fromkeys(parts[place].shard.name for place in named))
    if len(shards) < 2:
        return {}
    folder = context.run.work / "repeated"
    rows = sum(parts[place].rows for place in named)
    exchange = Exchange.by_memory(context, "read", folder, "repeated", rows=rows, row_bytes=ROW_BYTES)
    storage.remove(folder)  # of an interruption, perhaps of other shards
    items = {parts[place].name: (keys[place], shards.index(parts[place].shard.name)) for place in named}
    found = exchange.each(_count, exchange.spread(_rows_of_part, items))
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


def _rows_of_part(item: tuple[Path, int], n_buckets: int) -> Grouped:
    table, shard = item
    keys = storage.read_table(table, ["key"])["key"].drop_null()
    rows = pa.table([keys, np.full(len(keys), shard, np.int32)], schema=ROWS)
    return Grouped.of(bucket_of(keys.to_pylist(), n_buckets), rows)


def _count(table: pa.Table) -> dict[str, Any]:
    rows = pl.DataFrame(table)
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
