"""Embeddings as training reads them: block by block in one order that no file or row order changes."""

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from curate.embedding.store import EmbeddingPart
from curate.errors import EmbeddingError
from curate.linalg import load_unit
from curate.scores.heads.folds import Hashes, Ints, mix
from curate.scores.status import Codes

__all__ = ["BLOCK", "Batches", "Normalise", "PartRows", "Rows"]

#: Rows that are in memory at once and shuffled together; a constant, because the order of training hangs on it.
BLOCK = 32_768

Matrix = npt.NDArray[np.float32]
Normalise = Literal["standardize", "l2"]


class Rows(Protocol):
    """Unit vectors by position; nothing says that they fit into memory."""

    @property
    def dim(self) -> int:
        """The length of a vector."""

    @property
    def status(self) -> Codes | None:
        """What is wrong with each vector (`score.status`), None if nothing is."""

    def __len__(self) -> int: ...

    def take(self, positions: Ints) -> Matrix:
        """Return the float32 unit rows at `positions`, in that order."""


class PartRows:
    """The vectors of embedding parts, one part after the other, read from the disk when asked for."""

    def __init__(self, parts: Sequence[EmbeddingPart], column: str = "image") -> None:
        widths = sorted({part.width(column) for part in parts})
        if len(widths) > 1:
            raise EmbeddingError(f"embedding parts must have one length of vectors, got {widths}")
        self._parts, self._column = list(parts), column
        self._dim = widths[0] if widths else 0
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return self._dim

    @property
    def status(self) -> None:
        """Stored vectors are unit vectors."""

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def uids(self) -> Iterator[str]:
        """Yield the uids in order."""
        for part in self._parts:
            yield from part.uids()

    def take(self, positions: Ints) -> Matrix:
        """Return the unit rows at `positions`."""
        result = np.empty((len(positions), self._dim), np.float32)
        part = np.searchsorted(self._ends, positions, side="right")
        for index in np.unique(part):
            here = np.flatnonzero(part == index)
            start = 0 if index == 0 else self._ends[index - 1]
            result[here] = load_unit(self._parts[index].take(self._column, positions[here] - start))
        return result


class Batches:
    """The rows to train on, in blocks, prepared the same way in every pass.

    rows, order : which vectors, in training order (by hash of uid: `folds.labelled`).
    normalise : "standardize" subtracts the mean and divides by the deviation of each dimension;
    "l2" leaves unit vectors as they are. memory : bytes that may be spent on holding all prepared rows;
    with less, at most three blocks are in memory and every pass reads anew. It never changes a result.
    """

    def __init__(
        self,
        rows: Rows,
        order: Ints,
        hashes: Hashes,
        *,
        normalise: Normalise = "standardize",
        memory: int = 1 << 30,
        device: torch.device | str = "cpu",
    ) -> None:
        self._rows, self._order, self._hashes, self.device = rows, order, hashes, torch.device(device)
        self.starts = range(0, len(order), BLOCK)
        self.dim = rows.dim
        self._mean, self._factor = np.zeros(rows.dim), np.ones(rows.dim)
        if normalise == "standardize" and len(order):
            self._mean, self._factor = self._moments()
        #: Mean squared length of a prepared row, by which steps are scaled; 1 where all vectors are the same.
        self.mean_square = float(np.count_nonzero(self._factor) or 1) if normalise == "standardize" else 1.0
        self._held: dict[int, torch.Tensor] | None = {} if len(order) * rows.dim * 4 <= memory else None

    def __len__(self) -> int:
        return len(self._order)

    def _moments(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        shift = self._raw(0)[:1].astype(np.float64)
        total, squares = np.zeros(self.dim), np.zeros(self.dim)
        for start in self.starts:
            block = self._raw(start) - shift
            total += block.sum(axis=0)
            squares += np.square(block).sum(axis=0)
        mean = total / len(self)
        deviation = np.sqrt(np.maximum(squares / len(self) - mean**2, 0.0))
        varies = deviation > 1e-4 * deviation.max(initial=0.0)
        return mean + shift[0], np.where(varies, 1.0 / np.where(varies, deviation, 1.0), 0.0)

    def _raw(self, start: int) -> Matrix:
        return self._rows.take(self._order[start : start + BLOCK])

    def block(self, start: int) -> torch.Tensor:
        """Return the prepared rows from place `start`, one of `starts`, up to the end of its block."""
        if self._held is not None and start in self._held:
            return self._held[start]
        raw = self._raw(start)
        ready = torch.empty(raw.shape)  # torch aligns memory, on which the last bits of a product can hang
        np.multiply(raw - self._mean.astype(np.float32), self._factor.astype(np.float32), out=ready.numpy())
        ready = ready.to(self.device)
        if self._held is not None:
            self._held[start] = ready
        return ready

    def shuffled(self, seed: int, epoch: int) -> Iterator[tuple[torch.Tensor, Ints]]:
        """Yield (prepared rows, their places in training order): blocks in the order of one epoch."""
        blocks = mix(np.arange(len(self.starts), dtype=np.uint64), seed, epoch, "blocks")
        for index in np.argsort(blocks, kind="stable"):
            start = self.starts[index]
            inside = np.argsort(mix(self._hashes[start : start + BLOCK], seed, epoch, "order"))
            rows = self.block(start).index_select(0, torch.from_numpy(inside).to(self.device))
            yield rows, start + inside
