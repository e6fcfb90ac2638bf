"""One end of a score: the hardest, the easiest, or the largest values as they are."""

from abc import abstractmethod
from typing import Literal

from curate.ordering.span import Span, easiest, hardest, span_cuts
from curate.selection.base import ByScore, RowSource, pairs
from curate.selection.rules import Stretch

__all__ = ["Easiest", "Hardest", "KeepsStretch", "Top"]


class KeepsStretch(ByScore):
    """A method that keeps the rows between two ranks of a score."""

    keeps_stretch = True

    @abstractmethod
    def span(self, n_keep: int, total: int) -> Span:
        """Return the ranks that are kept, of `total` rows with a score."""

    def fit(self, rows: RowSource, n_keep: int, total: int) -> Stretch:
        """Return the rows between two cuts over all rows."""
        # None of nothing: wherever the stretch begins, even behind the last row.
        span = self.span(n_keep, total) if n_keep else Span("hardest", 0, 0)
        return Stretch(span_cuts(pairs(rows), span))


class Hardest(KeepsStretch):
    """The rows with the hardest scores (Paul et al. 2021, "Deep Learning on a Data Diet")."""

    keeps = "the hard end of a score (`by`)"
    paper = "Paul et al. 2021, arXiv:2107.07075"
    avoid = "when less than half is kept: mislabelled rows are the hardest of all"
    floor_order = "key"
    place = 3

    method: Literal["hardest"] = "hardest"

    def span(self, n_keep: int, total: int) -> Span:
        """Return the first ranks; warns below half, where noise takes over."""
        return hardest(n_keep, total)


class Easiest(KeepsStretch):
    """The rows with the easiest scores, which is right where data is scarce (Sorscher et al. 2022)."""

    keeps = "the easy end of a score (`by`)"
    direction = "the easiest first, whichever way the score points"
    paper = "Sorscher et al. 2022, arXiv:2206.14486"
    avoid = "when data is plentiful: what is easy is soon learnt, and often repeated"
    from_easiest = True
    floor_order = "key"
    place = 4

    method: Literal["easiest"] = "easiest"

    def span(self, n_keep: int, total: int) -> Span:
        """Return the first ranks, counted from the easiest row."""
        return easiest(n_keep, total)


class Top(KeepsStretch):
    """The rows with the largest values, whatever they mean."""

    keeps = "the largest values of a score (`by`)"
    direction = "the largest value first"
    avoid = "when the score says how hard a sample is: hardest and easiest know its direction"
    as_it_is = True
    floor_order = "key"
    place = 5

    method: Literal["top"] = "top"

    def span(self, n_keep: int, total: int) -> Span:
        """Return the first ranks."""
        return Span("hardest", 0, n_keep)
