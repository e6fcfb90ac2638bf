"""What method auto did and why, in words and numbers, and the recipe that does the same by name."""

from typing import Any

import yaml

from curate.analysis.summary.said import named_errors, say_labels
from curate.execution.context import Context
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
    column = noise_column(recipe)
    if column is None:
        what = "heads" if n_classes else "pair" if _captions(context) else ""
        if not what:
            return [
                "auto: there are no labels and no captions: nothing says which rows are noise, none are dropped"
            ]
        found = f"{n_classes:,} classes" if n_classes else "captions"
        return [f"auto: {found} found, but no score that says which are wrong: add {what} to score"]
    share = f"{100 * first.n_cut / max(1, eligible):.1f} %"
    if score_columns(recipe)[column].folder == "pair":
        pairs = f"auto: {first.n_cut:,} of {eligible:,} pairs ({share}) with the worst {column} are dropped"
        return [f"{pairs}; how many captions are wrong is not known"]
    errors = named_errors(context.facts(run.scores("heads")).get("label_errors"), run.class_names())
    if errors is None:
        return [f"auto: heads did not count wrong labels, none are dropped by {column}"]
    cut = f"auto: {first.n_cut:,} of {eligible:,} rows ({share}) with the worst {column} are dropped as noise"
    if errors["rate"] > errors["gate"] and first.n_cut < errors["count"]:
        cut += "; more would leave too few, or other conditions took them"
    return [*say_labels(errors), cut]


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
    """Return the settings of dedup and of a selection that keep the same rows of the same data."""
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
        named |= {"drop_noise": first.n_cut / eligible, "noise_by": noise_column(recipe)}
    if first.each and first.groups:
        named |= {"floor": first.each, "floor_per": select.floor_per}
    values = ({"dedup": dedup} if dedup else {}) | {"select": named}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
