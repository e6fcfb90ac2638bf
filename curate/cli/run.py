"""Commands that make a run: run, filter, demo."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.options import Option
from curate.cli.output import (
    bytes_text,
    duration_text,
    emit,
    logged,
    note,
    print_counts,
    print_table,
    progress,
)
from curate.errors import UnusableLimitError
from curate.io.found import Found
from curate.process import loading
from curate.recipe import Recipe
from curate.recipe.build import filter_recipe, given
from curate.recipe.loading import load_recipe
from curate.runs.layout import STAGES

DryRun = Annotated[bool, Option("--dry-run", help="Say what there is to do and what it takes; do nothing.")]
Force = Annotated[bool, Option("--force", help="Replace a run made from another source or model.")]
Refit = Annotated[bool, Option("--refit", help="Fit the concepts anew.")]
Dated = Annotated[
    bool,
    Option(
        "--dated",
        help="Make a new run in a dated folder below the run folder, from the latest there: for cron.",
    ),
]
NoLock = Annotated[
    bool,
    Option("--no-lock", help="A run at a URL whose store keeps no lock: nobody else writes there."),
]
Until = Annotated[str, Option(help=f"Last stage: {', '.join(STAGES[:-1])} or {STAGES[-1]}.")]


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe (YAML).")],
    out: flag.Out = None,
    set_: flag.Set = None,
    until: Until = "report",
    limit: flag.Limit = None,
    at_most: flag.AtMost = False,
    workers: flag.Workers = None,
    no_lock: NoLock = False,
    dated: Dated = False,
    dry_run: DryRun = False,
    force: Force = False,
    refit: Refit = False,
    json_: flag.Json = False,
    quiet: flag.Quiet = False,
) -> None:
    """Run a recipe; finished stages are not repeated."""
    settings = _settings(out, limit, at_most, workers, no_lock)
    loaded = load_recipe(recipe, set_ or [], settings)
    with flag.in_flags({}):
        _execute(
            loaded,
            until=until,
            dated=dated,
            dry_run=dry_run,
            force=force,
            refit=refit,
            json_=json_,
            quiet=quiet,
        )


class _FilterCommand(TyperCommand):
    """A command whose flag --dedup may stand without a value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  (click's context)
        """Parse the flags, --dedup with its usual value where it has none."""
        return list(super().parse_args(ctx, with_epsilon(args)))


def with_epsilon(args: Sequence[str]) -> list[str]:
    """Return arguments in which --dedup has a value, auto unless a number or a share follows.

    >>> with_epsilon(["--dedup", "photos"]), with_epsilon(["--dedup", "0.1"]), with_epsilon(["--dedup", "drop=0.2"])
    (['--dedup=auto', 'photos'], ['--dedup', '0.1'], ['--dedup', 'drop=0.2'])
    >>> with_epsilon([])
    []
    """
    value = re.compile(r"[-+]?[0-9.]+(e-?[0-9]+)?%?|(drop|precision)=.*|none|auto", re.IGNORECASE)
    return [
        "--dedup=auto" if one == "--dedup" and not value.fullmatch(after) else one
        for one, after in zip_longest(args, args[1:], fillvalue="")
    ]


@app.command("filter", cls=_FilterCommand)
def filter_(
    source: Annotated[
        list[str], typer.Argument(help="Paths, globs, {00..09} ranges or URLs of the samples.")
    ],
    out: Annotated[str, Option("--out", help="The run folder; the shards are in its 6_filtered.")],
    keep: flag.Keep = None,
    count: flag.Count = None,
    method: flag.Method = None,
    by: flag.By = None,
    drop_noise: flag.DropNoise = None,
    floor: flag.Floor = None,
    score: Annotated[
        list[str] | None,
        Option("--score", metavar="FAMILY", help="Add scores: heads, or '{heads: {seeds: 3}}'; repeatable."),
    ] = None,
    weight: flag.WeightBy = None,
    model: Annotated[flag.Text, Option("--model", help="open_clip model, or tiny.")] = None,
    pretrained: Annotated[
        flag.Text, Option("--pretrained", help="open_clip tag, or checkpoint file.")
    ] = None,
    vectors: Annotated[
        flag.Text,
        Option("--vectors", help="Vectors you have: a column, or files: 'x/*.npy', .npz, .pt, .parquet."),
    ] = None,
    where: flag.Where = None,
    pin: Annotated[
        list[str] | None, Option("--pin", metavar="FILE", help="Uids to keep in any case; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, Option("--exclude", metavar="FILE", help="Uids to drop in any case; repeatable.")
    ] = None,
    only: Annotated[
        list[str] | None, Option("--only", metavar="FILE", help="Uids to choose from; repeatable.")
    ] = None,
    against: Annotated[
        list[str] | None,
        Option("--against", metavar="PATH", help="Drop what is near an evaluation set; repeatable."),
    ] = None,
    epsilon: Annotated[
        flag.Text,
        Option(
            "--dedup",
            "--epsilon",
            metavar="[EPSILON]",
            help="Drop near-duplicates: similarity above 1 - EPSILON; auto, also where none is given, finds it; or drop=0.2, precision=0.9.",
        ),
    ] = None,
    set_: flag.Set = None,
    limit: flag.Limit = None,
    at_most: flag.AtMost = False,
    workers: flag.Workers = None,
    no_lock: NoLock = False,
    dry_run: DryRun = False,
    force: Force = False,
    refit: Refit = False,
    json_: flag.Json = False,
    quiet: flag.Quiet = False,
) -> None:
    """Filter a dataset in one line, without a recipe.

    Without --keep, --count and --method, what passes --where, --dedup, --drop-noise and the lists is kept.
    """
    with flag.in_flags():
        loaded = filter_recipe(
            {"source": {"path": source[0] if len(source) == 1 else source}},
            keep=keep,
            count=count,
            method=method,
            by=by,
            score=flag.families(score or []),
            weight=weight,
            where=flag.conditions(where or []),
            epsilon=_epsilon(epsilon),
            against=against,
            pin=pin,
            exclude=exclude,
            only=only,
            model=model,
            pretrained=pretrained,
            vectors=vectors,
            overrides=set_ or [],
            settings=_settings(out, limit, at_most, workers, no_lock)
            | given({"select.drop_noise": drop_noise, "select.floor": flag.number(floor)}),
        )
        _execute(loaded, dry_run=dry_run, force=force, refit=refit, json_=json_, quiet=quiet)


@app.command()
def demo(
    out: Annotated[str, Option("--out", help="The run folder.")] = "runs/demo",
    json_: flag.Json = False,
    quiet: flag.Quiet = False,
) -> None:
    """Run the main job on the sample that ships with curate."""
    from curate.api.sample import sample_path
    from curate.cli.demo import recipe_path, what_was_found
    from curate.runs.run import open_run

    settings = {"run": out, "source.path": f"{sample_path()}/*.parquet"}
    _execute(load_recipe(recipe_path(), settings=settings), json_=json_, quiet=quiet)
    if not (json_ or quiet):
        for line in what_was_found(open_run(out)):
            note(line)


def _settings(
    out: str | None, limit: int | None, at_most: bool, workers: int | None, no_lock: bool
) -> dict[str, object]:
    """Return the settings that flags stand for."""
    settings = {"run": out, "source.limit": limit, "select.at_most": at_most or None, "workers": workers}
    settings["remote.lock"] = False if no_lock else None
    return given(settings)


def _epsilon(text: str | None) -> object:
    """Return what --epsilon says: a number, {drop: share}, {precision: share}, or the word as it is."""
    if text is None:
        return None
    name, equals, share = text.partition("=")
    if equals and name in ("drop", "precision"):
        return {name: share}
    try:
        return float(text)
    except ValueError:
        return text


def _execute(
    recipe: Recipe,
    *,
    until: str = "report",
    dated: bool = False,
    dry_run: bool = False,
    force: bool = False,
    refit: bool = False,
    json_: bool,
    quiet: bool,
) -> None:
    """Run a recipe (or say what that takes) and print what came of it."""
    with loading():
        from curate.pipeline import runner
        from curate.pipeline.stages.read import part_names
        from curate.runs.dated import commit, new_run
        from curate.runs.run import open_run

    if dry_run:
        _show_plan(recipe, json_)
        return
    root = recipe.run
    if dated:
        runner.check_request(recipe)
        recipe = recipe.model_copy(update={"run": str(new_run(root, partial(part_names, recipe)))})
    try:
        with progress(quiet=quiet) as report, logged(quiet=quiet):
            outcome = runner.run(recipe, until=until, force=force, refit=refit, progress=report)
    except UnusableLimitError:
        _show_result(recipe, open_run(recipe.run).manifest(), json_, quiet)
        raise
    if dated and outcome.manifest is not None:
        commit(root, recipe.run)
    if not outcome.worked and not quiet:
        note(f"{recipe.run}: nothing to do, everything is up to date")
    if outcome.manifest is not None:
        _show_result(recipe, outcome.manifest, json_, quiet)
    elif json_:
        emit({"run": recipe.run, "until": until, "worked": outcome.worked})


def _show_result(recipe: Recipe, manifest: Mapping[str, Any], json_: bool, quiet: bool) -> None:
    from curate.io.storage import ensure_local
    from curate.pipeline.runner import without_score
    from curate.runs.folder import folder_of

    if json_:
        emit(manifest)
    if quiet:
        return
    counts = manifest["counts"]
    for shard in manifest["bad_shards"]:
        rows = "an unknown number of" if shard["rows"] is None else f"{shard['rows']:,}"
        note(f"warning: {shard['error']} ({rows} rows are missing)")
    if counts["rows"] == 0:
        note("warning: the source has no rows")
    if said := without_score(recipe):
        note(f"warning: {said}")
    if not json_:
        print_counts(counts)
        note(f"shards: {recipe.run}/6_filtered")
        note(f"open: {ensure_local(folder_of(recipe).report / 'report.html')}")


def _show_plan(recipe: Recipe, json_: bool) -> None:
    """Print what a run would read and about what it takes; nothing is written."""
    from tempfile import TemporaryDirectory

    from curate.pipeline.estimate import estimate
    from curate.pipeline.row_needs import check_needs, values_lack, warn_of_needs
    from curate.pipeline.runner import check_request
    from curate.pipeline.source_schemas import SourceSchemas
    from curate.pipeline.stages.read import find_parts, found_lines

    check_request(recipe)
    found: dict[str, Found] = {}
    with TemporaryDirectory() as scratch:
        schemas = SourceSchemas(recipe)
        parts, bad = find_parts(
            recipe, Path(scratch) / "shards.json", hashed=False, found=found, schemas=schemas
        )
        for line in found_lines(found):
            note(line)
        with logged():
            schemas.check()
            lack = values_lack(recipe, parts)
            check_needs(recipe, lack)
            warn_of_needs(recipe, lack)
    expected = estimate(recipe, parts)
    for shard in bad:
        note(f"warning: {shard.error}")
    if json_:
        unreadable = [vars(shard) for shard in bad]
        counts = {name: one.facts() for name, one in found.items()}
        emit(
            {
                **vars(expected),
                "found": counts,
                "bad_shards": unreadable,
                "recipe": recipe.model_dump(mode="json"),
            }
        )
        return
    rows = [
        ["shards", f"{expected.shards:,} ({bytes_text(expected.source_bytes)})"],
        ["rows", f"{expected.rows:,}"],
        ["unreadable shards", str(len(bad))],
        ["time, about", duration_text(expected.seconds)],
        ["disk, about", bytes_text(expected.disk_bytes)],
    ]
    print_table(["", "value"], rows)
