"""The verbs that make a run: `filter` and `run`."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from curate.api.as_typed import arguments, as_typed
from curate.api.changes import listed
from curate.api.data import given_data
from curate.api.progress import shown
from curate.api.run import Run, open_run
from curate.errors import UsageError
from curate.recipe import Recipe
from curate.recipe.build import filter_recipe, given
from curate.recipe.loading import load_recipe, override, parse_recipe

if TYPE_CHECKING:
    from curate.execution.context import Progress

__all__ = ["filter", "run"]


def run(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    out: str | Path | None = None,
    until: str = "report",
    force: bool = False,
    refit: bool = False,
    settings: Mapping[str, object] | None = None,
    progress: "bool | Progress" = True,
) -> Run:
    """Run a recipe; finished stages are not repeated.

    Parameters
    ----------
    recipe : str, Path, dict or Recipe
        A recipe file, its settings as a mapping, or a `Recipe`.
    out : str or Path, optional
        The run folder or its URL, in place of the one that the recipe names.
    until : str
        The last stage: read, embed, cluster, score, filter, dedup, select, write or report.
    force : bool
        Replace a run made from another source or model, which is refused otherwise.
    refit : bool
        Fit the concepts anew.
    settings : dict, optional
        Other settings by their dotted names, such as ``{"select.keep": 0.2}``.
    progress : bool or callable
        True shows progress on stderr; a function gets (stage, done, total, unit).

    Returns
    -------
    Run
        The run, to read and to work on.

    Raises
    ------
    UsageError
        For what is no recipe, and for a folder that holds something else.
    RecipeError
        For a setting that is wrong.
    UnusableLimitError
        If more rows are unusable than `limits.unusable` allows; everything is written by then.

    Examples
    --------
    >>> run(["recipe.yaml"])
    Traceback (most recent call last):
    ...
    curate.errors.UsageError: curate.run takes a recipe file, a mapping or a Recipe, got list
    """
    from curate.pipeline import runner

    loaded = _recipe(recipe, {**(settings or {}), **given({"run": None if out is None else str(out)})})
    with shown(progress) as report:
        runner.run(loaded, until=until, force=force, refit=refit, progress=report)
    _warn(loaded)
    return open_run(loaded.run)


def _recipe(recipe: object, settings: Mapping[str, object]) -> Recipe:
    """Return a recipe from what stands for one, with some settings replaced."""
    if isinstance(recipe, str | Path):
        return load_recipe(recipe, settings=settings)
    if isinstance(recipe, Recipe):
        return parse_recipe(override(recipe.model_dump(mode="json"), (), settings)) if settings else recipe
    if isinstance(recipe, Mapping):
        return parse_recipe(override(recipe, (), settings))
    raise UsageError(f"curate.run takes a recipe file, a mapping or a Recipe, got {type(recipe).__name__}")


def filter(
    data: object,
    *,
    out: str | Path,
    keep: float | str | None = None,
    count: int | None = None,
    dedup: float | Literal["auto", "none"] | Mapping[str, object] | None = None,
    score: str | Mapping[str, object] | Sequence[str | Mapping[str, object]] = (),
    where: str | Mapping[str, object] | Sequence[str | Mapping[str, object]] = (),
    method: str | None = None,
    by: str | None = None,
    weight: str | Mapping[str, object] | None = None,
    model: str | None = None,
    pretrained: str | Path | None = None,
    vectors: object = None,
    uids: object = None,
    labels: object = None,
    captions: object = None,
    pin: str | Path | Sequence[str | Path] = (),
    exclude: str | Path | Sequence[str | Path] = (),
    only: str | Path | Sequence[str | Path] = (),
    against: str | Path | Sequence[str | Path] = (),
    at_most: bool = False,
    limit: int | None = None,
    workers: int | None = None,
    settings: Mapping[str, object] | None = None,
    force: bool = False,
    refit: bool = False,
    progress: "bool | Progress" = True,
) -> Run:
    """Filter a dataset: embed, group into concepts, remove duplicates, and keep what is worth keeping.

    A second call with the same arguments finds nothing to do; with another `keep` or `where` it only decides anew.

    Parameters
    ----------
    data : str, Path, list, array, frame, table, Dataset or recipe
        Paths, globs, ranges or URLs of the samples, one or a list; vectors, a NumPy array (n, d); a Polars or pandas
        frame, an Arrow table (or what gives one: a DuckDB relation) or a Hugging Face `Dataset` with a column of images
        (bytes, paths or PIL images) or of vectors; a list of PIL images; or a recipe, whose settings the arguments here
        replace. What is in memory is written once as Parquet, into ``<out>-source`` beside the run.
    out : str or Path
        The run folder, or a URL for it. The shards are in its ``6_filtered``.
    keep : float, optional
        The share of samples to keep, 0 to 1. Without `keep` and `count`, `dedup`, `where` or lists take samples out and
        all others are kept.
    count : int, optional
        The number of samples to keep.
    dedup : float, "auto", "none" or dict, optional
        Drop samples whose similarity to another of their concept is above 1 - `dedup`; ``"auto"`` finds a number that fits
        the model, from altered copies of some images; ``{"drop": 0.2}`` takes the
        threshold that drops about this share. Exact copies are dropped in any case. Where nothing is said method auto
        takes near-duplicates out, but not those whose captions differ; ``"none"`` keeps them.
    score : str, dict or list
        Families of scores to compute beside clip_score, such as ``"heads"`` or ``{"heads": {"seeds": 3}}``. Where nothing is said
        method auto computes fast heads of the labels and ``"pair"`` of the captions, where there are any; ``"clip_score"`` says none.
    where : str, dict or list
        Conditions that kept samples meet, such as ``"clip_score >= 0.2"`` or ``{"by": "el2n", "bottom": 0.9}``.
    method : str, optional
        How to choose; by default auto, or density where a setting of it is given.
    by : str, optional
        The score column that a method such as hardest goes by.
    weight : str or dict, optional
        How to weigh what is kept: a method or its settings.
    model : str, optional
        The open_clip model; ``"tiny"`` ships with curate.
    pretrained : str or Path, optional
        Its tag, or a checkpoint file.
    vectors : str, optional
        Vectors you have: the name of a column, or files such as ``"x/*.npy"`` (also ``.npz``, ``.pt``, Parquet).
    uids, labels, captions : list, array or str, optional
        Of vectors: one value per row. Of everything else: the name of the column; for captions also which of several
        to take, as the setting ``source.caption`` has it: ``{"take": "longest", "of": ["alt", "title"]}``.
    pin, exclude, only : str, Path or list
        Files of uids to keep, or to drop, in any case; to choose from.
    against : str, Path or list
        Evaluation sets that no kept sample may be near.
    at_most : bool
        Keep what there is, where that is less than `keep` or `count` asks for.
    limit : int, optional
        Read only the first rows of each source.
    workers : int, optional
        Worker processes.
    settings : dict, optional
        Any other setting of a recipe by its dotted name, such as ``{"cluster.concepts": 500}``.
    force : bool
        Replace a run made from another source or model.
    refit : bool
        Fit the concepts anew.
    progress : bool or callable
        True shows progress on stderr; a function gets (stage, done, total, unit).

    Returns
    -------
    Run
        The run, to read and to work on.

    Raises
    ------
    UsageError
        For data that cannot be read, and for a folder that holds something else.
    RecipeError
        For a setting that is wrong, naming it as a recipe does.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> rows = np.random.default_rng(0).standard_normal((60, 8))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = filter(rows, out=f"{folder}/run", keep=0.3, settings={"cluster.concepts": 4}, workers=1)
    ...     len(found.kept())
    18
    """
    from curate.pipeline import runner

    columns = {"vectors": vectors, "uids": uids, "labels": labels, "captions": captions}
    with given_data(data, str(out), columns) as source:
        recipe = filter_recipe(
            source.settings,
            keep=keep,
            count=count,
            method=method,
            by=by,
            score=listed(score),
            weight=weight,
            where=listed(where),
            epsilon=dedup,
            against=_paths(against),
            pin=_paths(pin),
            exclude=_paths(exclude),
            only=_paths(only),
            model=model,
            pretrained=None if pretrained is None else str(pretrained),
            vectors=source.vectors,
            settings={
                **given({"source.limit": limit, "select.at_most": at_most or None, "workers": workers}),
                **(settings or {}),
                "run": str(out),
            },
        )
        with as_typed(arguments), shown(progress) as report:
            runner.run(recipe, force=force, refit=refit, progress=report)
    _warn(recipe)
    return open_run(recipe.run)


def _warn(recipe: Recipe) -> None:
    """Warn where many rows lack the score that they were selected by."""
    from curate.pipeline.runner import without_score

    if said := without_score(recipe):
        logging.getLogger("curate").warning(said)


def _paths(value: str | Path | Sequence[str | Path]) -> list[str] | None:
    """Return paths as a list of texts, None for none."""
    return [str(path) for path in listed(value)] or None
