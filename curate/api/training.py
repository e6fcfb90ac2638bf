"""The verb that trains a filter: `train_filter`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.api.progress import shown
from curate.errors import UsageError

if TYPE_CHECKING:
    from curate.execution.context import Progress

__all__ = ["train_filter"]


def train_filter(
    recipe: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    progress: "bool | Progress" = True,
) -> Path:
    """Train a filter on a small set of good pairs; the score `dfn` reads the folder that it returns.

    What was trained before as it would be now is not trained again, and a training that was killed goes on.

    Parameters
    ----------
    recipe : str, Path or dict
        The recipe of a filter: a file, or its settings as a mapping.
    out : str or Path, optional
        The folder of the filter, in place of the one that the recipe names.
    progress : bool or callable
        True shows progress on stderr; a function gets (stage, done, total, unit).

    Returns
    -------
    Path
        The folder of the filter, for ``score: [{dfn: {path: ...}}]``.

    Raises
    ------
    UsageError
        For a training set that is not to be had, or that shares rows with an evaluation set.
    RecipeError
        For a setting that is wrong.

    Examples
    --------
    >>> train_filter(["filter.yaml"])
    Traceback (most recent call last):
    ...
    curate.errors.UsageError: curate.train_filter takes a recipe file or a mapping, got list
    """
    if not isinstance(recipe, str | Path | Mapping):
        raise UsageError(f"curate.train_filter takes a recipe file or a mapping, got {type(recipe).__name__}")
    from curate.training.filter_recipe import load_filter_recipe, parse_filter_recipe
    from curate.training.train import train_recipe

    changed = {} if out is None else {"out": str(out)}
    if isinstance(recipe, Mapping):
        loaded = parse_filter_recipe({**recipe, **changed})
    else:
        loaded = load_filter_recipe(recipe, [f"{name}={value}" for name, value in changed.items()])
    with shown(progress) as report:
        return train_recipe(loaded, progress=report).path
