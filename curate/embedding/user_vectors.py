"""Vectors the user already has, in files row-aligned with the source: `.npy`, and what `vector_files` opens.

They come back as float32 and as they are; the embed stage normalises. A file that cannot be used is an
EmbeddingError. Those in a column of the source are read by `curate.sources.vector_columns`. Vectors of CLIP have length 1;
`Lengths` tells where others may not be what they are taken for.
"""

import bisect
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import fsspec
import numpy as np
import numpy.typing as npt
from fsspec.implementations.local import LocalFileSystem

from curate.embedding.vector_files import OPENERS, Opened, kinds_said
from curate.errors import EmbeddingError, UsageError
from curate.linalg import as_float32
from curate.sources.vector_columns import FLOATS

__all__ = ["Lengths", "VectorRows", "open_vectors", "warn_of_lengths"]

#: How far a median length may be from 1 before it is worth a word; float16 alone moves it by 0.1 %.
TOLERANCE = 0.01

log = logging.getLogger("curate")

Vectors = npt.NDArray[np.float32]


def open_vectors(
    files: str | Sequence[str],
    storage_options: Mapping[str, Any] | None = None,
    *,
    array: str | None = None,
    uid: str | None = None,
) -> "VectorRows":
    """Return the rows of files of vectors, one after the other.

    files : a path or URL with wildcards (files in name order), or a list (in its order). Every file
    holds (n, d) of float16, float32 or float64 (a `.npy` file in C order), with the same d. array : which one of a
    file that holds several. uid : the column of uids that a Parquet file may have. Raises UsageError if
    nothing matches, EmbeddingError for a file that is something else.
    """
    options = dict(storage_options or {})
    if isinstance(files, str):
        system, path = fsspec.core.url_to_fs(files, **options)
        paths = sorted(system.glob(path))
        if not paths:
            raise UsageError(f"embed.files: {files!r} matches no file")
    else:
        if not files:
            raise UsageError("embed.files: the list is empty")
        system, _ = fsspec.core.url_to_fs(files[0], **options)
        paths = [fsspec.core.url_to_fs(file, **options)[1] for file in files]
    names = [path if isinstance(system, LocalFileSystem) else system.unstrip_protocol(path) for path in paths]
    parts: list[Opened] = []
    for path, name in zip(paths, names, strict=True):
        opener = OPENERS.get(PurePosixPath(path).suffix.lower())
        parts.append(_open(system, path) if opener is None else opener(name, array, uid, options))
    for part in parts[1:]:
        if part.shape[1] != parts[0].shape[1]:
            raise EmbeddingError(
                f"{part.path}: vectors have {part.shape[1]} numbers, those of {parts[0].path} {parts[0].shape[1]}"
            )
    return VectorRows(parts)


