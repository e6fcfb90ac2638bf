"""The command `train-filter`: a filter on a small set of good pairs, for the score `dfn`."""

from typing import Annotated

import typer

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.options import Option
from curate.cli.output import emit, logged, note, progress, write


@app.command(name="train-filter")
def train_filter(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", help="The recipe of the filter, a YAML file; data/recipes/filters has some."
        ),
    ],
    out: Annotated[
        flag.Text, Option("--out", help="The folder for the filter; by default `out` of the recipe.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        Option("--set", metavar="NAME=VALUE", help="Override a setting: epochs=20; repeatable."),
    ] = None,
    json_: flag.Json = False,
    quiet: flag.Quiet = False,
) -> None:
    """Train a filter on a small set of good pairs; a run scores with it: score: [{dfn: {path: FOLDER}}]."""
    from curate.training.filter_recipe import load_filter_recipe
    from curate.training.train import train_recipe

    given = [*(set_ or []), *([] if out is None else [f"out={out}"])]
    loaded = load_filter_recipe(recipe, given)
    with progress(quiet=quiet) as show, logged(quiet=quiet):
        stored = train_recipe(loaded, progress=show)
    facts = {
        name: value for name, value in stored.facts.items() if name not in ("recipe", "files", "version")
    }
    if json_:
        emit({"path": str(stored.path), **facts})
        return
    if quiet:
        return
    write(
        f"{stored.kind}: {facts['rows']:,} rows ({facts['held_out']:,} held out), {facts['epochs']} epochs, best "
        f"{', '.join(map(str, facts['best_epoch']))}, scale {facts['scale']:.1f}\n"
    )
    note(f"open: {stored.path / 'training.html'}")
    note(f"use: score: [{{dfn: {{path: {stored.path}}}}}]")
