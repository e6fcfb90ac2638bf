"""How a run is judged by `curate evaluate`, where its flags say nothing."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from curate.recipe.types import Count, Settings, Share, listed
from curate.selection.registry import selectors

__all__ = ["Evaluate"]

OpenShare = Annotated[Share, Field(gt=0, lt=1)]


class Evaluate(Settings):
    """What `curate evaluate` does with a run unless its flags say otherwise; it changes nothing that is kept.

    split : the rows that judge: those of this split, or of `COLUMN=VALUE`. holdout : or a random share, 10 % by default. seed :
    of the rows held out, the draws and the models. keep : shares to compare at; that of the run by default.
    methods : to compare, `run` (as the run selects) by default. draws, seeds, steps : random draws, models per
    subset, and the steps that each is trained for. near : how near a copy judges nothing.
    """

    split: Annotated[str, Field(min_length=1)] | None = None
    holdout: OpenShare | None = None
    seed: Annotated[Count, Field(ge=0)] = 0
    judge: Literal["auto", "heads", "pixels", "pairs"] = "auto"
    keep: Annotated[tuple[OpenShare, ...], BeforeValidator(listed)] = ()
    methods: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    draws: Annotated[Count, Field(ge=5)] = 5
    seeds: Annotated[Count, Field(ge=2)] = 3
    steps: Annotated[Count, Field(ge=1)] = 500
    near: Annotated[float, Field(gt=0, lt=1)] | None = None

    @field_validator("methods")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = ["run", *(name for name, method in selectors().items() if not method.keeps_all)]
        for one in value:
            if one.partition(":")[0] not in known:
                raise ValueError(f"must name methods to compare ({', '.join(known)}), got {one!r}")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.split is not None and self.holdout is not None:
            raise ValueError("takes split or holdout, not both")
        return self
