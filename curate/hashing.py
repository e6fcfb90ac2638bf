"""Who a sample is: content hashes, uids, tie order and random numbers that belong to a row.

Everything here depends on what stands in the row and on seeds, never on file names, row order,
workers or the interpreter's hash seed.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import xxhash

__all__ = ["content_hashes", "content_uids", "digest", "hash_uids", "nth_hash", "tie", "vector_hashes"]

DIGEST_BYTES = 16


def digest(*parts: bytes | str | None) -> str:
    """Return the blake2b-128 hash of `parts` as 32 hex digits.

    Parts are framed by their length, so that ``("ab", "c")`` and ``("a", "bc")`` differ, and None
    differs from the empty string.

    >>> digest("ab", "c") == digest("a", "bc"), digest(None) == digest("")
    (False, False)
    """
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        if part is None:
            state.update(b"\xff" * 8)
            continue
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def content_hashes(values: Iterable[bytes | str | None]) -> list[str | None]:
    """Return the hash of each field as it stands in its row, or None where there is nothing."""
    return [None if value is None else digest(value) for value in values]


def vector_hashes(vectors: npt.NDArray[np.float32]) -> list[str]:
    """Return what `content_hashes` does of the bytes of each row of (n, d), contiguous; none of them is copied.

    >>> row = np.array([[0.6, 0.8]], np.float32)
    >>> vector_hashes(row) == content_hashes([row.tobytes()])
    True
    """
    if not len(vectors):
        return []
    framed = hashlib.blake2b(vectors[0].nbytes.to_bytes(8, "little"), digest_size=DIGEST_BYTES)
    hashes = []
    for row in vectors:
        state = framed.copy()
        state.update(row)
        hashes.append(state.hexdigest())
    return hashes


def content_uids(
    image_hashes: Sequence[str | None], caption_hashes: Sequence[str | None], labels: Sequence[str | None]
) -> list[str]:
    """Return the uid each row gets from its content: image (or path, or vector), caption, label.

    Rows equal in all three are copies of one sample.
    """
    return [digest(*row) for row in zip(image_hashes, caption_hashes, labels, strict=True)]


def hash_uids(uids: Sequence[str] | Iterable[str], *key: str | int) -> npt.NDArray[np.uint64]:
    """Return one uniform 64-bit number per uid, fixed by the uid and `key` alone.

    key : what the numbers are for, e.g. ``(seed, "select", "random")``; other keys give
    independent numbers.
    """
    seed = xxhash.xxh3_64_intdigest("\x1f".join(str(part) for part in key).encode())
    hashed = (xxhash.xxh3_64_intdigest(uid.encode("utf-8", "surrogatepass"), seed) for uid in uids)
    return np.fromiter(hashed, dtype=np.uint64)


def tie(uids: Sequence[str] | Iterable[str], seed: int) -> npt.NDArray[np.uint64]:
    """Return the number by which equal scores are ordered (ascending; then by uid)."""
    return hash_uids(uids, seed, "tie")


def nth_hash(hashes: npt.NDArray[np.uint64], n: npt.NDArray[np.uint64] | int) -> npt.NDArray[np.uint64]:
    """Return the n-th number of each row's own sequence of uniform 64-bit numbers (SplitMix64, Steele et al. 2014).

    hashes : of `hash_uids`, where the sequences begin. n : from 0, one for all or one per row; arrays are broadcast.
    For rows that need many numbers: hashing a uid again for each of them takes a hundred times as long.

    >>> nth_hash(np.zeros(1, np.uint64), 0)
    array([16294208416658607535], dtype=uint64)
    """
    with np.errstate(over="ignore"):
        z = hashes + (np.asarray(n, np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: npt.NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed
