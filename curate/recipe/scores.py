"""Which scores are computed: one model per family, as they stand in the list `score` of a recipe.

A family is named alone (`pair`), with its settings (`{pair: {batch: 2048}}`), or is a table of the user's
own (`{file: my.parquet}`).
"""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from curate.recipe.source import Source
from curate.recipe.types import Count, Settings, listed

__all__ = [
    "FAMILIES",
    "ClipScore",
    "Color",
    "External",
    "Family",
    "Fuse",
    "Heads",
    "HigherIs",
    "Noise",
    "NormSim",
    "Pair",
    "Pixels",
    "dumped",
    "stored_folders",
    "tagged",
]

#: Folders below 3_scores that have a meaning of their own.
_RESERVED = ("clip_score", "pair", "heads", "pixels", "normsim", "noise", "color", "filter", "against")


def _epochs(value: int) -> int:
    if value == 0:
        raise ValueError(
            "must be at least 1, got 0: scores of untrained weights (GraNd at initialisation) follow the "
            "length of the input and are known not to find hard samples"
        )
    if value < 0:
        raise ValueError(f"must be at least 1, got {value}")
    return value


def _folds(value: int) -> int:
    if value != 0 and not 2 <= value <= 255:
        raise ValueError(f"must be 0 (score what was trained on) or in [2, 255], got {value}")
    return value


def _name(value: str) -> str:
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", value) and value not in _RESERVED:
        return value
    raise ValueError(f"must be letters, digits, _ . - and no family of curate, got {value!r}")


