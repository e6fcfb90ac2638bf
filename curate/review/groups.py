"""Near-duplicates side by side at any epsilon, and exact copies, in groups.

A group of near-duplicates is what hangs together by similarities beyond 1 - epsilon within one concept, as dedup compares.
Vectors are compared concept by concept, as far as the page needs groups.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.deduplication.semantic import threshold_of
from curate.embedding.store import EmbeddingPart
from curate.execution.context import Context
from curate.linalg import load_unit
from curate.review.table import RowTable

__all__ = ["NearGroup", "NearGroups", "copies"]

#: Rows of a concept that are compared; of a larger one the first so many in the order of their similarity.
MOST = 20_000
#: Rows of a matrix product.
BLOCK = 1_024
#: Epsilons whose groups are remembered.
REMEMBERED = 8

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NearGroup:
    """Rows that resemble each other: their numbers, and how similar each is to the most similar other one."""

    rows: list[int]
    similarity: list[float]


@dataclass
class _Found:
    """The groups that were found so far at one epsilon, and where to go on."""

    more: Iterator[NearGroup]
    groups: list[NearGroup] = field(default_factory=list)
    done: bool = False


class NearGroups:
    """Groups of near-duplicates of a run, found as far as they are asked for."""

    def __init__(self, context: Context, table: RowTable) -> None:
        self._context, self._table = context, table
        self._found: OrderedDict[float, _Found] = OrderedDict()
        self._held = threading.Lock()

    def page(self, epsilon: float, offset: int, limit: int) -> tuple[list[NearGroup], bool]:
        """Return groups at an epsilon, and whether there are more behind them."""
        with self._held:
            found = self._found.setdefault(epsilon, _Found(self._search(epsilon)))
            self._found.move_to_end(epsilon)
            while len(self._found) > REMEMBERED:
                self._found.popitem(last=False)
            while not found.done and len(found.groups) <= offset + limit:
                group = next(found.more, None)
                found.done = group is None
                if group is not None:
                    found.groups.append(group)
            return found.groups[offset : offset + limit], len(found.groups) > offset + limit

    def _search(self, epsilon: float) -> Iterator[NearGroup]:
        """Yield groups concept by concept, the concept with the most similar pair first."""
        threshold = float(threshold_of(epsilon))
        near = bool(self._table.ask("select 1 as x from rows where near is not null limit 1"))
        for one in self._blocks(near, threshold):
            rows = self._members(one["block"])
            vectors = self._vectors([row["part"] for row in rows], [row["place"] for row in rows])
            later = np.array([not near or (row["near"] or -1.0) > threshold for row in rows])
            numbers = [int(row["n"]) for row in rows]
            yield from _groups(vectors, np.flatnonzero(later), numbers, threshold)

    def partner(self, number: int) -> int | None:
        """Return the row that the similarity `near` of a row is to; None where there is none."""
        found = self._table.ask("select block, near from rows where n = ? and near is not null", [number])
        if not found:
            return None
        rows = self._members(found[0]["block"])
        place = next((at for at, row in enumerate(rows) if row["n"] == number), None)
        if place is None or len(rows) < 2:
            return None
        vectors = self._vectors([row["part"] for row in rows], [row["place"] for row in rows])
        gaps = np.abs(vectors @ vectors[place] - found[0]["near"])
        gaps[place] = np.inf
        return int(rows[int(gaps.argmin())]["n"])

    def _members(self, block: int) -> list[dict[str, Any]]:
        """Return the rows of a block that have vectors, the most similar first."""
        return self._table.ask(
            "select n, part, place, near from rows where block = ? and place is not null "
            f"order by near desc nulls last, n limit {MOST}", [block],
        )  # fmt: skip

    def _blocks(self, near: bool, threshold: float) -> list[dict[str, Any]]:
        """Return what rows are compared within, as far as there may be a pair in it."""
        if near:
            asked = "select block, max(near) as top from rows where near > ? group by block order by top desc, block"
            return self._table.ask(asked, [threshold])
        return self._table.ask("select distinct block from rows where block is not null order by block")

    def _vectors(self, parts: Sequence[int], places: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the vectors of rows by their part and their place in it."""
        run, column = self._context.run, self._context.recipe.cluster.compared
        part, place = np.array(parts, np.int64), np.array(places, np.int64)
        found: npt.NDArray[np.float32] | None = None
        for index in np.unique(part).tolist():
            here = part == index
            stored = EmbeddingPart(run.part(run.embeddings, self._context.parts[index].name))
            rows = load_unit(stored.take(column, place[here]))
            if found is None:
                found = np.zeros((len(part), rows.shape[1]), np.float32)
            found[here] = rows
        return np.zeros((0, 1), np.float32) if found is None else found


def _groups(
    vectors: npt.NDArray[np.float32], later: Indices, numbers: Sequence[int], threshold: float
) -> list[NearGroup]:
    """Return what hangs together: pairs of a row in `later` with any row, with a similarity beyond the threshold."""
    # Rows that hang together have one label, that of their first.
    labels, best = np.arange(len(vectors)), np.full(len(vectors), -1.0, np.float32)
    for start in range(0, len(later), BLOCK):
        rows = later[start : start + BLOCK]
        products = vectors[rows] @ vectors.T
        products[np.arange(len(rows)), rows] = -1.0
        products[products <= threshold] = -1.0
        best[rows] = np.maximum(best[rows], products.max(axis=1))
        best = np.maximum(best, products.max(axis=0))
        for row, near in zip(rows.tolist(), products > -1.0, strict=True):
            joined = np.unique(np.append(labels[near], labels[row]))
            if len(joined) > 1:
                labels[np.isin(labels, joined)] = joined[0]
    members: dict[int, list[int]] = {}
    for row in np.flatnonzero(best > -1.0).tolist():
        members.setdefault(int(labels[row]), []).append(row)
    groups = [
        NearGroup([numbers[row] for row in rows], [round(float(best[row]), 6) for row in rows])
        for rows in members.values()
    ]
    return sorted(groups, key=lambda group: (-max(group.similarity), group.rows))


def copies(table: RowTable, offset: int, limit: int) -> list[list[int]]:
    """Return groups of exact copies by the numbers of their rows, the largest first; the one that stands for all first."""
    found = table.ask(
        f"""with g as (select coalesce(duplicate_of, uid) as of, count(*) as c from rows where reason = 'exact_duplicate'
        group by of order by c desc, of limit {limit} offset {offset})
        select g.of as of, list(r.n order by r.reason = 'exact_duplicate', r.n) as rows, any_value(g.c) as c from g join rows r
        on r.uid = g.of or (r.reason = 'exact_duplicate' and r.duplicate_of = g.of) group by g.of order by c desc, of"""
    )
    return [list(one["rows"]) for one in found]
