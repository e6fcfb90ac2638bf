"""A random sample of all rows: what every other method is compared with."""

from typing import TYPE_CHECKING, Literal

import numpy as np

from curate.selection.base import RowSource, Selector
from curate.selection.prototypes import first_of_all, standing_over_all
from curate.selection.rules import Budgets

if TYPE_CHECKING:
    from curate.selection.rows.counterfactual import Standing
    from curate.selection.rows.finished import Finished, Row

__all__ = ["Random"]


class Random(Selector):
    """Rows drawn by a hash of uid and seed, each with the same chance."""

    keeps = "a draw with equal odds, by a hash of uid and `seed`"
    needs = "nothing"
    direction = "none"
    cost = "two or three passes over the hashes"
    avoid = "when rare concepts must stay: take quotas or density"
    place = 1

    method: Literal["random"] = "random"

    @property
    def preference(self) -> str:
        """Chance."""
        return "random"

    def fit(self, rows: RowSource, n_keep: int, total: int) -> Budgets:
        """Return the first rows over all concepts, in the order of their hashes."""
        none = np.zeros(len(rows.concepts), np.int64)
        return first_of_all(rows, none, n_keep, total, drawn=True)

    def standing(self, run: "Finished", row: "Row") -> "Standing | str":
        """Return the row's place among all rows."""
        return standing_over_all(run, row, 0.0)
