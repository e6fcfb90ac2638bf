"""Writes docs/recipe.md: every setting of a recipe, from the models that check it. A test compares.

`python docs/make_recipe.py`
"""

import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from curate.recipe import Recipe
from curate.recipe.embed import Embed
from curate.recipe.select import ScoreFilter

PAGE = Path(__file__).with_name("recipe.md")
COMMENTED = Path(__file__).resolve().parents[1] / "curate/cli/recipe.yaml"
ABOVE = """# Every setting of a recipe

A recipe is one YAML file. `curate init recipe.yaml` writes one with every setting and a comment, which does what `curate filter` does; `curate run recipe.yaml --dry-run` checks
it. A setting that there is not is refused, with the nearest one there is. `--set select.keep=0.2` replaces one for a call, `${NAME}` in a value is read
from the environment. Of `select` and `weight` each method has settings of its own (`curate methods NAME`, [methods](methods.md)), of `score` each
family ([scores](scores.md)).

This page is made from the models that check recipes (`python docs/make_recipe.py`).
"""
#: Sections whose models are unions of many: those of methods and of families of scores.
ELSEWHERE = {"select": "methods.md", "weight": "methods.md#weights-instead-of-dropping", "score": "scores.md"}


def page() -> str:
    """Return the page."""
    said = comments(COMMENTED.read_text(encoding="utf-8"))
    lines = [ABOVE, "## The whole", "", *table(Recipe, said.get("", {}))]
    for name, model in sections(Recipe):
        lines += ["", f"## {name}", "", *description(model), *table(model, said.get(name, {}))]
        for inner, below in sections(model):
            lines += ["", f"### {name}.{inner}", "", *description(below), *table(below, said.get(inner, {}))]
    return "\n".join(lines).rstrip() + "\n"


def comments(text: str) -> dict[str, dict[str, str]]:
    """Return what the commented recipe says of each setting, by section ("" for the settings at the top)."""
    found: dict[str, dict[str, str]] = {"": {}}
    section, name = "", ""
    for line in text.splitlines():
        if top := re.match(r"#? ?(\w+):(?:[^#]*)(?:# (.*))?$", line):
            section = name = top[1]
            found[""][name] = top[2] or ""
            found.setdefault(section, {})
        elif inner := re.match(r"#? +(?:# )?(?:- )?(\w+):(?:[^#]*)(?:# (.*))?$", line):
            name = inner[1]
            found[section].setdefault(name, inner[2] or "")
        elif (more := re.match(r" {20,}# (.*)$", line)) and name:
            where = found[""] if name == section else found[section]
            where[name] += f" {more[1]}"
    return found


def sections(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the settings of a model that are groups of settings, with their models."""
    for name, field in model.model_fields.items():
        found = [one for one in models_in(field.annotation) if name not in ELSEWHERE]
        if name == "filter":
            found = [ScoreFilter]
        if len(found) == 1:
            yield name, found[0]


def models_in(annotation: object) -> list[type[BaseModel]]:
    """Return the models that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for one in typing.get_args(annotation) for model in models_in(one)]


def table(model: type[BaseModel], said: Mapping[str, str]) -> list[str]:
    """Return the rows of a table of settings. said : what is to know of each."""
    rows = ["| setting | takes | default | |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        where = f"[{ELSEWHERE[name]}]({ELSEWHERE[name]})" if model is Recipe and name in ELSEWHERE else ""
        cells = (
            f"`{field.alias or name}`",
            where or takes(field),
            default(model, name, field),
            said.get(name, ""),
        )
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return rows


def takes(field: FieldInfo) -> str:
    """Return in words what values a setting takes."""
    kinds = dict.fromkeys(_kinds(field.annotation))
    limits = [_limit(one) for one in field.metadata]
    text = ", ".join([*kinds, *(one for one in limits if one)])
    return text or "a value"


def _kinds(annotation: object) -> Iterator[str]:
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        limits = [
            found for one in inside[1:] for part in getattr(one, "metadata", [one]) if (found := _limit(part))
        ]
        yield " ".join([*_kinds(inside[0]), *limits])
    elif origin is typing.Literal:
        yield from (f"`{json.dumps(one) if isinstance(one, bool) else one}`" for one in inside)
    elif origin in (typing.Union, types.UnionType):
        for one in inside:
            yield from _kinds(one)
    elif origin in (tuple, list):
        names = list(dict.fromkeys(name for one in inside if one is not Ellipsis for name in _kinds(one)))
        yield f"a list of: {' or '.join(names)}"
    elif isinstance(annotation, type):
        yield _NAMES.get(annotation, "settings (below)" if issubclass(annotation, BaseModel) else "a mapping")
    else:
        yield "a mapping"


_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "`true`, `false`",
    type(None): "`none`",
    dict: "a mapping",
}


def _limit(one: object) -> str:
    signs = {Ge: "ge", Gt: "gt", Le: "le", Lt: "lt"}
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    sign = signs.get(type(one))
    return f"{words[sign]} {getattr(one, sign):,}" if sign else ""


def default(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    """Return the default of a setting as a recipe has it."""
    if field.is_required():
        return "must be given"
    if name == "memory":
        return "a share of the machine's"
    value = field.get_default(call_default_factory=True)
    if model is Embed and name == "pretrained":
        return "`laion2b_s34b_b79k` (of ViT-B-32)"
    if isinstance(value, BaseModel):
        return "as below"
    if isinstance(value, tuple):
        return "`[clip_score]`" if name == "score" else f"`{json.dumps(list(value))}`"
    if value is None:
        return "`none`"
    return f"`{json.dumps(value) if not isinstance(value, str) else value}`"


def description(model: type[BaseModel]) -> list[str]:
    """Return what the docstring of a model says, and a line for each setting it explains."""
    text = " ".join((model.__doc__ or "").split())
    above, *each = re.split(r"(?:(?<=[.)]) |^)(\w+(?:, \w+)*) : ", text)
    lines = [f"- `{name}`: {what.strip()}" for name, what in zip(each[::2], each[1::2], strict=True)]
    return [*([above.strip(), ""] if above.strip() else []), *([*lines, ""] if lines else [])]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
