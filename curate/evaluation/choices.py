"""The subsets that are judged: what methods keep of a pool, through the stages of a run, in a scratch copy of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.errors import UsageError
from curate.evaluation.request import OWN, Method, Request
from curate.pipeline import rescore
from curate.recipe import Recipe
from curate.runs.run import open_run

__all__ = ["Subset", "check_methods", "choose", "in_scratch", "shown_name"]


@dataclass(frozen=True)
class Subset:
    """Rows of the pool to train on. name : a method, or which draw. weights : None where all count alike."""

    name: str
    rows: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32] | None = None


def check_methods(run: str, request: Request) -> Recipe:
    """Return the recipe of a run; raises UsageError for a method that it cannot select by.

    A method may go by a score that the run does not have, or lack a setting.
    """
    recipe = rescore.chosen_recipe(run)
    for method in request.methods:
        if method.name == OWN and request.keep and recipe.select.keeps_all:
            raise UsageError(
                "--keep: this run keeps all that passes (select.method all), whatever the share; name methods with "
                "--methods"
            )
        rescore.chosen_recipe(run, settings=_settings(method, recipe, 1))
    return recipe


def shown_name(method: Method, recipe: Recipe) -> str:
    """Return what a method is called: the run's own selection by its method."""
    return f"{recipe.select.method} (this run)" if method.name == OWN else method.name


def in_scratch(recipe: Recipe, scratch: Path) -> Recipe:
    """Return a recipe that works on a scratch copy of its run, on this machine."""
    return recipe.model_copy(update={"run": str(scratch), "engine": "local"})


def choose(run: str, scratch: Path, method: Method, count: int, exclude: Path) -> pl.DataFrame:
    """Return what a method keeps (`uid`, `weight`) of a run without the rows that are held out.

    scratch : a copy of the run, whose decisions change. count : rows to keep, or what there is where that is less.
    exclude : the list of what is held out.
    """
    before = rescore.chosen_recipe(run)
    settings = {**_settings(method, before, count), "exclude": [*before.exclude, str(exclude)]}
    rescore.select_run(in_scratch(rescore.chosen_recipe(run, settings=settings), scratch))
    return open_run(scratch).kept(lazy=True).select("uid", "weight").collect()


def _settings(method: Method, recipe: Recipe, count: int) -> Mapping[str, object]:
    """Return the settings by which a method keeps a number of rows.

    What the run itself has shipped goes first in its own selection alone.
    """
    if method.name == OWN and recipe.select.keeps_all:
        return {}
    shipped: object = recipe.run if recipe.select.shipped is True else recipe.select.shipped
    wanted: dict[str, object] = {"select.count": count, "select.at_most": True}
    if recipe.select.shipped:
        wanted["select.shipped"] = shipped if method.name == OWN else False
    return {**method.settings, **wanted}
