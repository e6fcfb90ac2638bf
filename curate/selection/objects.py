"""Object-focused selection: pictures that cover what the objects in them look like, rare classes first (Popp et al. 2024)."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from curate.selection.base import Arrays, RowSource, Selector, Source
from curate.selection.prototypes import first_of_all
from curate.selection.rows.counterfactual import Nested
from curate.selection.rules import Budgets

if TYPE_CHECKING:
    from curate.selection.coverage import Covered
    from curate.selection.rows.counterfactual import Standing
    from curate.selection.rows.finished import Finished, Row

__all__ = ["ObjectCoverage"]

#: Keys of rows that were not taken begin here; shipped rows have smaller ones when they come.
_BEHIND = np.uint64(1 << 63)


class ObjectCoverage(Selector):
    """Images that cover the kinds of objects of every class, the rarest class first."""

    keeps = "images whose objects cover every class, then every kind of object in it, the rarest class first"
    needs = "vectors of objects (`objects` in score)"
    direction = "the image that covers most open groups of the rarest class; without objects last, by hash"
    paper = "Popp et al. 2024, arXiv:2412.10032"
    cost = "k-means per class; the vectors of all objects are in memory, in half precision"
    avoid = "when boxes are noisy or lack classes, or images are for anything but detection and segmentation"
    place = 12

    reads_tables = ("objects_count",)

    method: Literal["objects"] = "objects"

    @property
    def preference(self) -> str:
        """A hash orders what covers the same."""
        return "random"

    @property
    def drawn(self) -> bool:
        """What is covered decides, not chance."""
        return False

    def arranged(self, rows: Source, n_keep: int) -> Source:
        """Return the rows in the order in which they are taken, as far as `n_keep`; the others by hash."""
        columns = _columns(rows, "key")
        ahead = columns["key"] < _BEHIND if rows.has_shipped else None
        found = _covered(rows, columns, n_keep, ahead=ahead)
        key = (columns["tie"] >> np.uint64(1)) | _BEHIND
        key[columns["pinned"]] = 0
        key[found.taken] = np.arange(1, len(found.taken) + 1, dtype=np.uint64)
        return rows.placed(key, found)

    def fit(self, rows: RowSource, n_keep: int, total: int) -> Budgets:
        """Return the first rows over all concepts, as they were arranged."""
        return first_of_all(rows, np.zeros(len(rows.concepts), np.int64), n_keep, total, drawn=False)

    def standing(self, run: "Finished", row: "Row") -> "Standing | str":
        """Return the row's place in the order in which rows are taken."""
        if run.shipped_first is not None:
            return run.shipped_first
        columns = _columns(run.rows)
        own = run.number(row)
        free = int((~columns["pinned"]).sum())
        found = _covered(run.rows, columns, free, until=own)
        return Nested(len(found.taken), lambda count: (0, count), 0, free)


def _columns(rows: RowSource, *more: str) -> Arrays:
    """Return columns of all rows, in the order of their blocks."""
    names = ("tie", "concept", "rank", "pinned", *more)
    blocks = list(rows.blocks(*names))
    empty: dict[str, Any] = {"pinned": np.bool_, "tie": np.uint64, "key": np.uint64}
    none = [np.empty(0, empty.get(name, np.int64)) for name in names]
    return {
        name: np.concatenate([block[name] for block in blocks] or [zero])
        for name, zero in zip(names, none, strict=True)
    }


def _covered(rows: RowSource, columns: Arrays, n_take: int, **settings: Any) -> "Covered":  # noqa: ANN401
    """Return which rows are taken; those that cover the same go by their hash."""
    from curate.selection.coverage import cover  # it needs FAISS

    order = np.lexsort((columns["rank"], columns["concept"], columns["tie"]))
    place: npt.NDArray[np.int64] = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return cover(rows.objects(), place, n_take, before=columns["pinned"], **settings)
