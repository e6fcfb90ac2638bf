"""Score families, one file each: from embeddings, samples and concepts to columns in 3_scores.

A file ends with `STAGE`, which says how its table looks, what it depends on and how it is computed; pure
code for the numbers is in `curate.scores` and `curate.scores.heads`.
"""

import difflib
import importlib
from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa

from curate import schema
from curate.errors import UsageError
from curate.recipe import Recipe
from curate.scores.base import FamilyStage, Settings, directions
from curate.scores.columns import SCORES, Direction

__all__ = [
    "ScoreColumn",
    "check_recipe",
    "families_of",
    "folders_for",
    "require_score",
    "score_columns",
    "stage_of",
]

#: The file of each family.
_MODULES = {
    "clip_score": "clip_score_family",
    "pair": "pair.family",
    "heads": "heads.family",
    "pixels": "pixels.family",
    "normsim": "normsim_family",
    "noise": "noise_family",
    "color": "color_family",
    "fuse": "fuse_family",
    "file": "external",
    "against": "leakage",
}


class ScoreColumn(NamedTuple):
    """A column of a score table: its folder in 3_scores, its type, what a higher value means (or None)."""

    folder: str
    kind: pa.DataType
    higher_is: Direction | None
    status: str


def stage_of(family: str) -> FamilyStage:
    """Return how a family is made."""
    module = importlib.import_module(f"curate.scores.{_MODULES[family]}")
    stage: FamilyStage = module.STAGE
    return stage


def families_of(recipe: Recipe) -> list[Settings]:
    """Return the families a recipe asks for, those first that others are computed from.

    Raises UsageError where a family needs a column that no other gives.
    """
    waiting: list[Settings] = [*recipe.score, *recipe.dedup.against]
    given = {"distance"}
    ordered: list[Settings] = []
    while waiting:
        ready = next((one for one in waiting if set(one.needs) <= given), None)
        if ready is None:
            lacks = next(name for one in waiting for name in one.needs if name not in given)
            where = f" ({SCORES[lacks].family} has it)" if lacks in SCORES else ""
            raise UsageError(
                f"score: {waiting[0].folder} needs the column {lacks!r}, which no family in score gives{where}"
            )
        waiting.remove(ready)
        ordered.append(ready)
        given |= set(stage_of(ready.family).table(ready).names)
    return ordered


def score_columns(recipe: Recipe) -> dict[str, ScoreColumn]:
    """Return every column of the score tables of a recipe, status columns too, and `distance`.

    Raises UsageError where two families have a column of one name.
    """
    kind = schema.ASSIGNMENTS.field("distance").type
    found = {"distance": ScoreColumn("", kind, SCORES["distance"].higher_is, "")}
    taken = {*schema.SAMPLES.names, *schema.ASSIGNMENTS.names, *schema.FILTER.names}
    for settings in families_of(recipe):
        stage = stage_of(settings.family)
        table, means = stage.table(settings), directions(stage, settings)
        for field in table:
            if field.name == "uid":
                continue
            if field.name in found or field.name in taken:
                where = found[field.name].folder if field.name in found else "the samples"
                raise UsageError(
                    f"score: {settings.folder} has a column {field.name!r}, and so has {where or 'concepts'}; "
                    "rename one of them"
                )
            found[field.name] = ScoreColumn(
                settings.folder, field.type, means.get(field.name), table.names[-1]
            )
    return found


def folders_for(recipe: Recipe, columns: Iterable[str]) -> tuple[str, ...]:
    """Return the folders in 3_scores that hold these columns, sorted; columns of other tables need none."""
    known = score_columns(recipe)
    return tuple(sorted({known[name].folder for name in columns if name in known} - {""}))


def require_score(recipe: Recipe, column: str, setting: str) -> ScoreColumn:
    """Return a score column of numbers that has a direction; raises UsageError naming the setting."""
    known = score_columns(recipe)
    found = known.get(column)
    if found is not None and found.higher_is is not None:
        return found
    if found is not None:
        raise UsageError(f"{setting}: {column!r} is no score to rank by, it is {found.kind}")
    if column in SCORES:
        raise UsageError(f"{setting}: no score {column!r}; add {SCORES[column].family} to score")
    have = [name for name, one in known.items() if one.higher_is is not None]
    close = difflib.get_close_matches(column, have, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(have)}"
    raise UsageError(f"{setting}: no score {column!r}; {hint}")


def check_recipe(recipe: Recipe) -> None:
    """Raise UsageError for scores that cannot be computed from what the recipe says."""
    for settings in families_of(recipe):
        stage_of(settings.family).check(recipe, settings)
    score_columns(recipe)
