"""Reading a recipe: YAML and overrides, checked into the models of `curate.recipe`, with messages for people.

Unknown keys are refused with a suggestion. Values can be overridden by dotted names (``select.keep=0.2``).
"""

import copy
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml
from pydantic import BaseModel

from curate.errors import RecipeError, UsageError
from curate.io.remote.cache import ensure_local
from curate.io.secrets import NO_PASSWORD, with_password
from curate.io.yaml import read_yaml
from curate.recipe import (
    FAMILIES,
    Against,
    Card,
    Cluster,
    Dedup,
    DropShare,
    Embed,
    Evaluate,
    Limits,
    Notify,
    Ray,
    Recipe,
    Remote,
    ScoreFilter,
    Source,
    Write,
    whole,
)
from curate.recipe.select import Select
from curate.selection.base import Selector
from curate.selection.registry import DEFAULT, selectors
from curate.selection.registry import owners as methods_with
from curate.settings import Settings
from curate.sources.settings import Captions
from curate.weighting.registry import owners as weights_with
from curate.weighting.registry import weighers

__all__ = ["load_recipe", "override", "parse_recipe", "parse_select"]


def load_recipe(
    path: str | Path, overrides: Sequence[str] = (), settings: Mapping[str, object] | None = None
) -> Recipe:
    """Read a recipe file and check it.

    Parameters
    ----------
    path : str or Path
        A YAML file, here or at a URL.
    overrides : list of str
        Settings in place of those of the file, as ``a.b=value``.
    settings : dict, optional
        The same by dotted name, with any value; they win over `overrides`.

    Returns
    -------
    Recipe
        All settings, with defaults filled in.

    Raises
    ------
    UsageError
        If the file cannot be read.
    RecipeError
        If a setting is wrong.
    """
    try:
        values = read_yaml(ensure_local(Path(path)).read_text(encoding="utf-8"))
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
    "select.per": ("shares",),
    "cluster.concepts": ("given",),
    "cluster.given": ("concepts",),
    "embed.model": ("pretrained", "column", "text_column", "files", "array"),
    "embed.column": ("model", "pretrained", "files", "array"),
    "embed.files": ("model", "pretrained", "column", "text_column"),
}


