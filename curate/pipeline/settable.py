"""Which settings of a run a command can change, and which command changes the others."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from curate.errors import UsageError
from curate.recipe import Recipe
from curate.runs.folder import folder_of

__all__ = ["require_settable"]

#: Where and how work is done: every command takes these.
_HOW = ("workers", "memory", "engine", "ray", "remote", "limits", "notify", "evaluate", "run")
_DECIDED = ("filter", "pin", "exclude", "only", "dedup", "select", "weight")
#: Settings that change nothing of what was read or embedded, wherever they stand.
_ACCESS = ("device", "storage_options")

#: What a command works on besides, and what it leaves alone.
_TAKES = {
    "score": (("score",), "it adds scores to a run that is decided, and changes nothing else"),
    "select": ((*_DECIDED, "write"), "it decides by what is embedded, clustered and scored already"),
    "export": (("write", "seed"), "it writes what is decided"),
    "retry": (
        ("cluster", "score", *_DECIDED, "write", "seed"),
        "it embeds the rows that failed as all others were",
    ),
}


def require_settable(
    command: str,
    before: Mapping[str, Any],
    recipe: Recipe,
    overrides: Sequence[str],
    settings: Mapping[str, object],
) -> None:
    """Raise UsageError for a setting that is another than `before` and that `command` cannot change.

    before : the recipe of the run as plain settings. overrides : as they were given (``a.b=value``). settings : values
    by dotted name.
    """
    now = recipe.model_dump(mode="json")
    takes, why = _TAKES[command]
    if command == "score" and not folder_of(recipe).decisions.exists():
        takes = _TAKES["retry"][0]  # the stages before the scores are made too
    texts = {name: json.dumps(value, default=str) for name, value in settings.items()}
    for item in overrides:
        name, _, text = item.partition("=")
        texts[name.strip()] = text
    for name, text in texts.items():
        section = name.partition(".")[0]
        if section in (*_HOW, *takes) or name.endswith(_ACCESS) or before[section] == now[section]:
            continue
        given = shlex.quote(f"{name}={text}")
        raise UsageError(
            f"{name} cannot be changed by curate {command}: {why}; use: {_instead(recipe.run, section)} --set {given}"
        )


def _instead(run: str, section: str) -> str:
    """Return the command that changes settings of a section."""
    if section in ("source", "embed"):
        return f"curate run {run}/recipe.yaml --out NEW-FOLDER"
    if section == "score":
        return f"curate score {run}"
    if section == "write":
        return f"curate select {run} --write"
    return f"curate select {run}" if section in _DECIDED else f"curate run {run}/recipe.yaml"
