"""What training may use of each sample: label codes, status, random numbers of a row, and folds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from curate.errors import CurateError, RecipeError
from curate.hashing import hash_uids
from curate.scores.status import NO_LABEL, OK, Codes, first_status, label_status

__all__ = ["Labelled", "assign_folds", "encode_labels", "labelled", "mix", "row_hashes"]

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Label = str | int | None


def mix(hashes: Hashes, *key: str | int) -> Hashes:
    """Return new uniform numbers from those of the rows, fixed by `key`; different rows stay different.

    One pass over the uids serves every seed and epoch: this is the finaliser of splitmix64.
    """
    text = "\x1f".join(str(part) for part in key).encode()
    x = hashes ^ np.uint64(xxhash.xxh3_64_intdigest(text))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def row_hashes(uids: Iterable[str], seed: int) -> Hashes:
    """Return one number per sample, from which its place in every order and fold is derived.

    Raises CurateError where two samples have one uid.
    """
    hashes = hash_uids(uids, seed, "train")
    ordered = np.sort(hashes)
    twice = int((ordered[1:] == ordered[:-1]).sum())
    if twice:
        raise CurateError(f"samples to train on must have different uids, {twice} uids stand there again")
    return hashes


def encode_labels(labels: Sequence[Label]) -> tuple[Ints, list[str | int]]:
    """Return the code of each label (-1 where there is none) and the labels by code, sorted.

    >>> encode_labels(["dog", None, "cat", "dog"])
    (array([ 1, -1,  0,  1]), ['cat', 'dog'])
    """
    names = sorted(
        {label for label in labels if label is not None}, key=lambda label: (str(type(label)), label)
    )
    code: dict[Label, int] = {name: number for number, name in enumerate(names)}
    code[None] = -1
    return np.fromiter((code[label] for label in labels), np.int64, len(labels)), names


@dataclass(frozen=True)
class Labelled:
    """The samples that are trained on and scored.

    rows : positions of these samples, in training order (ascending by hash); code : their class codes,
    contiguous over `classes`; hashes : their numbers; status : the code of each sample of the input (`score.status`).
    """

    rows: Ints
    code: Ints
    hashes: Hashes
    classes: list[str | int]
    status: Codes


def labelled(hashes: Hashes, labels: Sequence[Label], vectors: Codes | None, *, min_class: int) -> Labelled:
    """Return which samples can be scored; classes of fewer than `min_class` samples cannot.

    vectors : status of the vectors, None where all are good.
    """
    codes, names = encode_labels(labels)
    if len(codes) != len(hashes):
        raise CurateError(f"there must be one label per sample, got {len(codes)} for {len(hashes)} samples")
    broken = np.zeros(len(codes), np.int8) if vectors is None else vectors
    usable = np.where(broken == OK, codes, -1)
    status = first_status(np.where(codes < 0, NO_LABEL, OK), broken, label_status(usable, min_class))
    rows = np.flatnonzero(status == OK)
    rows = rows[np.argsort(hashes[rows])]
    classes, code = np.unique(codes[rows], return_inverse=True)
    return Labelled(rows, code.astype(np.int64), hashes[rows], [names[one] for one in classes], status)


def assign_folds(
    hashes: Hashes, code: Ints, n_folds: int, seed: int, model_seed: int
) -> npt.NDArray[np.uint8]:
    """Return the fold of each sample for one model seed: its rank by hash within its class, mod `n_folds`.

    hashes, code : (n,). Returns (n,) in [0, n_folds). A fold is never named by the label itself, and each class is spread
    evenly over the folds.
    """
    if not 2 <= n_folds <= 255:
        raise RecipeError(f"the number of folds must be in [2, 255], got {n_folds}")
    order = np.lexsort((mix(hashes, seed, model_seed, "fold"), code))
    sizes = np.bincount(code)
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    fold = np.empty(len(code), np.uint8)
    fold[order] = (np.arange(len(code)) - first) % n_folds
    return fold
