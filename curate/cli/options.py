"""Flags that several commands have, and the settings they stand for."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer
import yaml

from curate.api.as_typed import FLAGS, as_typed, flags
from curate.errors import UsageError
from curate.io.yaml import read_yaml
from curate.recipe import FAMILIES
from curate.selection.registry import selectors
from curate.weighting.registry import weighers

__all__ = [
    "AtMost",
    "By",
    "Count",
    "DropNoise",
    "Floor",
    "Json",
    "Keep",
    "Limit",
    "Method",
    "Option",
    "Out",
    "Quiet",
    "RunPlace",
    "Set",
    "Text",
    "WeightBy",
    "Where",
    "Workers",
    "conditions",
    "families",
    "in_flags",
    "number",
    "uids_of",
]

Text = str | None
Option = typer.Option


Set = Annotated[
    list[str] | None,
    Option("--set", metavar="NAME=VALUE", help="Override a setting: select.keep=0.2; repeatable."),
]
RunPlace = Annotated[str, typer.Argument(metavar="RUN", help="The run folder, or its URL.")]
Out = Annotated[Text, Option("--out", help="The run folder, or a URL for it.")]
Limit = Annotated[int | None, Option("--limit", min=1, help="Read only the first rows of each source.")]
Json = Annotated[bool, Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[
    bool, Option("--quiet", "-q", help="Print nothing but errors; with --json the result alone.")
]
AtMost = Annotated[bool, Option("--at-most", help="Keep what there is where that is less than asked for.")]
Workers = Annotated[
    int | None, Option("--workers", min=1, help="Worker processes; by default as many as fit.")
]
Keep = Annotated[Text, Option("--keep", help="Share to keep: 0.3 or 30%.")]
Count = Annotated[int | None, Option("--count", help="Number of samples to keep.")]
DropNoise = Annotated[
    Text,
    Option(
        "--drop-noise",
        metavar="SHARE",
        help="The noisiest samples out first: a share, or auto (as many as heads count as mislabelled).",
    ),
]
Floor = Annotated[
    Text,
    Option(
        "--floor",
        metavar="ROWS",
        help="What every class keeps for sure: a number, or half of an equal share.",
    ),
]
Method = Annotated[
    Text, Option("--method", help=f"{', '.join(selectors())}; by default auto, of a run its own.")
]
By = Annotated[Text, Option("--by", help="The score column that a method such as hardest goes by.")]
WeightBy = Annotated[
    Text, Option("--weight", metavar="METHOD", help=f"Weigh what is kept: {', '.join(weighers())}, or none.")
]
Where = Annotated[
    list[str] | None,
    Option(
        "--where", help="Condition, such as 'clip_score >= 0.2' or '{by: el2n, bottom: 90%}'; repeatable."
    ),
]


def in_flags(names: Mapping[str, str] = FLAGS) -> AbstractContextManager[None]:
    """Advise settings in the errors of what is done inside by their flags."""
    return as_typed(lambda text: flags(text, names))


def number(text: str | None) -> int | str | None:
    """Return a number of rows as one, any other text as it is."""
    return int(text) if text is not None and text.isdecimal() else text


def conditions(texts: Sequence[str]) -> list[object]:
    """Return what --where says: SQL as it is, a condition on one score as settings."""
    return [_read("--where", text) if text.lstrip().startswith("{") else text for text in texts]


def families(texts: Sequence[str]) -> list[object]:
    """Return families of scores from words such as ``heads`` or ``{heads: {seeds: 3}}``; raises UsageError for others."""
    found = [_read("score", text) for text in texts]
    for text, entry in zip(texts, found, strict=True):
        if not isinstance(entry, str | dict):
            raise UsageError(
                f"score takes a family ({', '.join(FAMILIES)}), alone or with settings such as "
                f"'{{heads: {{seeds: 3}}}}', got {text!r}"
            )
    return found


def _read(what: str, text: str) -> object:
    try:
        return read_yaml(text)
    except yaml.YAMLError:
        raise UsageError(f"{what}: {text!r} is not YAML; an example is '{{heads: {{seeds: 3}}}}'") from None


def uids_of(given: str) -> list[str]:
    """Return the uids of an argument: itself, or the lines of a file, @FILE; raises UsageError where it cannot be read."""
    if not given.startswith("@"):
        return [given]
    path = Path(given[1:])
    if not path.is_file():
        raise UsageError(f"{given}: there is no such file of uids")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{given}: cannot be read as a file of uids: {error}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
