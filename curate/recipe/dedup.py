"""Which samples are alike: concepts, copies and near-duplicates, and rows too near an evaluation set."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from curate.clustering.levels import checked_levels
from curate.recipe.types import (
    Count,
    KeepShare,
    Paths,
    Preference,
    Settings,
    Share,
    count_or_auto,
    listed,
    none_word,
    parse_share,
)
from curate.scores.leakage import Against

__all__ = ["Cluster", "Dedup", "DropShare", "PrecisionTarget"]

#: Settings of near-duplicates that came after there were runs.
_NEWER = ("across_captions", "recall", "confirm")


class Cluster(Settings):
    """Concepts: spherical k-means; `auto` is sqrt(N), at most 100,000.

    on : the vectors that are clustered: of images, of captions (text), or both side by side. With text and both a sample without
    a caption cannot be used (`no_caption`). Near-duplicates are compared by captions with text, else by images.
    levels : in the place of `concepts`, concepts in levels (`curate.clustering.hierarchy`): so many of the rows, so many of
    their centroids, and so on. A row's concept is one of the first level; `parents` says which ones of the others it is in.
    resamples, resample_members : how often each level is clustered anew, from so many members nearest to each centroid
    (auto: half of the mean number); they count with levels only. Ten times made a fit take seven times as long.
    given : in its place, a clustering that is there: files of sorted clusters as SemDeDup writes them.
    precision : what k-means is trained in. float32 is FAISS. int8 rounds the rows to 8 bits, and takes about a tenth of the time of
    a large fit; its result is the same on every processor. auto is int8 from 10^10 products in a round on (rows of the sample
    x concepts x width), where it pays.
    drift_warn, drift_refit : shares from which data that has grown since the fit is warned about, and from
    which --refit is proposed (`curate.clustering.drift`).
    """

    concepts: Annotated[Literal["auto"] | int, BeforeValidator(count_or_auto)] = "auto"
    on: Literal["image", "text", "both"] = "image"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    levels: Annotated[tuple[int, ...], BeforeValidator(checked_levels)] | None = None
    resamples: Annotated[Count, Field(ge=0, le=1000)] = 10
    resample_members: Annotated[Literal["auto"] | int, BeforeValidator(count_or_auto)] = "auto"
    precision: Literal["auto", "float32", "int8"] = "auto"
    given: Paths | None = None
    drift_warn: Share = 0.03
    drift_refit: Share = 0.1
    vocabulary: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.given is not None and self.concepts != "auto":
            raise ValueError("takes one of concepts and given: given clusters have their own number")
        if self.levels is not None and (self.given is not None or self.concepts != "auto"):
            other = "given" if self.given is not None else "concepts"
            raise ValueError(
                f"takes one of levels and {other}: the first of levels is the number of concepts"
            )
        if self.drift_warn > self.drift_refit:
            raise ValueError(
                f"needs drift_warn up to drift_refit, got {self.drift_warn:g} and {self.drift_refit:g}"
            )
        return self

    @property
    def compared(self) -> Literal["image", "text"]:
        """The vectors by which samples of one concept are compared."""
        return "image" if self.on == "both" else self.on

    @property
    def asks_for(self) -> Literal["image", "text"]:
        """What a sample must have to be in a concept: an image, or a caption too."""
        return "image" if self.on == "image" else "text"

    def of_fit(self) -> dict[str, Any]:
        """Return the values that decide the centroids, in fingerprints; those of levels where there are some."""
        idle = () if self.levels is not None else ("levels", "resamples", "resample_members")
        return self.model_dump(exclude={"given", "drift_warn", "drift_refit", "vocabulary", *idle})


class DropShare(Settings):
    """An epsilon given by the share of compared samples it is to drop."""

    drop: KeepShare


class PrecisionTarget(Settings):
    """An epsilon given by how much of what it drops should be copies, as estimated without labels."""

    precision: Annotated[float, BeforeValidator(parse_share)]


def _epsilon(value: object) -> object:
    if value in (None, "none"):
        return None
    if value == "auto":
        return value
    if isinstance(value, float) and 0 < value < 1:
        return value
    if isinstance(value, Mapping) and set(value) == {"drop"}:
        try:
            share = DropShare.model_validate(value)
        except pydantic.ValidationError as error:
            said = str(error.errors()[0]["ctx"]["error"]).replace("(0, 1]", "(0, 1)")
            raise ValueError(f"is not a share: drop {said}") from None
        if share.drop == 1:
            raise ValueError(f"is not a share: drop must be in (0, 1), got {value['drop']}")
        return share
    if isinstance(value, PrecisionTarget) or (isinstance(value, Mapping) and set(value) == {"precision"}):
        return _precision(value)
    raise ValueError(
        f"must be none, auto, a number in (0, 1), or a share such as {{drop: 0.2}} or {{precision: 0.9}}, got {value!r}"
    )


def _precision(value: object) -> PrecisionTarget:
    try:
        target = PrecisionTarget.model_validate(value)
    except pydantic.ValidationError:
        target = None
    if target is None or not 0 < target.precision < 1:
        got = value["precision"] if isinstance(value, Mapping) else value
        raise ValueError(f"is not a precision: precision must be in (0, 1), got {got!r}")
    return target


def _exact(value: object) -> object:
    if value == "sample":
        return True
    if isinstance(value, bool) or value == "image":
        return value
    raise ValueError(f"must be sample (or true), image, or false, got {value!r}")


def _recall(value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"must be in (0, 1), got {value:g}")
    return value


def _confirm(value: object) -> object:
    value = "none" if value is None else value
    if value in ("auto", "thumbnail", "none"):
        return value
    raise ValueError(f"must be auto, thumbnail or none, got {value!r}")


class Dedup(Settings):
    """Copies (`exact`) and near-duplicates: similarity above 1 - epsilon within a concept.

    blocks : the number of blocks within which samples are compared, `auto` for sqrt(N). Concepts are then fitted on
    what conditions and comparing leave, `cluster.concepts` of them. None: concepts are the blocks, fitted once.
    exact : `sample` (true) for rows of equal image, caption and label, `image` for those of equal image, false for none.
    Images are compared by their bytes where these are read, whatever they are called.
    epsilon : `auto` finds it from copies that are made of some images (`deduplication.calibration`): the distance that
    a share `recall` of them is within. `{precision: 0.9}` finds it from the distances of the rows themselves
    (`deduplication.precision`): the largest at which so much of what is dropped are copies, as estimated.
    across_captions : false leaves near-duplicates whose captions differ, white space at both ends aside.
    confirm : `thumbnail` drops a near-duplicate only if small grey pictures say so too (`deduplication.pictures`),
    `auto` where an epsilon found by itself shows that the model cannot tell copies.
    """

    exact: Annotated[bool | Literal["image"], BeforeValidator(_exact)] = True
    epsilon: Annotated[
        float | DropShare | PrecisionTarget | Literal["auto"] | None, BeforeValidator(_epsilon)
    ] = None
    prefer: Preference = "hardest"
    mode: Literal["greedy", "reference"] = "greedy"
    inclusive: bool = False
    max_concept: Annotated[int, Field(ge=2)] = 50_000
    against: Annotated[tuple[Against, ...], BeforeValidator(listed)] = ()
    blocks: Annotated[
        Annotated[Literal["auto"] | int, BeforeValidator(count_or_auto)] | None, BeforeValidator(none_word)
    ] = None
    across_captions: bool = True
    recall: Annotated[float, BeforeValidator(parse_share), AfterValidator(_recall)] = 0.9
    confirm: Annotated[Literal["auto", "thumbnail", "none"], BeforeValidator(_confirm)] = "auto"

    @model_validator(mode="after")
    def _how_near(self) -> Self:
        names = [one.name for one in self.against]
        if len(set(names)) < len(names):
            raise ValueError(f"needs sets of different names in against, got {', '.join(names)}; set name")
        for one in self.against:
            if one.epsilon is None and not isinstance(self.epsilon, float):
                raise ValueError(
                    f"needs an epsilon for what is against {one.name}: a number, here or as dedup.epsilon"
                )
        if self.confirm == "thumbnail" and isinstance(self.epsilon, DropShare | PrecisionTarget):
            raise ValueError(
                "takes confirm thumbnail with a number or auto as epsilon, not with a share to drop or a precision"
            )
        return self

    def canonical(self) -> dict[str, Any]:
        """Return the values that stand for how near-duplicates are found, in fingerprints.

        Settings that are newer than runs made before count where they are set.
        """
        newer = {name for name in _NEWER if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_dump(exclude={"exact", "against", "blocks", *newer})
