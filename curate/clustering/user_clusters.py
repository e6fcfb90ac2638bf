"""A clustering made elsewhere: which cluster an id is in, and the centroids of clusters whose members are known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curate.errors import EmbeddingError
from curate.hashing import hash_uids
from curate.linalg import unit_rows

__all__ = ["Labelling", "MemberSums", "labelling"]

#: Unit vectors are added as whole numbers of this size, so that a sum is exact in any order of its rows: no
#: addition rounds, 2^27 members fit into 63 bits, and a number is rounded once, by at most 2^-37.
_SCALE = 2.0**36
MAX_MEMBERS = 2**26


@dataclass(frozen=True)
class Labelling:
    """The cluster of each id, by the 64-bit hash of the id: 12 bytes per id, however long they are.

    hashes : (n,) uint64, ascending, each once. labels : (n,) int32, not negative.
    """

    hashes: npt.NDArray[np.uint64]
    labels: npt.NDArray[np.int32]

    def of(self, ids: Sequence[str]) -> npt.NDArray[np.int32]:
        """Return the cluster of each id; -1 where it is in none.

        >>> labelling([hash_uids(["a", "b"])], [np.array([7, 3], np.int32)]).of(["b", "x", "a"])
        array([ 3, -1,  7], dtype=int32)
        """
        wanted = hash_uids(ids)
        found = np.full(len(ids), -1, np.int32)
        if len(self.hashes):
            places = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
            same = self.hashes[places] == wanted
            found[same] = self.labels[places[same]]
        return found


def labelling(hashes: Sequence[npt.NDArray[np.uint64]], labels: Sequence[npt.NDArray[np.int32]]) -> Labelling:
    """Return the labelling of ids given in pieces (hashes of ids, their clusters).

    An id may stand several times in one cluster. Raises EmbeddingError where one is in two clusters.
    """
    every = np.concatenate([np.empty(0, np.uint64), *hashes])
    values = np.concatenate([np.empty(0, np.int32), *labels])
    order = np.lexsort((values, every))
    every, values = every[order], values[order]
    again = every[1:] == every[:-1]
    torn = np.flatnonzero(again & (values[1:] != values[:-1]))
    if len(torn):
        raise EmbeddingError(
            f"{len(torn):,} ids are in more than one cluster, such as one in {values[torn[0]]} and "
            f"{values[torn[0] + 1]}; every id must be in exactly one"
        )
    first = np.concatenate([np.ones(min(1, len(every)), bool), ~again])
    return Labelling(every[first], values[first])


class MemberSums:
    """Sums of the members of each cluster, the same whatever the order of rows and blocks."""

    def __init__(self, n_clusters: int, dim: int) -> None:
        self._sums = np.zeros((n_clusters, dim), np.int64)
        self.sizes = np.zeros(n_clusters, np.int64)

    def add(self, vectors: npt.NDArray[np.float32], cluster: npt.NDArray[np.int32]) -> None:
        """Add (n, d) unit rows to the sums of their clusters (n,)."""
        order = np.argsort(cluster, kind="stable")
        ids, starts, counts = np.unique(cluster[order], return_index=True, return_counts=True)
        if len(ids):
            whole = np.rint(vectors[order].astype(np.float64) * _SCALE).astype(np.int64)
            self._sums[ids] += np.add.reduceat(whole, starts, axis=0)
            self.sizes[ids] += counts
        if self.sizes.max(initial=0) > MAX_MEMBERS:
            raise EmbeddingError(
                f"a given cluster may have {MAX_MEMBERS:,} members, got {self.sizes.max():,}"
            )

    def centroids(self) -> npt.NDArray[np.float32]:
        """Return the normalised means (k, d); raises EmbeddingError for a cluster without a direction.

        >>> sums = MemberSums(1, 2)
        >>> sums.add(np.eye(2, dtype=np.float32), np.zeros(2, np.int32))
        >>> sums.centroids().round(4)
        array([[0.7071, 0.7071]], dtype=float32)
        """
        means = self._sums / (np.maximum(self.sizes, 1)[:, None] * _SCALE)
        units, valid = unit_rows(means)
        if not valid.all():
            raise EmbeddingError(
                f"the members of given cluster {int(valid.argmin())} cancel out: their mean has no direction"
            )
        return units
