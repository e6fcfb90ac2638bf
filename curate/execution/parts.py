"""The parts of the source that a run was made of, as the stage `read` noted them."""

from dataclasses import replace
from typing import TYPE_CHECKING

from curate.errors import RunError
from curate.execution.context import Context, Part, VectorFile
from curate.io import storage
from curate.runs.folder import RunFolder
from curate.sources.base import Columns, Shard

if TYPE_CHECKING:
    from curate.recipe import Recipe

__all__ = ["noted_parts", "with_parts"]


def with_parts(context: Context) -> Context:
    """Return the context with the parts that the read stage found."""
    return replace(context, parts=noted_parts(context.run, context.recipe))


def noted_parts(run: RunFolder, recipe: "Recipe") -> tuple[Part, ...]:
    """Return the parts that the read stage found. Raises RunError where it has not been run."""
    rows = storage.read_json(run.work / "parts.json")
    if rows is None:
        raise RunError(f"{run.where}: nothing is read yet; run the read stage first")
    sources = {source.name: source for source in recipe.source}
    parts = []
    for row in rows:
        source = sources[row["shard"]["source"]]
        own = {"storage_options": source.storage_options, "access": source.access}
        shard = Shard(**{**row["shard"], **own})
        vectors = tuple(VectorFile(**file) for file in row.get("vectors", ()))
        columns = Columns(**{**row["columns"], "caption_more": tuple(row["columns"].get("caption_more", ()))})
        parts.append(Part(**{**row, "shard": shard, "columns": columns, "vectors": vectors}))
    return tuple(parts)
