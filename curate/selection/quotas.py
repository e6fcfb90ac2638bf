"""Keep something of every group: a floor per class or concept, the rest in proportion to what is left."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, model_validator

from curate.errors import BudgetError
from curate.ordering.group_cutoff import GroupedPairs, nth_smallest_by_group
from curate.ordering.shares import exact_share
from curate.selection import rules
from curate.selection.base import RowSource, Selector, free_sizes
from curate.selection.mixture import InMixture, mixture, weights_of
from curate.selection.rules import Budgets, Groups, group_inclusion
from curate.settings import Count, Preference, Share

if TYPE_CHECKING:
    from curate.selection.rows.counterfactual import Standing, Stretch
    from curate.selection.rows.finished import Again, Finished, Row

__all__ = ["InQuotas", "Quotas", "concept_quotas", "quotas"]

Counts = npt.NDArray[np.integer[Any]]


#: Groups of a mixture that are noted.
_MOST_NOTED = 1_000


def _texts(value: object) -> object:
    """Return a mapping with texts as keys: YAML reads 2024 as a number."""
    return {str(name): share for name, share in value.items()} if isinstance(value, Mapping) else value


class Quotas(Selector):
    """The same share of every group, with a floor for small ones; or a mixture of groups by given shares.

    per : concept, label, source, split, or a column of the source. shares : what part of all kept rows each group is, by its
    name; what they leave of 1 goes to the other groups in proportion to their rows. A group with fewer rows keeps all, and the
    others make up for it by their shares, so that the number of rows is exact.
    """

    keeps = "in proportion per concept, class, source, split or column (`per`), or by `shares`, with floors (`min_per_group`)"
    needs = "concepts, labels, or what `per` names"
    avoid = "when groups differ in how much there is to learn: take density"
    place = 9

    method: Literal["quotas"] = "quotas"
    prefer: Preference = "random"
    per: Annotated[str, Field(min_length=1)] = "concept"
    min_per_group: Annotated[Count, Field(ge=0)] = 1
    shares: Annotated[dict[str, Share], BeforeValidator(_texts)] | None = None

    later: ClassVar[tuple[str, ...]] = ("shares",)

    @model_validator(mode="after")
    def _mixture(self) -> Self:
        if self.shares is None:
            return self
        if self.per == "concept":
            raise ValueError("takes shares with per label, source, split or a column, got per concept")
        total = sum(map(exact_share, self.shares.values()), Fraction(0))
        if not 0 < total <= 1:
            raise ValueError(f"needs shares that add up to more than 0 and at most 1, got {float(total):g}")
        return self

    @property
    def group_column(self) -> str | None:
        """The column whose values have quotas, unless concepts have."""
        return None if self.per == "concept" else self.per

    @property
    def by_sizes(self) -> bool:
        """Quotas of concepts follow from their sizes."""
        return self.per == "concept"

    def concept_budgets(
        self, sizes: rules.Counts, n_keep: int, parents: Sequence[npt.NDArray[Any]] = ()
    ) -> rules.Counts | None:
        """Return the quotas of concepts, (k,)."""
        return concept_quotas(sizes, n_keep, self.min_per_group, relax=False) if self.by_sizes else None

    def fit(self, rows: RowSource, n_keep: int, total: int) -> Budgets | Groups:
        """Return the first rows of each concept or group."""
        if self.group_column is not None:
            return self._by_group(rows, n_keep)
        sizes = free_sizes(rows.concepts)
        budget = concept_quotas(sizes, n_keep, self.min_per_group, relax=False)
        pinned = rows.concepts["n_pinned"].to_numpy()
        return Budgets(pinned + budget, None, group_inclusion(budget, sizes) if self.drawn else None)

    def _by_group(self, rows: RowSource, n_keep: int) -> Groups:
        """Give every group its quota; rows without a value are a group of their own."""
        sizes, pinned = _sizes(rows)
        names, floor = (
            self._names(rows),
            self.min_per_group if n_keep else 0,
        )  # none of nothing: that is no error
        if self.shares is None:
            quota = quotas(sizes, n_keep, floor, names)
        else:
            bounds = self._bounds(names, sizes, pinned, floor)
            quota = mixture(*bounds, n_keep + int(pinned.sum()), names) - pinned

        def grouped() -> Iterator[GroupedPairs]:
            for block in rows.blocks("pinned", "group", "key", "tie"):
                free = ~block["pinned"]
                yield block["group"][free], block["key"][free], block["tie"][free]

        shares = group_inclusion(quota, sizes) if self.drawn else None
        return Groups(nth_smallest_by_group(grouped, quota), shares)

    def _names(self, rows: RowSource) -> list[str]:
        """Return the names of all groups; the last is that of the rows without a value."""
        return [*rows.classes, "no label" if self.per == "label" else f"no {self.per}"]

    def _bounds(
        self, names: Sequence[str], sizes: Counts, pinned: Counts, floor: int
    ) -> tuple[tuple[Fraction, ...], Counts, Counts]:
        """Return weights of the groups, and how many rows of each are kept at least and at most, pinned ones included."""
        weights = tuple(weights_of(self.shares or {}, names, sizes + pinned))
        shared = np.array([weight > 0 for weight in weights], np.bool_)
        return (
            weights,
            np.maximum(pinned, np.where(shared, np.minimum(sizes + pinned, floor), 0)),
            sizes + pinned,
        )

    def noted(self, rows: RowSource, rule: rules.Rule, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return what became of the shares: asked and kept by group, and which groups have too few rows."""
        if self.shares is None or not isinstance(rule, Groups):
            return {}
        sizes, pinned = _sizes(rows)
        kept = pinned.copy()
        for block in rows.blocks("pinned", "group", "key", "tie"):
            held = rule.keep({name: values[~block["pinned"]] for name, values in block.items()})
            kept += np.bincount(block["group"][~block["pinned"]][held], minlength=len(kept))
        names, total = self._names(rows), int(kept.sum())
        weights = weights_of(self.shares, names, sizes + pinned)
        asked = [float(weight * total) for weight in weights]
        short = [
            f"{names[group]}: {kept[group]:,} of {asked[group]:,.0f}"
            for group in np.flatnonzero((kept == sizes + pinned) & (kept < np.floor(asked))).tolist()
        ]
        said = (
            f"shares cannot be met: {', '.join(short[:10])} rows are there"
            f"{f' (and {len(short) - 10:,} groups more)' * (len(short) > 10)}; the other groups keep more by their shares"
        )
        mixed = [
            {"group": name, "share": float(weight), "rows": int(size), "kept": int(count)}
            for name, weight, size, count in zip(names, weights, sizes + pinned, kept, strict=True)
            if size
        ]
        return {
            "mixture": {"per": self.per, "groups": mixed[:_MOST_NOTED]},
            **({"warnings": [said]} if short else {}),
        }

    def standing(self, run: "Finished", row: "Row") -> "Standing | str":
        """Return the row's place in its concept or group."""
        if self.group_column is None:
            return InQuotas(run.found.density.free, row.concept, run.place(row), self.min_per_group)
        if run.shipped_first is not None:
            return run.shipped_first
        own = run.own(row)
        sizes, pinned = _sizes(run.rows)
        place = run.place_among(own, "key", "tie", lambda block: block["group"] == own["group"])
        if self.shares is not None:
            bounds = self._bounds(self._names(run.rows), sizes, pinned, self.min_per_group)
            return InMixture(bounds[0], pinned, *bounds[1:], int(own["group"]), place)
        return InQuotas(sizes, int(own["group"]), place, self.min_per_group)


