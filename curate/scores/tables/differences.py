"""Scores that are one loss less another: of two columns that other families give."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError, UsageError
from curate.scores.base import Score, ScoreColumn, Sources

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.scores.in_memory import Samples
    from curate.scores.tables.output import Output

__all__ = ["Difference", "difference"]


class Difference(Score):
    """The column `family`: the loss that the first setting of `losses` names, less that of the second."""

    #: The settings that name the two columns of losses.
    losses: ClassVar[tuple[str, str]]

    @property
    def needs(self) -> tuple[str, ...]:
        """Both losses."""
        first, second = (str(getattr(self, name)) for name in self.losses)
        return (first, second)

    def check_columns(self, found: Callable[[str, str], ScoreColumn]) -> None:
        """Raise UsageError unless both losses are scores, and two of them."""
        for name, column in zip(self.losses, self.needs, strict=True):
            found(column, f"score: {self.family}.{name}")
        if len(set(self.needs)) == 1:
            first, second = self.losses
            raise UsageError(
                f"score: {self.family}.{first} and {second} are both {self.needs[0]}, so that every value would be 0; name two losses"
            )

    def inputs(
        self, context: "Context", columns: Mapping[str, ScoreColumn], sources: Sources
    ) -> list[object]:
        """Return the fingerprints of the tables with the losses."""
        folders = sorted({column.folder for column in columns.values()} - {""})
        return [context.run.fingerprint(context.run.scores(folder)) for folder in folders]

    def in_memory(self, samples: "Samples") -> tuple[Mapping[str, npt.NDArray[Any]], npt.NDArray[np.object_]]:
        """Return the columns of samples in memory and the status of each row."""
        first, second = (samples.column(self.family, name) for name in self.needs)
        return {self.family: difference(first, second)}, samples.why_missing(self.needs)

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts."""
        from curate.scores.tables.stored import read_part

        scored = 0
        for part in context.parts:
            losses, status = read_part(context.run, part.name, output.columns)
            scored += int((status == "ok").sum())
            value = difference(*(losses[name] for name in self.needs))
            output.write(part, {self.family: value, self.status_column: status.to_list()})
        return {"scored": scored, **dict(zip(self.losses, self.needs, strict=True))}


def difference(
    first: npt.NDArray[np.floating[Any]], second: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.float64]:
    """Return first - second, (n,) each, in float64; NaN where a loss is not finite. CurateError for losses of two shapes."""
    if first.ndim != 1 or first.shape != second.shape:
        raise CurateError(f"both losses must be (n,) alike, got {first.shape} and {second.shape}")
    finite = np.isfinite(first) & np.isfinite(second)
    left = np.full(len(first), np.nan)
    left[finite] = first[finite].astype(np.float64) - second[finite].astype(np.float64)
    return left
