"""Which rows have an address: where the images of a run stand in its shards, and a column says where they came from.

Such are img2dataset's shards (its Parquet files have a row per address), metadata of DataComp and LAION, tables with a
column `url` beside the image, and tars whose `.json` members have it.
"""

from collections.abc import Iterator
from itertools import groupby

import polars as pl

from curate.errors import SourceError
from curate.execution.context import Context, Part, log
from curate.filtering.json_fields import field_place
from curate.filtering.source_columns import SourceColumns, columns_here
from curate.io import storage
from curate.sources.base import Shard
from curate.sources.columns import URL_NAMES
from curate.sources.registry import ShardReader, format_of

__all__ = ["places_of"]

_BATCH_BYTES = 32 << 20
_NAMES = (*URL_NAMES, "source_url", "original_url", "uri", "image_uri")


def places_of(context: Context, address: str) -> Iterator[tuple[Part, int, str]]:
    """Yield (part, place in it, address) of the rows whose source says an address; a shard that is gone is left out.

    Addresses are compared as they stand, and where none is equal without what follows ``?`` or ``#``.
    """
    log.info("looking for %s in the addresses of the source", address)
    found = [one for shard, parts in _shards(context) for one in _in_shard(context, shard, parts, address)]
    exact = [one for one in found if one[2] == address]
    yield from exact or found


def _shards(context: Context) -> Iterator[tuple[Shard, list[Part]]]:
    for _, group in groupby(context.parts, key=lambda part: part.shard.name):
        parts = list(group)
        yield parts[0].shard, parts


def _in_shard(
    context: Context, shard: Shard, parts: list[Part], address: str
) -> Iterator[tuple[Part, int, str]]:
    try:
        keys = format_of(shard.format).addresses(shard)
        if keys is not None:
            named = pl.DataFrame(list(keys), schema={"key": pl.String, "address": pl.String}, orient="row")
            named = _fitting(named, address).drop_nulls("key").unique("key", maintain_order=True)
            for part in parts if len(named) else ():
                rows = pl.DataFrame(_samples(context, part)).with_row_index("place")
                for place, one in rows.join(named, on="key").select("place", "address").rows():
                    yield part, place, one
        elif (name := _column(shard)) is not None:
            for part in parts:
                rows = pl.DataFrame(_samples(context, part)).with_row_index("place")
                column = SourceColumns(shard, {name: pl.String()}, _BATCH_BYTES)
                for block in column.beside(rows.select("place", "row").sort("row")):
                    texts = block.with_columns(address=pl.col(name).cast(pl.String))
                    for place, one in _fitting(texts, address).select("place", "address").rows():
                        yield part, place, one
    except SourceError as error:
        log.warning("%s", error)


def _samples(context: Context, part: Part) -> pl.DataFrame:
    table = storage.read_table(context.run.part(context.run.samples, part.name), ["row", "key"])
    return pl.DataFrame(table)


def _fitting(rows: pl.DataFrame, address: str) -> pl.DataFrame:
    """Return the rows whose address is one, or is it without what follows ``?`` or ``#``."""
    plain = pl.col("address").str.replace(r"[?#].*$", "")
    return rows.filter((pl.col("address") == address) | (plain == address.split("?")[0].split("#")[0]))


def _column(shard: Shard) -> str | None:
    """Return the column of a shard, or the field of its JSON members, that holds addresses."""
    schema = ShardReader().schema(shard)
    have = {name.lower(): name for name in reversed(columns_here(schema).names)}
    named = next((have[name] for name in _NAMES if name in have), None)
    return "url" if named is None and field_place(schema, "url") is not None else named
