"""The recipe of a filter: which pairs it is trained on, what kind of model it is, and how it is trained."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
import yaml
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from curate.errors import RecipeError, UsageError
from curate.io import storage
from curate.io.yaml import read_yaml
from curate.recipe import Embed, Recipe, ScoreFilter, Source
from curate.recipe.loading import override, parse_recipe
from curate.recipe.types import Bytes, default_memory, enough_memory
from curate.selection.everything import All
from curate.settings import Count, Folder, Settings, Share, listed

__all__ = ["Augment", "FilterRecipe", "Mix", "TrainingSet", "load_filter_recipe", "parse_filter_recipe"]

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Some = Annotated[Count, Field(ge=1)]


class TrainingSet(Settings):
    """Which pairs: those of a source, or those of a run that meet conditions on its columns.

    filter : as in a recipe; the top 5 % of each concept by clip_score is {by: clip_score, quantile: 95%, per: concept}.
    kept : those that the run keeps. sample : a random share of what is left; count : a random number of them.
    """

    source: Annotated[tuple[Source, ...], BeforeValidator(listed)] = ()
    run: Folder | None = None
    filter: Annotated[tuple[str | ScoreFilter, ...], BeforeValidator(listed)] = ()
    kept: bool = False
    sample: Share | None = None
    count: Some | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if bool(self.source) == (self.run is not None):
            raise ValueError("needs one of source and run")
        if self.run is None and (self.filter or self.kept):
            raise ValueError(
                "takes filter and kept with run, whose columns they are about; a source has no scores yet"
            )
        if self.sample is not None and self.count is not None:
            raise ValueError("takes one of sample and count")
        return self


class Augment(Settings):
    """How pictures are altered at each step of kind full: cut to at least `scale` of a side, mirrored, recoloured."""

    scale: Annotated[float, Field(gt=0, le=1)] = 0.9
    flip: bool = False
    colour: Annotated[float, Field(ge=0, le=1)] = 0.0


class Mix(Settings):
    """What one source of several is in a batch: its share, and how its pictures are altered (by default as all are)."""

    share: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    augment: Augment | None = None


class FilterRecipe(Settings):
    """A whole recipe of a filter. `device`, `memory` and `threads` are what the machine decides.

    kind : adapter (two linear maps over vectors that are there), full (an open_clip model), head (a linear head over
    labels, for losses of labelled images). set : the good pairs. start : a filter to train on from. against : uids, runs and
    sources that must share nothing with the set. model : of kind full, `tiny`, a name of open_clip (with `pretrained`, or
    from random weights), or the JSON configuration of one; half : write it in half precision. Numbers left out are those of the kind (`DEFAULTS`).
    """

    out: Folder
    kind: Literal["adapter", "full", "head"] = "adapter"
    set: TrainingSet
    embed: Embed = Field(default_factory=lambda: Embed.model_validate({}))
    start: Folder | None = None
    against: Annotated[tuple[str | Source, ...], BeforeValidator(listed)] = ()
    model: str | None = None
    pretrained: str | None = None
    mix: dict[str, Mix] = Field(default_factory=dict)
    augment: Augment = Augment()
    wordings: bool = False
    epochs: Some | None = None
    batch: Annotated[Count, Field(ge=2)] | None = None
    rate: Rate | None = None
    decay: Decay | None = None
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    hard: Annotated[float, Field(ge=0, le=1)] = 0.5
    alpha: Rate = 1.0
    noise: Decay = 0.3
    members: Some | None = None
    validation: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    background: Annotated[Count, Field(ge=0)] = 2048
    half: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    device: str = "auto"
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    threads: Some = 1
    memory: Annotated[Bytes, AfterValidator(enough_memory)] = Field(default_factory=default_memory)

    @model_validator(mode="before")
    @classmethod
    def _embedded(cls, values: object) -> object:
        if isinstance(values, Mapping) and values.get("kind") == "full" and values.get("embed") is None:
            return {**values, "embed": {"model": "tiny"}}  # only neighbours are found by these vectors
        return values

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        if self.kind == "full" and self.model is None and self.start is None:
            raise ValueError(
                "needs model (tiny, a name of open_clip or a JSON configuration) or start with kind full"
            )
        if self.kind != "full" and (self.model is not None or self.pretrained is not None or self.mix):
            raise ValueError(f"takes model, pretrained and mix with kind full only, got kind {self.kind}")
        if self.start is not None and self.model is not None:
            raise ValueError("takes one of start and model: a filter to train on from is a model")
        names = {one.name for one in self.set.source}
        if self.mix and names != set(self.mix):
            raise ValueError(
                f"must say the share of each source in mix: {', '.join(sorted(names)) or 'set.source has none'}, "
                f"got {', '.join(self.mix)}"
            )
        size, total = self.value("batch"), sum(one.share for one in self.mix.values())
        if none := [name for name, one in self.mix.items() if int(one.share / total * size) < 1]:
            raise ValueError(
                f"must give {none[0]} a row of each batch in mix; raise its share or batch ({size})"
            )
        return self

    def run_of(self, sources: Sequence[Source], folder: Path) -> Recipe:
        """Return the recipe of a run that reads and embeds sources. Raises RecipeError for some that no run takes."""
        own = {"run": str(folder), "source": tuple(sources), "embed": self.embed, "memory": self.memory}
        return parse_recipe({**own, "score": (), "select": All()})

    def value(self, name: str) -> Any:  # noqa: ANN401  (numbers of several kinds)
        """Return a setting, or what its kind of filter does by default."""
        given = getattr(self, name)
        return DEFAULTS[self.kind][name] if given is None else given

    def fingerprinted(self) -> dict[str, Any]:
        """Return the settings that decide the weights, beside the pairs."""
        machine = {
            "out",
            "set",
            "embed",
            "against",
            "device",
            "precision",
            "threads",
            "memory",
            "start",
            "model",
            "pretrained",
        }
        filled = {name: self.value(name) for name in DEFAULTS[self.kind]}
        return self.model_dump(mode="json", exclude=machine) | filled


#: What each kind does where the recipe says nothing. epochs 0: as many as make 200 steps, 5 at least and 200 at most.
DEFAULTS: dict[str, dict[str, Any]] = {
    "adapter": {"epochs": 0, "batch": 1024, "rate": 1e-3, "decay": 1.0, "members": 1},
    "head": {"epochs": 0, "batch": 1024, "rate": 1e-2, "decay": 0.01, "members": 1},
    "full": {"epochs": 0, "batch": 128, "rate": 1e-4, "decay": 0.1, "members": 1},
}


def load_filter_recipe(path: str | Path, overrides: Sequence[str] = ()) -> FilterRecipe:
    """Read the recipe of a filter. overrides : ``rate=1e-4``. Raises UsageError and RecipeError as `load_recipe` does."""
    try:
        values = read_yaml(storage.ensure_local(Path(path)).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"recipe {path} must hold settings such as 'set:', got {type(values).__name__}")
    return parse_filter_recipe(override(values, overrides))


def parse_filter_recipe(values: Mapping[str, Any]) -> FilterRecipe:
    """Check the settings of a filter. Raises RecipeError naming each wrong one, its rule and value."""
    try:
        return FilterRecipe.model_validate(dict(values))
    except pydantic.ValidationError as error:
        raise RecipeError("; ".join(dict.fromkeys(_said(item) for item in error.errors()))) from None


def _said(item: Mapping[str, Any]) -> str:
    """Return one sentence about a wrong setting."""
    name = (
        ".".join(str(part) for part in item["loc"] if isinstance(part, str) and part.isidentifier())
        or "recipe"
    )
    if item["type"] == "extra_forbidden":
        last = name.rpartition(".")[2]
        known = [
            *FilterRecipe.model_fields,
            *TrainingSet.model_fields,
            *Augment.model_fields,
            *Embed.model_fields,
        ]
        close = difflib.get_close_matches(last, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(FilterRecipe.model_fields)}"
        return f"{name} is not a setting; {hint}"
    if item["type"] == "missing":
        return f"{name} is missing"
    if item["type"] == "value_error":
        return f"{name} {item['ctx']['error']}"
    got = item["input"]
    shown = repr(got) if isinstance(got, str | int | float | None) else f"a {type(got).__name__}"
    rule = item["msg"][0].lower() + item["msg"][1:]
    return f"{name}: {rule}, got {shown}"
