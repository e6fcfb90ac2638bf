"""Learnability: what a learner still loses on a sample and a reference does not (RHO-loss; JEST)."""

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

__all__ = ["Learnability", "learnability"]


class Learnability(Score):
    """The loss of a learner less that of a reference trained on good data: what is worth learning and can be learnt."""

    measures: ClassVar[str] = "what a learner still loses on a sample that a reference on good data does not"
    paper: ClassVar[str] = "Mindermann et al. 2022, arXiv:2206.07137; Evans et al. 2024, arXiv:2406.17711"
    cost: ClassVar[str] = "one subtraction per sample"
    requires: ClassVar[str] = "two columns of losses: of a learner and of a reference"
    avoid: ClassVar[str] = (
        "once the learner has moved on: it is of the learner's state when the losses were taken"
    )
    place: ClassVar[int] = 7
    outputs: ClassVar[Mapping[str, Column]] = {"learnability": Column("better")}

    family: Literal["learnability"] = "learnability"
    learner: str
    reference: str

    @property
    def needs(self) -> tuple[str, ...]:
        """Both losses."""
        return (self.learner, self.reference)

    def check_columns(self, found: Callable[[str, str], ScoreColumn]) -> None:
        """Raise UsageError unless both losses are scores."""
        found(self.learner, "score: learnability.learner")
        found(self.reference, "score: learnability.reference")

    def inputs(
        self, context: "Context", columns: Mapping[str, ScoreColumn], sources: Sources
    ) -> list[object]:
        """Return the fingerprints of the tables with the losses."""
        folders = sorted({column.folder for column in columns.values()} - {""})
        return [context.run.fingerprint(context.run.scores(folder)) for folder in folders]

    def in_memory(self, samples: "Samples") -> tuple[Mapping[str, npt.NDArray[Any]], npt.NDArray[np.object_]]:
        """Return the columns of samples in memory and the status of each row."""
        losses = [samples.column("learnability", name) for name in (self.learner, self.reference)]
        return {"learnability": learnability(*losses)}, samples.why_missing((self.learner, self.reference))

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts."""
        from curate.scores.tables.stored import read_part

        scored = 0
        for part in context.parts:
            losses, status = read_part(context.run, part.name, output.columns)
            scored += int((status == "ok").sum())
            value = learnability(losses[self.learner], losses[self.reference])
            output.write(part, {"learnability": value, "learnability_status": status.to_list()})
        return {"scored": scored, "learner": self.learner, "reference": self.reference}


def learnability(
    learner: npt.NDArray[np.floating[Any]], reference: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.float64]:
    """Return the learnability of each sample; higher is better (Mindermann et al. 2022, "reducible holdout loss").

    learner, reference : (n,), the loss under the model that is being trained, and under a model trained on data that is
    known to be good. Returns learner - reference, (n,): high where there is something left to learn that good data
    teaches, near 0 where it is learnt already or is noise to both; NaN where a loss is not finite.

    >>> learnability(np.array([3.0, 3.0, 0.25]), np.array([0.5, 3.0, 0.25]))
    array([2.5, 0. , 0. ])
    """
    if learner.ndim != 1 or learner.shape != reference.shape:
        raise CurateError(f"both losses must be (n,) alike, got {learner.shape} and {reference.shape}")
    finite = np.isfinite(learner) & np.isfinite(reference)
    left = np.full(len(learner), np.nan)
    left[finite] = learner[finite].astype(np.float64) - reference[finite].astype(np.float64)
    return left
