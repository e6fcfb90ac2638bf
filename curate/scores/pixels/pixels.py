"""How hard a sample is for small ResNets trained on the images, as in Data Diet."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from curate.scores.base import AtLeastOne, Positive, Sources
from curate.scores.columns import Column
from curate.scores.heads.trained import Folds, Trained, trained_columns
from curate.settings import Count

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.recipe import Recipe
    from curate.scores.tables.output import Output

__all__ = ["Pixels"]


class Pixels(Trained):
    """ResNets trained on the decoded images, as in Data Diet; `size` is the edge images are brought to."""

    measures: ClassVar[str] = "how hard a sample is for networks trained on the images"
    paper: ClassVar[str] = "Paul et al. 2021, arXiv:2107.07075"
    cost: ClassVar[str] = "a ResNet per seed: hours for a million on a GPU"
    requires: ClassVar[str] = "images and labels"
    avoid: ClassVar[str] = "on a CPU, or where heads on embeddings do"
    place: ClassVar[int] = 4
    outputs: ClassVar[Mapping[str, Column]] = trained_columns("pixels_")

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

    def check(self, recipe: "Recipe", sources: Sources) -> None:
        """Raise UsageError where there are no labels or no images."""
        from curate.scores.pixels import parts

        parts.check(recipe, self, sources)

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts."""
        from curate.scores.pixels import parts

        return parts.compute(context, self, output)
