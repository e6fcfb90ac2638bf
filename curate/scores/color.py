"""CoLoR-Filter: how much the target set helps with a sample (Brandfonbrener et al. 2024, arXiv:2406.10670)."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError
from curate.scores.base import Score, ScoreColumn, Sources
from curate.scores.columns import Column

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.scores.in_memory import Samples
    from curate.scores.tables.output import Output

__all__ = ["Color", "color"]


class Color(Score):
    """CoLoR-Filter: what a sample's loss falls by when the model has seen the target, prior - conditional."""

    measures: ClassVar[str] = "what a loss falls by when the model has seen the target set"
    paper: ClassVar[str] = "Brandfonbrener et al. 2024, arXiv:2406.10670"
    cost: ClassVar[str] = "one subtraction per sample"
    requires: ClassVar[str] = "two columns of losses"
    avoid: ClassVar[str] = "where both losses are of one model: it is then noise"
    place: ClassVar[int] = 7
    outputs: ClassVar[Mapping[str, Column]] = {"color": Column("better")}

    family: Literal["color"] = "color"
    prior: str
    conditional: str

    @property
    def needs(self) -> tuple[str, ...]:
        """Both losses."""
        return (self.prior, self.conditional)

    def check_columns(self, found: Callable[[str, str], ScoreColumn]) -> None:
        """Raise UsageError unless both losses are scores."""
        found(self.prior, "score: color.prior")
        found(self.conditional, "score: color.conditional")

    def inputs(
        self, context: "Context", columns: Mapping[str, ScoreColumn], sources: Sources
    ) -> list[object]:
        """Return the fingerprints of the tables with the losses."""
        folders = sorted({column.folder for column in columns.values()} - {""})
        return [context.run.fingerprint(context.run.scores(folder)) for folder in folders]

    def in_memory(self, samples: "Samples") -> tuple[Mapping[str, npt.NDArray[Any]], npt.NDArray[np.object_]]:
        """Return the columns of samples in memory and the status of each row."""
        losses = [samples.column("color", name) for name in (self.prior, self.conditional)]
        value = color(*losses)
        return {"color": value}, samples.why_missing((self.prior, self.conditional))

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts."""
        from curate.scores.tables.stored import read_part

        scored = 0
        for part in context.parts:
            losses, status = read_part(context.run, part.name, output.columns)
            scored += int((status == "ok").sum())
            value = color(losses[self.prior], losses[self.conditional])
            output.write(part, {"color": value, "color_status": status.to_list()})
        return {"scored": scored, "prior": self.prior, "conditional": self.conditional}


def color(
    prior: npt.NDArray[np.floating[Any]], conditional: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.float64]:
    """Return what the loss of each sample falls by when the model has seen the target set; higher is better.

    prior, conditional : (n,), the loss under a model trained on the pool, and under the same model after it
    was trained on the target set too. Returns prior - conditional, (n,), below 0 where the target set makes
    a sample less likely; NaN where a loss is not finite.

    >>> color(np.array([3.2, 2.0, np.inf]), np.array([3.0, 2.1, 1.0])).round(6)
    array([ 0.2, -0.1,  nan])
    """
    if prior.ndim != 1 or prior.shape != conditional.shape:
        raise CurateError(f"both losses must be (n,) alike, got {prior.shape} and {conditional.shape}")
    finite = np.isfinite(prior) & np.isfinite(conditional)
    fall = np.full(len(prior), np.nan)
    fall[finite] = prior[finite].astype(np.float64) - conditional[finite].astype(np.float64)
    return fall
