"""Why a row has no score: one small code per row, with a table of names.

A status column is int8, an index into `STATUSES`: that is what a dictionary-encoded Parquet column
holds (the codes and the table), it costs a byte per row and compares without strings. `status_names`
gives the names. A row whose status is not `ok` has NaN as its score, never a number.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError
from curate.linalg import MIN_NORM

__all__ = [
    "CLASS_TOO_SMALL",
    "NONFINITE",
    "NO_LABEL",
    "NO_NEGATIVES",
    "NO_TEXT",
    "OK",
    "SINGLE_CLASS",
    "STATUSES",
    "UNIMODAL",
    "ZERO_NORM",
    "Codes",
    "embedding_status",
    "first_status",
    "label_status",
    "status_names",
]

#: The names, by code. New ones go to the end: stored codes keep their meaning.
STATUSES = (
    "ok",
    "no_label",
    "single_class",
    "class_too_small",
    "nonfinite",
    "no_negatives",
    "no_text",
    "unimodal",
    "zero_norm",
)
OK, NO_LABEL, SINGLE_CLASS, CLASS_TOO_SMALL, NONFINITE, NO_NEGATIVES, NO_TEXT, UNIMODAL, ZERO_NORM = (
    np.arange(len(STATUSES), dtype=np.int8)
)

Codes = npt.NDArray[np.int8]

_ROWS = 4096


def status_names(codes: Codes) -> npt.NDArray[np.object_]:
    """Return the name of each code. codes : (n,) int8 in [0, 9). Returns (n,) of str.

    >>> status_names(np.array([0, 8], np.int8))
    array(['ok', 'zero_norm'], dtype=object)
    """
    return np.array(STATUSES, object)[codes]


def first_status(*columns: Codes) -> Codes:
    """Return the first status of each row that is not ok, in the order of the arguments; all (n,).

    >>> status_names(first_status(np.array([0, 1], np.int8), np.array([4, 4], np.int8)))
    array(['nonfinite', 'no_label'], dtype=object)
    """
    merged = np.zeros_like(columns[0])
    for column in columns:
        merged = np.where(merged == OK, column, merged)
    return merged


def embedding_status(vectors: npt.NDArray[np.floating[Any]]) -> Codes:
    """Return which rows are vectors with a direction: `ok`, `nonfinite` or `zero_norm`.

    vectors : (n, d) of any float type. Returns (n,). A norm below 1e-12 is none.

    >>> status_names(embedding_status(np.array([[1.0, 2.0], [0.0, 0.0], [np.nan, 1.0]])))
    array(['ok', 'zero_norm', 'nonfinite'], dtype=object)
    """
    codes = np.zeros(len(vectors), np.int8)
    for start in range(0, len(vectors), _ROWS):
        block = vectors[start : start + _ROWS].astype(np.float64)
        part = codes[start : start + _ROWS]
        finite = np.isfinite(block).all(axis=1)
        block[~finite] = 1.0
        largest = np.abs(block).max(axis=1, initial=0.0)
        scaled = block / np.where(largest > 0, largest, 1.0)[:, None]
        norms = largest * np.sqrt((scaled * scaled).sum(axis=1))
        part[~(norms >= MIN_NORM)] = ZERO_NORM
        part[~finite] = NONFINITE
    return codes


def label_status(labels: npt.NDArray[np.integer[Any]], min_class: int = 1) -> Codes:
    """Return which rows a head can score: `ok`, `no_label`, `class_too_small` or `single_class`.

    labels : (n,) codes, negative where there is no label; 0 is an ordinary class. Classes with fewer
    than `min_class` rows are too small (cross-fitting with K folds needs max(2, K)); where fewer than
    two classes are left, their rows are `single_class`: EL2N would be 0 for all of them.
    Raises CurateError where `min_class` is below 1.

    >>> status_names(label_status(np.array([0, 0, 1, 1, 2, -1]), 2))
    array(['ok', 'ok', 'ok', 'ok', 'class_too_small', 'no_label'], dtype=object)
    """
    if min_class < 1:
        raise CurateError(f"min_class must be at least 1, got {min_class}")
    codes = np.where(labels < 0, NO_LABEL, OK)
    present = np.flatnonzero(codes == OK)
    classes, which, sizes = np.unique(labels[present], return_inverse=True, return_counts=True)
    large = sizes >= min_class
    left = SINGLE_CLASS if large.sum() < 2 else OK
    codes[present] = np.where(large, left, CLASS_TOO_SMALL)[which] if len(classes) else OK
    return codes
