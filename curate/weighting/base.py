"""What every way of weighing samples is: its settings, and the weights it gives to what was kept."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from curate.settings import Settings

if TYPE_CHECKING:
    from curate.selection.density import DensityBudgets

__all__ = ["Floats", "Kept", "Weigher"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Kept:
    """The kept rows of all parts, part after part; all (n,). ends : where each part's rows end.

    score : of the column that the method reads, NaN where a row has none. method : how they were selected. hashes : uniform
    numbers of the rows, fixed by uid and seed; only for a method that draws.
    """

    concept: npt.NDArray[np.int32]
    distance: npt.NDArray[np.float32]
    inclusion: Floats
    score: Floats
    ends: npt.NDArray[np.int64]
    n_concepts: int
    method: str
    #: What density pruning would keep of so many rows per concept: sizes (k,) and rows together.
    density: Callable[[npt.NDArray[np.int64], int], "DensityBudgets"]
    hashes: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))


class Weigher(Settings):
    """How much each kept sample counts, with mean 1.

    A method is a subclass: its settings, its weights, and what people need to know to choose it.
    """

    #: What a weight is, in words; names of its settings in backquotes.
    weighs: ClassVar[str]
    #: What must be there.
    needs: ClassVar[str]
    #: What counts more.
    direction: ClassVar[str]
    paper: ClassVar[str] = ""
    cost: ClassVar[str] = "one sort of the kept rows"
    #: When to take another one.
    avoid: ClassVar[str]
    #: Whether the probability of each row to be kept must be known.
    needs_odds: ClassVar[bool] = False
    #: Whether it draws, and so needs random numbers of the rows (`Kept.hashes`).
    needs_draws: ClassVar[bool] = False

    #: Where it stands in lists of methods; those of other packages come last.
    place: ClassVar[int] = 100

    method: str

    @property
    def column(self) -> str | None:
        """The score column that the method reads."""
        return None

    def extra_rows(self, n_kept: int) -> int:
        """Return how many rows more would take the memory that `weigh` needs besides that of the kept rows."""
        return 0

    def weigh(self, kept: Kept) -> Floats:
        """Return the weight of each kept row, (n,) with mean 1; NaN where it has none. There is at least one row.

        Every method defines it.
        """
        raise NotImplementedError

    def counts(self, weight: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64] | None:
        """Return how often a list names each row, (n,), where weights are whole numbers times a constant; None where not."""
        return None
