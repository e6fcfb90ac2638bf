"""No selection: every row that passes conditions, lists and dedup is kept."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from curate.selection.base import RowSource, Selector
from curate.selection.rules import Budgets
from curate.settings import KeepShare

if TYPE_CHECKING:
    from curate.selection.rows.counterfactual import Standing
    from curate.selection.rows.finished import Finished, Row

__all__ = ["All"]


class All(Selector):
    """Every row that is left: for jobs that only take duplicates or bad rows out."""

    keeps = "every row that passes conditions, lists and dedup; takes neither `keep` nor `count`"
    needs = "nothing"
    direction = "none"
    cost = "none"
    avoid = "when there is more data than can be trained on"
    keeps_all: ClassVar[bool] = True
    place = 13

    method: Literal["all"] = "all"
    keep: KeepShare | None = 1.0

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.keep != 1.0 or self.count is not None:
            got = f"count {self.count:,}" if self.count is not None else f"keep {self.keep}"
            raise ValueError(
                f"with method all keeps every row that passes, got {got}; name another method with it"
            )
        return self

    def fit(self, rows: RowSource, n_keep: int, total: int) -> Budgets:
        """Return all rows of each concept."""
        return Budgets(rows.concepts["n_eligible"].to_numpy())

    def standing(self, run: "Finished", row: "Row") -> "Standing | str":
        """Return that no number of rows decides."""
        return "method all keeps every row that passes conditions and dedup"
