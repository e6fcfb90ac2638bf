"""The settings of a recipe: what to read, how to embed, group, filter and select, and where to write.

Frozen models, checked once; `config` reads them from YAML and says what is wrong. Secrets belong into a
recipe as ``${ENV}``; one that stands there literally works, and is written nowhere.
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import psutil
import pydantic
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from curate.redact import HIDDEN, redacted, with_password

__all__ = [
    "Cluster",
    "Dedup",
    "DropShare",
    "Embed",
    "Limits",
    "Recipe",
    "Select",
    "Source",
    "Write",
    "parse_bytes",
    "parse_share",
    "whole",
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
    if isinstance(value, float) and 0 < value < 1:
        return value
    if isinstance(value, Mapping) and set(value) == {"drop"}:
        try:
            return DropShare.model_validate(value)
        except pydantic.ValidationError as error:
            raise ValueError(f"is not a share: drop {error.errors()[0]['ctx']['error']!s}") from None
    raise ValueError(f"must be none, a number in (0, 1), or a share such as {{drop: 0.2}}, got {value!r}")


def _default_memory() -> int:
    return max(2 * 10**9, int(psutil.virtual_memory().total) // 2)


def _listed(value: object) -> object:
    return [value] if isinstance(value, str | Mapping) else value


def _concepts(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"must be auto or a whole number of at least 1, got {value!r}")


def whole(value: object) -> object:
    """Return a float that is a whole number as an int, anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _enough_memory(value: int) -> int:
    if value < 10**9:
        raise ValueError(f"must be at least 1GB, got {value / 10**6:g}MB")
    return value


def _folder(value: str) -> str:
    """Return a folder of this machine, with `~` filled in."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", value):
        raise ValueError(f"must be a folder on this machine, got {value!r}")
    return str(Path(value).expanduser()) if value.startswith("~") else value


Bytes = Annotated[int, BeforeValidator(parse_bytes)]
KeepShare = Annotated[float, BeforeValidator(parse_share), AfterValidator(_keep_share)]
Share = Annotated[float, BeforeValidator(parse_share), AfterValidator(_share_limit)]
Preference = Annotated[str, AfterValidator(_preference)]
Folder = Annotated[str, Field(min_length=1), AfterValidator(_folder)]
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
    storage_options: dict[str, Any] = Field(default_factory=dict, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, values: object) -> object:
        return {"path": values} if isinstance(values, str) else values

    @field_validator("path")
    @classmethod
    def _some_path(cls, path: str | tuple[str, ...]) -> str | tuple[str, ...]:
        texts = [path] if isinstance(path, str) else path
        if not texts or not all(texts):
            raise ValueError("must not be empty")
        if any(map(with_password, texts)):
            raise ValueError("must not hold a password; give it in storage_options, as ${NAME}")
        return path

    @field_validator("storage_options")
    @classmethod
    def _kept(cls, options: dict[str, Any]) -> dict[str, Any]:
        if HIDDEN in str(options):
            raise ValueError(
                f"hold {HIDDEN} where a secret was; give it as ${{NAME}}, or run the first recipe"
            )
        return options

    @field_serializer("storage_options")
    def _without_secrets(self, options: dict[str, Any]) -> object:
        return redacted(options)

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

    @model_serializer(mode="wrap")
    def _one_way_out(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the model where none runs, so that what is written can be read again."""
        values: dict[str, Any] = handler(self)
        without = ("model", "pretrained") if self.own_vectors else ()
        return {name: value for name, value in values.items() if name not in without}

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
    count: Annotated[Annotated[int, Field(ge=0, strict=True)] | None, BeforeValidator(whole)] = None
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
    path: Folder | None = None
    columns: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()


class Limits(_Settings):
    """How much may go wrong before a run counts as failed."""

    unusable: Share = 0.05
    bad_shards: Annotated[int, Field(ge=0)] = 0


class Recipe(_Settings):
    """A whole recipe. `memory`, `engine` and `workers` never change a result."""

    run: Folder
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
    memory: Annotated[Bytes, AfterValidator(_enough_memory)] = Field(default_factory=_default_memory)
    engine: Literal["local"] = "local"
    workers: Annotated[Literal["auto"] | int, BeforeValidator(_concepts)] = "auto"
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [source.name for source in self.source]
        if len(set(names)) < len(names):
            raise ValueError(f"needs sources of different names, got {', '.join(names)}; set source.name")
        return self

    def to_yaml(self) -> str:
        """Return the recipe with every setting filled in, without secrets; `${ENV}` stays as it is."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
