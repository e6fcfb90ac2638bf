"""The recipe: what to read, how to embed, group, score, filter and select, and where to write.

A recipe is YAML, checked once into frozen models. Unknown keys are refused with a suggestion. Values
can be overridden by dotted names (``select.keep=0.2``). Secrets stand in a recipe only as ``${ENV}``.
"""

import copy
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import psutil
import pydantic
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from curate.errors import RecipeError, UsageError

__all__ = [
    "Cluster",
    "Dedup",
    "Embed",
    "Limits",
    "Recipe",
    "Select",
    "Source",
    "Write",
    "load_recipe",
    "parse_bytes",
    "parse_recipe",
    "parse_share",
    "read_yaml",
]

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "b": 1}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def parse_bytes(value: int | str) -> int:
    """Return a size in bytes from a number or a string such as ``4GB`` or ``512 MiB``.

    >>> parse_bytes("4GB"), parse_bytes("1 KiB"), parse_bytes(7)
    (4000000000, 1024, 7)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(value))
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"must be a size such as 4GB or 500MB, got {value!r}")
    size = Fraction(match[1]) * _UNITS[match[2].lower()]
    return size.numerator // size.denominator


def parse_share(value: float | str) -> float:
    """Return a share from a number or a percentage: ``0.3`` and ``30%`` are the same.

    >>> parse_share("30%"), parse_share(0.3)
    (0.3, 0.3)
    """
    text = str(value).strip()
    try:
        share = Fraction(text[:-1]) / 100 if text.endswith("%") else Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"must be a share such as 0.3 or 30%, got {value!r}") from None
    return float(share)


def _keep_share(value: float) -> float:
    if not 0 < value <= 1:
        raise ValueError(f"must be in (0, 1], got {value:g}")
    return value


def _share_limit(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"must be in [0, 1], got {value:g}")
    return value


def _preference(value: str) -> str:
    if value in ("hardest", "easiest", "random") or re.fullmatch(r"score:\S+", value):
        return value
    raise ValueError(f"must be hardest, easiest, random or score:<column>, got {value!r}")


def _none_word(value: object) -> object:
    return None if value == "none" else value


def _epsilon(value: object) -> object:
    if value in (None, "none"):
        return None
    if isinstance(value, Mapping) or (isinstance(value, float) and 0 < value < 1):
        return value
    raise ValueError(f"must be none, a number in (0, 1), or a share such as {{drop: 0.2}}, got {value!r}")


def _concepts(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"must be auto or a whole number of at least 1, got {value!r}")


Bytes = Annotated[int, BeforeValidator(parse_bytes)]
KeepShare = Annotated[float, BeforeValidator(parse_share), AfterValidator(_keep_share)]
Share = Annotated[float, BeforeValidator(parse_share), AfterValidator(_share_limit)]
Preference = Annotated[str, AfterValidator(_preference)]
Column = Annotated[str | None, BeforeValidator(_none_word)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Source(_Settings):
    """Where the samples are. A column may be `auto` (found by name and type), a name, or null."""

    path: str | tuple[str, ...]
    name: str = "source"
    image: Column = "auto"
    caption: Column = "auto"
    label: Column = "auto"
    uid: Column = None
    allow: tuple[Literal["url"], ...] = ()
    limit: Annotated[int, Field(ge=1)] | None = None
    storage_options: dict[str, Any] = Field(default_factory=dict)

    @property
    def patterns(self) -> list[str]:
        """The paths as a list."""
        return [self.path] if isinstance(self.path, str) else list(self.path)


class Embed(_Settings):
    """How samples become vectors: by a CLIP model, or by vectors that are already there."""

    model: str = "ViT-B-32"
    pretrained: str | None = None
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 256
    device: str = "auto"
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    max_pixels: Annotated[int, Field(ge=1)] = 100_000_000
    column: str | None = None
    files: str | tuple[str, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_way(cls, values: object) -> object:
        if isinstance(values, Mapping):
            ways = [key for key in ("model", "column", "files") if values.get(key) is not None]
            if len(ways) > 1:
                raise ValueError(f"takes one of model, column and files, got {' and '.join(ways)}")
            if not ways or (ways == ["model"] and values["model"] == "ViT-B-32"):
                return {"pretrained": "laion2b_s34b_b79k"} | dict(values)
        return values

    @property
    def own_vectors(self) -> bool:
        """Whether the vectors are given and no model runs."""
        return self.column is not None or self.files is not None


class Cluster(_Settings):
    """Concepts: spherical k-means; `auto` is sqrt(N), at most 100,000."""

    concepts: Annotated[Literal["auto"] | int, BeforeValidator(_concepts)] = "auto"
    on: Literal["image", "text"] = "image"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class DropShare(_Settings):
    """An epsilon given by the share of compared samples it is to drop."""

    drop: KeepShare


class Dedup(_Settings):
    """Copies (`exact`) and near-duplicates: similarity above 1 - epsilon within a concept."""

    exact: bool = True
    epsilon: Annotated[float | DropShare | None, BeforeValidator(_epsilon)] = None
    prefer: Preference = "hardest"
    mode: Literal["greedy", "reference"] = "greedy"
    inclusive: bool = False
    max_concept: Annotated[int, Field(ge=2)] = 50_000


class Select(_Settings):
    """Which samples to keep, and how many: a share (`keep`) or a number (`count`)."""

    method: Literal["density", "random", "prototypes"] = "density"
    keep: KeepShare | None = None
    count: Annotated[int, Field(ge=0, strict=True)] | None = None
    of: Literal["usable", "input", "eligible"] = "usable"
    at_most: bool = False
    prefer: Preference = "hardest"
    temperature: Annotated[float, Field(gt=0)] = 0.1
    neighbours: Annotated[int, Field(ge=1)] = 20
    min_per_concept: Annotated[int, Field(ge=0)] = 1
    complexity: Literal["inter*intra", "inter", "intra", "uniform", "size"] = "inter*intra"
    balance: Annotated[float, Field(ge=0, le=1)] = 0.0

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.keep is not None and self.count is not None:
            raise ValueError("takes keep (a share) or count (a number of samples), got both")
        if self.keep is None and self.count is None:
            raise ValueError("needs keep (a share) or count (a number of samples)")
        return self


class Write(_Settings):
    """The filtered shards: format, size, extra columns, and a second place to copy them to."""

    format: Literal["parquet"] = "parquet"
    max_shard_size: Annotated[Bytes, Field(ge=1)] = 500_000_000
    path: str | None = None
    columns: tuple[str, ...] = ()


class Limits(_Settings):
    """How much may go wrong before a run counts as failed."""

    unusable: Share = 0.05
    bad_shards: Annotated[int, Field(ge=0)] = 0


def _default_memory() -> int:
    return max(2 * 10**9, psutil.virtual_memory().total // 2)


def _listed(value: object) -> object:
    return [value] if isinstance(value, str | Mapping) else value


class Recipe(_Settings):
    """A whole recipe. `memory`, `engine` and `workers` never change a result."""

    run: str
    source: Annotated[tuple[Source, ...], BeforeValidator(_listed), Field(min_length=1)]
    embed: Embed = Field(default_factory=lambda: Embed.model_validate({}))
    cluster: Cluster = Cluster()
    score: tuple[Literal["clip_score"], ...] = ("clip_score",)
    filter: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    dedup: Dedup = Dedup()
    select: Select
    weight: Annotated[None, BeforeValidator(_none_word)] = None
    write: Write = Write()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    memory: Annotated[Bytes, Field(ge=10**9)] = Field(default_factory=_default_memory)
    engine: Literal["local"] = "local"
    workers: Annotated[Literal["auto"] | int, BeforeValidator(_concepts)] = "auto"
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [source.name for source in self.source]
        if len(set(names)) < len(names):
            raise ValueError(f"source: names must differ, got {', '.join(names)}")
        return self

    def to_yaml(self) -> str:
        """Return the recipe with every setting filled in; secrets stay the `${ENV}` they were."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Yaml(yaml.SafeLoader):
    """YAML in which only true and false are truth values, so that `on` can be a key."""


