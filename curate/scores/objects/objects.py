"""What is in boxes: how many objects an image has, and the vector of each, for object-focused selection."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from curate.scores.base import Score, Sources
from curate.scores.columns import Column
from curate.settings import Count

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.recipe import Recipe
    from curate.scores.tables.output import Output

__all__ = ["Objects"]


class Objects(Score):
    """The objects in the boxes of a column: counted, cut out, and embedded by the model of the run.

    column : of the source: a list of objects with `bbox` and perhaps `category` and `score`, a struct of such lists, or
    JSON; in tars a field of the .json (`objects`, `json.found.objects`); a file in the form of COCO has it by itself.
    format : of boxes in pixels of the picture as it is shown, coco (x, y, width, height) or xyxy. confidence : objects
    that are less sure are left out; one that does not say it is sure. margin : what is cut out around a box on each side,
    as a share of its width and height. most : objects of an image that are embedded, the surest ones first.
    """

    measures: ClassVar[str] = (
        "how many objects, and classes of them, an image has; and the vector of each object"
    )
    paper: ClassVar[str] = "Popp et al. 2024, arXiv:2412.10032"
    cost: ClassVar[str] = "a forward pass per object"
    requires: ClassVar[str] = "images, a model, and a column of boxes"
    avoid: ClassVar[str] = (
        "without boxes of a detector or of people; a box around the whole image says nothing new"
    )
    place: ClassVar[int] = 8
    outputs: ClassVar[Mapping[str, Column]] = {
        "objects_count": Column("harder"), "objects_classes": Column("harder"),
        "objects_bad": Column(None, "int32"),
    }  # fmt: skip

    family: Literal["objects"] = "objects"
    column: str = "objects"
    format: Literal["coco", "xyxy"] = "coco"
    confidence: Annotated[float, Field(ge=0, le=1)] = 0.5
    margin: Annotated[float, Field(ge=0, le=10)] = 0.1
    most: Annotated[Count, Field(ge=1, le=1000)] = 100

    def check(self, recipe: "Recipe", sources: Sources) -> None:
        """Raise UsageError where there is no model, or no column of boxes."""
        from curate.scores.regions import rows

        rows.check(recipe, self.column, "objects.column", sources)

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts, and beside them those of their objects."""
        from curate.scores.objects import parts

        return parts.compute(context, self, output)
