"""What method auto did and why, in words and numbers, and the recipe that does the same by name."""

from typing import Any

import yaml

from curate.analysis.summary.said import named_errors, say_held, say_labels, say_unseen
from curate.execution.context import Context
from curate.recipe import Recipe
from curate.scores.registry import score_columns
from curate.selection.rows.first import First
from curate.selection.rows.order import noise_column

__all__ = ["explain_auto"]


def explain_auto(context: Context, first: First, eligible: int, n_classes: int) -> dict[str, Any]:
    """Return the sentences (`why`) and the settings of the selection as YAML (`recipe`).

    eligible : rows that reached the selection. n_classes : classes there are, 0 where no row has a label.
    """
    why = [
        *_noise(context, first, eligible, n_classes),
        _floor(context, first, n_classes),
        *_near_duplicates(context),
    ]
    return {"why": why, "recipe": _explicit(context, first, eligible)}


def _noise(context: Context, first: First, eligible: int, n_classes: int) -> list[str]:
    """Say what was found of wrong labels or captions, and what was dropped for it."""
    run, recipe = context.run, context.recipe
    if recipe.select.drop_noise is None:
        return ["auto: select.drop_noise is none: no row is dropped as noise"]
    column = noise_column(recipe, context)
    errors = named_errors(context.facts(run.scores("heads")).get("label_errors"), run.class_names())
    unseen = say_unseen(errors)
    if column is None:
        return unseen or [_no_noise(context, n_classes)]
    share = f"{100 * first.n_cut / max(1, eligible):.1f} %"
    if score_columns(recipe)[column].folder == "pair":
        pairs = f"auto: {first.n_cut:,} of {eligible:,} pairs ({share}) with the worst {column} are dropped{say_held(first.n_held, first.n_gone)}"
        return [*unseen, f"{pairs}; how many captions are wrong is not known"]
    if errors is None:
        return [f"auto: heads did not count wrong labels, none are dropped by {column}"]
    cut = f"auto: {first.n_cut:,} of {eligible:,} rows ({share}) with the worst {column} are dropped as noise"
    cut += say_held(first.n_held, first.n_gone)
    if errors["rate"] > errors["gate"] and first.n_cut + first.n_held + first.n_gone < errors["count"]:
        cut += "; more would leave too few, or other conditions took them"
    return [*say_labels(errors), cut]


def _no_noise(context: Context, n_classes: int) -> str:
    """Say why no row is dropped as noise where no score says which are."""
    families = {family.family for family in context.recipe.score}
    what = "heads" if n_classes else "pair" if _captions(context) else ""
    if not what:
        return (
            "auto: there are no labels and no captions: nothing says which rows are noise, none are dropped"
        )
    found = ("1 class" if n_classes == 1 else f"{n_classes:,} classes") if n_classes else "captions"
    if what not in families:
        return f"auto: {found} found, but no score that says which are wrong: add {what} to score"
    few = "too few rows of each to tell" if n_classes > 1 else "too little to tell"
    return f"auto: {found} found, {few} which are wrong: no row is dropped as noise"


def _floor(context: Context, first: First, n_classes: int) -> str:
    """Say how uneven the groups are, and what each keeps for sure."""
    select = context.recipe.select
    if select.floor is None:
        return "auto: select.floor is none: no class is kept from vanishing"
    if not first.groups:
        return "auto: no row has a label, so there are no floors"
    small, large = first.sizes
    each = f"{first.groups:,} groups by {select.floor_per}, of {small:,} to {large:,} rows ({large / max(1, small):.1f} : 1)"
    what = f"keeps at least {first.each:,} rows if it has them, half of an equal share" if select.floor == "half" else (
        f"keeps at least {first.each:,} rows if it has them"
    )  # fmt: skip
    return f"auto: {each}: each {what} ({first.n_floor:,} rows); the others are drawn"


def _near_duplicates(context: Context) -> list[str]:
    """Say whether near-duplicates were looked for."""
    if context.recipe.dedup.epsilon is None:
        return ["auto: near-duplicates were not looked for: dedup.epsilon is none"]
    found = context.facts(context.run.duplicates)
    dropped, epsilon = found.get("dropped", 0), found["epsilon"]
    stay = (
        ""
        if context.recipe.dedup.across_captions or not _captions(context)
        else "; those whose captions differ stay"
    )
    return [f"auto: {dropped:,} near-duplicates went before, at epsilon {epsilon:.6g}{stay}"]


def _captions(context: Context) -> bool:
    return any(part.columns.caption is not None for part in context.parts)


def _explicit(context: Context, first: First, eligible: int) -> str:
    """Return the settings of dedup, of a selection and of the score it needs that keep the same rows of the same data."""
    recipe = context.recipe
    idle = set() if _captions(context) else {"across_captions"}
    dedup = recipe.dedup.model_dump(mode="json", exclude_defaults=True, exclude=idle)
    select = recipe.select
    said = select.model_dump(mode="json", exclude_defaults=True)
    named: dict[str, Any] = {"method": "random"}
    named |= {
        name: value
        for name, value in said.items()
        if name not in ("method", "drop_noise", "noise_by", "floor")
    }
    if first.n_cut:
        named |= {"drop_noise": first.n_cut / eligible, "noise_by": noise_column(recipe, context)}
    if first.each and first.groups:
        named |= {"floor": first.each, "floor_per": select.floor_per}
    values: dict[str, Any] = {"score": _scores(recipe, named["noise_by"])} if first.n_cut else {}
    values |= ({"dedup": dedup} if dedup else {}) | {"select": named}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _scores(recipe: Recipe, noise_by: str) -> list[object]:
    """Return the families that were asked for and the one that rows were dropped by, as they stand in a recipe."""
    folder = score_columns(recipe)[noise_by].folder
    some = [family for family in recipe.score if family.needed or family.folder == folder]
    settings = [one.model_dump(mode="json", exclude_defaults=True, exclude={"family"}) for one in some]
    return [
        {family.family: said} if said else family.family for family, said in zip(some, settings, strict=True)
    ]