_Yaml.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))


def read_yaml(text: str) -> Any:  # noqa: ANN401  (YAML may hold anything)
    """Return what a YAML text holds, read safely."""
    return yaml.load(text, _Yaml)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, apply ``a.b=value`` overrides, and check it.

    Raises UsageError if the file cannot be read, RecipeError if a setting is wrong.
    """
    try:
        values = read_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"recipe {path} must hold settings such as 'source:', got {type(values).__name__}")
    return parse_recipe(override(values, overrides))


def override(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `values` with each ``a.b=value`` (the value read as YAML) put in its place."""
    result = copy.deepcopy(dict(values))
    for item in overrides:
        name, equals, text = item.partition("=")
        if not equals or not name:
            raise RecipeError(f"--set takes name=value, such as select.keep=0.2, got {item!r}")
        try:
            value = read_yaml(text)
        except yaml.YAMLError:
            raise RecipeError(f"--set {name}: {text!r} is not a YAML value") from None
        *parents, last = name.split(".")
        place = result
        for parent in parents:
            if isinstance(place.get(parent), list) and len(place[parent]) == 1:
                place = place[parent][0]
                continue
            if not isinstance(place.get(parent), dict):
                place[parent] = {}
            place = place[parent]
        place[last] = value
        if name == "select.keep":
            place.pop("count", None)
        if name == "select.count":
            place.pop("keep", None)
    return result


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """Check settings into a Recipe. Raises RecipeError naming each wrong one, its rule and value."""
    try:
        return Recipe.model_validate(dict(values))
    except pydantic.ValidationError as error:
        raise RecipeError("; ".join(dict.fromkeys(_messages(error)))) from None


def _messages(error: pydantic.ValidationError) -> Iterator[str]:
    for item in error.errors():
        path = [part for part in item["loc"] if _is_setting(part)]
        name = ".".join(str(part) for part in path) or "recipe"
        got = "" if isinstance(item.get("input"), Mapping) else f", got {item.get('input')!r}"
        match item["type"]:
            case "extra_forbidden":
                yield f"{name} is not a setting{_suggestion(path)}"
            case "missing":
                yield f"{name} is missing"
            case "value_error":
                yield f"{name} {item['ctx']['error']!s}"
            case _:
                yield f"{name}: {item['msg'][0].lower()}{item['msg'][1:]}{got}"


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