def _sizes(rows: "RowSource | Again") -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows of each group that are not pinned, and the pinned ones, (k + 1,): the last are without a value."""
    free, pinned = (np.zeros(len(rows.classes) + 1, np.int64) for _ in range(2))
    for block in rows.blocks("pinned", "group"):
        free += np.bincount(block["group"][~block["pinned"]], minlength=len(free))
        pinned += np.bincount(block["group"][block["pinned"]], minlength=len(free))
    return free, pinned


def quotas(
    sizes: Counts, n_keep: int, floor: int | Counts = 1, names: Sequence[str] | None = None
) -> npt.NDArray[np.int64]:
    """Return how many rows each group keeps, `n_keep` together, none above its size.

    sizes : (k,) rows per group, groups sorted by name. floor : rows that a group keeps for sure, one
    number or (k,), as far as it has them. The rest goes in proportion to size - floor by largest
    remainder, equal remainders to the first group, in exact integers. Raises BudgetError naming groups
    where the floors alone are too many.

    >>> quotas(np.array([1, 9, 90]), 10), quotas(np.array([5, 5]), 5)
    (array([1, 2, 7]), array([3, 2]))
    """
    floors = np.minimum(np.broadcast_to(np.asarray(floor), sizes.shape), sizes).astype(np.int64)
    _check(sizes, n_keep, floors, names)
    rest, room = n_keep - int(floors.sum()), sizes - floors
    fits = rest * int(room.max(initial=0)) < 1 << 63
    shares = rest * room.astype(np.int64 if fits else object)  # exact, however many rows
    whole = max(1, int(room.sum()))
    kept: npt.NDArray[np.int64] = floors + (shares // whole).astype(np.int64)
    by_remainder = np.argsort(-(shares % whole), kind="stable")
    kept[by_remainder[: n_keep - int(kept.sum())]] += 1
    if kept.sum() != n_keep or (kept > sizes).any() or (kept < floors).any():
        raise BudgetError(f"quotas must add up to {n_keep} within sizes and floors, got {kept.sum()}")
    return kept


def _check(sizes: Counts, n_keep: int, floors: npt.NDArray[np.int64], names: Sequence[str] | None) -> None:
    if (floors < 0).any() or n_keep < 0:
        raise BudgetError("sizes, floors and rows to keep must be at least 0")
    if n_keep > int(sizes.sum()):
        raise BudgetError(f"{n_keep:,} rows asked for, the groups have {int(sizes.sum()):,}")
    if int(floors.sum()) > n_keep:
        largest = np.argsort(-floors, kind="stable")[:10]
        listed = ", ".join(f"{names[i] if names else i}: {floors[i]} of {sizes[i]}" for i in largest.tolist())
        more = f" and {len(floors) - 10} more" if len(floors) > 10 else ""
        raise BudgetError(
            f"floors of {len(floors)} groups add up to {int(floors.sum()):,}, more than the {n_keep:,} rows to "
            f"keep ({listed}{more}); lower min_per_group or keep more"
        )


def concept_quotas(free: rules.Counts, n_keep: int, floor: int, *, relax: bool) -> rules.Counts:
    """Return what each concept keeps, in proportion to its rows but for the floor.

    relax : lower the floor where it is more than there is to keep; otherwise that is a BudgetError (but
    keeping nothing is not).
    """
    if n_keep == 0 or (relax and int(np.minimum(free, floor).sum()) > n_keep):
        floor = n_keep // max(1, int((free > 0).sum()))
    return quotas(free, n_keep, floor, [f"concept {j}" for j in range(len(free))])


@dataclass(frozen=True)
class InQuotas:
    """A row of a selection by quotas: a floor per group, the rest in proportion to what is left.

    sizes : (k,) rows that compete, by group. place : from 1, within its group. relax : whether a floor
    that is too much is lowered (otherwise nothing can be selected there).
    """

    sizes: Counts
    group: int
    place: int
    floor: int
    relax: bool = False

    @cached_property
    def _paid(self) -> int:
        """The rows that the whole floor takes."""
        return int(np.minimum(self.sizes, self.floor).sum())

    @cached_property
    def _groups(self) -> int:
        return max(1, int((self.sizes > 0).sum()))

    @cached_property
    def stretches(self) -> "Sequence[Stretch]":
        """The counts with the same floor."""
        total, below = int(self.sizes.sum()), [(0, 0)]
        if self.relax:
            starts = range(0, self._paid, self._groups)
            below = [(start, min(start + self._groups, self._paid) - 1) for start in starts]
        return (*(below if self._paid else []), (self._paid, total))

    def _floor(self, count: int) -> int:
        if count == 0:
            return 0
        return count // self._groups if self.relax and count < self._paid else self.floor

    def keeps(self, count: int) -> bool:
        """Return whether the group's quota reaches the row."""
        return bool(self.place <= quotas(self.sizes, count, self._floor(count))[self.group])

    def side(self, count: int) -> int:
        """Return 1 or -1 where the rounding of shares cannot decide, else 0."""
        floor = np.minimum(self.sizes, self._floor(count)).astype(np.int64)
        room = self.sizes - floor
        share = (count - int(floor.sum())) * int(room[self.group])
        wanted, whole = self.place - int(floor[self.group]), int(room.sum())
        if wanted <= 0 or (whole and share >= wanted * whole):
            return 1
        return -1 if share <= (wanted - 1) * whole else 0
