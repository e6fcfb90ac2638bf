"""Reading a recipe: YAML and overrides, checked into the models of `settings`, with messages for people.

Unknown keys are refused with a suggestion. Values can be overridden by dotted names (``select.keep=0.2``).
"""

import copy
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml
from pydantic import BaseModel

from curate.errors import RecipeError, UsageError
from curate.settings import Cluster, Dedup, DropShare, Embed, Limits, Recipe, Select, Source, Write, whole

__all__ = ["load_recipe", "override", "parse_recipe", "read_yaml"]


class _Yaml(yaml.SafeLoader):
    """YAML in which only true and false are truth values (`on` can be a key) and no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping; refuse a key that is there already, which YAML would overwrite silently."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Yaml.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:  # noqa: ANN401  (YAML may hold anything)
    """Return what a YAML text holds, read safely."""
    return yaml.load(text, _Yaml)


def load_recipe(
    path: str | Path, overrides: Sequence[str] = (), settings: Mapping[str, object] | None = None
) -> Recipe:
    """Read a recipe file, apply ``a.b=value`` overrides and `settings` (dotted name to value), and check it.

    Raises UsageError if the file cannot be read, RecipeError if a setting is wrong.
    """
    try:
        values = read_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        what = "nothing" if values is None else type(values).__name__
        raise RecipeError(f"recipe {path} must hold settings such as 'source:', got {what}")
    return parse_recipe(override(values, overrides, settings))


#: What a setting puts out of force: a budget is a share or a number, vectors come from one place.
_INSTEAD_OF = {
    "select.keep": ("count",),
    "select.count": ("keep",),
    "embed.model": ("pretrained", "column", "files"),
    "embed.column": ("model", "pretrained", "files"),
    "embed.files": ("model", "pretrained", "column"),
}


def override(
    values: Mapping[str, Any], overrides: Sequence[str] = (), settings: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Return `values` with each ``a.b=value`` (the value read as YAML) and then `settings` in their place.

    A setting of `source` goes to every source.
    """
    named = dict(_parse_override(item) for item in overrides) | dict(settings or {})
    result = copy.deepcopy(dict(values))
    for name, value in named.items():
        *parents, last = name.split(".")
        places = [result]
        for parent in parents:
            places = [inner for place in places for inner in _inside(place, parent)]
        for place in places:
            if value != place.get(last):
                for other in _INSTEAD_OF.get(name, ()):
                    if ".".join([*parents, other]) not in named:
                        place.pop(other, None)
            place[last] = value
    return result


def _parse_override(item: str) -> tuple[str, object]:
    name, equals, text = item.partition("=")
    if not equals or not name:
        raise RecipeError(f"--set takes name=value, such as select.keep=0.2, got {item!r}")
    try:
        return name.strip(), read_yaml(text)
    except yaml.YAMLError:
        raise RecipeError(f"--set {name}: {text!r} is not a YAML value") from None


def _inside(place: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the mappings below `key`; one is made where there is none."""
    below = place.get(key)
    if key == "source":
        below = [{"path": one} if isinstance(one, str) else one for one in _as_list(below)]
        place[key] = below
    if isinstance(below, list) and below and all(isinstance(one, dict) for one in below):
        return below
    if not isinstance(below, dict):
        below = place[key] = {}
    return [below]


def _as_list(value: object) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """Check settings into a Recipe. Raises RecipeError naming each wrong one, its rule and value."""
    try:
        return Recipe.model_validate(dict(values))
    except pydantic.ValidationError as error:
        raise RecipeError(
            "; ".join(_messages(error, one_source=len(_as_list(values.get("source"))) < 2))
        ) from None


#: pydantic's kinds of errors, as rules; {} stands for what the kind is about.
_RULES = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "settings",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "int_type": "a whole number",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_type": "settings",
    "string_too_short": "some text",
    "string_type": "text",
    "too_short": "a list of at least {min_length}",
    "tuple_type": "a list",
}


def _messages(error: pydantic.ValidationError, *, one_source: bool = True) -> list[str]:
    """Return one message per wrong setting: its name, the rule, and what it is."""
    said: dict[str, None] = {}
    rules: dict[tuple[str, str], list[str]] = {}
    for item in error.errors():
        path = [part for part in item["loc"] if _is_setting(part)]
        if one_source and path[:2] == ["source", 0]:
            del path[1]
        name = ".".join(str(part) for part in path) or "recipe"
        if item["type"] == "extra_forbidden":
            said[f"{name} is not a setting{_suggestion(path)}"] = None
        elif item["type"] == "missing":
            said[f"{name} is missing"] = None
        elif item["type"] == "value_error":
            said[f"{name} {item['ctx']['error']!s}"] = None
        else:
            about = {name: whole(value) for name, value in item.get("ctx", {}).items()}
            rule = _RULES[item["type"]].format(**about) if item["type"] in _RULES else item["msg"]
            rules.setdefault((name, _got(path, item["input"])), []).append(rule)
    for (name, got), several in rules.items():
        said[f"{name} must be {' or '.join(dict.fromkeys(several))}, got {got}"] = None
    return list(said)


def _got(path: Sequence[object], value: object) -> str:
    """Return a wrong value as text, unless it may hold a secret."""
    if isinstance(value, str | int | float | None) and "storage_options" not in path:
        return repr(value)
    return "settings" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def _is_setting(part: object) -> bool:
    """Whether a place in pydantic's path is a key or an index, not the name of a type it tried."""
    types = ("float", "int", "str", "tuple", "literal")
    return isinstance(part, int) or (
        re.fullmatch(r"[a-z_][a-z_0-9]*", str(part)) is not None and part not in types
    )


def _suggestion(path: Sequence[object]) -> str:
    nested: dict[str, type[BaseModel]] = {"source": Source, "embed": Embed, "cluster": Cluster}
    nested |= {"dedup": Dedup, "epsilon": DropShare, "select": Select, "write": Write, "limits": Limits}
    model: type[BaseModel] = Recipe
    for part in path[:-1]:
        model = nested.get(str(part), model)
    fields = list(model.model_fields)
    close = difflib.get_close_matches(str(path[-1]), fields, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(fields)}"
