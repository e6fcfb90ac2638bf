"""A stretch of a score away from its ends: below the hardest, above the easiest, or around a quantile."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from curate.ordering.span import Span, middle, rows_of, window
from curate.selection.extremes import KeepsStretch
from curate.settings import Count, Share

if TYPE_CHECKING:
    from curate.selection.rows.counterfactual import Standing
    from curate.selection.rows.finished import Finished

__all__ = ["Middle", "Window"]


class Window(KeepsStretch):
    """Rows next to each other in rank, below the hardest share or above a number of easy ones."""

    keeps = "a stretch of a score: below the hardest share (`drop_hardest`), or above the first (`offset`)"
    direction = "the hardest first below `drop_hardest`, the easiest first above `offset`"
    paper = "Paul et al. 2021, arXiv:2107.07075"
    avoid = "when the share of wrong labels is unknown: take stratified with beta"
    ranks_ahead = False
    place = 6

    method: Literal["window"] = "window"
    drop_hardest: Share | None = None
    offset: Annotated[Count, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.drop_hardest is None) == (self.offset is None):
            raise ValueError("needs drop_hardest or offset, exactly one of them, for method window")
        return self

    @property
    def counts_from_easiest(self) -> bool:
        """An offset is a number of easy rows."""
        return self.offset is not None

    def room(self, n_scored: int) -> int:
        """Return how many rows are left after those that are skipped."""
        if self.offset is not None:
            return max(0, n_scored - self.offset)
        return max(0, n_scored - rows_of(self.drop_hardest or 0, n_scored, "select.drop_hardest"))

    def span(self, n_keep: int, total: int) -> Span:
        """Return the ranks of the window."""
        return window(n_keep, total, drop_hardest=self.drop_hardest, offset=self.offset)

    def places(self, n_keep: int, total: int) -> tuple[int, int]:
        """Return how many rows are skipped, and the last place that is kept."""
        span = self.span(n_keep, total) if n_keep else Span("hardest", 0, 0)
        return span.start, span.stop

    def scored_standing(self, run: "Finished", own: Mapping[str, Any]) -> "Standing | str":
        """Return where a row stands, or that the window leaves it out."""
        found = super().scored_standing(run, own)
        if isinstance(found, str) or found.keeps(found.stretches[-1][1]):
            return found
        what = "offset" if self.offset is not None else "drop_hardest"
        return f"select.{what} leaves it out, at any number of rows"


class Middle(KeepsStretch):
    """Rows around a quantile of the score."""

    keeps = "a stretch of a score around a quantile (`center`)"
    direction = "around `center`: 0 is the easiest, 1 the hardest"
    paper = "Marion et al. 2023, arXiv:2309.04564"
    avoid = "when the tails matter: rare and hard samples are left out"
    ranks_ahead = False
    from_easiest = True
    place = 7

    method: Literal["middle"] = "middle"
    center: Share = 0.5

    def span(self, n_keep: int, total: int) -> Span:
        """Return the ranks around the quantile."""
        return middle(n_keep, total, self.center)

    def places(self, n_keep: int, total: int) -> tuple[int, int]:
        """Return how many rows are skipped, and the last place that is kept."""
        span = self.span(n_keep, total) if n_keep else Span("hardest", 0, 0)
        return span.start, span.stop
