"""Where a sample stands in the plane of error and uncertainty: one of four quadrants, by two quantiles."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from curate.errors import CurateError, RecipeError, UsageError
from curate.scores.base import Score, ScoreColumn, Sources, embedding_parts, require_memory
from curate.scores.columns import Column, hardest_is_largest

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.scores.in_memory import Samples
    from curate.scores.tables.output import Output

__all__ = ["QUADRANTS", "Triage", "quadrants"]

#: The quadrants by code: 2 x (error is high) + (uncertainty is high).
QUADRANTS = ("redundant", "calibration", "misconception", "harmful")

#: What a row needs: two columns, their sort, its quadrant and its status.
_ROW_BYTES = 80

Array = npt.NDArray[np.floating[Any]]
Quantile = Annotated[float, Field(gt=0, lt=1)]


class Triage(Score):
    """The quadrant of each row: harmful, misconception, redundant or calibration.

    error, uncertainty : columns of which more is worse. error_at, uncertainty_at : the quantiles beyond which they are
    high.
    """

    measures: ClassVar[str] = (
        "the quadrant of loss and predictive entropy: `harmful` (both high), `misconception` (sure and wrong), "
        "`calibration` (right and unsure), `redundant` (both low)"
    )
    paper: ClassVar[str] = 'Wang et al. 2025, "Winning the pruning gamble" (Q-Tuning); source: not checked'
    cost: ClassVar[str] = "one sort per column, all rows in memory"
    requires: ClassVar[str] = "two scores, by default `loss` and `entropy` of heads"
    avoid: ClassVar[str] = "where heads hardly know the classes: both axes are then the same"
    place: ClassVar[int] = 7
    outputs: ClassVar[Mapping[str, Column]] = {"eu_quadrant": Column(None, "string")}

    family: Literal["triage"] = "triage"
    error: str = "loss"
    uncertainty: str = "entropy"
    error_at: Quantile = 0.5
    uncertainty_at: Quantile = 0.5

    @property
    def needs(self) -> tuple[str, ...]:
        """The two scores."""
        return (self.error, self.uncertainty)

    def check_columns(self, found: Callable[[str, str], ScoreColumn]) -> None:
        """Raise UsageError unless both are different scores, higher where samples are harder or noisier."""
        if self.error == self.uncertainty:
            raise UsageError(f"score: triage needs two scores, got {self.error!r} for error and uncertainty")
        for name in ("error", "uncertainty"):
            column = found(getattr(self, name), f"score: triage.{name}")
            if column.higher_is is None or not hardest_is_largest(column.higher_is):
                raise UsageError(
                    f"score: triage.{name} must be a column of which more is worse (harder or noisier), "
                    f"{getattr(self, name)!r} is {column.higher_is}"
                )

    def inputs(
        self, context: "Context", columns: Mapping[str, ScoreColumn], sources: Sources
    ) -> list[object]:
        """Return the fingerprints of the tables that are read."""
        run = context.run
        return [
            run.fingerprint(run.scores(one.folder) if one.folder else run.concepts)
            for one in (columns[name] for name in self.needs)
        ]

    def in_memory(self, samples: "Samples") -> tuple[Mapping[str, npt.NDArray[Any]], npt.NDArray[np.object_]]:
        """Return the quadrants of samples in memory and the status of each row."""
        error, uncertainty = (samples.column("triage", name) for name in self.needs)
        return {"eu_quadrant": self._named(error, uncertainty)}, samples.why_missing(self.needs)

    def _named(self, error: Array, uncertainty: Array) -> npt.NDArray[np.object_]:
        codes = quadrants(error, uncertainty, error_at=self.error_at, uncertainty_at=self.uncertainty_at)
        return np.array([*QUADRANTS, None], object)[codes]

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts."""
        from curate.scores.tables.stored import read_part

        require_memory(context, "score: triage", sum(map(len, embedding_parts(context))), _ROW_BYTES)
        where = {name: output.columns[name] for name in self.needs}
        columns = {name: [np.empty(0, np.float32)] for name in self.needs}
        statuses: list[str] = []
        for part in context.parts:
            values, why = read_part(context.run, part.name, where)
            for name in self.needs:
                columns[name].append(values[name])
            statuses += why.to_list()
        error, uncertainty = (np.concatenate(columns[name]) for name in self.needs)
        named = self._named(error, uncertainty)
        output.write_all({"eu_quadrant": named, "triage_status": np.array(statuses, object)})
        counts = {name: int((named == name).sum()) for name in QUADRANTS}
        return {"scored": sum(counts.values()), "quadrants": counts, "warnings": []}


def quadrants(
    error: Array, uncertainty: Array, *, error_at: float = 0.5, uncertainty_at: float = 0.5
) -> npt.NDArray[np.int64]:
    """Return the quadrant of each row in the plane of error and uncertainty.

    Parameters
    ----------
    error, uncertainty : numpy.ndarray
        (n,), such as the loss and the predictive entropy, both in nats; more is worse.
    error_at, uncertainty_at : float
        In (0, 1): a value is high where it is above this quantile, which is the least value that so large a share of the
        rows does not exceed. So equal values are in one quadrant, and a column of one value is low everywhere.

    Returns
    -------
    numpy.ndarray
        (n,) places in `QUADRANTS`, -1 where one of the two is not finite; such rows count for no quantile.

    Raises
    ------
    CurateError
        If the columns are not (n,) alike.
    RecipeError
        If a quantile is not in (0, 1).

    Notes
    -----
    Wang et al. 2025, "Winning the pruning gamble" (Q-Tuning); source: not checked.

    Examples
    --------
    >>> codes = quadrants(np.array([0.1, 0.2, 3.0, 2.0]), np.array([0.1, 0.9, 0.2, 0.8]))
    >>> [QUADRANTS[code] for code in codes]
    ['redundant', 'calibration', 'misconception', 'harmful']
    """
    if error.shape != uncertainty.shape or error.ndim != 1:
        raise CurateError(
            f"error and uncertainty must be (n,) alike, got {error.shape} and {uncertainty.shape}"
        )
    for name, share in (("error_at", error_at), ("uncertainty_at", uncertainty_at)):
        if not 0 < share < 1:
            raise RecipeError(f"{name} must be in (0, 1), got {share}")
    known = np.isfinite(error) & np.isfinite(uncertainty)
    codes = np.full(len(error), -1, np.int64)
    if known.any():
        high = [
            values[known] > np.quantile(values[known], at, method="inverted_cdf")
            for values, at in ((error, error_at), (uncertainty, uncertainty_at))
        ]
        codes[known] = 2 * high[0] + high[1]
    return codes
