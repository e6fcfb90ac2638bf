"""Curate and prune image-text datasets by concept complexity, hardness and noise.

>>> import curate
>>> sorted(curate.__all__)
['CurateError', 'Recipe', 'Run', 'load_recipe', 'open_run', 'parse_recipe', 'run']
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curate.errors import CurateError
    from curate.pipeline.runner import run
    from curate.recipe import Recipe
    from curate.recipe.loading import load_recipe, parse_recipe
    from curate.runs.folder import Run, open_run

__all__ = ["CurateError", "Recipe", "Run", "load_recipe", "open_run", "parse_recipe", "run"]

_HOMES = {
    "CurateError": "errors",
    "Recipe": "recipe",
    "Run": "runs.folder",
    "load_recipe": "recipe.loading",
    "open_run": "runs.folder",
    "parse_recipe": "recipe.loading",
    "run": "pipeline.runner",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  (any public verb)
    """Import a public verb when it is first used, so that importing curate stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module 'curate' has no attribute {name!r}")
    return getattr(importlib.import_module(f"curate.{_HOMES[name]}"), name)
