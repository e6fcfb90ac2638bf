"""Curate and prune image-text datasets by concept complexity, hardness and noise.

>>> import curate
>>> sorted(name for name in curate.__all__ if name.islower())
['cluster', 'deduplicate', 'filter', 'load_recipe', 'open_run', 'parse_recipe', 'run', 'sample_path', 'score', 'select', 'train_filter']
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curate.api.run import Run, open_run
    from curate.api.sample import sample_path
    from curate.api.select import select
    from curate.api.training import train_filter
    from curate.api.verbs import filter, run
    from curate.clustering.in_memory import Groups, cluster
    from curate.deduplication.in_memory import Deduplicated, deduplicate
    from curate.errors import CurateError
    from curate.recipe import Recipe
    from curate.recipe.loading import load_recipe, parse_recipe
    from curate.scores.in_memory import score

__all__ = [
    "CurateError",
    "Deduplicated",
    "Groups",
    "Recipe",
    "Run",
    "cluster",
    "deduplicate",
    "filter",
    "load_recipe",
    "open_run",
    "parse_recipe",
    "run",
    "sample_path",
    "score",
    "select",
    "train_filter",
]

#: Where each public name is defined.
_HOMES = {
    "CurateError": "errors",
    "Deduplicated": "deduplication.in_memory",
    "Groups": "clustering.in_memory",
    "Recipe": "recipe",
    "Run": "api.run",
    "cluster": "clustering.in_memory",
    "deduplicate": "deduplication.in_memory",
    "filter": "api.verbs",
    "load_recipe": "recipe.loading",
    "open_run": "api.run",
    "parse_recipe": "recipe.loading",
    "run": "api.verbs",
    "sample_path": "api.sample",
    "score": "scores.in_memory",
    "select": "api.select",
    "train_filter": "api.training",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  (any public verb)
    """Import a public verb when it is first used, so that importing curate stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module 'curate' has no attribute {name!r}")
    return getattr(importlib.import_module(f"curate.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