def override(
    values: Mapping[str, Any], overrides: Sequence[str] = (), settings: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Return `values` with each ``a.b=value`` (the value read as YAML) and then `settings` in their place.

    A setting of `source` goes to every source, ``score.heads.seeds`` to the family heads, which is added to the
    list where it is not in it.
    """
    named = dict(_parse_override(item) for item in overrides) | dict(settings or {})
    result = copy.deepcopy(dict(values))
    for name, value in named.items():
        *parents, last = name.split(".")
        places = [result]
        if parents == ["score"]:
            _replace(_family(result, last), name, value)
            continue
        if parents[:1] == ["score"]:
            places, parents = _family(result, parents[1]), parents[2:]
        for parent in parents:
            places = [inner for place in places for inner in _inside(place, parent)]
        for place in places:
            if value != place.get(last):
                for other in _INSTEAD_OF.get(name, ()):
                    if ".".join([*parents, other]) not in named:
                        place.pop(other, None)
            place[last] = value
    _settle_budget(result, named)
    _forget_defaults(values, result, named)
    return result


def _settle_budget(values: dict[str, Any], named: Mapping[str, object]) -> None:
    """Let method `all` end the share or number there was, and a new share or number end method `all`."""
    select = values.get("select")
    if not isinstance(select, dict) or select.get("method") != "all":
        return
    if "select.method" in named:
        for name in ("keep", "count"):
            if f"select.{name}" not in named:
                select.pop(name, None)
    elif {"select.keep", "select.count"} & set(named):
        del select["method"]


def _forget_defaults(before: Mapping[str, Any], values: dict[str, Any], named: Mapping[str, object]) -> None:
    """Let another method do by itself what the one before did by itself in its own way.

    A run's recipe holds every setting: those that are the old method's defaults are not meant for the new one.
    """
    select, known = values.get("select"), selectors()
    old = (before.get("select") or {}).get("method", DEFAULT)
    new = select.get("method", DEFAULT) if isinstance(select, dict) else old
    if not isinstance(select, dict) or old == new or not {old, new} <= set(known):
        return
    of_old, of_new = known[old].model_fields, known[new].model_fields
    for name in (of_old.keys() & of_new.keys()) - {"method", "keep", "count"}:
        default = of_old[name].default
        if f"select.{name}" not in named and select.get(name, default) == default != of_new[name].default:
            select.pop(name, None)
    if old == "auto" and "select.at_most" not in named:  # it came with the near-duplicates that auto drops
        select.pop("at_most", None)
    if "select.by" not in named and (known[old].own_score or known[new].own_score):
        select.pop("by", None)


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
    if key in ("source", "against"):
        below = [{"path": one} if isinstance(one, str) else one for one in _as_list(below)]
        place[key] = below
    if key == "weight" and isinstance(below, str) and below != "none":
        place[key] = below = {"method": below}
    if isinstance(below, list) and below and all(isinstance(one, dict) for one in below):
        return below
    if not isinstance(below, dict):
        below = place[key] = {}
    return [below]


def _family(values: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the settings of each entry of `score` that has this kind or name; one is added where none has."""
    given = _as_list(values.get("score", "clip_score"))
    entries = values["score"] = [{one: {}} if isinstance(one, str) else one for one in given]
    found = []
    for entry in entries:
        if not isinstance(entry, dict) or not entry:
            continue
        kind, settings = _kind(entry), entry
        if kind in entry and kind != "file":
            settings = entry[kind] = {} if entry[kind] is None else entry[kind]
        if isinstance(settings, dict) and name in (kind, settings.get("name")):
            found.append(settings)
    if not found:
        found = [{}]
        entries.append(found[0] if name == "file" else {name: found[0]})
    return found


def _replace(places: list[dict[str, Any]], name: str, value: object) -> None:
    """Put other settings in the place of those of a family."""
    if name == "score.file":
        value = {"file": value}
    if not isinstance(value, Mapping):
        raise RecipeError(f"--set {name} takes settings, such as {name}={{...}}, got {value!r}")
    for place in places:
        place.clear()
        place.update(value)


def _as_list(value: object) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """Check settings and fill in defaults.

    Parameters
    ----------
    values : dict
        Sections and settings, as in a recipe file.

    Returns
    -------
    Recipe
        All settings.

    Raises
    ------
    RecipeError
        Naming each wrong setting, its rule and value.
    """
    if bare := [_name(path, values) for path, text in _texts(values) if with_password(text)]:
        raise RecipeError("; ".join(f"{name} {NO_PASSWORD}" for name in bare))
    try:
        return Recipe.model_validate(dict(values))
    except pydantic.ValidationError as error:
        raise RecipeError("; ".join(_messages(error, values))) from None


def parse_select(values: Mapping[str, Any]) -> Selector:
    """Check the settings of a selection by themselves. Raises RecipeError as `parse_recipe` does."""
    try:
        return _Selection.model_validate({"select": dict(values)}).select
    except pydantic.ValidationError as error:
        raise RecipeError("; ".join(_messages(error, {"select": values}))) from None


def _texts(value: object, path: tuple[object, ...] = ()) -> Iterator[tuple[list[object], str]]:
    """Yield the texts in settings with their places, but for those of the source and others that have rules of their own."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in _OWN_RULES and (path or key != "source"):
                yield from _texts(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from _texts(inner, (*path, place))
    elif isinstance(value, str) and not _is_condition(path):
        yield list(path), value


def _is_condition(path: tuple[object, ...]) -> bool:
    """Return True for the place of a condition in SQL, in which an address may be compared with."""
    return path == ("filter",) or (len(path) == 2 and path[0] == "filter" and isinstance(path[1], int))


class _Selection(Settings):
    """A recipe of which only the selection counts."""

    select: Select


#: Settings whose texts are looked at where they are defined: `redacted`, `Notify`.
_OWN_RULES = frozenset({"storage_options", "webhook", "command"})

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
    "model_attributes_type": "a family or settings",
    "model_type": "settings",
    "string_too_short": "some text",
    "string_type": "text",
    "string_unicode": "text in UTF-8",
    "too_short": "a list of at least {min_length}",
    "tuple_type": "a list",
}


def _messages(error: pydantic.ValidationError, given: Mapping[str, Any]) -> list[str]:
    """Return one message per wrong setting: its name, the rule, and what it is."""
    said: dict[str, None] = {}
    rules: dict[tuple[str, str], list[str]] = {}
    for item in error.errors():
        path, method = _without_method([part for part in item["loc"] if _is_setting(part)])
        name, kind = _name(path, given), item["type"]
        if kind == "extra_forbidden":
            said[f"{name} is not a setting{_of_another(path, method) or _suggestion(path, method)}"] = None
        elif kind == "missing":
            said[f"{name} is missing"] = None
        elif kind == "union_tag_not_found":
            said[f"{name}.method is missing"] = None
        elif kind == "union_tag_invalid" and path[:1] in (["select"], ["weight"]):
            known = " or ".join(item["ctx"]["expected_tags"].rsplit(", ", 1))
            said[f"{name}.method must be {known}, got {_got(path, _tag(item['input']))}"] = None
        elif kind == "union_tag_invalid":
            tag = str(item["ctx"]["tag"])
            said[f"score: no family {tag!r}{_did_you_mean(tag, list(FAMILIES))}"] = None
        elif kind == "value_error":
            said[_sentence(name, str(item["ctx"]["error"]))] = None
        elif not (kind == "string_type" and path[:1] == ["filter"] and isinstance(item["input"], Mapping)):
            about = {name: whole(value) for name, value in item.get("ctx", {}).items()}
            rule = _RULES[kind].format(**about) if kind in _RULES else item["msg"]
            rules.setdefault((name, _got(path, item["input"])), []).append(rule)
    for (name, got), several in rules.items():
        said[f"{name} must be {' or '.join(dict.fromkeys(several))}, got {got}"] = None
    return list(said)


def _without_method(path: list[object]) -> tuple[list[object], str]:
    """Return a path without the method whose settings it is in, and that method ("" where there is none)."""
    if len(path) > 1 and path[0] in ("select", "weight") and path[1] in _METHODS[str(path[0])]():
        return [path[0], *path[2:]], str(path[1])
    return path, ""


def _of_another(path: Sequence[object], method: str) -> str:
    """Return which other methods have a setting, if any has it."""
    if not method:
        return ""
    found = (methods_with if path[0] == "select" else weights_with)(str(path[-1]))
    return f" of method {method}; it belongs to {', '.join(found)}" if found else ""


def _tag(value: object) -> object:
    """Return the method that settings name."""
    return value.get("method") if isinstance(value, Mapping) else value


def _name(path: Sequence[object], given: Mapping[str, Any]) -> str:
    """Return what a setting is called: places in a list only where the list has several."""
    parts = list(path)
    if parts[:1] in (["source"], ["filter"]) and len(_as_list(given.get(str(parts[0])))) < 2:
        del parts[1:2]
    elif parts[:1] == ["score"] and len(parts) > 2:
        kinds = [_kind(entry) for entry in _as_list(given.get("score"))]
        if kinds.count(str(parts[2])) < 2:
            del parts[1]
        if parts[-2:] == ["file", "file"]:
            del parts[-1]
    return ".".join(map(str, parts)) or "recipe"


def _kind(entry: object) -> str:
    """Return the family of an entry of `score`."""
    if not isinstance(entry, Mapping):
        return str(entry)
    return "file" if "file" in entry else str(entry.get("family") or next(iter(entry), ""))


def _sentence(name: str, said: str) -> str:
    """Return what is wrong with a setting; what is said of the whole recipe may name the setting itself."""
    return said if name == "recipe" and said.partition(" ")[0] in Recipe.model_fields else f"{name} {said}"


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


#: The models below a setting, by its name wherever it stands.
_NESTED: dict[str, type[BaseModel]] = {
    "source": Source, "embed": Embed, "cluster": Cluster, "dedup": Dedup, "epsilon": DropShare,
    "write": Write, "limits": Limits, "filter": ScoreFilter,
    "card": Card, "caption": Captions, "against": Against, "target": Source, "notify": Notify, "ray": Ray, "remote": Remote,
    "evaluate": Evaluate,
}  # fmt: skip


#: The classes of methods, below the settings that name one.
_METHODS: dict[str, Callable[[], Mapping[str, type[BaseModel]]]] = {"select": selectors, "weight": weighers}


def _suggestion(path: Sequence[object], method: str = "") -> str:
    model: type[BaseModel] = _METHODS[str(path[0])]()[method] if method else Recipe
    for part in path[:-1]:
        model = _NESTED.get(str(part), model)
        if path[0] == "score":
            model = FAMILIES.get(str(part), model)
    return _did_you_mean(str(path[-1]), [name for name in model.model_fields if name != "family"])


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"