@dataclass(frozen=True)
class _Part:
    """One `.npy` file: where its numbers begin and what they are."""

    system: Any
    path: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    offset: int

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows start to stop; local files are mapped, of others only these rows are fetched."""
        rows, row_bytes = stop - start, self.shape[1] * self.dtype.itemsize
        first = self.offset + start * row_bytes
        if isinstance(self.system, LocalFileSystem):
            mapped: npt.NDArray[Any] = np.load(self.path, mmap_mode="r", allow_pickle=False)
            return mapped[start:stop]
        data = self.system.cat_file(self.path, start=first, end=first + rows * row_bytes)
        return np.frombuffer(data, self.dtype).reshape(rows, self.shape[1])

    def uids(self, start: int, stop: int) -> None:
        """Return None: arrays have no uids."""


class VectorRows:
    """Rows of several files as one array that is read in blocks, in ascending order where that shall be cheap."""

    def __init__(self, parts: Sequence[Opened]) -> None:
        self._parts = list(parts)
        self._ends = list(itertools.accumulate(part.shape[0] for part in parts))

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._parts[0].shape[1]

    def count(self) -> int:
        """Return the number of rows of all files."""
        return self._ends[-1]

    def read(self, start: int, stop: int) -> Vectors:
        """Return rows start to stop, (stop - start, dim) float32, as they are; see `why_unusable`."""
        if not 0 <= start <= stop <= self.count():
            raise EmbeddingError(f"rows {start} to {stop} asked of {self.count()} vectors")
        block = np.empty((stop - start, self.dim), np.float32)
        for part, first, last, place in self._pieces(start, stop):
            as_float32(part.read(first, last), block[place : place + last - first])
        return block

    @property
    def has_uids(self) -> bool:
        """Whether every file has a column of uids beside its vectors."""
        return all(part.uids(0, 0) is not None for part in self._parts)

    def require_uids(self, expected: Sequence[str | None], start: int, where: str) -> None:
        """Raise EmbeddingError where uids stand beside the vectors from row `start` on, and are not the expected ones.

        expected : of each row; None where any will do.
        """
        for part, first, last, place in self._pieces(start, start + len(expected)):
            found = part.uids(first, last) or ()
            for row, (uid, wanted) in enumerate(zip(found, expected[place:], strict=False)):
                if wanted is not None and uid != wanted:
                    raise EmbeddingError(
                        f"{part.path}: row {first + row} is the vector of {uid!r}, but the row of {where} that it would be "
                        f"given to is {wanted!r}; sort the vectors as the source"
                    )

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[Opened, int, int, int]]:
        """Yield (file, its first row, the one behind its last, place among the rows from `start`)."""
        index, done = bisect.bisect_right(self._ends, start), start
        while done < stop:
            part, end = self._parts[index], min(stop, self._ends[index])
            begin = self._ends[index] - part.shape[0]
            yield part, done - begin, end - begin, done - start
            done, index = end, index + 1


def _open(system: Any, path: str) -> _Part:  # noqa: ANN401 - fsspec has no types
    try:
        with system.open(path, "rb") as file:
            shape, fortran, dtype = _header(file)
            offset = file.tell()
    except FileNotFoundError as error:
        raise UsageError(f"embed.files: {path!r} does not exist") from error
    except PermissionError as error:
        raise EmbeddingError(f"{path}: {error.strerror or 'no permission to read it'}") from error
    except Exception as error:  # NumPy reads the header as Python, and raises what that raises
        said = " ".join(str(error).split())[:200] or type(error).__name__
        said = f"not a .npy file: {said}" if path.lower().endswith(".npy") else kinds_said(path)
        raise EmbeddingError(f"{path}: {said}") from error
    if dtype not in FLOATS.values() and dtype.newbyteorder("=") not in FLOATS.values():
        raise EmbeddingError(f"{path}: must hold float16, float32 or float64, found {dtype} of shape {shape}")
    if len(shape) != 2 or shape[0] < 0 or shape[1] <= 0:
        raise EmbeddingError(f"{path}: must have the shape (rows, numbers), found {shape}")
    if fortran and min(shape) > 1:
        raise EmbeddingError(f"{path}: shape {shape} is stored column by column; save it in C order")
    expected = offset + shape[0] * shape[1] * dtype.itemsize
    if system.size(path) < expected:
        raise EmbeddingError(
            f"{path}: truncated: {system.size(path):,} bytes, shape {shape} needs {expected:,}"
        )
    return _Part(system, path, (shape[0], shape[1]), dtype, offset)


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


@dataclass
class Lengths:
    """The lengths of some vectors, collected batch by batch.

    >>> lengths = Lengths()
    >>> lengths.note(np.array([5.0, 1.0, 7.0]))
    >>> lengths.median()
    5.0
    """

    noted: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def note(self, lengths: npt.NDArray[np.float64]) -> None:
        """Add the lengths (n,) of some vectors."""
        # float64 is not needed to tell 1 from 1.01, and an overflow to infinity is far from 1 too
        with np.errstate(over="ignore"):
            self.noted.append(lengths.astype(np.float32))

    def median(self) -> float | None:
        """Return the median length; None where nothing was noted."""
        every = np.concatenate([np.empty(0, np.float32), *self.noted])
        return float(np.median(every)) if len(every) else None


def warn_of_lengths(names: Sequence[str], lengths: Sequence[Mapping[str, float | None]]) -> None:
    """Log one warning where the median length in one of several parts is more than 1 % off 1.

    names : the file of each part. lengths : the medians of each part, by what the vectors stand for (image, text); None
    where there are no vectors.
    """
    medians = [
        (median, f"the {kind} vectors of {name}")
        for name, kinds in zip(names, lengths, strict=True)
        for kind, median in kinds.items()
        if median is not None
    ]
    off = [pair for pair in medians if abs(pair[0] - 1) > TOLERANCE]
    if off:
        median, name = max(off, key=lambda pair: abs(pair[0] - 1))
        log.warning(
            "embed: the median length of %s is %.4g (more than 1 %% off 1 in %s of %s arrays); all are scaled to "
            "length 1: check that they are embeddings",
            name, median, f"{len(off):,}", f"{len(medians):,}",
        )  # fmt: skip
