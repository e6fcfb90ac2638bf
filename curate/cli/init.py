"""Command that writes a recipe to start from: init."""

import json
import re
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curate.cli.app import app
from curate.cli.options import Option, Text
from curate.cli.output import note
from curate.errors import CurateError, UsageError

if TYPE_CHECKING:
    from curate.cli.survey import Survey


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The recipe to write.")] = Path("recipe.yaml"),
    source: Annotated[
        Text, Option("--source", help="Where the samples are; asked for on a terminal.")
    ] = None,
) -> None:
    """Write a commented recipe to start from, for what is found at its source."""
    if path.exists():
        raise UsageError(f"{path} is there already; name another file")
    source = source or _asked()
    found = _looked_at(source)
    text = resources.files("curate.cli").joinpath("recipe.yaml").read_text(encoding="utf-8")
    place = re.compile(r'"@SOURCE@" *(?=#)')
    text = place.sub(lambda old: f"{json.dumps(source, ensure_ascii=False):<{len(old[0]) - 1}} ", text)
    if found is not None and _has_vectors_alone(found):
        text = _with_column(text, found.vectors[0])
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    note(f"wrote {path}; edit it, then: curate run {path} --dry-run")
    if found is not None and not _has_vectors_alone(found):
        note(f"to try it out without a download: curate run {path} --set embed.model=tiny")


def _asked() -> str:
    """Ask for the source; raises UsageError where nobody can answer."""
    if not sys.stdin.isatty():
        raise UsageError("init needs --source, where the samples are: a file, folder, glob or URL")
    return str(typer.prompt("Where are the samples (a file, folder, glob or URL)", err=True)).strip()


def _looked_at(source: str) -> "Survey | None":
    """Say what is found at a source, and what to do with it; None where nothing can be read yet."""
    from curate.cli.survey import survey

    try:
        found = survey(source)
    except CurateError as error:
        note(f"warning: {error}")
        return None
    columns = found.columns
    roles = {"image": columns.image, "caption": columns.caption, "label": columns.label}
    named = [f"{role} {name or 'none'}" for role, name in roles.items()]
    note(f"{source}: {found.found}")
    note(f"format {found.format}, {found.shards:,} shards; columns: {', '.join(named)}")
    if found.vectors:
        say = "taken" if _has_vectors_alone(found) else "to take them in place of a model"
        note(f"vectors: {', '.join(found.vectors)}; {say}: embed: {{column: {found.vectors[0]}}}")
    if columns.label is not None:
        note(
            "labels: score: [heads] finds those that look wrong, select.method: auto takes them out; dedup.epsilon: auto takes "
            "near-duplicates out"
        )
    return found


def _has_vectors_alone(found: "Survey") -> bool:
    """Whether the samples can only be compared by vectors that they bring."""
    return bool(found.vectors) and found.columns.image is None


def _with_column(recipe: str, column: str) -> str:
    """Return a recipe with vectors of a column in place of the model."""
    named = json.dumps(column, ensure_ascii=False)
    recipe = re.sub(r"(?m)^  model: ", lambda found: f"  column: {named}\n  # model: ", recipe, count=1)
    return re.sub(r"(?m)^  pretrained: ", "  # pretrained: ", recipe, count=1)
