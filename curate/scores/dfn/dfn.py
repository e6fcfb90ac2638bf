"""A filter trained by `curate train-filter`, as a score: how well each pair fits by it, and the loss of the pair."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from curate.scores.base import ColumnName, Score, ScoreColumn, Sources
from curate.scores.columns import Column

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.recipe import Recipe
    from curate.scores.dfn.stored import StoredFilter
    from curate.scores.in_memory import Samples
    from curate.scores.tables.output import Output

__all__ = ["Dfn"]


class Dfn(Score):
    """A trained data filtering network; `name` is that of its columns, for several in one recipe."""

    measures: ClassVar[str] = "how a pair fits by a filter trained on good pairs, and its loss"
    paper: ClassVar[str] = "Fang et al. 2023, arXiv:2309.17425"
    cost: ClassVar[str] = "d x d x filters per pair (adapter), or embedding again (full)"
    requires: ClassVar[str] = "a filter of `curate train-filter`; captions (or labels, kind head)"
    avoid: ClassVar[str] = (
        "where the good pairs are of other subjects than the pool: what it never saw ranks low"
    )
    place: ClassVar[int] = 8
    outputs: ClassVar[Mapping[str, Column]] = {"dfn_score": Column("better"), "dfn_loss": Column("harder")}

    family: Literal["dfn"] = "dfn"
    path: Annotated[str, Field(min_length=1)]
    name: ColumnName = "dfn"
    device: str = "auto"

    @property
    def folder(self) -> str:
        """The name the user gave."""
        return self.name

    @property
    def row_needs(self) -> tuple[str, ...]:
        """A caption, or a label where the filter is a head."""
        return ("label",) if self.opened().kind == "head" else ("text",)

    def columns_made(self) -> Mapping[str, Column]:
        """Return the score and the loss under the name the user gave."""
        return {f"{self.name}{name.removeprefix('dfn')}": column for name, column in self.outputs.items()}

    def fingerprinted(self) -> object:
        """Return the settings that decide the numbers; which filter it is stands among the inputs."""
        return self.model_dump(mode="json", exclude={"device", "path"})

    def opened(self) -> "StoredFilter":
        """Return the filter; raises UsageError where there is none."""
        from curate.scores.dfn.stored import open_filter

        return open_filter(self.path, f"score: {self.name}.path")

    def check(self, recipe: "Recipe", sources: Sources) -> None:
        """Raise UsageError where there is no filter, or one for another model."""
        from curate.scores.dfn import compute

        compute.check(self, recipe, sources)

    def inputs(
        self, context: "Context", columns: Mapping[str, ScoreColumn], sources: Sources
    ) -> list[object]:
        """Return which filter it is; one of kind full reads images and captions, one of kind head labels."""
        made = self.opened()
        again = [] if made.kind == "adapter" else [context.run.fingerprint(context.run.samples)]
        return [made.identity, *again]

    def in_memory(self, samples: "Samples") -> tuple[Mapping[str, npt.NDArray[Any]], npt.NDArray[np.object_]]:
        """Return the columns of samples in memory and the status of each row."""
        from curate.scores.dfn import compute

        return compute.in_memory(self, samples)

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts."""
        from curate.scores.dfn import compute

        return compute.compute(context, self, output)
