"""Commands on a finished run: more scores, another selection."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.options import Option
from curate.cli.output import emit, logged, note, print_counts, print_table, progress
from curate.errors import UsageError
from curate.recipe.build import given, weight_settings

if TYPE_CHECKING:
    from curate.pipeline.rescore import Chosen
    from curate.recipe import Recipe


@app.command()
def score(
    run: flag.RunPlace,
    family: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FAMILY]...", help="Scores to add: heads, or '{heads: {seeds: 3}}'."),
    ] = None,
    file: Annotated[
        flag.Text, Option("--file", help="Scores of your own: a Parquet or CSV file with a uid column.")
    ] = None,
    on: Annotated[flag.Text, Option("--on", help="With --file: its column of uids; uid by default.")] = None,
    higher_is: Annotated[
        flag.Text, Option("--higher-is", help="With --file: harder, noisier, easier or better.")
    ] = None,
    on_missing: Annotated[
        flag.Text, Option("--on-missing", help="With --file: error, or null where it lacks a sample.")
    ] = None,
    columns: Annotated[
        flag.Text, Option("--columns", help="With --file: which columns, a,b; all numbers by default.")
    ] = None,
    name: Annotated[
        flag.Text, Option("--name", help="With --file: what its folder in 3_scores is called.")
    ] = None,
    set_: flag.Set = None,
    workers: flag.Workers = None,
    json_: flag.Json = False,
    quiet: flag.Quiet = False,
) -> None:
    """Add scores to a run and show them; decisions and shards stay as they are."""
    from curate.pipeline import rescore

    names = columns.split(",") if columns is not None else None
    own = {"on": on, "higher_is": higher_is, "on_missing": on_missing, "columns": names, "name": name}
    entries = [*flag.families(family or []), *_own_file(file, given(own))]
    recipe = rescore.scored_recipe(run, entries, set_ or [], given({"workers": workers}))
    with progress(quiet=quiet) as report, logged(quiet=quiet):
        worked = rescore.score_run(recipe, progress=report)
    rows = rescore.score_table(recipe)
    if json_:
        emit({"run": recipe.run, "worked": worked, "scores": rows})
        return
    if quiet:
        return
    header = ["family", "column", "higher is", "scored", "missing", "because", "reliability"]
    print_table(header, [_score_line(row) for row in rows])
    note(f"decide with: curate select {run} --method hardest --by {_example(rows)} --keep 0.5")


def _own_file(file: str | None, settings: dict[str, object]) -> list[object]:
    """Return the entry that --file and the flags that go with it stand for."""
    if file is not None:
        return [{"file": file, **settings}]
    if settings:
        raise UsageError(f"--{min(settings).replace('_', '-')} goes with --file FILE")
    return []


def _score_line(row: dict[str, Any]) -> list[object]:
    missing: dict[str, int] = row["missing"]
    because = ", ".join(f"{status} {count:,}" for status, count in missing.items())
    named = [row["family"], row["column"], row["higher_is"], row["scored"]]
    return [*named, sum(missing.values()), because, row["reliability"]]


def _example(rows: list[dict[str, Any]]) -> str:
    """Return a column that says how hard a sample is, if there is one."""
    columns = [row["column"] for row in rows if row["scored"] and row["higher_is"] == "harder"]
    return "el2n" if "el2n" in columns else (columns or ["distance"])[0]


@app.command()
def select(
    run: flag.RunPlace,
    method: flag.Method = None,
    by: flag.By = None,
    keep: flag.Keep = None,
    count: flag.Count = None,
    of: Annotated[
        flag.Text, Option("--of", help="What --keep is a share of: usable, input or eligible.")
    ] = None,
    at_most: flag.AtMost = False,
    drop_noise: flag.DropNoise = None,
    floor: flag.Floor = None,
    on_null: Annotated[
        flag.Text, Option("--on-null", help="Samples without the score: proportional, keep, drop or error.")
    ] = None,
    prefer: Annotated[
        flag.Text, Option("--prefer", help="Which of a concept: hardest, easiest, random, score:COLUMN.")
    ] = None,
    where: flag.Where = None,
    weight: flag.WeightBy = None,
    drop_hardest: Annotated[
        flag.Text, Option("--drop-hardest", help="window: share of the hardest to leave out first.")
    ] = None,
    offset: Annotated[
        int | None, Option("--offset", help="window: number of the easiest to leave out first.")
    ] = None,
    center: Annotated[flag.Text, Option("--center", help="middle: where, as a share of the ranking.")] = None,
    beta: Annotated[
        flag.Text, Option("--beta", help="stratified: share dropped first by --cutoff, as mislabelled.")
    ] = None,
    cutoff: Annotated[
        flag.Text, Option("--cutoff", help="stratified: the score that --beta goes by.")
    ] = None,
    strata: Annotated[int | None, Option("--strata", help="stratified: number of strata.")] = None,
    per: Annotated[
        flag.Text, Option("--per", help="quotas: groups by concept, label, source, split or a column.")
    ] = None,
    gamma: Annotated[float | None, Option("--gamma", help="weighted: odds are score ** gamma.")] = None,
    set_: flag.Set = None,
    workers: flag.Workers = None,
    write: Annotated[
        bool, Option("--write", help="Write shards and report of the new decision too.")
    ] = False,
    json_: flag.Json = False,
    quiet: flag.Quiet = False,
) -> None:
    """Decide anew which samples of a run are kept; nothing is embedded or scored again."""
    from curate.pipeline import rescore

    settings: dict[str, object] = {
        "method": method, "by": by, "keep": keep, "count": count, "of": of, "at_most": at_most or None,
        "on_null": on_null, "prefer": prefer, "drop_hardest": drop_hardest, "offset": offset, "center": center,
        "beta": beta, "cutoff": cutoff, "strata": strata, "per": per, "gamma": gamma, "drop_noise": drop_noise,
        "floor": flag.number(floor),
    }  # fmt: skip
    settings = {f"select.{name}": value for name, value in settings.items()} | {"workers": workers}
    settings |= {"filter": None if where is None else flag.conditions(where)} | weight_settings(weight)
    recipe = rescore.chosen_recipe(run, set_ or [], given(settings))
    with progress(quiet=quiet) as report, logged(quiet=quiet):
        chosen = rescore.select_run(recipe, write=write, progress=report)
    _show_chosen(recipe, chosen, json_, quiet)


def _show_chosen(recipe: "Recipe", chosen: "Chosen", json_: bool, quiet: bool) -> None:
    """Print what a selection came to, then fail if more rows are unusable than a written run may have."""
    from curate.io.storage import ensure_local
    from curate.pipeline.rescore import shards_differ
    from curate.pipeline.runner import check_limits, without_score
    from curate.runs.folder import folder_of

    differ = shards_differ(recipe)
    if json_:
        facts = {"counts": chosen.counts, "effective": chosen.effective, "shards_are_earlier": differ}
        emit({"run": recipe.run, "worked": chosen.worked, **facts})
    elif not quiet:
        print_counts(chosen.counts, {"effective sample size": chosen.effective})
    if not quiet and (said := without_score(recipe)):
        note(f"warning: {said}")
    if not quiet:
        if not chosen.worked:
            note(f"{recipe.run}: nothing to do, everything is up to date")
        if differ:
            note(f"{recipe.run}/6_filtered is still that of the earlier decision; write it anew with --write")
        elif chosen.manifest is not None:
            note(f"shards: {recipe.run}/6_filtered")
            note(f"open: {ensure_local(folder_of(recipe).report / 'report.html')}")
    if chosen.manifest is not None:
        check_limits(recipe, chosen.manifest)
