"""A first look at a source, for who has no recipe yet: format, files, and which column of it holds what."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from curate.io.found import Found, counting
from curate.pipeline.stages.read import find_shards
from curate.recipe import Source
from curate.sources import registry
from curate.sources.arrow_types import is_list, plain_type
from curate.sources.base import Columns
from curate.sources.columns import guess_columns
from curate.sources.vector_columns import FLOATS

__all__ = ["Survey", "survey"]

#: A list of numbers under another name is taken for a vector from this length on: a box has four numbers.
LEAST_WIDTH = 16
_LIKE_VECTORS = ("emb", "vec", "feature", "latent")


@dataclass(frozen=True)
class Survey:
    """What stands where a source is, by its first shard.

    columns : as `auto` finds them. vectors : columns of vectors, those with the usual names first.
    """

    format: str
    found: Found
    shards: int
    columns: Columns
    vectors: Sequence[str]


def survey(path: str) -> Survey:
    """Look at a source. Raises UsageError where there is nothing, SourceError where the first shard cannot be read."""
    source, found = Source(path=path), Found()
    with counting(found):
        shards = find_shards(source)
        schema = registry.ShardReader().schema(shards[0])
    columns = guess_columns(schema, ids_only=True)
    return Survey(shards[0].format, found, len(shards), columns, _vectors(schema))


def _vectors(schema: pa.Schema) -> list[str]:
    """Return the columns of lists of floating-point numbers that are vectors by name or length."""
    floats = [field for field in schema if _is_list_of_floats(plain_type(field.type))]
    named = [field.name for field in floats if any(part in field.name.lower() for part in _LIKE_VECTORS)]
    wide = [field.name for field in floats if getattr(plain_type(field.type), "list_size", 0) >= LEAST_WIDTH]
    return list(dict.fromkeys([*named, *wide]))


def _is_list_of_floats(kind: pa.DataType) -> bool:
    return is_list(kind) and kind.value_type in FLOATS
