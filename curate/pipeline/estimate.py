"""What a run will take, before it starts: rows, time and disk. Rough on purpose, and said to be."""

from collections.abc import Sequence
from dataclasses import dataclass

from curate.execution.context import Part
from curate.process import cpu_count
from curate.recipe import Recipe
from curate.scores.clip.clip import Clip

__all__ = ["Estimate", "estimate"]

#: Images a second and core, measured on two shared cores of a 2020s server; a GPU is taken for 1,000 a second.
IMAGES_PER_S_CORE = {"tiny": 180.0, "ViT-B-32": 7.0}
OTHER_MODEL = 2.0
#: Rows a second and core for everything else together (reading, grouping, comparing, deciding, writing).
ROWS_PER_S_CORE = 8_000.0
DIMENSIONS = {"tiny": 128}


@dataclass(frozen=True)
class Estimate:
    """Rows and shards found, and about how many seconds and bytes of disk a full run takes."""

    shards: int
    rows: int
    source_bytes: int
    seconds: float
    disk_bytes: int


def estimate(recipe: Recipe, parts: Sequence[Part]) -> Estimate:
    """Return what a run over `parts` takes from nothing."""
    rows = sum(part.rows for part in parts)
    sizes = {part.shard.name: part.shard.size for part in parts}
    cores = cpu_count()
    seconds = 3 + rows / (ROWS_PER_S_CORE * cores)
    vectors = 1
    if not recipe.embed.own_vectors:
        seconds += rows / (IMAGES_PER_S_CORE.get(recipe.embed.model, OTHER_MODEL) * cores)
        vectors = 2
    further = {one.embed(recipe).model for one in recipe.score if isinstance(one, Clip)}
    further -= set() if recipe.embed.own_vectors else {recipe.embed.model}
    seconds += sum(rows / (IMAGES_PER_S_CORE.get(model, OTHER_MODEL) * cores) for model in further)
    share = recipe.select.keep or min(1.0, (recipe.select.count or 0) / max(rows, 1))
    given = [part.columns.vector_dim for part in parts if part.columns.vector_dim]
    width = 2 * (given[0] if given else DIMENSIONS.get(recipe.embed.model, 512))
    more = sum(4 * DIMENSIONS.get(model, 512) for model in further)  # images and captions
    disk = rows * (vectors * width + more + 400) + int(share * sum(sizes.values()))
    return Estimate(len(sizes), rows, sum(sizes.values()), seconds, disk)
