"""Learnability: what a learner still loses on a sample and a reference does not (RHO-loss; JEST)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from curate.scores.columns import Column
from curate.scores.tables.differences import Difference, difference

__all__ = ["Learnability", "learnability"]


class Learnability(Difference):
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

    losses: ClassVar[tuple[str, str]] = ("learner", "reference")


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
    return difference(learner, reference)
