"""Which engine a recipe asks for, and how many work at a time."""

from typing import TYPE_CHECKING

from curate.execution.context import PROCESS_BASE
from curate.execution.engines.base import Engine
from curate.execution.engines.local import LocalEngine
from curate.execution.engines.ray import RayEngine
from curate.process import cpu_count
from curate.runs.folder import folder_of

if TYPE_CHECKING:
    from curate.recipe import Recipe

__all__ = ["make_engine", "on_engine", "worker_count"]

#: Starting a process takes a second, as these rows do.
LEAST_ROWS = 4_000


def make_engine(recipe: "Recipe") -> Engine:
    """Return the engine that a recipe asks for; it starts nothing before its first map."""
    if recipe.engine == "local":  # a number of workers that was asked for is kept to
        return LocalEngine(worker_count(recipe), least_rows=LEAST_ROWS if recipe.workers == "auto" else 0)
    asked = None if recipe.workers == "auto" else recipe.workers
    here = min(worker_count(recipe), cpu_count())
    return RayEngine(
        recipe.ray.address,
        workers=asked,
        here=here,
        retries=recipe.ray.retries,
        folder=folder_of(recipe).path,
    )


def on_engine(recipe: "Recipe", engine: Engine) -> "Recipe":
    """Return the recipe with the precision that `auto` means on the machines of a cluster, not on this one."""
    embed = recipe.embed
    if not isinstance(engine, RayEngine) or recipe.ray.address is None:
        return recipe
    if embed.own_vectors or embed.precision != "auto":
        return recipe
    on_gpu = embed.device.startswith("cuda") or (embed.device == "auto" and engine.gpus > 0)
    update = {"precision": "float16" if on_gpu else "float32"}
    return recipe.model_copy(update={"embed": embed.model_copy(update=update)})


def worker_count(recipe: "Recipe") -> int:
    """Return the number of worker processes: as asked, else as many as cores and memory allow."""
    if recipe.workers != "auto":
        return recipe.workers
    by_memory = (recipe.memory - PROCESS_BASE) // (PROCESS_BASE + 200_000_000)
    return max(1, min(cpu_count(), by_memory))
