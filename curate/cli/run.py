"""Commands that make a run: init, run, filter, demo."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from curate.cli import app
from curate.cli.show import bytes_text, duration_text, emit, logged, print_table, progress
from curate.config import Recipe, load_recipe, override, parse_recipe
from curate.errors import UsageError

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Override a setting, such as select.keep=0.2; repeatable."
    ),
]
Out = Annotated[str | None, typer.Option("--out", help="The run folder.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Read only the first rows of each source.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and what it takes; do nothing.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No summary lines and no progress.")]
Force = Annotated[
    bool, typer.Option("--force", help="Replace a run folder made from another source or model.")
]
Refit = Annotated[bool, typer.Option("--refit", help="Fit the concepts anew instead of reusing them.")]
AtMost = Annotated[
    bool, typer.Option("--at-most", help="Keep what is eligible where fewer rows are than asked for.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Worker processes (default: cores, as memory allows).")
]
Until = Annotated[
    str,
    typer.Option(
        "--until",
        help="Stop after this stage: read, embed, cluster, score, filter, dedup, select, write, report.",
    ),
]


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The recipe to write.")] = Path("recipe.yaml"),
    source: Annotated[str, typer.Option("--source", help="Where the samples are.")] = "data/*.parquet",
) -> None:
    """Write a commented recipe to start from."""
    from importlib import resources

    if path.exists():
        raise UsageError(f"{path} is there already; name another file")
    template = resources.files("curate.cli").joinpath("recipe.yaml").read_text(encoding="utf-8")
    path.write_text(template.replace("@SOURCE@", source), encoding="utf-8")
    sys.stderr.write(f"wrote {path}; edit it, then: curate run {path} --dry-run\n")


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe (YAML).")],
    out: Out = None,
    set_: Set = None,
    until: Until = "report",
    limit: Limit = None,
    dry_run: DryRun = False,
    force: Force = False,
    refit: Refit = False,
    at_most: AtMost = False,
    workers: Workers = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a recipe; finished stages are not repeated."""
    overrides = list(set_ or [])
    overrides += [f"run={out}"] if out is not None else []
    overrides += _common(limit, at_most, workers)
    _execute(load_recipe(recipe, overrides), until, dry_run, force, refit, json_, quiet)


@app.command("filter")
def filter_(
    source: Annotated[str, typer.Argument(help="Path, glob, brace range or URL of the samples.")],
    out: Annotated[str, typer.Option("--out", help="The run folder; the shards are in its 6_filtered.")],
    keep: Annotated[str | None, typer.Option("--keep", help="Share to keep: 0.3 or 30%.")] = None,
    count: Annotated[int | None, typer.Option("--count", help="Number of samples to keep.")] = None,
    method: Annotated[str, typer.Option("--method", help="density, random or prototypes.")] = "density",
    model: Annotated[str | None, typer.Option("--model", help="open_clip model, or tiny.")] = None,
    pretrained: Annotated[
        str | None, typer.Option("--pretrained", help="Weights: open_clip tag or checkpoint file.")
    ] = None,
    vectors: Annotated[
        str | None, typer.Option("--vectors", help="Use vectors you have: a column name, or .npy files.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="SQL condition, such as 'clip_score >= 0.2'; repeatable."),
    ] = None,
    epsilon: Annotated[
        str | None, typer.Option("--epsilon", help="Near-duplicates: similarity above 1 - epsilon.")
    ] = None,
    set_: Set = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    force: Force = False,
    at_most: AtMost = False,
    workers: Workers = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Filter a dataset in one line, without a recipe."""
    values: dict[str, Any] = {"run": out, "source": {"path": source}, "select": {"method": method}}
    if keep is not None:
        values["select"]["keep"] = keep
    if count is not None:
        values["select"]["count"] = count
    values["embed"] = _embed(model, pretrained, vectors)
    values["filter"] = list(where or [])
    values["dedup"] = {} if epsilon is None else {"epsilon": _number(epsilon)}
    overrides = [*(set_ or []), *_common(limit, at_most, workers)]
    _execute(parse_recipe(override(values, overrides)), "report", dry_run, force, False, json_, quiet)


@app.command()
def demo(
    out: Annotated[str, typer.Option("--out", help="The run folder.")] = "runs/demo",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the main job on the sample that ships with curate."""
    from curate.demo import recipe_path, sample_path

    recipe = load_recipe(recipe_path(), [f"run={out}", f"source.path={sample_path()}/*.parquet"])
    _execute(recipe, "report", False, False, False, json_, quiet)


def _common(limit: int | None, at_most: bool, workers: int | None) -> list[str]:
    overrides = [] if limit is None else [f"source.limit={limit}"]
    overrides += ["select.at_most=true"] if at_most else []
    return overrides + ([] if workers is None else [f"workers={workers}"])


def _embed(model: str | None, pretrained: str | None, vectors: str | None) -> dict[str, Any]:
    if vectors is not None:
        return {"files": vectors} if vectors.endswith(".npy") else {"column": vectors}
    chosen = {"model": model, "pretrained": pretrained}
    return {name: value for name, value in chosen.items() if value is not None}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _execute(
    recipe: Recipe, until: str, dry_run: bool, force: bool, refit: bool, json_: bool, quiet: bool
) -> None:
    from curate import pipeline

    if dry_run:
        _show_plan(recipe, json_)
        return
    with logged(quiet=quiet), progress(quiet=quiet) as report:
        outcome = pipeline.run(recipe, until=until, force=force, refit=refit, progress=report)
    if not outcome.worked:
        sys.stderr.write(f"{recipe.run}: nothing to do, everything is up to date\n")
    if outcome.manifest is not None:
        emit(outcome.manifest) if json_ else _show_counts(recipe, outcome.manifest)


def _show_counts(recipe: Recipe, manifest: Mapping[str, Any]) -> None:
    counts = manifest["counts"]
    rows = counts["rows"]
    lines: list[list[object]] = [["rows in", rows, 1.0 if rows else 0.0]]
    groups = {"kept": {"kept": counts["kept"]}, "dropped": counts["dropped"], "unusable": counts["unusable"]}
    for group, reasons in groups.items():
        for reason, count in reasons.items():
            name = reason if group == "kept" else f"{group}: {reason}"
            lines.append([name, count, count / max(rows, 1)])
    print_table(["", "rows", "share"], lines)
    if rows == 0:
        sys.stderr.write("warning: the source has no rows\n")
    sys.stderr.write(f"shards: {recipe.run}/6_filtered\nreport: {recipe.run}/7_report/report.html\n")


def _show_plan(recipe: Recipe, json_: bool) -> None:
    """Print what a run would read and about what it takes; nothing is written."""
    from tempfile import TemporaryDirectory

    from curate.estimate import estimate
    from curate.stages.read import find_parts

    with TemporaryDirectory() as scratch:
        parts, bad = find_parts(recipe, Path(scratch) / "shards.json", hashed=False)
    expected = estimate(recipe, parts)
    if json_:
        emit(
            {
                **vars(expected),
                "bad_shards": [vars(shard) for shard in bad],
                "recipe": recipe.model_dump(mode="json"),
            }
        )
        return
    print_table(
        ["", "value"],
        [
            ["shards", f"{expected.shards:,} ({bytes_text(expected.source_bytes)})"],
            ["rows", f"{expected.rows:,}"],
            ["unreadable shards", str(len(bad))],
            ["time, about", duration_text(expected.seconds)],
            ["disk, about", bytes_text(expected.disk_bytes)],
        ],
    )
    for shard in bad:
        sys.stderr.write(f"warning: {shard.error}\n")
