"""How well captions fit their images by a further CLIP model, whatever model concepts are made of."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from curate.errors import UsageError
from curate.scores.base import RESERVED, ColumnName, Score, ScoreColumn, Sources
from curate.scores.columns import Column
from curate.scores.pair.pair import Pair

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.recipe import Embed, Recipe
    from curate.scores.tables.output import Output

__all__ = ["Clip"]


def _pair(value: object) -> object:
    """Return the settings of pair scores: true asks for them as they are, false for none."""
    if isinstance(value, bool):
        return {} if value else None
    return value


class Clip(Score):
    """The cosine of image and caption by another open_clip model, and its pair scores where `pair` asks for them.

    model, pretrained : as in `embed`. name : that of the columns, `NAME_score` (and `NAME_nce`, ... with `pair`). pair :
    true, or settings of the family `pair`. batch_size, precision, device : those of `embed` unless given.
    """

    measures: ClassVar[str] = (
        "cosine of image and caption by a further model, as `NAME_score` (`pair`: as `NAME_nce`, ...)"
    )
    paper: ClassVar[str] = "Hessel et al. 2021, arXiv:2104.08718"
    cost: ClassVar[str] = "every image and caption embedded once more; nothing for the model of `embed`"
    requires: ClassVar[str] = "images, captions, an open_clip model"
    avoid: ClassVar[str] = "where the model is one family with that of `embed`: both then err alike"
    place: ClassVar[int] = 3

    family: Literal["clip"] = "clip"
    model: Annotated[str, Field(min_length=1)]
    pretrained: str | None = None
    name: ColumnName = "auto"
    pair: Annotated[Pair | None, BeforeValidator(_pair)] = None
    batch_size: Annotated[int, Field(ge=1, le=65_536)] | None = None
    device: str | None = None
    precision: Literal["auto", "float32", "float16", "bfloat16"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:  # noqa: ANN401  (what stands in a recipe)
        """Fill in the name: that of the model, in letters that a column may have."""
        if not isinstance(values, Mapping) or values.get("name", "auto") != "auto":
            return values
        model = str(values.get("model"))
        stem = PurePosixPath(model).name if ":" in model else model
        name = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")
        free = name[:1].isalpha() and name not in RESERVED
        return {**values, "name": name if free else f"clip_{name}"}

    @property
    def folder(self) -> str:
        """The name of the columns is that of the folder."""
        return self.name

    @property
    def row_needs(self) -> tuple[str, ...]:
        """Captions."""
        return ("caption",)

    def columns_made(self) -> Mapping[str, Column]:
        """Return the score, and those of pairs where they are asked for."""
        more = {} if self.pair is None else self.pair.columns_made()
        return {f"{self.name}_score": Column("better")} | {f"{self.name}_{one}": more[one] for one in more}

    def fingerprinted(self) -> object:
        """Return the settings that decide the numbers; the model is in `inputs`, by what decides its vectors."""
        return self.model_dump(mode="json", include={"name", "pair"})

    def embed(self, recipe: "Recipe") -> "Embed":
        """Return how this model embeds: as the recipe says, with what is set here."""
        mine = {"model": self.model, "pretrained": self.pretrained}
        given = {name: getattr(self, name) for name in ("batch_size", "device", "precision")}
        mine |= {name: value for name, value in given.items() if value is not None}
        none = dict.fromkeys(("column", "text_column", "files", "array"))
        return recipe.embed.model_copy(update={**mine, **none})

    def check(self, recipe: "Recipe", sources: Sources) -> None:
        """Raise UsageError where there are no images or captions, ModelError where the model cannot be had."""
        from curate.scores.pixels.parts import has_images

        for source in recipe.source:
            if source.image is None:
                raise UsageError(
                    f"score: {self.name} compares images with captions, and {source.name} has no images (source.image is "
                    "null); leave it out"
                )
            if recipe.embed.own_vectors and not has_images(recipe, source, sources):
                raise UsageError(
                    f"score: {self.name} embeds images, and embed gives vectors of which no column of images is known "
                    f"({source.name}): name it with source.image"
                )
        sources.models.check(recipe, self.embed(recipe), f"score: {self.name}")

    def inputs(
        self, context: "Context", columns: Mapping[str, ScoreColumn], sources: Sources
    ) -> list[object]:
        """Return what decides the vectors of the model."""
        return [sources.models.space(self.embed(context.recipe))]

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts."""
        from curate.scores.clip import parts

        return parts.compute(context, self, output)
