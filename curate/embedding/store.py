"""One part of the embeddings: uncompressed Arrow IPC that maps into NumPy without a copy."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate import schema
from curate.io import storage
from curate.linalg import joined, load_unit

__all__ = ["BATCH_ROWS", "EmbeddingPart", "write_part"]

#: Rows of one record batch; fixed, so that the bytes of a part do not depend on how rows arrived.
BATCH_ROWS = 8_192

Half = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Vectors:
    """Some usable samples in order: uids, image vectors, and text vectors with their mask."""

    uid: list[str]
    image: Half
    text: Half | None = None
    has_text: npt.NDArray[np.bool_] | None = None


def write_part(path: Path, pieces: Iterable[Vectors], dim: int, fingerprint: str, *, text: bool) -> None:
    """Write vectors of length `dim`, cut anew into batches of `BATCH_ROWS` rows.

    text : the part has vectors of captions too; those of a piece without them count as missing.
    """
    kind = schema.embeddings(dim, text=text)
    storage.write_ipc(
        path, (_batch(piece, kind) for piece in _recut(pieces, dim, text=text)), kind, fingerprint
    )


def _recut(pieces: Iterable[Vectors], dim: int, *, text: bool) -> Iterator[Vectors]:
    held: list[Vectors] = []
    rows = 0
    for piece in pieces:
        held.append(piece)
        rows += len(piece.uid)
        if rows >= BATCH_ROWS:
            *full, rest = _cut(_joined(held, dim, text=text))
            yield from full
            held, rows = [rest], len(rest.uid)
    if rows:
        yield _joined(held, dim, text=text)


def _joined(pieces: list[Vectors], dim: int, *, text: bool) -> Vectors:
    """Return pieces as one, with text vectors (zero, and marked as missing, where a piece has none) if `text`."""
    uid = [one for piece in pieces for one in piece.uid]
    image = np.concatenate([np.empty((0, dim), np.float16), *(piece.image for piece in pieces)])
    if not text:
        return Vectors(uid, image)
    words = [np.zeros_like(piece.image) if piece.text is None else piece.text for piece in pieces]
    known = [
        np.zeros(len(piece.uid), np.bool_) if piece.has_text is None else piece.has_text for piece in pieces
    ]
    return Vectors(uid, image, np.concatenate(words), np.concatenate(known))


def _cut(whole: Vectors) -> Iterator[Vectors]:
    """Yield batches of `BATCH_ROWS` rows, and what is left (perhaps nothing) last."""
    for start in range(0, len(whole.uid) + 1, BATCH_ROWS):
        some = slice(start, start + BATCH_ROWS)
        text = None if whole.text is None else whole.text[some]
        known = None if whole.has_text is None else whole.has_text[some]
        yield Vectors(whole.uid[some], whole.image[some], text, known)


def _batch(piece: Vectors, kind: pa.Schema) -> pa.RecordBatch:
    columns = [pa.array(piece.uid, pa.string()), _lists(piece.image, kind.field("image").type, None)]
    if piece.text is not None and piece.has_text is not None:
        columns.append(_lists(piece.text, kind.field("text").type, ~piece.has_text))
    return pa.RecordBatch.from_arrays(columns, schema=kind)


def _lists(rows: Half, kind: pa.DataType, missing: npt.NDArray[np.bool_] | None) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
    mask = None if missing is None or not missing.any() else pa.array(missing)
    return pa.FixedSizeListArray.from_arrays(flat, type=kind, mask=mask)


class EmbeddingPart:
    """The vectors of one part, mapped from the disk."""

    def __init__(self, path: Path) -> None:
        self._reader = storage.map_ipc(path)
        self.dim = int(self._reader.schema.field("image").type.list_size)
        self.has_text = "text" in self._reader.schema.names

    @cached_property
    def _batches(self) -> list[pa.RecordBatch]:
        return [self._reader.get_batch(index) for index in range(self._reader.num_record_batches)]

    def __len__(self) -> int:
        """Return the number of samples."""
        return sum(batch.num_rows for batch in self._batches)

    @property
    def batches(self) -> int:
        """The number of batches."""
        return len(self._batches)

    def uids(self) -> list[str]:
        """Return the uids in order."""
        return [uid for batch in self._batches for uid in batch.column("uid").to_pylist()]

    def half(self, column: str, batch: int) -> Half:
        """Return one batch of stored vectors as a view of the file."""
        values = self._batches[batch].column(column)
        flat = values.values.slice(values.offset * self.dim, len(values) * self.dim)
        return np.asarray(flat.to_numpy(zero_copy_only=True).reshape(-1, self.dim))

    def width(self, column: str) -> int:
        """Return the length of the vectors of a column; `both` are image and text side by side (`linalg.joined`)."""
        return 2 * self.dim if column == "both" else self.dim

    def _rows(self, column: str, batch: int, chosen: npt.NDArray[np.int64] | slice) -> npt.NDArray[Any]:
        """Return some rows of a batch: as they are stored, or unit rows of both."""
        if column != "both":
            return self.half(column, batch)[chosen]
        image, text = (load_unit(self.half(name, batch)[chosen]) for name in ("image", "text"))
        return joined(image, text)

    def blocks(self, column: str) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Yield (first position, float32 unit rows), block by block."""
        for index in range(len(self._batches)):
            yield index * BATCH_ROWS, load_unit(self._rows(column, index, slice(None)))

    def present(self, column: str, batch: int) -> npt.NDArray[np.bool_]:
        """Return which rows of a batch have this vector."""
        valid = self._batches[batch].column(column).is_valid()
        return np.asarray(valid.to_numpy(zero_copy_only=False))

    def take(self, column: str, positions: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return stored vectors at `positions` (any order), as a copy: float16, or float32 of both."""
        kind = np.float32 if column == "both" else np.float16
        result = np.empty((len(positions), self.width(column)), kind)
        batch = positions // BATCH_ROWS
        for index in np.unique(batch):
            here = batch == index
            result[here] = self._rows(column, int(index), positions[here] - index * BATCH_ROWS)
        return result
