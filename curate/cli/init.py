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
from curate.recipe.recipe import AUTO_DEDUP, AUTO_SCORE
from curate.selection.auto import Auto

if TYPE_CHECKING:
    from curate.cli.survey import Survey

#: Where comments stand in a recipe.
_COLUMN = 38


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
    text = proposed(text, found)
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
    if columns.label is not None and _has_vectors_alone(found):
        note("labels: score: [heads] finds those that look wrong, and select.method: auto takes them out")
    elif not _has_vectors_alone(found):
        wrong = {"labels": columns.label, "captions": columns.caption}
        such = "".join(f", wrong {what} out" for what, column in wrong.items() if column is not None)
        note(
            f"proposed is what curate filter does: near-duplicates out{such}, then a draw: select.method auto"
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


def proposed(template: str, found: "Survey | None") -> str:
    """Return the recipe of all defaults with what `curate filter` does where it is told a share alone, and why.

    found : what is at the source; None where nothing could be read, which is taken for images.
    """
    text = _with_method(template)
    if found is not None and _has_vectors_alone(found):
        return text
    text = _set(text, "select", "at_most", "true")
    for name, value in AUTO_DEDUP.items():
        text = _set(text, "dedup", name, json.dumps(value).strip('"'))
    why = "as curate filter does: near-duplicates out, but where captions differ"
    text = text.replace("\ndedup:\n", f"\n{'dedup:':<{_COLUMN}}# {why}\n")
    return _with_scores(text, found)


def _set(text: str, section: str, name: str, value: str) -> str:
    """Return a recipe with another value of a setting; its comment stays in its column."""
    line = re.compile(rf"(?ms)(^{section}:.*?^)(  {name}: )[^#\n]*(?=#)")
    return line.sub(lambda old: old[1] + f"{old[2]}{value} ".ljust(_COLUMN), text, count=1)


def _with_method(text: str) -> str:
    """Return a recipe with method auto and its settings; those that it does not have are comments."""
    begin, end = text.index("\nselect:\n") + 1, text.index("\n\nweight:")
    own: list[str] = []
    other: list[str] = []
    lines, title = other, ""
    for line in text[begin:end].splitlines()[1:]:
        name = re.match(r"  (?:# )?(\w+): [^#]*", line)
        if name and name[1] in Auto.model_fields:
            value = json.dumps(Auto.model_fields[name[1]].default).strip('"')
            shown = name[0] if name[1] == "keep" else f"  {name[1]}: {value} "
            line, lines = shown.ljust(_COLUMN) + line[len(name[0]) :], own
        elif name:
            line, lines = f"  # {name[0].strip(' #')} ".ljust(_COLUMN) + line[len(name[0]) :], other
        elif line.startswith("  #"):
            title, lines = line, other
            continue
        lines.append(line)
    why = "as curate filter does: copies and wrong labels out, rare classes in, and a draw"
    head = f"{'select:':<{_COLUMN}}# {why}"
    return text[:begin] + "\n".join([head, *own, title, *other]) + text[end:]


def _with_scores(text: str, found: "Survey | None") -> str:
    """Return a recipe with the scores by which method auto knows what is wrong, saying what there is for them."""
    text = re.sub(r"(?m)^score: \[clip_score\]", "score:".ljust(len("score: [clip_score]")), text, count=1)
    columns = None if found is None else found.columns
    there = {
        "heads": ("labels", columns and columns.label),
        "pair": ("captions", columns and columns.caption),
    }
    lines = []
    for entry in AUTO_SCORE:
        if isinstance(entry, str):
            lines.append(f"  - {entry}")
            continue
        [(name, settings)] = entry.items()
        what, column = there[name]
        says = f"which {what} are wrong"
        if columns is not None:
            says += f": {column}" if column else "; there are none here, and nothing is asked of it"
        shown = ", ".join(f"{key}: {json.dumps(value).strip(chr(34))}" for key, value in settings.items())
        lines.append(f"  - {name}: {{{shown}}}  # {says}")
    place = text.index("\n#  - pair")
    return text[:place] + "\n" + "\n".join(lines) + text[place:]