AtLeastOne = Annotated[Count, Field(ge=1)]
Epochs = Annotated[Count, AfterValidator(_epochs)]
Folds = Annotated[Count, AfterValidator(_folds)]
Name = Annotated[str, AfterValidator(_name)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
HigherIs = Literal["harder", "noisier", "easier", "better"]


class _Scored(Settings):
    """What all families have: a kind, a folder name, and the score columns that must be there first."""

    family: str

    @property
    def folder(self) -> str:
        """The name of the family's folder below 3_scores."""
        return self.family

    @property
    def needs(self) -> tuple[str, ...]:
        """Score columns this family is computed from."""
        return ()


class ClipScore(_Scored):
    """The cosine of image and caption."""

    family: Literal["clip_score"] = "clip_score"


class Pair(_Scored):
    """Contrastive scores of image-text pairs; temperature `auto` is that of the model."""

    family: Literal["pair"] = "pair"
    batch: Annotated[Count, Field(ge=2)] = 4096
    repeats: AtLeastOne = 5
    temperature: Literal["auto"] | Positive = "auto"
    mask_copies: bool = True
    el2n: bool = True
    grand: bool = True


class _Trained(_Scored):
    """What heads and pixel networks share: seeds, epochs, folds, and what stands for a label."""

    labels: Literal["auto", "label", "concept"] = "auto"
    seeds: AtLeastOne = 10
    first_seed: Annotated[Count, Field(ge=0)] = 0
    epochs: Epochs = 5
    score_epochs: tuple[Epochs, ...] | None = None
    folds: Folds = 5
    min_class: AtLeastOne | None = None

    @model_validator(mode="after")
    def _scored_epochs(self) -> Self:
        if self.score_epochs is not None and not (
            self.score_epochs and max(self.score_epochs) <= self.epochs
        ):
            raise ValueError(f"score_epochs must be in [1, {self.epochs}] and not empty")
        return self


class Heads(_Trained):
    """Small heads on the embeddings: trained (mlp, linear), or given (zeroshot by class names, concepts).

    batch `auto` : the largest power of two up to 1,024 that makes 50 steps an epoch. class_names : what a
    label is called in the prompts of zeroshot, by label; the label itself where it is not named.
    """

    family: Literal["heads"] = "heads"
    kind: Literal["mlp", "linear", "zeroshot", "concepts"] = "mlp"
    hidden: AtLeastOne = 512
    batch: Literal["auto"] | AtLeastOne = "auto"
    rate: Positive = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    normalise: Literal["standardize", "l2"] = "standardize"
    templates: Annotated[tuple[str, ...], BeforeValidator(listed), Field(min_length=1)] = ("a photo of a {}",)
    class_names: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _placeholders(self) -> Self:
        wrong = next((text for text in self.templates if "{}" not in text), None)
        if wrong is not None:
            raise ValueError(f"templates must hold {{}} where the class name goes, got {wrong!r}")
        return self


class Pixels(_Trained):
    """ResNets trained on the decoded images, as in Data Diet; `size` is the edge images are brought to."""

    family: Literal["pixels"] = "pixels"
    seeds: AtLeastOne = 5
    folds: Folds = 0
    size: Annotated[Count, Field(ge=8, le=512)] = 32
    width: AtLeastOne = 64
    blocks: Annotated[tuple[AtLeastOne, ...], Field(min_length=1)] = (2, 2, 2, 2)
    batch: AtLeastOne = 128
    rate: Positive = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    decay: Annotated[float, Field(ge=0)] = 5e-4
    augment: bool = True
    grand: bool = True
    device: str = "auto"


class NormSim(_Scored):
    """How near samples are to a target set: a source, or vectors in .npy files."""

    family: Literal["normsim"] = "normsim"
    target: Source


class Noise(_Scored):
    """How probable it is that a label is wrong, from a column of losses and (linear) from the embeddings."""

    family: Literal["noise"] = "noise"
    loss: str = "loss"
    linear: bool = True

    @property
    def needs(self) -> tuple[str, ...]:
        """The losses."""
        return (self.loss,)


class Color(_Scored):
    """CoLoR-Filter: what a sample's loss falls by when the model has seen the target, prior - conditional."""

    family: Literal["color"] = "color"
    prior: str
    conditional: str

    @property
    def needs(self) -> tuple[str, ...]:
        """Both losses."""
        return (self.prior, self.conditional)


class Fuse(_Scored):
    """One column out of several: a weighted mean of their ranks (or of what min-max makes of them)."""

    family: Literal["fuse"] = "fuse"
    name: Name = "fused"
    columns: Annotated[dict[str, float], Field(min_length=1)]
    scale: Literal["rank", "minmax"] = "rank"
    per: Literal["concept", "label"] | None = None
    higher_is: HigherIs = "harder"

    @property
    def folder(self) -> str:
        """The name of the column is that of the folder."""
        return self.name

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns that are fused."""
        return tuple(self.columns)

    @model_validator(mode="after")
    def _weights(self) -> Self:
        values = self.columns.values()
        if not all(abs(value) < float("inf") for value in values) or not any(values):
            raise ValueError(f"columns must have finite weights, not all 0, got {dict(self.columns)}")
        return self


class External(_Scored):
    """Scores of the user's own: a Parquet file with a uid column and columns of numbers."""

    family: Literal["file"] = "file"
    file: Annotated[str, Field(min_length=1)]
    name: Name = "auto"
    on: str = "uid"
    columns: Annotated[tuple[str, ...], BeforeValidator(listed)] | Literal["auto"] = "auto"
    higher_is: HigherIs = "harder"
    on_missing: Literal["error", "null"] = "error"

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:  # noqa: ANN401  (what stands in a recipe)
        if not isinstance(values, Mapping) or values.get("name", "auto") != "auto":
            return values
        stem = PurePosixPath(str(values.get("file"))).stem
        name = re.sub(r"[^A-Za-z0-9_-]", "_", stem) or "file"
        free = name[0].isascii() and name[0].isalpha() and name not in _RESERVED
        return {**values, "name": name if free else f"file_{name}"}

    @property
    def folder(self) -> str:
        """The name the user gave, or that of the file."""
        return self.name


Family = Annotated[
    ClipScore | Pair | Heads | Pixels | NormSim | Noise | Color | Fuse | External,
    Field(discriminator="family"),
]
FAMILIES: dict[str, type[_Scored]] = {
    "clip_score": ClipScore, "pair": Pair, "heads": Heads, "pixels": Pixels, "normsim": NormSim,
    "noise": Noise, "color": Color, "fuse": Fuse, "file": External,
}  # fmt: skip


def tagged(entries: object) -> object:
    """Return the list `score` of a recipe with the family of each entry written out, for checking.

    >>> tagged(["pair", {"heads": {"seeds": 3}}, {"file": "x.parquet"}])
    [{'family': 'pair'}, {'seeds': 3, 'family': 'heads'}, {'file': 'x.parquet', 'family': 'file'}]
    """
    entries = listed(entries)
    if entries is None:
        return ()
    return [_tagged(entry) for entry in entries] if isinstance(entries, list | tuple) else entries


def _tagged(entry: object) -> object:
    if isinstance(entry, str):
        return {"family": entry}
    if not isinstance(entry, Mapping) or "family" in entry:
        return entry
    if "file" in entry:
        return {**entry, "family": "file"}
    if len(entry) == 1:
        name, settings = next(iter(entry.items()))
        if isinstance(settings, Mapping) or settings is None:
            return {**(settings or {}), "family": name}
    known = ", ".join(FAMILIES)
    raise ValueError(f"must list families ({known}), each alone or with settings, got {dict(entry)!r}")


def dumped(family: _Scored) -> object:
    """Return a family as it stands in a recipe: with every setting, except where there is none."""
    values = family.model_dump(mode="json", exclude={"family"})
    if family.family == "file":
        return values
    return {family.family: values} if values else family.family


def stored_folders(recipe: Mapping[str, Any]) -> list[str]:
    """Return the folders below 3_scores that belong to a recipe as it is written into a run, sorted.

    >>> stored_folders({"score": ["pair", {"file": "x.parquet", "name": "mine"}], "dedup": {}})
    ['mine', 'pair']
    """
    entries: Any = tagged(recipe["score"])
    named = [entry["name"] if entry["family"] in ("file", "fuse") else entry["family"] for entry in entries]
    against = [f"against-{one['name']}" for one in recipe["dedup"].get("against") or ()]
    return sorted([*named, *against])
