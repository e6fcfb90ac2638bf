"""More scores for a finished run, and another choice of samples by them: nothing is embedded again."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import polars as pl

from curate.analysis.summary.counts import count_reasons
from curate.errors import UsageError
from curate.execution import context as base
from curate.execution.context import Context, Progress
from curate.io import storage
from curate.pipeline import runner
from curate.pipeline.settable import require_settable
from curate.recipe import FAMILIES, Recipe
from curate.recipe.loading import load_recipe, override, parse_recipe
from curate.recipe.scores import dumped, tagged
from curate.runs.folder import RunFolder, folder_of
from curate.runs.run import open_run
from curate.scores import SCORES
from curate.scores.base import Score
from curate.scores.registry import families_of, score_columns
from curate.selection.registry import selectors
from curate.weighting.registry import weighers

__all__ = [
    "Chosen",
    "chosen_recipe",
    "score_run",
    "score_table",
    "scored_recipe",
    "select_run",
    "shards_differ",
]


@dataclass(frozen=True)
class Chosen:
    """What a selection came to.

    worked : stages that had work. counts : rows in, kept, dropped by reason, unusable by outcome. effective :
    the effective sample size where rows are weighted, else None. manifest : None unless shards were written.
    """

    worked: tuple[str, ...]
    counts: Mapping[str, Any]
    effective: float | None
    manifest: Mapping[str, Any] | None


def scored_recipe(
    run: str | Path,
    families: Sequence[object] = (),
    overrides: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    *,
    command: str = "score",
) -> Recipe:
    """Return the recipe of a run with `families` added to its scores.

    families : names (a family that is there keeps its settings, unless it had no row to score) or, as in a recipe, families with settings
    (which replace those that are there). overrides, settings : as in `load_recipe`. command : which one asks, score
    or retry. Raises UsageError where `run` is no run, there is no such family, or the command cannot change a setting,
    RecipeError for a setting that is wrong.
    """
    before = _values(run)
    values = _overridden(before, overrides, settings)
    recipe = parse_recipe(values)
    require_settable(command, before, recipe, overrides, settings or {})
    for entry in families:
        _require_family(entry)
    merged = {family.folder: family for family in recipe.score}
    added = parse_recipe({**values, "score": list(families)}).score
    for entry, family in zip(families, added, strict=True):
        there = family.folder in merged and not _idle(run, family.folder)
        if not (isinstance(entry, str) and there):
            merged[family.folder] = family
    return parse_recipe({**values, "score": [dumped(family) for family in merged.values()]})


def _idle(run: str | Path, name: str) -> bool:
    """Return True if a family of a run is not required and has no row to score."""
    folder = open_run(run).folder
    return bool((folder.marker(folder.scores(name)) or {}).get("facts", {}).get("idle"))


def _values(run: str | Path) -> dict[str, Any]:
    """Return the recipe of a run as plain settings; the run is where it was found."""
    folder = open_run(run).folder
    values = load_recipe(folder.recipe).model_dump(mode="json")
    same = Path(values["run"]).resolve() == folder.path.resolve()
    return values if same else {**values, "run": folder.where}


def _overridden(
    before: Mapping[str, Any], overrides: Sequence[str], settings: Mapping[str, object] | None
) -> dict[str, Any]:
    """Return the settings of a run with some of them replaced; raises UsageError where that is another run."""
    values = override(before, overrides, settings)
    if values["run"] != before["run"]:
        raise UsageError(f"run is {before['run']} here and cannot be set, got {values['run']!r}")
    return values


def _require_family(entry: object) -> None:
    """Raise UsageError for a family that there is not, or that cannot be named alone."""
    try:
        [found] = cast(list[dict[str, object]], tagged([entry]))
    except ValueError as error:
        raise UsageError(f"score {error}") from None
    name = str(found["family"])
    if name not in FAMILIES:
        close = difflib.get_close_matches(name, FAMILIES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(FAMILIES)}"
        raise UsageError(f"score: {name!r} is no family of scores; {hint}")
    needs = [key for key, field in FAMILIES[name].model_fields.items() if field.is_required()]
    if isinstance(entry, str) and needs:
        example = ", ".join(f"{key}: ..." for key in needs)
        how = "--file FILE" if name == "file" else f"'{{{name}: {{{example}}}}}'"
        raise UsageError(f"score: {name} needs {' and '.join(needs)}; give it as {how}")


def score_run(recipe: Recipe, *, progress: Progress = base.silent) -> tuple[str, ...]:
    """Compute the scores of a run that it does not have yet; return the stages that had work.

    Decisions, shards and report stay as they are. Of a run without decisions, the stages before the
    scores are made too; of one with decisions they must be done. An error leaves the run as it was, and
    what was begun for the same command to go on with.
    """
    stages = list(runner.STAGES)
    stages = stages[: stages.index("score") + 1]
    with runner.opened(recipe, undo=True, progress=progress) as context:
        if context.run.marker(context.run.decisions) is not None:
            context, stages = runner.require_done(context, "score"), ["score"]
        worked, _ = _run(context, stages)
    return worked


def _run(context: Context, stages: Sequence[str]) -> tuple[tuple[str, ...], Context]:
    """Run stages one after the other; return those that had work, and the context."""
    worked = []
    for stage in stages:
        context, did = runner.run_stage(context, stage)
        worked += [stage] if did else []
    return tuple(worked), context


def score_table(recipe: Recipe) -> list[dict[str, Any]]:
    """Return one row per score column of a run that is scored.

    family : its folder in 3_scores. column, higher_is : as in `SCORES`. scored : rows with a number. missing :
    rows without one, by status. reliability : of the mean over seeds (Spearman-Brown), where it is measured.
    """
    run = folder_of(recipe)
    return [row for family in families_of(recipe) for row in _rows_of(run, family)]


def _rows_of(run: RunFolder, family: Score) -> list[dict[str, Any]]:
    folder, means, status = run.scores(family.folder), family.directions(), family.status_column
    run.fingerprint(folder)
    columns = list(means)
    frame = (
        pl.scan_parquet(storage.ensure_all_local(folder, "part-*.parquet"), glob=False)
        .group_by(status)
        .agg(pl.len().alias("rows"), pl.col(columns).null_count())
        .sort(status)
        .collect()
    )
    facts = (run.marker(folder) or {}).get("facts", {})
    rows = []
    for column in columns:
        lacking = frame.filter(pl.col(column) > 0)
        missing = dict(lacking.select(status, column).iter_rows())
        measured = facts.get("reliability_of_mean") if column in ("el2n", "pixels_el2n") else None
        rows.append(
            {
                "family": family.folder, "column": column, "higher_is": means[column],
                "scored": int(frame["rows"].sum()) - sum(missing.values()), "missing": missing,
                "reliability": measured,
            }
        )  # fmt: skip
    return rows


def chosen_recipe(
    run: str | Path, overrides: Sequence[str] = (), settings: Mapping[str, object] | None = None
) -> Recipe:
    """Return the recipe of a run with another selection. Raises as `scored_recipe` does.

    overrides, settings : as in `load_recipe`. Settings of the method before that the new one does not have go, and
    so does the other start of a window.
    """
    given = {item.partition("=")[0].strip() for item in overrides} | set(settings or {})
    before, asked = _values(run), settings or {}
    values = _overridden(before, overrides, settings)
    for section, methods in (("select", selectors()), ("weight", weighers())):
        settings = values[section]
        own = methods.get(str(settings.get("method"))) if isinstance(settings, dict) else None
        if own is not None:
            kept = {name for name in settings if name in own.model_fields or f"{section}.{name}" in given}
            values[section] = {name: value for name, value in settings.items() if name in kept}
    for one, other in (("offset", "drop_hardest"), ("drop_hardest", "offset")):
        if f"select.{one}" in given and f"select.{other}" not in given:
            values["select"].pop(other, None)
    recipe = parse_recipe(values)
    require_settable("select", before, recipe, overrides, asked)
    _require_columns(recipe)
    return recipe


def _require_columns(recipe: Recipe) -> None:
    """Raise UsageError for a score that the run does not have, naming the command that adds it."""
    read = [*recipe.select.columns]
    read += [recipe.weight.column] if recipe.weight is not None and recipe.weight.column else []
    known = score_columns(recipe)
    for name in read:
        if name not in known and name in SCORES:
            family = SCORES[name].family
            raise UsageError(f"{recipe.run} has no score {name!r}; first: curate score {recipe.run} {family}")


def select_run(recipe: Recipe, *, write: bool = False, progress: Progress = base.silent) -> Chosen:
    """Decide anew which samples of a run are kept; with `write`, write shards and report too.

    Raises UsageError if anything before the filters has to be made first, BudgetError if fewer rows are
    eligible than asked for. An error leaves the run as it was.
    """
    stages = list(runner.STAGES)
    stages = stages[stages.index("filter") : len(stages) if write else stages.index("write")]
    with runner.opened(recipe, undo=True, progress=progress) as context:
        worked, context = _run(runner.require_done(context, "filter"), stages)
        weights = context.facts(context.run.decisions).get("weights") or {}
        manifest = storage.read_json(context.run.manifest) if write else None
        return Chosen(worked, count_reasons(context), weights.get("effective"), manifest)


def shards_differ(recipe: Recipe) -> bool:
    """Whether the shards of a run are missing, or are those of another decision than it has now."""
    run = folder_of(recipe)
    noted = (storage.read_json(run.manifest) or {}).get("stages", {})
    return bool(noted.get("select", {}).get("fingerprint") != run.fingerprint(run.decisions))
