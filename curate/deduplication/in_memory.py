"""Near-duplicates among vectors in memory: no files, no run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from curate.clustering.in_memory import Groups, unit_vectors
from curate.deduplication.semantic import find_duplicates, threshold_of
from curate.errors import UsageError

__all__ = ["Deduplicated", "deduplicate"]


@dataclass(frozen=True)
class Deduplicated:
    """Which of some vectors are near-duplicates of earlier ones.

    Attributes
    ----------
    epsilon : float
        Rows are duplicates where their similarity (cosine) is above 1 - epsilon.
    duplicate_of : (n,) int64
        The row that each one duplicates, -1 where it is selected.
    similarity : (n,) float32 in [-1, 1]
        To the most similar earlier row it was compared with, NaN where there is none.
    uids : (n,) array
        What rows are called: what was given, else their places.
    """

    epsilon: float
    duplicate_of: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]
    uids: npt.NDArray[Any]
    _vectors: npt.NDArray[np.float32]
    _groups: npt.NDArray[np.int64] | None
    _mode: Literal["greedy", "reference"]

    @property
    def keep(self) -> npt.NDArray[np.bool_]:
        """Which rows are selected, (n,)."""
        return self.duplicate_of < 0

    @property
    def selected(self) -> npt.NDArray[Any]:
        """The uids of the rows that are no duplicates, in order."""
        return self.uids[self.keep]

    @property
    def filtered(self) -> npt.NDArray[Any]:
        """The uids of the duplicates, in order."""
        return self.uids[~self.keep]

    def rethreshold(self, epsilon: float) -> "Deduplicated":
        """Return what another epsilon gives, from the same vectors.

        Parameters
        ----------
        epsilon : float
            Rows are duplicates where their similarity (cosine) is above 1 - epsilon.

        Returns
        -------
        Deduplicated
            The same vectors, compared anew.

        Examples
        --------
        >>> found = deduplicate([[1.0, 0.0], [0.95, 0.3], [0.0, 1.0]], epsilon=0.01)
        >>> found.filtered, found.rethreshold(0.1).filtered
        (array([], dtype=int64), array([1]))
        """
        duplicate_of, similarity = _compare(self._vectors, self._groups, epsilon, self._mode)
        return replace(self, epsilon=epsilon, duplicate_of=duplicate_of, similarity=similarity)

    def __repr__(self) -> str:
        """Return the counts in one line."""
        n_kept = int(self.keep.sum())
        n_dropped = len(self.keep) - n_kept
        return f"Deduplicated(epsilon={self.epsilon:g}: {n_kept:,} selected, {n_dropped:,} filtered)"


def deduplicate(
    vectors: npt.ArrayLike,
    epsilon: float = 0.05,
    *,
    uids: Sequence[object] | npt.NDArray[Any] | None = None,
    groups: Groups | npt.ArrayLike | None = None,
    mode: Literal["greedy", "reference"] = "greedy",
    captions: Sequence[str | None] | None = None,
    across_captions: bool = True,
) -> Deduplicated:
    """Find near-duplicates: rows that are nearer than epsilon to an earlier row (SemDeDup, Abbas et al. 2023).

    Parameters
    ----------
    vectors : (n, d) floats
        What to keep first comes first. Any lengths; only directions count.
    epsilon : float in (0, 1)
        Rows are duplicates where their similarity (cosine) is above 1 - epsilon.
    uids : (n,), optional
        What rows are called in `selected` and `filtered`; their places by default.
    groups : Groups or (n,) int, optional
        Compare only rows of the same group, as a run does within concepts: for many rows. By default all pairs are
        compared, n squared products.
    mode : {"greedy", "reference"}
        Compare with earlier rows that are kept, or with all earlier rows (which drops chains).
    captions : (n,) str or None, optional
        The caption of each row, which `across_captions` looks at.
    across_captions : bool
        False leaves near-duplicates whose captions differ, white space at both ends aside; no caption is an empty one.

    Returns
    -------
    Deduplicated
        `selected`, `filtered`, `duplicate_of`, `similarity`, and `rethreshold` for another epsilon.

    Raises
    ------
    RecipeError
        For an epsilon outside of (0, 1).
    EmbeddingError
        For vectors that are not (n, d), not finite, or zero.
    UsageError
        For uids, groups or captions that are not as many as vectors, and where captions are to count and none are given.

    Examples
    --------
    >>> found = deduplicate([[1.0, 0.0], [0.99, 0.01], [0.0, 1.0]], epsilon=0.05, uids=["a", "b", "c"])
    >>> found.selected.tolist(), found.filtered.tolist()
    (['a', 'c'], ['b'])
    >>> found
    Deduplicated(epsilon=0.05: 2 selected, 1 filtered)
    """
    unit = unit_vectors(vectors)
    concept = None if groups is None else _concepts(groups, len(unit))
    names = np.arange(len(unit)) if uids is None else np.asarray(uids)
    if names.shape != (len(unit),):
        raise UsageError(f"uids must be as many as vectors, {len(unit):,}, got shape {names.shape}")
    groups_compared = concept if across_captions else _with_captions(concept, captions, len(unit))
    duplicate_of, similarity = _compare(unit, groups_compared, epsilon, mode)
    return Deduplicated(epsilon, duplicate_of, similarity, names, unit, groups_compared, mode)


def _with_captions(
    concept: npt.NDArray[np.int64] | None, captions: Sequence[str | None] | None, n_rows: int
) -> npt.NDArray[np.int64]:
    """Return groups of rows with the same caption, inside concepts."""
    if captions is None or len(captions) != n_rows:
        got = "none" if captions is None else f"{len(captions):,}"
        raise UsageError(
            f"captions must be as many as vectors, {n_rows:,}, where across_captions is False, got {got}"
        )
    code: dict[tuple[int, str], int] = {}
    places = np.zeros(n_rows, np.int64) if concept is None else concept
    keys = zip(places.tolist(), ((caption or "").strip() for caption in captions), strict=True)
    return np.array([code.setdefault(key, len(code)) for key in keys], np.int64)


def _concepts(groups: "Groups | npt.ArrayLike", n_rows: int) -> npt.NDArray[np.int64]:
    concept = groups.concept if isinstance(groups, Groups) else np.asarray(groups)
    if concept.shape != (n_rows,) or concept.dtype.kind not in "iu":
        raise UsageError(
            f"groups must be ({n_rows:,},) integers, got {concept.dtype} of shape {concept.shape}"
        )
    return concept.astype(np.int64)


def _compare(
    vectors: npt.NDArray[np.float32],
    groups: npt.NDArray[np.int64] | None,
    epsilon: float,
    mode: Literal["greedy", "reference"],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the row that each row duplicates, and the similarity to the nearest earlier one, group by group."""
    threshold = threshold_of(epsilon)
    duplicate_of = np.full(len(vectors), -1, np.int64)
    similarity = np.full(len(vectors), np.nan, np.float32)
    apart = [np.arange(len(vectors))]
    if groups is not None:
        order = np.argsort(groups, kind="stable")
        apart = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    for rows in apart:
        found = find_duplicates(vectors[rows], threshold=threshold, mode=mode)
        duplicate_of[rows] = np.where(found.keep, -1, rows[found.duplicate_of])
        similarity[rows] = found.max_similarity_earlier
    return duplicate_of, similarity
