"""Parquet shards for tests: write one, read all of its rows, filter it into new ones."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.schema import OUTCOMES
from curate.sources.base import Columns
from curate.sources.parquet import ParquetReader, find
from curate.writers.parquet import tasks, write_file
from curate.writers.schema import NO_EXTRA, output_schema
from curate.writers.shard_plan import KeptRows, plan

BIG = 64 << 20
READER = ParquetReader(Columns())
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def make(folder, table, name="0.parquet", **options):
    """Write a table (or its columns) as a shard."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path, **options)
    return find(str(path))[0]


def write(folder, name="0.parquet", row_group_size=None, **columns):
    """Write columns, given by name, as a shard."""
    return make(folder, columns, name, row_group_size=row_group_size)


def bad_utf8(kind=None):
    """A string column whose first value is not UTF-8."""
    data = pa.array([b"caf\xe9", b"ok", None])
    array = pa.Array.from_buffers(pa.string(), 3, data.buffers())
    return array if kind is None else array.cast(kind)


def read(shard, images=True, batch_bytes=BIG, allow_url=False, **columns):
    """Read all rows of a shard as one dict of lists."""
    reader = ParquetReader(Columns(**columns), allow_url=allow_url)
    batches = list(reader.batches(shard, images=images, batch_bytes=batch_bytes))
    fields = ("key", "image", "image_ref", "caption", "label", "outcome", "reason")
    merged = {field: [value for batch in batches for value in getattr(batch, field)] for field in fields}
    merged["row"] = [int(row) for batch in batches for row in batch.row]
    merged["uid"] = None if "uid" not in columns else [uid for batch in batches for uid in batch.uid]
    assert merged["row"] == list(range(len(merged["row"])))
    assert set(merged["outcome"]) <= set(OUTCOMES)
    assert all((o == "ok") == (r is None) for o, r in zip(merged["outcome"], merged["reason"], strict=True))
    return merged


def keep(shard, rows, size=10, extra=None):
    """Keep the rows at these places, each of the same size."""
    rows = np.asarray(rows, np.int64)
    return KeptRows(shard, rows, np.full(len(rows), size, np.int64), extra)


def write_all(kept, folder, max_shard_size=10**9, reader=READER, extra=NO_EXTRA, **options):
    """Plan and write the kept rows of some shards; return the paths of the files."""
    by_name = {item.shard.name: item for item in kept}
    files = plan(kept, max_shard_size, empty=True)
    schema = output_schema(reader, [item.shard for item in kept], extra)
    for task, file in zip(
        tasks(files, by_name.__getitem__, reader, folder, schema, **options), files, strict=True
    ):
        assert write_file(task) == file.n_rows
    return [folder / file.name for file in files]
