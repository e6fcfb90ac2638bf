"""Which ranked rows are kept: a rule that says it of each row by itself, and with which probability."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError
from curate.ordering.group_cutoff import GroupCuts
from curate.ordering.span import Cuts

__all__ = [
    "Budgets",
    "Choice",
    "Counts",
    "Floats",
    "Groups",
    "Mask",
    "Rows",
    "Rule",
    "Stretch",
    "group_inclusion",
]

Rows = Mapping[str, npt.NDArray[Any]]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


def group_inclusion(kept: npt.NDArray[np.integer[Any]], sizes: npt.NDArray[np.integer[Any]]) -> Floats:
    """Return kept / size per group, (k,): the probability of a row drawn inside it; 0 for empty groups.

    >>> group_inclusion(np.array([1, 0, 0]), np.array([4, 2, 0]))
    array([0.25, 0.  , 0.  ])
    """
    if (kept < 0).any() or (kept > sizes).any():
        raise CurateError("rows kept must be between 0 and the size of their group")
    shares: Floats = kept / np.maximum(sizes, 1)
    return shares


class Rule(Protocol):
    """What a method keeps of the rows that have what it goes by."""

    def keep(self, rows: Rows) -> Mask:
        """Return which rows are kept, (n,)."""

    def probability(self, rows: Rows, keep: Mask) -> Floats:
        """Return the probability with which each row was to be kept, (n,); NaN where it has no closed form."""

    def cut_off(self, rows: Rows) -> Mask:
        """Return which rows were taken out as the noisiest before anything was selected, (n,)."""


class _NoCutoff:
    def cut_off(self, rows: Rows) -> Mask:
        """Return that no row was."""
        return np.zeros(len(rows["key"]), np.bool_)


@dataclass(frozen=True)
class Budgets(_NoCutoff):
    """The first `budget` rows of each concept, and of the others those up to a cut over all concepts.

    budget : (k,), pinned rows included, which rank first. shares : (k,) probability of a row that is not
    pinned, where rows are drawn; None where ranks are certain.
    """

    budget: Counts
    pooled: Cuts | None = None
    shares: Floats | None = None

    def keep(self, rows: Rows) -> Mask:
        """Return which rows are kept."""
        inside: Mask = rows["rank"] <= self.budget[rows["concept"]]
        return inside if self.pooled is None else inside | self.pooled.holds(rows["key"], rows["tie"])

    def probability(self, rows: Rows, keep: Mask) -> Floats:
        """Return the share of the row's concept, or certainty."""
        return keep.astype(np.float64) if self.shares is None else self.shares[rows["concept"]]


@dataclass(frozen=True)
class Stretch(_NoCutoff):
    """The rows between two cuts over all rows. known : whether inclusion is certain (else it is not known)."""

    cuts: Cuts
    ties: str = "tie"
    known: bool = True

    def keep(self, rows: Rows) -> Mask:
        """Return which rows are kept."""
        return self.cuts.holds(rows["key"], rows[self.ties])

    def probability(self, rows: Rows, keep: Mask) -> Floats:
        """Return certainty, or nothing."""
        return keep.astype(np.float64) if self.known else np.full(len(keep), np.nan)


@dataclass(frozen=True)
class Groups(_NoCutoff):
    """The first rows of each class. shares : (k,) of a class where rows are drawn, else None."""

    cuts: GroupCuts
    shares: Floats | None

    def keep(self, rows: Rows) -> Mask:
        """Return which rows are kept."""
        return self.cuts.holds(rows["group"], rows["key"], rows["tie"])

    def probability(self, rows: Rows, keep: Mask) -> Floats:
        """Return the share of the row's class, or certainty."""
        return keep.astype(np.float64) if self.shares is None else self.shares[rows["group"]]


@dataclass(frozen=True)
class Choice:
    """A rule for the rows with a score, a cut over random draws for those without, and the pinned rows.

    nulls : None where all rows have what the method goes by. null_share : what the draw keeps of them. known :
    whether probabilities are (they are not where chance decides behind rows that go ahead).
    """

    rule: Rule
    nulls: Cuts | None = None
    null_share: float = 0.0
    known: bool = True

    def of(self, rows: Rows) -> tuple[Mask, Floats, Mask]:
        """Return which rows are kept, with which probability, and which the rule cut off; all (n,)."""
        n = len(rows["key"])
        keep, probability, cut = rows["pinned"].copy(), np.ones(n), np.zeros(n, np.bool_)
        scored = ~np.isnan(rows["score"]) if "score" in rows else np.ones(n, np.bool_)
        free = ~rows["pinned"]
        ruled = {name: values[free & scored] for name, values in rows.items()}
        keep[free & scored] = held = self.rule.keep(ruled)
        probability[free & scored] = self.rule.probability(ruled, held)
        cut[free & scored] = self.rule.cut_off(ruled)
        if self.nulls is not None:
            without = free & ~scored
            keep[without] = self.nulls.holds(rows["draw"][without], rows["tie"][without])
            probability[without] = self.null_share
        if not self.known:
            probability[free | rows.get("floor", np.zeros(n, np.bool_))] = np.nan
        return keep, probability, cut
