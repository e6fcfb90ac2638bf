"""Recipes from a few arguments: what `curate filter` and `curate.filter` take."""

from collections.abc import Mapping, Sequence
from typing import Any

from curate.recipe import Recipe
from curate.recipe.loading import override, parse_recipe
from curate.scores.registry import known_scores
from curate.selection.auto import Auto
from curate.selection.registry import selectors

#: Ends of files of vectors (`embedding/vector_files.py`, which takes longer to load).
ENDINGS = (".npy", ".npz", ".pt", ".pth", ".parquet", ".pq")
#: Ends of files that hold no vectors as curate reads them; reading them says so, and what to do.
OTHER_ENDINGS = (".csv", ".tsv", ".jsonl", ".h5", ".hdf5", ".pkl", ".safetensors", ".arrow", ".feather")

__all__ = ["filter_recipe", "given", "weight_settings"]


def given(settings: Mapping[str, object]) -> dict[str, object]:
    """Return the settings that are not None."""
    return {name: value for name, value in settings.items() if value is not None}


def weight_settings(weight: str | Mapping[str, object] | None) -> dict[str, object]:
    """Return the settings of a method of weighting; `none` ends weighting, None changes nothing.

    >>> weight_settings("concept"), weight_settings("none"), weight_settings(None)
    ({'weight.method': 'concept'}, {'weight': 'none'}, {})
    """
    if weight is None:
        return {}
    return {"weight.method": weight} if isinstance(weight, str) and weight != "none" else {"weight": weight}


def _takes_out(base: Mapping[str, Any], *given: object, names: Sequence[str]) -> bool:
    """Whether rows are taken out by something else than a selection, of which nothing is said.

    given : conditions, epsilon, lists. names : of other settings, perhaps with their values behind `=`.
    """
    selects = any(name.startswith(("select.keep", "select.count", "select.method")) for name in names)
    said = base.get("select") or {}
    if selects or any(said.get(name) is not None for name in ("keep", "count", "method")):
        return False
    dedup = base.get("dedup") or {}
    own = [
        base.get("filter"),
        base.get("exclude"),
        base.get("only"),
        dedup.get("epsilon"),
        dedup.get("against"),
        said.get("drop_noise"),
    ]
    return any([*given, *own]) or any(
        name.startswith(("filter", "dedup.", "select.drop_noise")) for name in names
    )


def _names_no_method(base: Mapping[str, Any], *given: object, names: Sequence[str]) -> bool:
    """Whether nothing says which method chooses: neither its name nor a setting that only some methods have."""
    said = {
        *(base.get("select") or {}),
        *(name.removeprefix("select.") for name in names if name.startswith("select.")),
    }
    said = {name.partition("=")[0] for name in said}
    return not any(given) and said <= Auto.model_fields.keys() - {"method"}


def _read_by(method: str | None, score: Sequence[object]) -> list[str]:
    """Return the families of scores whose tables a method reads, those that are there already left out."""
    chosen = selectors().get(method or "")
    asked = {next(iter(one), None) if isinstance(one, Mapping) else one for one in score}
    names = [known_scores()[column].family for column in (chosen.reads_tables if chosen else ())]
    return [name for name in names if name not in asked]


def filter_recipe(
    base: Mapping[str, Any],
    *,
    keep: object = None,
    count: int | None = None,
    method: str | None = None,
    by: str | None = None,
    score: Sequence[object] = (),
    weight: str | Mapping[str, object] | None = None,
    where: Sequence[object] = (),
    epsilon: object = None,
    against: Sequence[object] | None = None,
    pin: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    only: Sequence[str] | None = None,
    model: str | None = None,
    pretrained: str | None = None,
    vectors: str | None = None,
    overrides: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
) -> Recipe:
    """Return the recipe that filters one source.

    Without `keep`, `count` and `method`, but with something that takes rows out, all others are kept (method all). Without
    a method the one for people who do not know is taken (auto), unless settings of another method are given.

    base : settings to start from, with a `source`. score : families beside those there are (clip_score by default).
    vectors : a column of the source, or files of vectors. overrides, settings : as in `load_recipe`; they go last.
    Raises RecipeError for a setting that is wrong.
    """
    asked: dict[str, object] = {
        "select.keep": keep, "select.count": count, "select.method": method, "select.by": by,
        "dedup.epsilon": epsilon, "dedup.against": against, "embed.model": model, "embed.pretrained": pretrained,
        "pin": pin, "exclude": exclude, "only": only,
    }  # fmt: skip
    if added := _read_by(method, [*base.get("score", ()), *score]):
        score = [*score, *added]
    if score:
        before = list(base.get("score", ["clip_score"]))
        asked["score"] = [*before, *(one for one in score if one not in before)]
    if vectors is not None:
        asked[
            "embed.files"
            if "/" in vectors or vectors.lower().endswith((*ENDINGS, *OTHER_ENDINGS))
            else "embed.column"
        ] = vectors
    if (
        method is None
        and keep is None
        and count is None
        and _takes_out(base, where, epsilon, against, exclude, only, names=[*(settings or {}), *overrides])
    ):
        asked["select.method"] = "all"
    elif _names_no_method(base, method, by, names=[*(settings or {}), *overrides]):
        asked["select.method"] = "auto"
    values = {"select": {}, **base} | ({"filter": list(where)} if where else {})
    values = override(values, (), given(asked | weight_settings(weight)))
    return parse_recipe(override(values, overrides, settings))
