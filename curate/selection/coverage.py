"""Cover what objects look like, class by class: which rows to take, one after the other (Popp et al. 2024, ODS).

The objects of each class are in groups; a row covers the groups of its objects. First each class is one group, so that
every class is there before any is there twice; then the objects of a class are as many groups as the square root of
their number (spherical k-means), and whenever all groups are covered there are twice as many: each is cut in two. To
cluster anew would take longer with every round, and forget what is covered.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import BudgetError
from curate.linalg import row_dots, unit_rows

__all__ = ["Covered", "Objects", "cover", "cover_groups", "halves"]

Counts = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Vectors = npt.NDArray[np.float32]

#: Steps of the two means that cut a group; they rarely need more than five.
_STEPS = 10
#: From so many rounds on groups are cut in the middle: a far row alone in its half would make rounds without end.
_ROUNDS = 8
#: Groups of each class that an object is named of, covered and not.
_EXAMPLES = 4


@dataclass(frozen=True)
class Objects:
    """Objects of rows, in any order.

    row : (m,) place of the row that each is in. category : (m,) names of their classes. index : (m,) place of the object
    among those of its row. vectors : gives the unit vectors of the objects at some places, (n,) -> (n, d) float32.
    """

    row: Counts
    category: npt.NDArray[np.object_]
    index: Counts
    vectors: Callable[[Counts], Vectors]

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.row)


@dataclass(frozen=True)
class Covered:
    """What was taken, and what it covers.

    taken : rows in the order in which they were taken. gained : groups that each covered anew. objects, kinds : how many
    objects each has, and of how many classes. classes : for each class, the rarest first: its name, its objects and rows,
    the groups they are in at the end, how many are covered. examples : objects of some groups of each class: (class, row,
    index, whether the group is covered).
    """

    taken: Counts
    gained: Counts
    objects: Counts
    kinds: Counts
    classes: tuple[dict[str, Any], ...]
    examples: tuple[tuple[str, int, int, bool], ...]


def cover(
    objects: Objects,
    place: Counts,
    n_take: int,
    *,
    seed: int = 0,
    before: Mask | None = None,
    ahead: Mask | None = None,
    until: int | None = None,
) -> Covered:
    """Return `n_take` rows in the order in which they are taken (Popp et al. 2024, arXiv:2412.10032).

    Of the rarest class (fewest objects; by name where equal) with a group that is not covered, the row is next that
    covers most of its open groups; of these the one that covers most of all classes, then the first in `place`. Rows
    without objects come last, in the order of `place`. A larger `n_take` adds rows and changes none.

    place : (n,) all different: the order of rows that are equal in all else. before : rows that are kept anyway: what
    they cover is covered, and they are not taken. ahead : rows that are taken before all others; by the same rule where
    they are more than `n_take`. until : stop when this row is taken. Raises BudgetError where there are fewer rows.
    """
    n = len(place)
    held = np.zeros(n, np.bool_) if before is None else before.copy()
    if not 0 <= n_take <= n - int(held.sum()):
        raise BudgetError(f"{n_take:,} rows asked for, there are {n - int(held.sum()):,}")
    ordered = np.lexsort((objects.index, place[objects.row]))
    row = objects.row[ordered]
    names, code = np.unique(objects.category[ordered].astype(str), return_inverse=True)
    sizes = np.bincount(code, minlength=len(names))
    rarest = np.lexsort((np.arange(len(names)), sizes))
    picked, allowed = _Picked(held, place, n_take, until), np.ones(n, np.bool_)
    if ahead is not None and int((ahead & ~held).sum()) > n_take:
        allowed = ahead
    elif ahead is not None:
        picked.rest(ahead)
    group, owner = code.astype(np.int64), np.arange(len(names))
    rounds = _groups(objects.vectors, ordered, code, len(names), seed)
    while picked.open and not cover_groups(row, group, owner, rarest, allowed, picked):
        finer = next(rounds, None)
        if finer is None:
            break
        group, owner = finer
    picked.rest(allowed)
    taken, width = np.array(picked.taken, np.int64), max(1, len(names))
    kinds = np.unique(row * width + code) // width
    found = _Found(names, row, code, objects.index[ordered], group, owner, picked.held)
    return Covered(
        taken,
        np.array(picked.gained, np.int64),
        np.bincount(row, minlength=n)[taken],
        np.bincount(kinds, minlength=n)[taken],
        tuple(found.of_class(one) for one in rarest.tolist()),
        tuple(example for one in rarest.tolist() for example in found.examples(one)),
    )


@dataclass
class _Picked:
    """The rows that were taken so far. held : (n,) those, and those that were kept before."""

    held: Mask
    place: Counts
    n_take: int
    until: int | None

    def __post_init__(self) -> None:
        self.taken: list[int] = []
        self.gained: list[int] = []
        self._found = False

    @property
    def open(self) -> bool:
        """Whether more rows are to be taken."""
        return len(self.taken) < self.n_take and not self._found

    def take(self, row: int, gain: int) -> None:
        """Take a row that covers `gain` groups anew."""
        self.held[row] = True
        self.taken.append(row)
        self.gained.append(gain)
        self._found = row == self.until

    def rest(self, allowed: Mask) -> None:
        """Take the rows that cover nothing new, in order."""
        left = np.flatnonzero(allowed & ~self.held)
        for row in left[np.argsort(self.place[left], kind="stable")].tolist():
            if not self.open:
                return
            self.take(row, 0)


def cover_groups(
    row: Counts, group: Counts, owner: Counts, rarest: Counts, allowed: Mask, picked: _Picked
) -> bool:
    """Take rows until every group that can be is covered; return whether the rows to take were used up.

    row, group : (m,) of each object. owner : (k,) the class of each group. rarest : the classes in order. allowed : (n,)
    the rows that may be taken. O(pairs of row and group) steps, with a heap per class: what a row gains only falls.
    """
    every_pair = np.unique(row * max(1, len(owner)) + group)
    pairs = np.stack(np.divmod(every_pair, max(1, len(owner))), axis=1)
    covered = np.zeros(len(owner), np.bool_)
    covered[pairs[picked.held[pairs[:, 0]], 1]] = True
    pairs = pairs[~covered[pairs[:, 1]] & allowed[pairs[:, 0]]]
    n = len(picked.held)
    of_row = _Lists(pairs[:, 0], pairs[:, 1], n)
    of_group = _Lists(pairs[:, 1], pairs[:, 0], len(owner))
    every = np.bincount(pairs[:, 0], minlength=n)
    by_class = np.argsort(owner[pairs[:, 1]], kind="stable")
    edges = np.searchsorted(owner[pairs[:, 1]][by_class], np.arange(len(rarest) + 1))
    for one in rarest.tolist():
        rows = pairs[by_class[edges[one] : edges[one + 1]]]
        rows = rows[~covered[rows[:, 1]], 0]
        own = np.bincount(rows, minlength=n)
        heap = [(-int(own[r]), -int(every[r]), int(picked.place[r]), r) for r in np.unique(rows).tolist()]
        heapq.heapify(heap)
        while heap:
            if not picked.open:
                return True
            known = heapq.heappop(heap)
            best = known[3]
            now = (-int(own[best]), -int(every[best]), known[2], best)
            if picked.held[best] or own[best] == 0:
                continue
            if now != known:
                heapq.heappush(heap, now)
                continue
            new = [g for g in of_row[best].tolist() if not covered[g]]
            for g in new:
                covered[g] = True
                every[of_group[g]] -= 1
                if owner[g] == one:
                    own[of_group[g]] -= 1
            picked.take(best, len(new))
    return not picked.open


class _Lists:
    """The values of each key, as slices of one array."""

    def __init__(self, keys: Counts, values: Counts, n: int) -> None:
        self._values = values[np.argsort(keys, kind="stable")]
        self._ends = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=n))])

    def __getitem__(self, key: int) -> Counts:
        return self._values[self._ends[key] : self._ends[key + 1]]


def _groups(
    vectors: Callable[[Counts], Vectors], ordered: Counts, code: Counts, n_classes: int, seed: int
) -> Iterator[tuple[Counts, Counts]]:
    """Yield the group of each object and the class of each group, finer each time, until every object is one.

    ordered : (m,) where the vector of each object is.
    """
    from curate.clustering.kmeans import assign, auto_concepts, fit  # FAISS; methods are listed without it

    members = [np.flatnonzero(code == one) for one in range(n_classes)]
    group, owner = np.zeros(len(code), np.int64), np.empty(0, np.int64)
    for one, here in enumerate(members):
        unit = np.ascontiguousarray(vectors(ordered[here]))
        found = fit(unit, auto_concepts(len(here)), seed=seed).centroids
        _, own = np.unique(assign(unit, found)[0], return_inverse=True)
        group[here] = own + len(owner)
        owner = np.concatenate([owner, np.full(int(own.max(initial=-1)) + 1, one)])
    yield group, owner
    done = 0
    while len(owner) < len(group):
        group, owners, done = group.copy(), owner.tolist(), done + 1
        for one, here in enumerate(members):
            unit = vectors(ordered[here])
            by_group = np.argsort(group[here], kind="stable")
            edges = np.flatnonzero(np.diff(group[here][by_group], prepend=-1, append=-2))
            for start, stop in pairwise(edges.tolist()):
                some = by_group[start:stop]
                if len(some) > 1:
                    group[here[some[halves(unit[some], even=done > _ROUNDS)]]] = len(owners)
                    owners.append(one)
        owner = np.array(owners, np.int64)
        yield group, owner


def halves(vectors: Vectors, *, even: bool = False) -> Mask:
    """Return which of some vectors are in the second of two groups, (n,); neither is empty.

    vectors : (n, d) unit rows, n at least 2. Two means by inner products, from the row farthest from the mean and the
    one farthest from that. even : cut in the middle between them, so that both groups have as many rows (or one less).
    Where all rows are equal, the second half of them.

    >>> halves(np.array([[1, 0], [0, 1], [0.8, 0.6]], np.float32))
    array([ True, False,  True])
    """
    mean, valid = unit_rows(vectors.sum(axis=0, dtype=np.float64, keepdims=True))
    first = int(row_dots(vectors, mean).argmin()) if valid[0] else 0
    second = int(row_dots(vectors, vectors[first : first + 1]).argmin())
    centres = vectors[[first, second]]
    middle = np.arange(len(vectors)) >= (len(vectors) + 1) // 2
    if even:
        nearer = row_dots(vectors, centres[1:]) - row_dots(vectors, centres[:1])
        return middle[np.argsort(np.argsort(nearer, kind="stable"), kind="stable")]
    side = np.zeros(len(vectors), np.bool_)
    for _ in range(_STEPS):
        new = row_dots(vectors, centres[1:]) > row_dots(vectors, centres[:1])
        if not new.any() or new.all() or (new == side).all():
            break
        side = new
        both = np.stack(
            [vectors[~side].sum(axis=0, dtype=np.float64), vectors[side].sum(axis=0, dtype=np.float64)]
        )
        found, valid = unit_rows(both)
        if not valid.all():
            break
        centres = found
    return side if side.any() else middle


@dataclass(frozen=True)
class _Found:
    """The objects in order with their groups, and which rows are kept."""

    names: npt.NDArray[Any]
    row: Counts
    code: Counts
    index: Counts
    group: Counts
    owner: Counts
    held: Mask

    @cached_property
    def covered(self) -> Mask:
        """Which groups are covered, (k,)."""
        found = np.zeros(len(self.owner), np.bool_)
        found[self.group[self.held[self.row]]] = True
        return found

    def of_class(self, one: int) -> dict[str, Any]:
        """Return what there is of a class, and what of it is covered."""
        here = np.flatnonzero(self.code == one)
        rows, groups = np.unique(self.row[here]), self.owner == one
        return {
            "class": str(self.names[one]), "objects": len(here), "rows": len(rows),
            "kept_rows": int(self.held[rows].sum()), "groups": int(groups.sum()),
            "covered": int(self.covered[groups].sum()),
        }  # fmt: skip

    def examples(self, one: int) -> Iterator[tuple[str, int, int, bool]]:
        """Yield an object of each of the largest groups of a class: covered ones, by a row that is kept, and others."""
        here = np.flatnonzero(self.code == one)
        sizes = np.bincount(self.group[here], minlength=len(self.owner))
        largest = np.lexsort((np.arange(len(sizes)), -sizes))[: int((self.owner == one).sum())]
        for covered in (True, False):
            for group in largest[self.covered[largest] == covered][:_EXAMPLES].tolist():
                inside = here[self.group[here] == group]
                first = inside[self.held[self.row[inside]]][0] if covered else inside[0]
                yield str(self.names[one]), int(self.row[first]), int(self.index[first]), covered
