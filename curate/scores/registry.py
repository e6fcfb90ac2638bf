"""The families of scores, found by name: those of this package, and those that other packages add.

Families stand in modules directly in `curate/scores`, or in a package there, in a module of the package's name. Which
columns a recipe has, and which table holds each, is worked out here from the classes.
"""

import difflib
import functools
import pkgutil
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from curate import plugins
from curate.errors import UsageError
from curate.scores.base import RESERVED, Score, ScoreColumn, Sources
from curate.scores.columns import Direction
from curate.scores.leakage import Against

if TYPE_CHECKING:
    from curate.recipe import Recipe

__all__ = [
    "KnownScore",
    "ScoreColumn",
    "check_recipe",
    "columns_of",
    "families",
    "families_of",
    "folders_for",
    "known_scores",
    "require_score",
    "score_columns",
]


class KnownScore(NamedTuple):
    """One score: its column, what a higher value means, its family (the folder in 3_scores), what it needs."""

    column: str
    higher_is: Direction
    family: str
    needs: str


@functools.cache
def families() -> dict[str, type[Score]]:
    """Return the classes that may stand in `score`, by name: ours in the order of `place`, then those of plug-ins.

    Raises UsageError for a plug-in that cannot be loaded, or whose name or columns are taken.
    """
    found = sorted(_built_in(), key=lambda one: one.place)
    known = {_family_name(one): one for one in found}
    for name, added in plugins.load_plugins(plugins.SCORES, Score, {*known, *RESERVED}).items():
        _require_whole(name, added, known)
        known[name] = added
    return known


def _built_in() -> list[type[Score]]:
    """Return the classes of this package; `Against` stands in `dedup.against` and not in `score`."""
    found: dict[type[Score], None] = {}
    folder = Path(__file__).parent
    for info in pkgutil.iter_modules([str(folder)]):
        inner = f".{info.name}" if info.ispkg else ""
        if info.ispkg and not (folder / info.name / f"{info.name}.py").exists():
            continue
        name = f"{__package__}.{info.name}{inner}"
        if name != __name__:
            module = import_module(name)
            found |= dict.fromkeys(one for one in vars(module).values() if _is_family(one, name))
    return list(found)


def _is_family(value: object, module: str) -> bool:
    defined = isinstance(value, type) and value.__module__ == module and issubclass(value, Score)
    return defined and value is not Score and value is not Against


def _family_name(family: type[Score]) -> str:
    """Return the name of a family in a recipe, the default of its field `family`."""
    return str(family.model_fields["family"].default)


def _require_whole(name: str, added: type[Score], known: dict[str, type[Score]]) -> None:
    """Raise UsageError for a plug-in that computes nothing, or whose columns are those of another family."""
    where = f"plug-in {name!r} ({plugins.SCORES}: {added.__module__}:{added.__qualname__})"
    if added.score_rows is Score.score_rows and added.compute is Score.compute:
        raise UsageError(f"{where} must define score_rows or compute")
    for other in known.values():
        if both := set(other.outputs) & set(added.outputs):
            raise UsageError(
                f"{where}: {_family_name(other)} has a column {min(both)!r} too; rename it in the plug-in"
            )


@functools.cache
def known_scores() -> dict[str, KnownScore]:
    """Return every score column that has a name before a recipe is known, `distance` first."""
    concepts = "concepts (it is in 2_concepts/assignments)"
    found = {"distance": KnownScore("distance", "harder", "", concepts)}
    for name, family in families().items():
        for column, (higher_is, _) in family.outputs.items():
            if higher_is is not None:
                found[column] = KnownScore(column, higher_is, name, family.requires)
    return found


def columns_of(family: str) -> tuple[str, ...]:
    """Return the score columns of a family, in the order of its table.

    >>> columns_of("normsim")
    ('normsim_inf', 'normsim_2')
    """
    return tuple(score.column for score in known_scores().values() if score.family == family)


def families_of(recipe: "Recipe") -> list[Score]:
    """Return the families a recipe asks for, those first that others are computed from.

    Raises UsageError where a family needs a column that no other gives.
    """
    waiting: list[Score] = [*recipe.score, *recipe.dedup.against]
    given = {"distance"}
    ordered: list[Score] = []
    while waiting:
        ready = next((one for one in waiting if set(one.needs) <= given), None)
        if ready is None:
            lacks = next(name for one in waiting for name in one.needs if name not in given)
            known = known_scores()
            where = f" ({known[lacks].family} has it)" if lacks in known else ""
            raise UsageError(
                f"score: {waiting[0].folder} needs the column {lacks!r}, which no family in score gives{where}"
            )
        waiting.remove(ready)
        ordered.append(ready)
        given |= {*ready.gives}
    return ordered


def score_columns(recipe: "Recipe") -> dict[str, ScoreColumn]:
    """Return every column of the score tables of a recipe, status columns too, and `distance`.

    Raises UsageError where two families have a column of one name.
    """
    from curate import schema

    kind = schema.ASSIGNMENTS.field("distance").type
    found = {"distance": ScoreColumn("", kind, "harder", "")}
    # What stands beside the scores where a run is looked at; other columns of the decisions do not.
    decided = {"keep", "weight", "duplicate_of"}
    taken = {*schema.SAMPLES.names, *schema.ASSIGNMENTS.names, *schema.FILTER.names, *decided}
    for score in families_of(recipe):
        for name, column in score.described().items():
            if name in found or name in taken:
                tables = "the decisions" if name in decided else "the samples"
                where = found[name].folder if name in found else tables
                raise UsageError(
                    f"score: {column.folder} has a column {name!r}, and so has {where or 'concepts'}; "
                    "rename one of them"
                )
            found[name] = column
    return found


def folders_for(recipe: "Recipe", columns: Iterable[str]) -> tuple[str, ...]:
    """Return the folders in 3_scores that hold these columns, sorted; columns of other tables need none."""
    known = score_columns(recipe)
    return tuple(sorted({known[name].folder for name in columns if name in known} - {""}))


def require_score(recipe: "Recipe", column: str, setting: str) -> ScoreColumn:
    """Return a score column of numbers that has a direction; raises UsageError naming the setting."""
    known = score_columns(recipe)
    found = known.get(column)
    if found is not None and found.higher_is is not None:
        return found
    if found is not None:
        raise UsageError(f"{setting}: {column!r} is no score to rank by, it is {found.kind}")
    scores = known_scores()
    if column in scores:
        raise UsageError(f"{setting}: no score {column!r}; add {scores[column].family} to score")
    for name, family in families().items():
        if column in family.optional:
            raise UsageError(
                f"{setting}: no score {column!r}; {name}: {{{family.optional[column]}}} in score adds it"
            )
    have = [name for name, one in known.items() if one.higher_is is not None]
    if column.startswith("source."):
        raise UsageError(
            f"{setting}: no score {column!r}; add {{source: {{column: {column}, higher_is: better}}}} to score (or harder, "
            f"easier, noisier), and name {column.removeprefix('source.')}"
        )
    close = difflib.get_close_matches(column, have, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(have)}"
    raise UsageError(f"{setting}: no score {column!r}; {hint}")


def check_recipe(recipe: "Recipe", sources: Sources) -> None:
    """Raise UsageError for scores that cannot be computed from what the recipe says."""
    for score in families_of(recipe):
        score.check(recipe, sources)
        score.check_columns(functools.partial(require_score, recipe))
    score_columns(recipe)
