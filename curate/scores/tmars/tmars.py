"""T-MARS: how well a caption fits its picture when the text in the picture is masked (Maini et al. 2023)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from curate.scores.base import Score, Sources
from curate.scores.columns import Column

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.recipe import Recipe
    from curate.scores.tables.output import Output

__all__ = ["Tmars"]


class Tmars(Score):
    """The cosine of caption and image after the boxes of text in it were filled with the colour around them.

    boxes : column of the source with the boxes of text (what an OCR model found); no such model is run. format : of boxes
    in pixels, coco (x, y, width, height) or xyxy. confidence : boxes that are less sure are left out. margin : how much
    larger than its box what is filled is on each side, as a share of its width and height. A pair without boxes has its
    clip_score.
    """

    measures: ClassVar[str] = "cosine of caption and image after text in the image is masked"
    paper: ClassVar[str] = (
        "Maini et al. 2023, arXiv:2307.03132 (source of the width of the ring that gives the colour: not checked)"
    )
    cost: ClassVar[str] = "a forward pass per image with text"
    requires: ClassVar[str] = "images, captions, a model, and a column of boxes of text"
    avoid: ClassVar[str] = "for documents, screenshots and memes, where the text is what the picture shows"
    place: ClassVar[int] = 9
    outputs: ClassVar[Mapping[str, Column]] = {
        "tmars_score": Column("better"),
        "tmars_boxes": Column(None, "int32"),
    }
    reads: ClassVar[tuple[str, ...]] = ("image", "text")

    family: Literal["tmars"] = "tmars"
    boxes: str
    format: Literal["coco", "xyxy"] = "coco"
    confidence: Annotated[float, Field(ge=0, le=1)] = 0.0
    margin: Annotated[float, Field(ge=0, le=10)] = 0.0

    def check(self, recipe: "Recipe", sources: Sources) -> None:
        """Raise UsageError where there is no model, or no column of boxes."""
        from curate.scores.regions import rows

        rows.check(recipe, self.boxes, "tmars.boxes", sources)

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts."""
        from curate.scores.tmars import parts

        return parts.compute(context, self, output)
